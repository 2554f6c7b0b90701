import pytest

from labelscape.checkpoint import description
from labelscape.demo import demo_checkpoint
from labelscape.model_card import calibration, measured_on, model_card, trained_on


def recipe(**data):
    return {"data": {"images": ["in/centre.tif"], "labels": ["fields.gpkg"], **data}}


@pytest.mark.parametrize(
    ("made_of", "trained", "measured"),
    [
        (recipe(), "centre.tif", "held-out blocks of centre.tif"),
        (
            recipe(images=["a.tif", ["b/B02.jp2", "b/B03.jp2"], "c.tif", "d.tif", "e.tif"]),
            "a.tif, B02.jp2+B03.jp2, c.tif and 2 more",
            "held-out blocks of a.tif, B02.jp2+B03.jp2, c.tif and 2 more",
        ),
        (recipe(images=["pairs/"], labels=[]), "pairs", "held-out pictures of pairs"),
        (
            recipe(split="random"),
            "centre.tif",
            "randomly held-out blocks of centre.tif: an optimistic estimate",
        ),
        (recipe(fold="2/5"), "centre.tif", "held-out blocks of centre.tif (fold 2/5)"),
        (recipe(dataset="gid-5"), "gid-5", "the held-out part of gid-5"),
        ({"imported_from": "x.caffemodel"}, "weights imported from x.caffemodel", ""),
        ({}, "", ""),
    ],
)
def test_where_a_model_and_its_scores_come_from(made_of, trained, measured):
    assert trained_on(made_of) == trained
    assert measured_on(made_of) == measured


def test_the_card_of_the_demos_checkpoint():
    card = model_card(description(demo_checkpoint()))
    assert card["network"] == "mlp (hidden=128)"
    assert card["classes"].startswith("0 water and wetland, 1 woodland")
    assert card["bands"] == "B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12"
    assert card["pixel size"] == "10 m on the ground"
    assert card["trained on"] == "IMG_DATA"
    assert card["training"] == "1,600 steps of 8 crops of 64 pixels"
    assert card["measured on"] == "held-out blocks of IMG_DATA"
    assert card["scores"].endswith("mlp, tta dihedral: mIoU 50.63 %, overall accuracy 65.54 %")
    assert card["confidences"].startswith("not calibrated")


def test_corrections_and_features_of_training_are_on_the_card():
    about = description(demo_checkpoint())
    assert {"corrected by", "unfamiliar input"}.isdisjoint(model_card(about))
    about["corrections"] = [{"file": "r.gpkg", "polygons": 37, "pixels": 5000, "changed": 1234}]
    about["familiarity"] = {"pixels": [65536, 4000], "part": "test"}
    card = model_card(about)
    assert card["corrected by"] == "37 areas of r.gpkg, 1,234 of 5,000 pixels had another class"
    assert card["unfamiliar input"].startswith(
        "told by distance from the features of 65,536 training pixels; its limit is that of 99 % of 4,000"
    )


def test_only_another_temperature_is_called_calibrated():
    assert calibration(1.0).startswith("not calibrated")
    assert calibration(1.7342) == "calibrated by temperature scaling (temperature 1.73)"
