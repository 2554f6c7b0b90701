"""How long `labelscape check` says that maps take, beside what they take: wall-clock seconds of one scene,
with polygons, without report.

    python benchmarks/predicted.py --size 2048
    python benchmarks/predicted.py --size 4096 --networks smp/Unet,mswbn --engine torch

The scene is that of mapping.py; networks have random weights, which of some make speckle and many polygons.
Nodata in a part of the scene: `--empty 0.5` leaves out the lower half.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from mapping import BANDS, checkpoint, paint
from rasterio.windows import Window

import labelscape as ls


def emptied(path: Path, size: int, share: float) -> None:
    """Make so much of the scene nodata, from below; its blocks stay stored."""
    rows = int(size * share)
    with rasterio.open(path, "r+") as file:
        file.nodata = 0
        if rows:
            file.write(np.zeros((BANDS, rows, size), np.uint16), window=Window(0, size - rows, size, rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--networks", default="fcn,mlp,smp/Unet")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--empty", type=float, default=0.0)
    asked = parser.parse_args()
    how = {"device": "cpu", "engine": asked.engine}
    print(f"{asked.size} x {asked.size}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    print(f"{'network':<18}{'predicted s':>12}{'map s':>9}{'ratio':>8}{'polygons':>12}{'check s':>9}")
    with tempfile.TemporaryDirectory(prefix="labelscape-predicted-") as name:
        folder = Path(name)
        scene = paint(folder / "scene.tif", asked.size)
        emptied(scene, asked.size, asked.empty)
        for network in asked.networks.split(","):
            made = checkpoint(network)
            start = time.monotonic()
            predicted = ls.check(made, scene, **how).plan.minutes * 60
            checked = time.monotonic()
            out = folder / network.replace("/", "-")
            result = ls.map_scene(made, scene, out, report=False, name="map", **how)
            took = time.monotonic() - checked
            row = f"{network:<18}{predicted:>12.1f}{took:>9.1f}{predicted / took:>8.2f}"
            print(f"{row}{result.outlined.written:>12,}{checked - start:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
