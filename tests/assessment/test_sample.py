"""Drawing a sample: uniform, reproducible, blind."""

import contextlib
import json
import sqlite3
import xml.etree.ElementTree as xml

import numpy as np
import pyogrio
import pytest
import samples
import shapely
import world

from labelscape.assessment import census
from labelscape.assessment.census import content_hash, count, open_map
from labelscape.assessment.draw import draw_pixels
from labelscape.assessment.points import read_design
from labelscape.assessment.sample import ALIKE, EXPECTED, sample
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.legend import Legend


@pytest.fixture
def raster(tmp_path):
    """120 x 150 pixels of three classes, with a corner of nodata."""
    values = world.paint(120, 150)
    values[:30, :40] = 255
    return samples.class_map(tmp_path / "m_class.tif", values)


def values_of(raster):
    import rasterio

    with rasterio.open(raster) as file:
        return file.read(1)


def test_points_lie_in_their_strata_and_carry_their_probability(raster, tmp_path):
    done = sample(raster, tmp_path / "s.gpkg", size=300, floor=10)
    design, values = read_design(tmp_path / "s.gpkg"), values_of(raster)
    assert len(design) == done.points == 300
    assert (values[design.rows, design.columns] == design.stratum).all()  # values are indices here
    assert len({*zip(design.rows.tolist(), design.columns.tolist())}) == 300
    drawn, pixels = np.bincount(design.stratum), np.bincount(values[values < 255])
    assert design.probability == pytest.approx((drawn / pixels)[design.stratum])
    assert design.facts["strata"]["units"] == pixels.tolist()
    assert design.facts["strata"]["area"] == pytest.approx(pixels * 100.0, rel=2e-3)  # 10 m pixels, UTM
    assert [s[:3] for s in done.strata] == [
        (name, n, k) for name, n, k in zip(("water", "field", "forest"), pixels.tolist(), drawn.tolist())
    ]


@pytest.mark.parametrize("by", ["classes", "blocks"])
def test_the_same_seed_draws_the_same_pixels_whatever_is_read_at_once(raster, tmp_path, by, monkeypatch):
    more = {} if by == "classes" else {"block": 15, "per_block": 4, "floor": 8}
    designs = []
    for number, rows in enumerate((1, 7, 64, None)):
        monkeypatch.setattr(census, "PART_PIXELS", (1, 1000, 10**6, 2**21)[number])
        out = tmp_path / f"{number}.gpkg"
        sample(raster, out, size=90, seed=7, strip_rows=rows, **{"floor": 5, **more})
        designs.append(read_design(out))
    for other in designs[1:]:
        assert other.rows.tolist() == designs[0].rows.tolist()
        assert other.columns.tolist() == designs[0].columns.tolist()
        assert (
            other.facts["map_sha256"] == designs[0].facts["map_sha256"] == content_hash(raster, strip_rows=11)
        )
    sample(raster, tmp_path / "other.gpkg", size=90, seed=8, **{"floor": 5, **more})
    assert read_design(tmp_path / "other.gpkg").rows.tolist() != designs[0].rows.tolist()


def test_every_pixel_of_a_stratum_is_equally_likely(tmp_path):
    values = np.array([[0, 1, 1, 1, 255], [0, 0, 1, 1, 1], [0, 255, 0, 1, 0]], np.uint8)
    raster = samples.class_map(tmp_path / "m.tif", values)
    times, hits = 3000, np.zeros(values.shape)
    with open_map(raster) as one:
        whole = count(one)
        for seed in range(times):
            drawn = draw_pixels(one, whole, np.array([2, 3, 0]), seed)
            hits[drawn.rows, drawn.columns] += 1
    expected = times * np.select([values == 0, values == 1], [2 / 6, 3 / 7], 0)
    spread = np.sqrt(np.maximum(expected * (1 - expected / times), 1))
    assert (np.abs(hits - expected) < 4 * spread).all(), hits


def test_the_interpreter_sees_no_class_of_the_map(raster, tmp_path):
    sample(raster, tmp_path / "s.gpkg", size=60, floor=10, second=True)
    orders = []
    for name in ("s.gpkg", "s_second.gpkg"):
        path = tmp_path / name
        assert {row[0] for row in pyogrio.list_layers(path)} == {"points", "footprints", "layer_styles"}
        meta, _, places, fields = pyogrio.raw.read(path, layer="points")
        assert meta["fields"].tolist() == ["point", "reference", "certainty", "comment"]
        columns = dict(zip(meta["fields"], fields))
        assert np.isnan(columns["reference"]).all() and all(v is None for v in columns["comment"])
        orders.append(columns["point"].tolist())
        # Each pixel's outline holds its point in the middle.
        _, _, pixels, (numbers,) = pyogrio.raw.read(path, layer="footprints")
        assert numbers.tolist() == orders[-1]
        pixels, places = shapely.from_wkb(pixels), shapely.from_wkb(places)
        assert shapely.equals_exact(shapely.centroid(pixels), places, 1e-6).all()
        assert shapely.area(pixels) == pytest.approx(100)
    assert orders[0] == list(range(1, 61)) and sorted(orders[1]) == orders[0] != orders[1]
    # Numbers say nothing of strata either.
    stratum = read_design(tmp_path / "s.gpkg").stratum
    assert 10 < (np.diff(stratum) != 0).sum() < 59


def test_the_form_offers_the_classes_of_the_legend(raster, tmp_path):
    sample(raster, tmp_path / "s.gpkg", size=60, floor=10)
    with contextlib.closing(sqlite3.connect(tmp_path / "s.gpkg")) as base:
        styles = dict(base.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault"))
    root = xml.fromstring(styles["points"].partition("\n")[2])
    widget = root.find("fieldConfiguration/field[@name='reference']/editWidget")
    assert widget.get("type") == "ValueMap"
    entries = widget.findall("config/Option/Option[@name='map']/Option/Option")
    assert [(e.get("name"), e.get("value")) for e in entries] == [
        ("water", "0"),
        ("field", "1"),
        ("forest", "2"),
    ]
    assert xml.fromstring(styles["footprints"].partition("\n")[2]).find("renderer-v2") is not None


def test_the_form_is_as_qgis_reads_it(raster, tmp_path):
    """What QgsMapLayer::readStyle looks up: fields by name and index of the layer, widgets of its registry,
    options by QVariant's types, symbols by name; and the table in which GeoPackages keep styles.
    """
    sample(raster, tmp_path / "s.gpkg", size=60, floor=10)
    with contextlib.closing(sqlite3.connect(tmp_path / "s.gpkg")) as base:
        styles = dict(base.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault"))
        columns = [row[1] for row in base.execute("PRAGMA table_info(points)")]
        geometry = base.execute("SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'points'")
        columns.remove(geometry.fetchone()[0])
        kept = {row[1] for row in base.execute("PRAGMA table_info(layer_styles)")}
        listed = base.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'")
        assert listed.fetchone() == ("attributes",)
    assert kept >= {
        "id",
        "f_table_catalog",
        "f_table_schema",
        "f_table_name",
        "f_geometry_column",
        "styleName",
        "styleQML",
        "styleSLD",
        "useAsDefault",
        "description",
        "owner",
        "ui",
        "update_time",
    }
    assert set(styles) == {"points", "footprints"}
    for text in styles.values():
        head, _, body = text.partition("\n")
        assert head == "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
        root = xml.fromstring(body)
        assert root.tag == "qgis" and root.get("version") and root.get("styleCategories")
        for option in root.iter("Option"):
            kind = option.get("type")
            assert kind in {"Map", "List", "QString", "bool", "int", "double", "StringList"}, kind
            # Maps and lists have entries, scalars a value.
            assert (option.get("value") is None) == (kind in ("Map", "List"))
            assert kind != "bool" or option.get("value") in ("true", "false")
        for layer in root.iter("layer"):
            assert layer.get("class") in {"SimpleMarker", "SimpleFill"}
            assert layer.find("Option").get("type") == "Map"
    root = xml.fromstring(styles["points"].partition("\n")[2])
    for field in root.findall("fieldConfiguration/field"):
        assert field.get("name") in columns
        assert field.find("editWidget").get("type") in {"TextEdit", "ValueMap"}
    aliases = {int(a.get("index")): a.get("field") for a in root.findall("aliases/alias")}
    # The feature's id is column 0 and needs no alias.
    assert aliases == dict(enumerate(columns[1:], start=1)) and columns[0] == "fid"
    assert [f.get("name") for f in root.findall("editable/field") if f.get("editable") == "0"] == ["point"]
    renderer = root.find("renderer-v2")
    symbols = {symbol.get("name") for symbol in renderer.findall("symbols/symbol")}
    used = {category.get("symbol") for category in renderer.findall("categories/category")}
    assert used == symbols == {"0", "1"}


def test_strata_from_other_rasters(raster, tmp_path):
    other = np.where(np.arange(150) < 75, 3, 9) * np.ones((120, 1), int)
    halves = samples.class_map(
        tmp_path / "halves.tif", other, legend=Legend.of_names(["west", "east"], values=[3, 9])
    )
    sample(raster, tmp_path / "a.gpkg", size=100, floor=5, strata=halves)
    design = read_design(tmp_path / "a.gpkg")
    assert design.facts["strata"]["names"] == ["west", "east"]
    assert (design.stratum == (design.columns >= 75)).all()

    confidence = np.tile(np.linspace(30, 100, 150).astype(np.uint8), (120, 1))
    world.write(tmp_path / "m_confidence.tif", confidence, nodata=255)
    sample(raster, tmp_path / "b.gpkg", size=100, floor=5, confidence_bands=(60, 85))
    design = read_design(tmp_path / "b.gpkg")
    assert design.facts["strata"]["names"][1] == "confidence 60 to 85 %"
    assert (design.stratum == np.digitize(confidence[design.rows, design.columns], [60, 85])).all()

    specks = values_of(raster)
    specks[60, 60] = (specks[60, 60] + 1) % 3
    specked = samples.class_map(tmp_path / "specked.tif", specks)
    sample(specked, tmp_path / "c.gpkg", size=100, floor=5, sieve=0.1)
    sizes = read_design(tmp_path / "c.gpkg").facts["strata"]["pixels"]
    assert sizes == np.bincount(values_of(raster)[values_of(raster) < 255]).tolist()
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]  # the sieved copy is gone


def test_pixels_of_a_map_in_degrees_have_their_own_areas(tmp_path):
    from affine import Affine

    values = np.zeros((60, 4), np.uint8)
    raster = samples.class_map(
        tmp_path / "d.tif",
        values,
        legend=Legend.of_names(["all"]),
        crs="EPSG:4326",
        transform=Affine(1, 0, 0, 0, -1, 80),
    )
    sample(raster, tmp_path / "d.gpkg", size=30, floor=5)
    design = read_design(tmp_path / "d.gpkg")
    # The zone between 20 and 80 degrees north on a sphere of the ellipsoid's area, 4 degrees wide.
    zone = 2 * np.pi * 6371007.2**2 * (np.sin(np.radians(80)) - np.sin(np.radians(20))) * 4 / 360
    assert design.facts["strata"]["area"][0] == pytest.approx(zone, rel=0.01)
    assert len(set(design.probability.tolist())) == 1  # drawn by pixel, weighted by area later


def test_blocks_are_drawn_first(raster, tmp_path):
    done = sample(raster, tmp_path / "b.gpkg", size=120, block=20, per_block=6, floor=6)
    design = read_design(tmp_path / "b.gpkg")
    of = design.rows // 20 * 8 + design.columns // 20
    assert (design.block == of).all()
    blocks, times = np.unique(design.block, return_counts=True)
    assert (times == 6).all() and len(blocks) == done.blocks
    values = values_of(raster)
    inside = {b: values[b // 8 * 20 :][:20, b % 8 * 20 :][:, :20] for b in blocks.tolist()}
    for number, block, stratum in zip(range(len(design)), design.block.tolist(), design.stratum.tolist()):
        known = inside[block][inside[block] < 255]
        assert design.block_pixels[number] == known.size
        assert stratum == np.bincount(known, minlength=3).argmax()
    # In all, each stratum's blocks have its area; probabilities are those of both stages.
    assert sum(design.facts["strata"]["pixels"]) == (values < 255).sum()
    m, n = (
        np.bincount(design.stratum[np.unique(design.block, return_index=True)[1]]),
        design.facts["strata"]["units"],
    )
    assert design.probability == pytest.approx((m / n)[design.stratum] * 6 / design.block_pixels)


def test_the_size_follows_from_the_target(raster, tmp_path):
    loose = sample(raster, tmp_path / "a.gpkg", target_se=0.05, floor=2)
    tight = sample(raster, tmp_path / "b.gpkg", target_se=0.02, floor=2)
    # sqrt(0.8 x 0.2) / 0.05 squared, and 64 x 6.25; fewer, since pixels are not put back
    assert loose.points == pytest.approx(64, abs=1) and 380 < tight.points <= 400
    assert tight.predicted_se <= 0.02
    more = sample(raster, tmp_path / "c.gpkg", size=30, floor=20)
    assert more.points == 60 and "every stratum gets 20 at least" in more.notes[0]


def test_fewer_points_than_asked_for_are_told(tmp_path):
    raster = samples.class_map(tmp_path / "m_class.tif", world.paint(6, 10))
    done = sample(raster, tmp_path / "s.gpkg", size=70)
    assert done.points == 60 and done.notes == ("60 points instead of 70: the map has no more pixels.",)
    assert not sample(raster, tmp_path / "t.gpkg", size=60).notes
    blocks = sample(raster, tmp_path / "b.gpkg", size=64, block=3, per_block=6, floor=6)
    assert blocks.points < 64 and "whole blocks" in blocks.notes[0]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"size": 100, "target_se": 0.1}, BadOption, "either `size` or `target_se`"),
        ({"size": 200_000, "most": 10_000}, BadOption, r"[0-9,]+ points would be drawn.* 10,000 at most"),
        ({"seed": -1}, BadOption, "`seed=-1` must be a whole number of at least 0"),
        ({"floor": 10**20, "block": 16, "per_block": 3}, BadOption, "`floor=10+` must be at most 100,000"),
        ({"floor": 1}, BadOption, "`floor=1` must be at least 2: one point has no variance"),
        ({"target_se": 3}, BadOption, "below 0.5"),
        ({"target_class": "fores"}, UnknownName, "Did you mean 'forest'"),
        ({"allocation": "optimal"}, UnknownName, "proportional, equal, neyman"),
        ({"confidence_bands": (85, 60)}, BadFile, "m_confidence.tif does not exist"),
        ({"sieve": 1, "strata": "x.tif"}, BadOption, "not by both"),
    ],
)
def test_options_that_cannot_work_are_refused(raster, tmp_path, options, error, said, monkeypatch):
    # The map of this test has fewer pixels than a sample may have points.
    monkeypatch.setattr("labelscape.assessment.sample.MOST", options.pop("most", 100_000))
    with pytest.raises(error, match=said):
        sample(raster, tmp_path / "s.gpkg", **options)
    assert not (tmp_path / "s.gpkg").exists()


def test_answers_are_not_overwritten(raster, tmp_path):
    sample(raster, tmp_path / "s.gpkg", size=60, floor=5)
    with pytest.raises(BadFile, match="perhaps with answers in it"):
        sample(raster, tmp_path / "s.gpkg", size=60, floor=5)


def test_strata_must_cover_the_map(raster, tmp_path):
    small = samples.class_map(tmp_path / "small.tif", world.paint(50, 50))
    with pytest.raises(BadInput, match="is not on the grid of"):
        sample(raster, tmp_path / "s.gpkg", strata=small)
    holes = world.paint(120, 150)
    holes[100, 100] = 255
    with pytest.raises(BadInput, match="no stratum for row 100, column 100"):
        sample(raster, tmp_path / "s.gpkg", strata=samples.class_map(tmp_path / "holes.tif", holes))


def test_the_design_is_readable_without_this_software(raster, tmp_path):
    sample(raster, tmp_path / "s.gpkg", size=60, floor=5, seed=3)
    with contextlib.closing(sqlite3.connect(tmp_path / "s.gpkg")) as base:
        ((text,),) = base.execute("SELECT design FROM labelscape_sample")
    facts = json.loads(text)
    assert facts["format"] == "labelscape-sample-1" and facts["seed"] == 3
    assert len(facts["points"]["rows"]) == 60


def test_a_block_as_large_as_the_map_is_refused(raster, tmp_path):
    with pytest.raises(BadOption, match=r"block=150` is as large as the map \(150 x 120 pixels\)"):
        sample(raster, tmp_path / "s.gpkg", size=100, block=150)
    assert not (tmp_path / "s.gpkg").exists()


def test_all_blocks_drawn_leave_the_error_within_them(raster, tmp_path):
    done = sample(raster, tmp_path / "s.gpkg", size=10_000, block=60, per_block=10, floor=10)
    assert done.blocks == 6  # 2 x 3, all of them
    # Nothing between blocks, since all are drawn; within them (1 - ALIKE) of the variance.
    weights = np.array([w for *_, w in done.strata])
    points = np.array([n for _, _, n, _ in done.strata])
    pixels = np.array([n for _, n, _, _ in done.strata])
    used = weights > 0
    variance = EXPECTED * (1 - EXPECTED) * (1 - ALIKE)
    terms = weights[used] ** 2 * variance / points[used] * (1 - points[used] / pixels[used])
    assert done.predicted_se == pytest.approx(np.sqrt(terms.sum()), rel=1e-6) and done.predicted_se > 0
