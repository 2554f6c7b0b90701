"""`check` tells how much memory a map will take; a cluster's jobs ask for as much."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch

import labelscape as ls
from labelscape.scoring.engines import state_arrays

PROGRAM = """
import sys
import labelscape as ls
ls.map_scene(sys.argv[1], sys.argv[2], sys.argv[3], polygons=False, report=False, device="cpu",
    engine="torch", tile_size=int(sys.argv[4]))
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(1024 * int(line.split()[1]))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    ("network", "options", "side"),
    [("fcn", {}, 1024), ("smp/Unet", {"encoder": "resnet18"}, 640), ("mswbn", {"backbone": "resnet18"}, 640)],
)
def test_a_map_takes_the_memory_that_check_tells(network, options, side, tmp_path):
    torch.manual_seed(0)
    net = ls.create_model(network, in_channels=4, classes=6, **options)
    made = ls.Checkpoint(
        network=network,
        options=options,
        weights=state_arrays(net),
        legend=ls.Legend.of_names([f"class {i}" for i in range(6)]),
        contract=ls.Contract(
            bands=("1", "2", "3", "4"), dtype="uint16", normalisation=((2000.0, 1000.0),) * 4
        ),
    )
    model = ls.save(made, tmp_path / "model.safetensors")
    scene, size = tmp_path / "scene.tif", 3072
    profile = {"driver": "GTiff", "height": size, "width": size, "count": 4, "dtype": "uint16"}
    with rasterio.open(scene, "w", tiled=True, **profile) as file:
        file.write(np.random.default_rng(0).integers(500, 4000, (4, size, size), np.uint16))
    told = ls.check(model, scene, device="cpu", timing=False, tile_size=side, engine="torch").plan.ram
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(scene), str(tmp_path / "map"), str(side)],
        capture_output=True,
        text=True,
        check=True,
    )
    taken = int(done.stdout)
    # Never more, since a job that takes more is killed; and not so much less that others go without.
    assert 0.65 * told < taken < told, (taken, told)
