"""Finished maps are scored as they are, and files of counts are added, on the command line too."""

import json

import numpy as np
import pytest
import rasterio
import world

import labelscape as ls
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.evaluation.counts import Evaluation

QUICK = {"device": "cpu", "show": False}


@pytest.fixture
def made(tmp_path):
    """A scene, its labels with gaps, a checkpoint and the map of it."""
    w = world.make(tmp_path, 70, 90, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif", unlabelled=w.classes * 31 % 7 == 3)
    checkpoint = world.tiny_checkpoint(like=w.scene)
    done = ls.map_scene(checkpoint, w.scene, out=tmp_path / "map", polygons=False, report=False)
    return w, labels, checkpoint, done.paths["class"]


def test_a_map_has_the_counts_of_the_checkpoint_that_made_it(made):
    w, labels, checkpoint, raster = made
    rules = {"legend": world.LEGEND}
    with ls.open_dataset([str(w.scene)], [str(labels)], spec=rules) as dataset:
        predicted = ls.evaluate(checkpoint, dataset, boundaries=True, objects=["field"], **QUICK)
    scored = ls.evaluate(raster, str(w.scene), str(labels), boundaries=True, objects=["field"], show=False)
    assert scored.confusion == predicted.confusion and scored.per_ring == predicted.per_ring
    assert [o.to_dict() for o in scored.objects] == [o.to_dict() for o in predicted.objects]
    assert scored.confusion.labelled > 1000 and not scored.confusion.unpredicted.any()


def test_nodata_of_a_map_is_a_missing_prediction_where_the_map_is_the_scene(made, tmp_path):
    _, labels, _, raster = made
    alone = ls.evaluate(raster, labels=str(labels), show=False)
    with rasterio.open(raster) as file, rasterio.open(labels) as reference:
        mapped, truth = file.read(1), reference.read(1)
    assert alone.confusion.unpredicted.sum() == ((mapped == 255) & (truth != 255)).sum() > 0
    assert alone.confusion.labelled == (truth != 255).sum()
    assert np.trace(alone.confusion.counts) == ((mapped == truth) & (truth != 255)).sum()


def test_values_of_a_map_without_names_are_those_of_named_labels(tmp_path):
    truth = world.paint(40, 60)
    mapped = np.where(np.arange(60) < 6, (truth + 1) % 3, truth).astype(np.uint8)
    mine, labels = (world.write(tmp_path / f"{n}.tif", v) for n, v in (("map", mapped), ("labels", truth)))
    rules = {"classes": {"water": 0, "field": 1, "forest": 2}}
    found = ls.evaluate(mine, labels=str(labels), spec=rules, show=False)
    assert list(found.names) == ["water", "field", "forest"]
    assert (
        np.trace(found.confusion.counts) == (mapped == truth).sum() < found.confusion.labelled == truth.size
    )


def test_values_without_names_that_are_names_of_other_classes_are_refused(tmp_path):
    """Labels of crop codes 1, 2 and 5 have the values 0, 1 and 2: in a map of other software a 1 may be
    either.
    """
    truth = world.paint(40, 60)
    labels = world.write(tmp_path / "labels.tif", truth)
    rules = {"classes": {"1": 0, "2": 1, "5": 2}}
    for values in ((1, 2, 2), (0, 1, 2)):
        mine = world.write(tmp_path / "map.tif", np.array(values, np.uint8)[truth])
        with pytest.raises(BadInput, match="its value 1 may be the class '1', or '2', which has the value 1"):
            ls.evaluate(mine, labels=str(labels), spec=rules, show=False)


def test_maps_without_labels_and_with_other_classes_are_refused(made, tmp_path):
    w, labels, _, raster = made
    with pytest.raises(BadOption, match="scored on `labels`"):
        ls.evaluate(raster, show=False)
    spec = {"merge": {"wet": ["class 0"], "dry": ["class 1", "class 2"]}}
    with pytest.raises(UnknownName, match="No class is called 'wet'"):
        ls.evaluate(raster, str(w.scene), str(labels), spec=spec, show=False)


def test_the_command_line_scores_maps_and_adds_counts(made, tmp_path, run_cli):
    _, labels, _, raster = made
    out = tmp_path / "checked"
    half, rest, both = (tmp_path / f"{name}.json" for name in ("half", "rest", "both"))
    code, text, err = run_cli("evaluate", raster, "--labels", labels, "--out", out, "--counts", half)
    assert code == 0, err
    assert f"all labels of {raster.stem}" in text and (out / "report.html").exists()
    found = Evaluation.load(half)
    # The same evaluation again, as that of another worker whose scene has another name.
    fields = json.loads(half.read_text())
    fields["per_scene"] = {"other": fields["per_scene"].popitem()[1]}
    fields["per_block"] = [{**block, "scene": "other"} for block in fields["per_block"]]
    rest.write_text(json.dumps(fields))
    code, text, err = run_cli("evaluate", half, rest, "--counts", both, "--json", "--card")
    assert code == 0, err
    assert json.loads(text)["confusion"]["counts"] == (2 * found.confusion.counts).tolist()
    assert list(json.loads(text)["per_scene"]) == [raster.stem, "other"]
    assert Evaluation.load(both).confusion == found.confusion + found.confusion
    code, text, err = run_cli("evaluate", both, "--card", "--out", tmp_path / "sum")
    assert code == 0 and "image-wise" in text, err
    assert "The score under each convention" in (tmp_path / "sum" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "to score it as a finished map, pass the --labels"),
        (["--part", "test"], "--part mean nothing for a finished map"),
        (["--tta", "flips"], "options of tiles, averaging and workers mean nothing"),
    ],
)
def test_what_means_nothing_for_a_map_is_refused(made, options, said, run_cli):
    code, _, err = run_cli("evaluate", made[3], *options)
    assert code == 2 and said in " ".join(err.split())


def test_counts_are_not_replaced_unasked_and_not_labelled_again(made, tmp_path, run_cli):
    path = tmp_path / "counts.json"
    path.write_text("{}")
    code, _, err = run_cli("evaluate", made[3], "--labels", made[1], "--counts", path)
    assert code == 1 and "counts.json exists; pass --overwrite" in " ".join(err.split())
    code, _, err = run_cli("evaluate", path, "--labels", made[1])
    assert code == 2 and "leave labels, what is to be counted and" in " ".join(err.split())
