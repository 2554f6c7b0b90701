"""From what label files hold to classes: one table for rasters, polygons and several files."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
import world

import labelscape as ls
from labelscape.errors import BadInput, UnknownName, WrongType
from labelscape.labels.labels import classes_of, open_labels
from labelscape.labels.rules import (
    SETTINGS,
    FoundClasses,
    LabelRules,
    alike,
    class_name,
    renumbered,
    resolve_classes,
)
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.polygons import read_polygons
from labelscape.scenes.raster import Scene

WOOD = {"wood": ("class 5", "class 9"), "water": ("class 2",)}


def raster(*values, name="a.tif", **more):
    return FoundClasses(name, values=values, **more)


def polygons(*names, name="a.gpkg"):
    return FoundClasses(name, names=names)


def test_values_and_names_become_classes_in_order():
    table = resolve_classes([raster(3, 7, colors=((1, 2, 3), (4, 5, 6)))], LabelRules())
    assert (table.legend.names, table.legend.values) == (["class 3", "class 7"], [3, 7])
    assert table.index_of_value == {3: 0, 7: 1}
    np.testing.assert_array_equal(table.legend.colors, [[1, 2, 3], [4, 5, 6]])
    both = resolve_classes([raster(7), raster(3, 7, colors=((1, 2, 3), (4, 5, 6)))], LabelRules())
    assert both.legend == Legend.of_names(
        ["class 3", "class 7"], values=[3, 7]
    )  # two tables are not believed
    table = resolve_classes([polygons("field", "water")], LabelRules(background="other"))
    assert table.legend == Legend.of_names(["other", "field", "water"])
    assert resolve_classes([polygons("water")], LabelRules(background="water")).legend.names == ["water"]


@pytest.mark.parametrize(
    ("found", "rules", "line"),
    [
        (raster(1, 2, 3), {}, ""),  # their own, also where 0 is missing
        (raster(), {"classes": {"wood": 7, "water": 3}}, ""),
        (polygons("field", "water"), {"background": "other"}, ""),
        (
            raster(2, 5, 7, 9),
            {"merge": WOOD},
            "values in maps are not those of the labels: 0 wood (labels: 5, 9), 1 water (labels: 2)",
        ),
        (
            raster(),
            {"classes": {"wood": 1000, "water": 254}},
            "values in maps are not those of the labels: 0 wood (labels: 1000), 1 water (labels: 254)",
        ),
        (
            raster(),
            {"threshold": 128},
            "values in maps are not those of the labels: 0 other (labels: below 128), 1 object (labels: 128 "
            "and more)",
        ),
        (
            polygons("110", "120", "grass"),
            {},
            "values in maps are not the classes' own numbers: 0 110, 1 120, 2 grass",
        ),
        (
            polygons(*map(str, range(30, 50))),
            {},
            "values in maps are not the classes' own numbers: "
            + ", ".join(f"{i} {30 + i}" for i in range(12))
            + " and 8 more",
        ),
    ],
)
def test_values_in_maps_are_said_where_the_labels_have_others(found, rules, line):
    rules = LabelRules(**rules)
    assert renumbered(resolve_classes([found], rules), rules) == line


def test_values_in_maps_are_said_once_in_the_report_of_new_classes(tmp_path):
    w = world.make(tmp_path)
    labels = [world.label_raster(w, tmp_path / f"{n}.tif", values=(10, 30, 200)) for n in "ab"]
    rules = LabelRules(merge={"dry": ("class 10", "class 30"), "wet": ("class 200",)})
    line = "values in maps are not those of the labels: 0 dry (labels: 10, 30), 1 wet (labels: 200)"
    for count in (1, 2):
        with ls.open_dataset([w.scene] * count, labels[:count], spec=rules) as dataset:
            assert [one for one in dataset.report if "values in maps" in one] == [line]
    known = replace(rules, legend=dataset.legend)
    with ls.open_dataset([w.scene], labels[:1], spec=known) as dataset:
        assert not [one for one in dataset.report if "values in maps" in one]


def test_a_class_that_one_file_lacks_is_merged_all_the_same():
    rules = LabelRules(merge=WOOD)
    table = resolve_classes([raster(2, 5), raster(9, 11)], rules)
    assert table.legend == Legend.of_names(["wood", "water"])
    assert table.index_of_value == {2: 1, 5: 0, 9: 0, 11: IGNORE}
    by_name = LabelRules(merge={"green": ("field", "forest")}, background="other")
    table = resolve_classes([polygons("field"), polygons("forest", "water")], by_name)
    assert table.legend.names == ["other", "green"]
    assert table.index_of == {"field": 1, "forest": 1}
    mixed = resolve_classes(
        [raster(5), polygons("forest")], LabelRules(merge={"wood": ("class 5", "forest")})
    )
    assert mixed.index_of == {5: 0, "class 5": 0, "forest": 0}


def test_a_raster_of_which_nothing_is_merged_is_not_read_as_nothing():
    rules = LabelRules(merge={"green": ("field", "forest")})
    with pytest.raises(
        BadInput, match=r"No value of a\.tif belongs to a merged class: .* class 1, class 2\."
    ):
        resolve_classes([polygons("field", "forest"), raster(1, 2)], rules)
    named = replace(rules, classes={"field": 1, "water": 2})
    table = resolve_classes([polygons("field", "forest"), raster(1, 2)], named)
    assert table.index_of_value == {1: 0, 2: IGNORE}


def test_a_class_that_no_file_has_is_a_mistake_unless_the_legend_is_known():
    with pytest.raises(UnknownName, match="No class in the labels is called 'class 9'"):
        resolve_classes([raster(2, 5), raster(2)], LabelRules(merge=WOOD))
    known = LabelRules(merge=WOOD, legend=Legend.of_names(["wood", "water"]))
    assert resolve_classes([raster(2)], known).index_of_value == {2: 1}
    with pytest.raises(UnknownName, match="'clas 9'"):
        resolve_classes([raster(2)], replace(known, merge={"wood": ("clas 9",)}))
    with pytest.raises(UnknownName, match="'fir'.* Known: forest, scrub"):
        resolve_classes([raster()], LabelRules(classes={"forest": 1, "scrub": 2}, merge={"wood": ("fir",)}))
    trees = LabelRules(merge={"wood": ("forest", "scrub")}, legend=Legend.of_names(["wood"]))
    assert resolve_classes([polygons("scrub")], trees).index_of["scrub"] == 0
    with pytest.raises(BadInput, match="'class 5' is merged into two classes"):
        resolve_classes([raster(2, 5, 9)], LabelRules(merge={**WOOD, "more": ("class 5",)}))


def test_what_makes_no_classes_is_refused():
    with pytest.raises(BadInput, match="a.tif has no labelled pixel"):
        resolve_classes([raster()], LabelRules())
    with pytest.raises(BadInput, match="None of the 2 label files"):
        resolve_classes([raster(), raster(name="b.tif")], LabelRules(merge=WOOD))
    assert resolve_classes([raster(), raster(4)], LabelRules()).legend.values == [4]
    with pytest.raises(BadInput, match="rasters have the classes class 1, the polygons field. Name all"):
        resolve_classes([raster(1), polygons("field")], LabelRules())
    named = LabelRules(classes={"field": 1, "water": 300})
    assert resolve_classes([], named).legend.values == [0, 1]  # 300 is no value of a map
    assert resolve_classes([], named).index_of_value == {1: 0, 300: 1}


def test_a_known_model_reads_a_raster_that_lacks_an_old_class(tmp_path):
    w = world.make(tmp_path, 48, 64)
    path = world.label_raster(w, tmp_path / "labels.tif", values=(2, 5, 5))
    with Scene(w.scene) as scene:
        rules = LabelRules(merge=WOOD, legend=Legend.of_names(["wood", "water"]))
        labels = open_labels(path, scene.grid, rules)
    np.testing.assert_array_equal(labels.read(), w.classes == 0)


def two_layers(w, path):
    """Layers `old` and `new` of one file: all is `before` in one, the left half is `after` in the other."""
    west, south, east, north = -180.0, -80.0, 180.0, 80.0
    with Scene(w.scene) as scene:
        west, south, east, north = scene.grid.bounds_of(scene.grid.window)
    middle = (west + east) / 2
    for layer, right in (("old", east), ("new", middle)):
        pyogrio.raw.write(
            path,
            shapely.to_wkb([shapely.box(west, south, right, north)]),
            [np.array(["before" if layer == "old" else "after"], object)],
            ["kind"],
            geometry_type="Polygon",
            crs=w.crs.to_wkt(),
            layer=layer,
            driver="GPKG",
            append=path.exists(),
        )
    return path


def test_a_layer_is_read_by_its_name_and_the_first_one_is_named(tmp_path):
    w = world.make(tmp_path, 40, 60)
    path = two_layers(w, tmp_path / "both.gpkg")
    with Scene(w.scene) as scene:
        first, new = (open_labels(path, scene.grid, LabelRules(layer=layer)) for layer in (None, "new"))
        with pytest.raises(
            UnknownName, match="No layer of .*both.gpkg is called 'newer'. Did you mean 'new'"
        ):
            open_labels(path, scene.grid, LabelRules(layer="newer"))
        assert len(read_polygons(path, scene.grid)[0]) == 1
    assert (first.legend.names, new.legend.names) == (["before"], ["after"])
    assert "has the layers old, new: using old" in first.report[0]
    assert not any("layers" in line for line in new.report)
    np.testing.assert_array_equal(new.read(), np.where(np.arange(60) < 30, 0, IGNORE)[None].repeat(40, 0))
    assert classes_of([path, path], LabelRules(layer="new")).legend.names == ["after"]


def test_rules_have_one_name_everywhere():
    """A rule that the recipe did not store, or a verb did not offer, would be read as its default."""
    from labelscape.cli.options import Labels
    from labelscape.training.recipe_data import Data

    assert set(SETTINGS) <= Data.model_fields.keys()
    given = {
        "class_column": "kind",
        "layer": "new",
        "merge": ["wood=forest"],
        "classes": ["forest=3"],
        "background": "other",
        "area": "area.gpkg",
        "ignore_value": [9],
        "threshold": 128,
        "bands": "B04,B03",
        "band_names": "B04,B03",
        "nodata": 0.0,
        "labels": ["labels.tif"],
        "asset": "visual",
    }
    # (How scenes are read, and nothing that a recipe stores.)
    assert given.keys() == {f.name for f in fields(Labels)} - {"allow_remote"}
    assert Labels().settings == {}
    told = Labels(**given).settings
    assert set(SETTINGS) <= told.keys() and told["nodata"] == 0.0
    data = Data(images=["scene.tif"], **told)
    assert (data.layer, data.ignore_values, data.merge) == ("new", (9,), {"wood": ("forest",)})
    assert "layer" in data.model_dump() and "layer" not in Data(images=["scene.tif"]).model_dump(mode="json")


def test_the_earlier_name_keeps_its_order_of_arguments():
    legend = Legend.of_names(["a", "b"])
    assert ls.LabelSpec(legend, {"a": 3, "b": 9}, "kind", {}, "a", "area.gpkg", (7,), 5) == ls.LabelRules(
        legend=legend,
        classes={"a": 3, "b": 9},
        class_column="kind",
        background="a",
        area="area.gpkg",
        ignore_values=(7,),
        threshold=5,
    )


def test_merged_classes_have_commas_blanks_and_accents(tmp_path):
    """As typed on the command line, where commas separate; as stored, with blanks; in either Unicode form."""
    names = ("Cropland, rainfed", " \u00e9t\u00e9  chaud ", "rest")
    found = [FoundClasses("f", names=tuple(sorted(class_name(n) for n in names)))]
    merge = {"x": ("Cropland", "rainfed"), "y": ("e\u0301te\u0301 chaud ",)}
    table = resolve_classes(found, LabelRules(merge=merge))
    assert (table.index_of["Cropland, rainfed"], table.index_of["\u00e9t\u00e9 chaud"]) == (0, 1)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, ""),
        (float("nan"), ""),
        (np.ma.masked, ""),
        (np.datetime64("NaT"), ""),
        ("  ", ""),
        (3, "3"),
        (np.float64(3.0), "3"),
        (2.5, "2.5"),
        (np.True_, "True"),
        ("nan", "nan"),
        ("Wald ", "Wald"),
        ("a\u00a0b\n c", "a b c"),
    ],
)
def test_values_of_a_column_as_class_names(value, name):
    assert class_name(value) == name


def test_names_that_are_almost_the_same():
    assert alike(["Wald", "wald", "1", "01", "1.0", "x", "nan"]) == [("Wald", "wald"), ("1", "01", "1.0")]


def test_models_of_earlier_versions_keep_their_names(tmp_path):
    """A column of whole numbers with an empty cell made classes `1.0` and `2.0`."""
    w = world.make(tmp_path, 40, 60)
    with Scene(w.scene) as scene:
        west, south, east, north = scene.grid.bounds_of(scene.grid.window)
        boxes = [
            shapely.box(west, south, (west + east) / 2, north),
            shapely.box(west, south, east, south + 1),
        ]
        pyogrio.raw.write(
            tmp_path / "codes.gpkg",
            shapely.to_wkb(boxes),
            [np.array([2, 0], np.int32)],
            ["code"],
            field_mask=[np.array([False, True])],
            geometry_type="Polygon",
            crs=w.crs.to_wkt(),
        )
        rules = LabelRules(class_column="code", legend=Legend.of_names(["1.0", "2.0"]))
        labels = open_labels(tmp_path / "codes.gpkg", scene.grid, rules)
    expected = np.where(np.arange(60) < 30, 1, IGNORE)[None].repeat(40, 0)
    np.testing.assert_array_equal(labels.read(), expected)


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("legend", ["water", "forest"]),
        ("classes", {0: "water"}),
        ("classes", {"water": "0"}),
        ("classes", {"water": True}),
        ("classes", ["water"]),
        ("class_column", 3),
        ("layer", 0),
        ("merge", {"woodland": "forest"}),
        ("merge", {"woodland": 3}),
        ("merge", ["forest"]),
        ("merge", None),
        ("background", 0),
        ("area", 5),
        ("ignore_values", 3),
        ("ignore_values", "255"),
        ("threshold", "128"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_what_it_should_be(setting, wrong):
    for given in (lambda: LabelRules(**{setting: wrong}), lambda: LabelRules.of({setting: wrong})):
        with pytest.raises(WrongType) as raised:
            given()
        assert str(raised.value).startswith(f"`{setting}` must be ")
        assert repr(wrong) in str(raised.value)


def test_settings_of_the_right_kind_in_any_container():
    rules = LabelRules(
        classes={"water": np.int64(1)}, merge={"wood": ("a", "b")}, area=Path("a.gpkg"), ignore_values=[0, 7]
    )
    assert rules.classes == {"water": 1} and rules.ignore_values == [0, 7]
    assert LabelRules(ignore_values=np.array([3])).ignore_values[0] == 3


def test_a_key_that_is_no_text_is_an_unknown_setting():
    with pytest.raises(UnknownName, match="No setting of LabelRules is called '1'"):
        LabelRules.of({1: "water"})


def test_what_nothing_shows_makes_no_other_class():
    for seen_alike in ("wood\u200b", "\ufeffwood", "wo\u00adod", " wood\u2060", "wood\u00a0"):
        assert class_name(seen_alike) == "wood"
    assert alike(["x", "\uff58", "y"]) == [("x", "\uff58")]  # as wide as a Chinese character
    # What joins letters of a word is part of how it is written.
    assert class_name("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"
