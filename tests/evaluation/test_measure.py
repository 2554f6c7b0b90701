from dataclasses import replace

import pytest
import world

import labelscape as ls
from labelscape.errors import BadInput, BadOption
from labelscape.legend import Legend

QUICK = {"device": "cpu", "show": False}


@pytest.fixture
def labelled(tmp_path):
    w = world.make(tmp_path, 64, 96)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    rules = ls.LabelRules(legend=world.LEGEND)
    with ls.open_dataset([str(w.scene)], [str(labels)], spec=rules, block=32) as dataset:
        yield world.tiny_checkpoint(like=w.scene), dataset


def test_augmented_predictions_are_scored_by_the_names_that_maps_use(labelled):
    checkpoint, dataset = labelled
    by_name = ls.evaluate(checkpoint, dataset, tta="dihedral", scales=(0.75, 1.0), average="logits", **QUICK)
    as_one = ls.evaluate(
        checkpoint, dataset, protocol=ls.Protocol((0.75, 1.0), "dihedral", "logits"), **QUICK
    )
    plain = ls.evaluate(checkpoint, dataset, **QUICK)
    assert by_name.metrics == as_one.metrics != plain.metrics
    with pytest.raises(BadOption, match="set the same thing"):
        ls.evaluate(checkpoint, dataset, tta="mirror", protocol=ls.Protocol(), **QUICK)
    one = ls.evaluate(checkpoint, dataset, scales=1.5, **QUICK)
    assert one.metrics == ls.evaluate(checkpoint, dataset, scales=(1.5,), **QUICK).metrics


@pytest.mark.parametrize("work", [ls.evaluate, ls.calibrate])
def test_labels_of_other_classes_are_refused(labelled, work):
    """The same names in another order would be counted as other classes, without a word."""
    checkpoint, dataset = labelled
    turned = Legend(tuple(reversed(world.LEGEND.classes)))
    with pytest.raises(BadInput, match="The labels have the classes"):
        work(replace(checkpoint, legend=turned), dataset, device="cpu")
