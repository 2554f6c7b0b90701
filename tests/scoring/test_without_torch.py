"""An exported model is mapped, checked and scored without torch: by NumPy, to the same bytes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
import world
from test_exported_engine import WIDTHS, made

from labelscape.checkpoint import save
from labelscape.export.model import export_model
from labelscape.maps.run import map_scene
from labelscape.scoring import arrays, machine
from labelscape.scoring.fade import ramp
from labelscape.scoring.symmetry import turned, turned_back

ABSENT = """
import sys

class Absent:
    packages = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from labelscape.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["labelscape", *line.split()]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{line}: {end.code}")
    print("---", flush=True)
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("without")


@pytest.fixture(scope="module")
def scene(folder):
    return world.make(folder, 150, 190, bands=3, name="one", nodata=0)


@pytest.fixture(scope="module")
def model(folder, scene):
    path = save(made("fcn", scene.scene, WIDTHS, temperature=1.5), folder / "fcn.safetensors")
    return export_model(path, folder / "fcn.onnx", dynamic=True).path


def test_the_command_line_needs_no_torch_to_map_check_and_score_an_exported_model(model, scene, tmp_path):
    labels = tmp_path / "labels.tif"
    with rasterio.open(scene.scene) as file:
        profile = {**file.profile, "count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(labels, "w", **profile) as file:
        file.write(np.array(world.LEGEND.values, np.uint8)[scene.classes], 1)
    tiles = "--tile-size 96 --overlap 16 --blend hann --force --no-polygons --proba --entropy"
    lines = [
        f"info {model}",
        f"check {model} {scene.scene} --json",
        f"map {model} {scene.scene} --out {tmp_path / 'plain'} {tiles}",
        f"map {model} {scene.scene} --out {tmp_path / 'more'} {tiles} --tta dihedral --scales 0.75,1",
        f"evaluate {model} {scene.scene} --labels {labels} --json",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ABSENT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.split("---\n")
    assert (
        "water" in said[0] and json.loads(said[1])["plan"]["tiles"] and json.loads(said[4])["mean_iou"] >= 0
    )
    how = {"tile_size": 96, "overlap": 16, "blend": "hann", "force": True, "polygons": False}
    for name, more in (("plain", {}), ("more", {"tta": "dihedral", "scales": (0.75, 1.0)})):
        wanted = map_scene(
            model, scene.scene, tmp_path / f"{name}-with", proba=True, entropy=True, **how, **more
        )
        for kind in ("class", "confidence", "proba", "entropy"):
            path = wanted.paths[kind]
            assert (tmp_path / name / path.name).read_bytes() == path.read_bytes(), (name, kind)
    # As torch maps the checkpoint, but for ties.
    torches = map_scene(model.with_suffix(".safetensors"), scene.scene, tmp_path / "torch", **how)
    with rasterio.open(torches.paths["class"]) as one, rasterio.open(tmp_path / "plain/one_class.tif") as two:
        assert len(np.unique(one.read())) >= 3
        np.testing.assert_array_equal(one.read(), two.read())


LOGITS = np.random.default_rng(0).normal(0, 4, (2, 5, 17, 23)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: arrays.softmax(x, 1),
        lambda x: arrays.softmax(x, 1, (2, 3)),
        lambda x: arrays.soften(x[0], (4, 1)),
        lambda x: arrays.back_to_logits(abs(x) - 1),
        lambda x: arrays.resized(x, (9, 31)),
        lambda x: arrays.resized(x, (11, 15), antialias=True),
        lambda x: arrays.resized(x, (1, 60), antialias=True),
        lambda x: arrays.parts_of(x, 7, 3)[3],
        lambda x: arrays.parts_of(x, (2, 3), 1)[1],
        lambda x: ramp(range(10, 20), range(6, 24), range(30), 2, arrays.library_of(x)),
        *(lambda x, which=which: turned(x, which) for which in range(8)),
    ],
)
def test_numpy_gives_what_torch_gives(function):
    ours, torches = function(LOGITS), function(torch.from_numpy(LOGITS))
    assert ours.dtype == np.float32 and isinstance(torches, torch.Tensor)
    np.testing.assert_allclose(ours, torches.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", range(8))
def test_arrays_are_turned_back(which):
    np.testing.assert_array_equal(turned_back(turned(LOGITS, which), which), LOGITS)


def test_a_torch_that_is_loaded_later_gets_the_threads_that_were_asked_for():
    code = (
        "from labelscape.scoring import machine\n"
        "import sys\n"
        "with machine.as_many_threads({'threads': 3}):\n"
        "    assert machine.threads_now() == 3 and 'torch' not in sys.modules\n"
        "    from labelscape.scoring.devices import pick_device\n"
        "    pick_device('cpu')\n"
        "    assert sys.modules['torch'].get_num_threads() == machine.threads_now() == 3\n"
        "assert sys.modules['torch'].get_num_threads() == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})


def test_threads_are_those_of_the_process_where_torch_is_not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert machine.machine_now() == {"threads": 5}
    with machine.as_many_threads({"threads": 2}):
        assert machine.threads_now() == 2
    assert machine.threads_now() == 5
