"""Bundles of Raster Vision, laid out as its pipelines write them: their classes, colours and statistics are
shown, their weights are a start, and no code in them runs.
"""

import io
import json
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
import world
from small_networks import SMALL
from test_foreign_weights import DATA, Harmful, backbone, marked, network

from labelscape.errors import BadFile, BadInput
from labelscape.inspection.describe import info
from labelscape.nets.depth import encoder_names
from labelscape.raster_vision import read_bundle
from labelscape.training.foreign import load_start
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.start import take_over, told_of_start

CLASSES = {
    "names": ["building", "tree", "null"],
    "colors": ["orange", [0, 128, 0], "#000000"],
    "null_class": "null",
    "type_hint": "class_config",
}
MODEL = {"backbone": "resnet50", "external_def": None, "type_hint": "semantic_segmentation_model"}
STATS = {"means": [10.0, 20.0, 30.0, 40.0], "stds": [1.0, 2.0, 3.0, 4.0], "counts": None}
PIPELINE = {
    "dataset": {
        "class_config": CLASSES,
        "validation_scenes": [{"raster_source": {"uris": ["a.tif"], "channel_order": [3, 0, 1]}}],
    },
    "backend": {"model": MODEL},
    "plugin_versions": {"rastervision.core": 14},
    "type_hint": "semantic_segmentation",
}
LEARNER = {"model": MODEL, "data": {"class_config": CLASSES, "img_channels": 3}, "type_hint": "learner"}


def archive(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as made:
        for name, one in files.items():
            made.writestr(name, one if isinstance(one, bytes) else json.dumps(one))
    return content.getvalue()


def weights(prefix="backbone."):
    content = io.BytesIO()
    torch.save(marked(backbone(), prefix), content)
    return content.getvalue()


def bundle(path, inner=None, outer=None):
    """What `rastervision run ... bundle` leaves: the training's bundle inside that of the pipeline."""
    inner = {"model.pth": b"", "learner-config.json": LEARNER, **(inner or {})}
    files = {
        "model-bundle.zip": archive({name: one for name, one in inner.items() if one is not None}),
        "analyze/stats/train_scenes/stats.json": STATS,
        "pipeline-config.json": PIPELINE,
        **(outer or {}),
    }
    path.write_bytes(archive({name: one for name, one in files.items() if one is not None}))
    return path


def test_classes_colours_and_statistics_are_shown(tmp_path, run_cli):
    path = bundle(tmp_path / "model-bundle.zip")
    found = read_bundle(path)
    assert found.classes == (("building", (255, 165, 0)), ("tree", (0, 128, 0)), ("null", (0, 0, 0)))
    # In the order of the network's bands, as older versions leave it to the reader.
    assert (found.means, found.stds, found.order) == ((40.0, 10.0, 20.0), (4.0, 1.0, 2.0), (3, 0, 1))
    assert (found.task, found.backbone, found.null) == ("semantic_segmentation", "resnet50", "null")
    shown = info(path)
    assert shown.kind == "raster-vision bundle" and shown.facts["means"] == [40.0, 10.0, 20.0]
    code, out, err = run_cli("info", path)
    assert code == 0, err
    for line in (
        "0 building #FFA500, 1 tree #008000, 2 null #000000",
        "3: the bands 4, 1, 2 of a scene, in this order",
        "with the means (deviations) 40 (4), 10 (1), 20 (2)",
        f"-o options.backbone=resnet50 --start {path}",
    ):
        assert line in out, out


def test_statistics_of_the_chosen_bands_alone_stand_as_they_are(tmp_path):
    stats = {"means": [1.0, 2.0, 3.0], "stds": [4.0, 5.0, 6.0]}
    path = bundle(tmp_path / "b.zip", outer={"analyze/stats/train_scenes/stats.json": stats})
    assert read_bundle(path).means == (1.0, 2.0, 3.0)


def test_the_bundle_of_a_training_and_those_of_older_versions_are_read(tmp_path):
    (tmp_path / "train.zip").write_bytes(archive({"model.pth": b"", "learner-config.json": LEARNER}))
    alone = read_bundle(tmp_path / "train.zip")
    assert [name for name, _ in alone.classes] == CLASSES["names"]
    assert alone.means == () and alone.channels == 3 and alone.has_weights
    data = {"class_names": ["water", "land"], "class_colors": ["blue", "nocolour"]}
    old = {"learner": {"model": MODEL, "data": data}, "plugin_versions": {}}
    path = bundle(
        tmp_path / "old.zip",
        {"learner-config.json": None, "pipeline-config.json": old},
        {
            "pipeline-config.json": {"dataset": {}, "backend": {}},
            "analyze/stats/train_scenes/stats.json": None,
            "stats.json": STATS,
        },
    )
    found = read_bundle(path)
    assert found.classes == (("water", (0, 0, 255)), ("land", None)) and found.means == (10, 20, 30, 40)


def test_its_weights_are_a_start(tmp_path):
    path = bundle(tmp_path / "b.zip", {"model.pth": weights()})
    start = load_start(str(path))
    net = network("deeplabv3plus")
    taken = take_over(net, "deeplabv3plus", SMALL["deeplabv3plus"], DATA, start)
    assert taken == encoder_names(net)
    wanted, state = marked(backbone(), ""), net.state_dict()
    assert all(torch.equal(state[key], wanted[key.removeprefix("trunk.body.")]) for key in taken)
    (line,) = told_of_start("deeplabv3plus", SMALL["deeplabv3plus"], DATA, start, "b.zip")
    assert "They learned building, tree, null" in line and "40 (4), 10 (1), 20 (2)" in line
    assert "does not say which bands" not in line
    with pytest.raises(BadInput, match="holds no encoder of this network"):
        take_over(network("fcn"), "fcn", SMALL["fcn"], DATA, start)


@pytest.mark.parametrize(
    ("scale", "told"), [(1, "as in the training of b.zip"), (100, "another band or unit")]
)
def test_bands_are_scaled_as_the_weights_learned_them(scale, told, tmp_path):
    """Scenes of 16 bits, whose values lie around the means of the bundle or plainly elsewhere."""
    scene = world.make(tmp_path, 64, 64)
    labels = world.label_raster(scene, tmp_path / "labels.tif")
    means = (scale * scene.pixels.mean((1, 2))).tolist()
    stds = scene.pixels.std((1, 2)).tolist()
    pipeline = {**PIPELINE, "dataset": {"class_config": CLASSES}}
    outer = {
        "analyze/stats/train_scenes/stats.json": {"means": means, "stds": stds},
        "pipeline-config.json": pipeline,
    }
    state = {k: v / 50 if v.is_floating_point() else v for k, v in marked(backbone(), "backbone.").items()}
    torch.save(state, made := io.BytesIO())
    path = bundle(tmp_path / "b.zip", {"model.pth": made.getvalue()}, outer)
    lines = []
    recipe = make_recipe(
        data={"images": [str(scene.scene)], "labels": [str(labels)], "holdout": 0},
        network="deeplabv3plus",
        options=SMALL["deeplabv3plus"],
        start=str(path),
        steps=1,
        crop=32,
        batch=2,
        device="cpu",
        measure_unfamiliar=False,
    )
    found = train(recipe, tmp_path / "out", score=False, say=lines.append).contract
    (line,) = [line for line in lines if line.startswith("input is scaled")]
    assert told in line
    own = tuple((one.mean, one.std) for one in found.statistics)
    wanted = own if scale == 100 else [(m - 3 * s, 6 * s) for m, s in zip(means, stds)]
    np.testing.assert_allclose(found.normalisation, wanted)


def test_no_code_of_a_bundle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    torch.save({"a": torch.zeros(2), "more": Harmful()}, content)
    for model in (content.getvalue(), pickle.dumps(Harmful())):
        path = bundle(tmp_path / "b.zip", {"model.pth": model})
        with pytest.raises(BadFile, match="cannot be read as weights"):
            load_start(str(path))
    custom = {**LEARNER, "model": {**MODEL, "backbone": None, "external_def": {"uri": "https://a/b.zip"}}}
    path = bundle(tmp_path / "c.zip", {"learner-config.json": custom})
    with pytest.raises(BadInput, match="defined by code in it, which is not run"):
        load_start(str(path))
    assert "defined by code in the bundle" in info(path).text
    assert not (tmp_path / "harm").exists()


def test_damage_is_told(tmp_path):
    files = {"pipeline-config.json": PIPELINE, "learner-config.json": LEARNER}
    for change, said in (
        ({"pipeline-config.json": b"{"}, "has a damaged pipeline-config.json"),
        ({"pipeline-config.json": b"[]"}, "an object of settings was expected"),
        ({"pipeline-config.json": {"dataset": {"class_config": {"names": []}}}}, "it has no classes"),
        ({"stats.json": {"means": [1], "stds": []}}, "statistics of its bands"),
        ({"model-bundle.zip": b"no archive"}, "is damaged"),
        ({"stats.json": {"means": [10**400], "stds": [1]}}, "has damaged settings"),
        (
            {"learner-config.json": LEARNER | {"data": {"class_config": CLASSES, "img_channels": math.inf}}},
            "has damaged settings",
        ),
    ):
        (tmp_path / "b.zip").write_bytes(archive(files | change))
        with pytest.raises(BadFile, match=said):
            info(tmp_path / "b.zip")
    (tmp_path / "a.zip").write_bytes(archive({"a.txt": b"a"}))
    with pytest.raises(BadFile, match="no bundle of Raster Vision: it holds neither"):
        load_start(str(tmp_path / "a.zip"))
    with pytest.raises(BadFile, match="does not exist"):
        load_start(str(tmp_path / "none.zip"))
    with pytest.raises(BadInput, match="without model.pth"):
        load_start(str(bundle(tmp_path / "c.zip", {"model.pth": None})))


def test_a_damaged_list_of_members_is_told(tmp_path):
    """Of an archive whose end is whole, by which it is known for one."""
    path, whole = tmp_path / "b.zip", archive({"pipeline-config.json": PIPELINE})
    member = whole.rindex(b"PK\x01\x02")
    for at, byte, said in ((0, b"X", "central directory"), (6, b"\xc8", "file version")):
        path.write_bytes(whole[: member + at] + byte + whole[member + at + 1 :])
        with pytest.raises(BadFile, match=f"is damaged .*{said}"):
            load_start(str(path))
        with pytest.raises(
            BadFile, match="damaged zip archive|is not a checkpoint, a map, a scene or polygons"
        ):
            info(path)


@pytest.mark.long
def test_the_encoder_of_its_own_network_fits_the_backbone_of_that_name(tmp_path):
    """DeepLabv3 of torchvision, which Raster Vision trains."""
    from labelscape.nets.libraries import import_torchvision

    import_torchvision()
    from torchvision.models.segmentation import deeplabv3_resnet50

    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3).state_dict()
    content = io.BytesIO()
    torch.save(theirs, content)
    start = load_start(str(bundle(tmp_path / "b.zip", {"model.pth": content.getvalue()})))
    options = {"backbone": "resnet50"}
    net = network("deeplabv3plus", **options)
    taken = take_over(net, "deeplabv3plus", options, DATA, start)
    state = net.state_dict()
    assert taken == encoder_names(net) and len(taken) > 300
    assert all(torch.equal(state[key], theirs[key.replace("trunk.body.", "backbone.")]) for key in taken)
