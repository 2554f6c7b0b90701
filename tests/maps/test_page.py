"""What the report of a map says in words."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import browser
import numpy as np
import pytest
import world

from labelscape.areas.polygonize import PolygonSummary
from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.legend import Legend
from labelscape.maps import page
from labelscape.maps.page import lead, measured, otherwise, tiny_hint
from labelscape.maps.rasters import ClassArea
from labelscape.maps.run import map_scene
from labelscape.maps.settings import settings_in_words


def recipe(*images, **data):
    return {"data": {"images": list(images), "labels": ["fields.gpkg"], **data}}


@pytest.mark.parametrize(
    ("made_of", "scene", "said"),
    [
        (
            recipe("/data/centre.tif"),
            "/data/east.tif",
            "Measured on held-out blocks of centre.tif, not on this scene.",
        ),
        (
            recipe("/data/centre.tif"),
            "/data/../data/centre.tif",
            "Measured on held-out blocks of centre.tif; this scene was used for training.",
        ),
        (
            recipe("centre.tif"),
            "/data/centre.tif",
            "Measured on held-out blocks of centre.tif; the file mapped here has that name and may be it.",
        ),
        (
            recipe(["/b/B02.jp2", "/b/B03.jp2"]),
            ["/b/B02.jp2", "/b/B03.jp2"],
            "Measured on held-out blocks of B02.jp2+B03.jp2; this scene was used for training.",
        ),
        ({}, "a.tif", "It is not recorded where these scores were measured; it was not on this map."),
    ],
)
def test_scores_say_where_they_were_measured(made_of, scene, said):
    assert measured(made_of, scene) == said


def test_a_map_that_is_made_otherwise_than_scored_says_so():
    facts = {"network": "mlp", "tta": "none", "scales": [1.0], "models_averaged": 1, "request": {}}
    assert otherwise(facts, "mlp") == ""
    augmented = {**facts, "tta": "dihedral"}
    assert otherwise(augmented, "mlp") == (
        " The map has test-time augmentation (dihedral); the scores of mlp are without."
    )
    assert otherwise(augmented, "mlp, tta dihedral") == ""
    many = {**facts, "scales": [0.75, 1.0], "models_averaged": 3, "request": {"reject": 0.5}}
    assert otherwise(many, "mlp") == (
        " The map averages 3 models, averages scales (0.75, 1) and leaves confidences below 50 % unknown; "
        "the scores of mlp are without."
    )


def test_the_confusion_matrix_of_a_report_is_of_the_scores_as_the_map_was_made():
    counts = {"counts": [[3, 1], [0, 4]], "unpredicted": [0, 0]}
    score = {"confusion": counts, "classes": [{"name": "a"}, {"name": "b"}]}
    scored = model(
        2, scores={"fcn": score, "fcn, tta flips": {**score, "confusion": {"counts": [[4, 0], [0, 4]]}}}
    )
    for tta, name, first in (("none", "fcn", 3), ("flips", "fcn, tta flips", 4), ("mirror", "fcn", 3)):
        figure = page._confusion(scored, page._own_scores(scored, {"tta": tta}))
        assert figure.title.startswith(f"{name}, ") and figure.counts[0, 0] == first, tta


def model(classes, temperature=1.0, scores=None):
    names = [f"class {i}" for i in range(classes)]
    contract = Contract(("1",), "uint8", ((0, 1),))
    return Checkpoint(
        "fcn", {}, {}, Legend.of_names(names), contract, scores=scores or {}, temperature=temperature
    )


def test_the_lead_tells_classes_confidence_and_calibration():
    result = SimpleNamespace(
        areas=(ClassArea("water", 300, 3.0), ClassArea("field", 900, 9.0)), unfamiliar=None
    )
    confidence = np.array([100, 90, 74, 60], np.uint8)
    two = lead(result, confidence, model(2, scores={"fcn": {}}))
    # With two classes no confidence is below 50 %: unsure is what lies below 75 %.
    assert two == (
        "12.00 hectares mapped; the largest class is field (75.0 %). Mean confidence 81 %; 50.0 % of the map "
        "is below 75 %. Confidences are not calibrated (run labelscape calibrate)."
    )
    five = lead(result, confidence, model(5, temperature=1.5))
    assert "0.0 % of the map is below 60 %" in five
    assert "Confidences are calibrated by temperature scaling (temperature 1.5)." in five
    assert five.endswith("The accuracy of this model has not been measured.")
    plain = SimpleNamespace(areas=(ClassArea("water", 12_345, None),), unfamiliar=None)
    assert lead(plain, confidence[:0], model(2)).startswith(
        "12,345 pixels mapped; the largest class is water"
    )


def test_specks_are_met_with_a_minimum_mapping_unit():
    areas = (ClassArea("water", 1000, 10.0),)
    paths = {"class": Path("m/scene_class.tif")}
    many = SimpleNamespace(outlined=PolygonSummary(1255, 0, 783), areas=areas, paths=paths)
    assert tiny_hint(many) == (
        "783 of 1,255 polygons are smaller than 8 pixels (0.08 ha). A minimum mapping unit merges such areas "
        "into their neighbours: labelscape map ... --sieve 0.08, or for the finished map: labelscape sieve "
        "scene_class.tif OUT.tif --min-area 0.08"
    )
    # Pixels of 13 cm, whose areas the page gives in square metres.
    many.areas = (ClassArea("roof", 1_000_000, 1.743),)
    assert "(0.14 m², 0.000014 ha)" in tiny_hint(many) and "--sieve 0.000014," in tiny_hint(many)
    many.areas = (ClassArea("water", 1000, None),)
    assert "(8 pixels)" in tiny_hint(many) and "--sieve 8," in tiny_hint(many)
    many.outlined = PolygonSummary(1255, 0, 627)
    assert tiny_hint(many) == ""
    many.outlined = None
    assert tiny_hint(many) == ""


def test_settings_are_words():
    facts = {
        "name": "x",
        "software": "labelscape 1",
        "when": "2026-01-02T03:04:05+00:00",
        "scene": "a.tif",
        "size": [2000, 1000],
        "crs": "EPSG:32633",
        "pixel_size_m": 0.299999,
        "core": 320,
        "halo": 96,
        "blend": 64,
        "tiles": 28,
        "scales": [1.0],
        "tta": "flips",
        "models_averaged": 1,
        "precision": "bfloat16",
        "models": [{"path": "m.safetensors", "sha256": "0123456789abcdef"}, {"path": None, "sha256": None}],
        "a_later_key": 7,
        "request": {"reject": 0.4, "sieve": 0.5, "simplify": 2, "area": None, "force": False, "nodata": 0},
    }
    assert settings_in_words(facts) == {
        "Software": "labelscape 1",
        "Date": "2026-01-02 03:04:05 UTC",
        "Scene": "a.tif",
        "Size": "2,000 x 1,000 pixels",
        "Coordinate reference system": "EPSG:32633",
        "Pixel size": "0.3 m on the ground",
        "Tiles": "28 of 320 x 320 pixels, overlapping by 96 pixels on each side; neighbours blended over "
        "64 pixels",
        "Test-time augmentation": "4 flips, averaged",
        "Precision": "bfloat16, mixed",
        "Checkpoint": "m.safetensors (SHA-256 0123456789ab…); from memory, not from a file",
        "A later key": 7,
        "Rejection threshold": "confidence below 40 % is mapped as unknown",
        "Minimum mapping unit": "0.5 ha (sieved map and polygons)",
        "Polygon simplification": "tolerance 2 m",
        "Nodata value given": "0",
    }
    assert settings_in_words({**facts, "tiles": 1})["Tiles"] == "1: the whole scene at once"
    part = {**facts, "tiles": 1, "request": {**facts["request"], "area": "district.gpkg"}}
    assert settings_in_words(part)["Tiles"] == "1: the whole area at once"
    assert settings_in_words({**facts, "crs": None})["Minimum mapping unit"].startswith("0.5 pixels")


def test_a_report_has_the_seam_score_of_several_tiles(tmp_path):
    w = world.make(tmp_path, 200, 400)
    model = world.tiny_checkpoint(like=w.scene)
    common = {"polygons": False, "device": "cpu"}
    several = map_scene(model, w.scene, tmp_path / "several", tile_size=256, **common)
    assert several.facts["tiles"] > 1
    assert f"{several.seam:.2f} (1: no seams)" in several.paths["report"].read_text()
    one = map_scene(model, w.scene, tmp_path / "one", **common)
    assert one.facts["tiles"] == 1 and "Seam score" not in one.paths["report"].read_text()


def test_polygons_of_few_pixels_are_counted(tmp_path):
    from labelscape.areas.polygonize import polygonize

    values = np.zeros((20, 20), np.uint8)
    values[2, 2:9] = 1  # 7 pixels
    values[5, 2:10] = 1  # 8 pixels
    values[10, 10] = 2
    raster = world.write(tmp_path / "m.tif", values, nodata=255)
    done = polygonize(raster, tmp_path / "m.gpkg", world.LEGEND)
    assert (done.written, done.tiny) == (4, 2)


@pytest.mark.parametrize("width", [400, 1600])
def test_the_report_of_a_map_is_readable_in_a_browser(tmp_path, width):
    """With names that would be markup, or formulas, if they were not taken as text."""
    w = world.make(tmp_path, 64, 96, nodata=0, name="<i>scene")
    names = [
        "<script>alert(1)</script>",
        "$x_1$ & co",
        "a class with a long name, wider than a column of a table",
    ]
    model = replace(world.tiny_checkpoint(like=w.scene), legend=Legend.of_names(names))
    done = map_scene(model, w.scene, tmp_path / "map", device="cpu")
    assert "<script>alert(1)" not in done.paths["report"].read_text()
    assert browser.faults(done.paths["report"], width) == []
