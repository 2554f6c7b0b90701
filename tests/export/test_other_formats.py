"""OpenVINO's files and programs of torch.export: read back, they give the class map of the checkpoint."""

import json
import re

import numpy as np
import pytest
import torch
from small_networks import SMALL
from test_export_onnx import BANDS, made, scene

from labelscape.checkpoint import save
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.export import other_files
from labelscape.export.model import export_model
from labelscape.export.push import push
from labelscape.scoring.scorer import predict

LONG = [name for name in SMALL if name != "fcn"]


def in_openvino(path, images):
    import openvino

    # Threads and precision are the user's: full precision is asked for as by ours.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"image": images})["probabilities"]


def in_torch(path, images):
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


RUN = {"openvino": in_openvino, "pt2": in_torch}


@pytest.mark.parametrize("to", RUN)
@pytest.mark.parametrize(
    "network", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in SMALL]
)
def test_each_format_gives_the_class_map_of_the_checkpoint(network, to, tmp_path):
    checkpoint = made(network)
    suffix = {"openvino": ".xml", "pt2": ".pt2"}[to]
    done = export_model(checkpoint, tmp_path / f"model{suffix}", to=to, size=64)
    assert done.difference <= 1e-4 and done.changed == 0 and done.format == to
    pixels = scene(64, 64)
    wanted = predict(checkpoint, pixels)
    for count in (1,) if to == "pt2" else (1, 3):
        found = RUN[to](done.path, np.stack([pixels] * count).astype(np.float32))
        assert found.shape == (count, 4, 64, 64)
        np.testing.assert_allclose(found[-1], wanted, atol=1e-4)
        # Ties alone may differ.
        top = np.sort(wanted, axis=0)
        clear = top[-1] - top[-2] > 2e-4
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(found[-1].argmax(0)[clear], wanted.argmax(0)[clear])
    # Our own reader, which takes nothing of a program but operators and arrays.
    np.testing.assert_allclose(predict(done.path, pixels), wanted, atol=1e-4)


def test_the_files_say_what_they_are(tmp_path):
    openvino = pytest.importorskip("openvino")
    export_model(made(), tmp_path / "m.xml", to="openvino", size=64, normalise="unit")
    assert (tmp_path / "m.bin").exists()
    model = openvino.Core().read_model(tmp_path / "m.xml")
    assert json.loads(str(model.get_rt_info(["labelscape"]).value))["bands"] == list(BANDS)
    assert json.loads(str(model.get_rt_info(["labelscape_export"]).value))["normalise"] == "unit"
    export_model(made(), tmp_path / "m.pt2", to="pt2", size=64)
    extra = {"labelscape": "", "labelscape_export": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(extra["labelscape"])["network"] == "fcn"
    assert json.loads(extra["labelscape_export"])["size"] == 64


def test_neither_of_two_files_is_replaced_unasked(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"mine")
    with pytest.raises(BadFile, match="m.bin"):
        export_model(made(), tmp_path / "m.xml", to="openvino", size=64)
    assert (tmp_path / "m.bin").read_bytes() == b"mine" and not (tmp_path / "m.xml").exists()


@pytest.mark.parametrize(
    ("to", "name", "cure"),
    [
        ("onnx", "m.pt2", "ask for `to='pt2'`"),
        ("onnx", "m.safetensors", "ends in .onnx; give one"),
        ("onnx", "m", "ends in .onnx; give one"),
        # The weights would take the place of the graph.
        ("openvino", "m.bin", "ends in .xml; give one"),
        ("pt2", "m.onnx", "ask for `to='onnx'`"),
    ],
)
def test_a_name_that_ends_as_another_format_is_refused(to, name, cure, tmp_path):
    """By its ending a file is read again: it would be called damaged."""
    path = save(made("fcn"), tmp_path / "m.safetensors")
    before = path.read_bytes()
    with pytest.raises(BadOption, match=re.escape(cure)):
        export_model(path, tmp_path / name, to=to, size=64, overwrite=True)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_program_has_one_size():
    with pytest.raises(BadOption, match="torch.export fixes the size"):
        export_model(made(), "m.pt2", to="pt2", dynamic=True)


def test_what_cannot_be_recorded_is_told_and_not_written(tmp_path, monkeypatch):
    def failing(*arguments, **more):
        raise RuntimeError("\naten::strange is not supported.\nand a page more")

    monkeypatch.setattr(torch.export, "export", failing)
    with pytest.raises(BadInput, match=r"fcn cannot be recorded by torch.export: aten::strange is not supp"):
        export_model(made(), tmp_path / "m.pt2", to="pt2", size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_gives_something_else_is_not_kept(tmp_path, monkeypatch):
    real = other_files.torch.export.load

    class Off:
        def __init__(self, program):
            self.program = program.module()

        def module(self):
            return lambda images: self.program(images).flip(1)

    monkeypatch.setattr(other_files.torch.export, "load", lambda *a, **k: Off(real(*a, **k)))
    with pytest.raises(BadInput, match="is not what torch computes"):
        export_model(made(), tmp_path / "m.pt2", to="pt2", size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "to", "out"),
    [("fcn", "openvino", "model.xml"), ("smp/Unet", "smp-folder", "model"), ("smp/Unet", "push", "hub")],
)
def test_a_full_disk_of_temporary_files_is_said(tmp_path, small_disk, monkeypatch, network, to, out):
    """Where the libraries write before the file takes its name; OpenVINO says "iostream error" of it."""
    if to == "openvino":
        pytest.importorskip("openvino")
    save(made(network), tmp_path / "m.safetensors")
    sized, folder = small_disk
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    sized(64 * 1024)
    with pytest.raises(BadFile, match="There is no room for temporary files in .*TMPDIR|cannot be written"):
        if to == "push":
            push(tmp_path / "m.safetensors", str(tmp_path / out))
        else:
            export_model(tmp_path / "m.safetensors", tmp_path / out, to=to)
    assert not (tmp_path / out).exists() and not list(folder.iterdir())
