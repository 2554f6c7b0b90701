"""Seconds per megapixel and peak memory of the sieve on a large map: a class map that you name, mirrored
until it is SIDE x SIDE pixels.

    python benchmarks/sieve.py demo-out/map/havel_class.tif [--side 8192] [--min-area 0.5] [--speckle 0.1]

`--speckle` gives this share of the pixels a class by chance: the map of a network that looks at single
  pixels.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from labelscape.areas.sieve import sieve
from labelscape.rasters.class_names import legend_of


def enlarged(source: Path, out: Path, side: int, speckle: float) -> None:
    """The map mirrored at its edges, strip by strip, so that making it takes no more memory than sieving
    it.
    """
    rng = np.random.default_rng(0)
    with rasterio.open(source) as file:
        values = file.read(1)
        profile = file.profile | {
            "driver": "GTiff",
            "height": side,
            "width": side,
            "tiled": True,
            "blockxsize": 512,
            "blockysize": 512,
        }
    mirror = [np.pad(np.arange(n), (0, max(0, side - n)), mode="symmetric")[:side] for n in values.shape]
    classes = np.unique(values[values != 255])
    with rasterio.open(out, "w", **profile) as file:
        for top in range(0, side, 512):
            strip = values[mirror[0][top : top + 512]][:, mirror[1]]
            if speckle:
                chance = rng.random(strip.shape, np.float32) < speckle
                strip[chance] = rng.choice(classes, int(chance.sum()))
            file.write(strip, 1, window=((top, top + len(strip)), (0, side)))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("map", type=Path)
    options.add_argument("--side", type=int, default=8192)
    options.add_argument("--min-area", type=float, default=0.5, help="hectares")
    options.add_argument("--speckle", type=float, default=0.0, help="share of the pixels, 0 to 1")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "map.tif"
        enlarged(asked.map, large, asked.side, asked.speckle)
        start = time.monotonic()
        done = sieve(large, Path(folder) / "sieved.tif", legend_of(asked.map)[0], min_area=asked.min_area)
        seconds = time.monotonic() - start
    megapixels = asked.side**2 / 1e6
    share = done.changed_pixels / megapixels / 1e4
    print(
        f"{asked.side} x {asked.side}: {done.given:,} areas below {asked.min_area:g} ha given away, "
        f"{share:.2f} % of the pixels"
    )
    print(
        f"{seconds:.1f} s, {seconds / megapixels:.3f} s/Mpx, peak memory "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
