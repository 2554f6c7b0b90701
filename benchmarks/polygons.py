"""Polygonizing speckle, the worst map there is: nearly every pixel is an area of its own. Labelscape beside
GDAL's gdal_polygonize (Debian's gdal-bin), each in a process of its own: processor time and peak memory.

    taskset -c 0 python benchmarks/polygons.py --width 8192 --heights 64,128,256
    python benchmarks/polygons.py --width 8192 --heights 8192 --only labelscape

Both write a GeoPackage, in a temporary folder; gdal_polygonize writes values alone, Labelscape class names,
pixels and hectares too. Time is that of the processor, so that other programs count little.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
from affine import Affine

STRIP = 256


def paint(path: Path, height: int, width: int, classes: int) -> None:
    """A class of equal probability for each pixel."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255, "compress": "zstd"}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 4e5, 0, -10, 5.8e6)}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    with rasterio.open(path, "w", height=height, width=width, **profile, **place, **tiles) as file:
        for top in range(0, height, STRIP):
            rows = min(STRIP, height - top)
            window = rasterio.windows.Window(0, top, width, rows)
            file.write(rng.integers(classes, size=(1, rows, width), dtype=np.uint8), window=window)


def commands(raster: Path, out: Path) -> dict[str, list[str]]:
    ours = f"import labelscape as ls; ls.polygonize({str(raster)!r}, {str(out)!r})"
    found = {"labelscape": [sys.executable, "-c", ours]}
    for name in ("gdal_polygonize", "gdal_polygonize.py"):
        if theirs := shutil.which(name):
            found.setdefault("gdal_polygonize", [theirs, "-q", str(raster), str(out), "areas", "value"])
    return found


def measured(command: list[str]) -> tuple[float, float]:
    """Processor seconds and peak memory in MiB of a process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--heights", default="64,128,256")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--only", choices=["labelscape", "gdal_polygonize"])
    asked = parser.parse_args()
    print(f"{asked.classes} classes at random, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    print(f"{'size':<14}{'':<18}{'polygons':>10}{'seconds':>9}{'per million':>13}{'peak MiB':>10}")
    for height in map(int, asked.heights.split(",")):
        with tempfile.TemporaryDirectory(prefix="labelscape-polygons-") as folder:
            raster = Path(folder) / "speckle.tif"
            paint(raster, height, asked.width, asked.classes)
            for name, command in commands(raster, Path(folder) / "areas.gpkg").items():
                if asked.only not in (None, name):
                    continue
                seconds, peak = measured(command)
                made = Path(folder) / "areas.gpkg"
                # The first layer: ours has its style in a second one.
                layer = pyogrio.list_layers(made)[0, 0]
                count = pyogrio.read_info(made, layer=layer, force_feature_count=True)["features"]
                made.unlink()
                size = f"{asked.width} x {height}"
                each = seconds / count * 1e6
                print(f"{size:<14}{name:<18}{count:10,}{seconds:9.1f}{each:13.1f}{peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
