"""Mapping against the bare network: ratios measured side by side in one run.

    python benchmarks/mapping.py                time: 4096 x 4096 mapped against the same tiles already in
                                                memory
    python benchmarks/mapping.py --memory       peak memory of mapping 4096 x 4096 and 16384 x 16384, a
                                                process each

The scene is painted, compressed (ZSTD, 512 blocks, uint16, 4 bands) and written to a temporary folder. `fcn`
and `mlp` have random weights: what they say is noise, what they cost is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window as RasterioWindow

import labelscape as ls
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.scorer import Scorer, normalise
from labelscape.scoring.stitch import plan_for

BANDS, CLASSES = 4, 6


def paint(path: Path, size: int) -> Path:
    """A scene of smooth fields and noise, written block by block."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "height": size,
        "width": size,
        "count": BANDS,
        "dtype": "uint16",
        "crs": "EPSG:32633",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "ZSTD",
        "predictor": 2,
        "transform": Affine(10, 0, 4e5, 0, -10, 5.8e6),
        "bigtiff": "IF_SAFER",
    }
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, size, 512):
            for left in range(0, size, 512):
                fields = np.kron(rng.integers(500, 4000, (BANDS, 16, 16)), np.ones((32, 32))) + rng.normal(
                    0, 40, (BANDS, 512, 512)
                )
                file.write(fields.astype(np.uint16), window=RasterioWindow(left, top, 512, 512))
    return path


def checkpoint(network: str) -> ls.Checkpoint:
    torch.manual_seed(0)
    net = ls.create_model(network, in_channels=BANDS, classes=CLASSES)
    return ls.Checkpoint(
        network=network,
        options={},
        weights=state_arrays(net),
        legend=ls.Legend.of_names([f"class {i}" for i in range(CLASSES)]),
        contract=ls.Contract(
            bands=tuple(str(i + 1) for i in range(BANDS)),
            dtype="uint16",
            normalisation=((2000.0, 1000.0),) * BANDS,
        ),
    )


def bare(scorer: Scorer, path: Path) -> tuple[float, int]:
    """Seconds of the network alone over the tiles of the mapping, each already normalised and in memory;
    and their pixels.
    """
    total, pixels = 0.0, 0
    with ls.Scene(path) as scene:
        for tile in plan_for(scorer, scene):
            patch = scene.read(tile.seen)
            image = normalise(patch.pixels, patch.valid, scorer.checkpoint.contract.normalisation)[None].to(
                memory_format=torch.channels_last
            )
            start = time.perf_counter()
            with torch.inference_mode():
                scorer.members[0].engine.forward(image)
            total += time.perf_counter() - start
            pixels += tile.seen.pixels
    return total, pixels


def times(folder: Path, size: int, rounds: int) -> None:
    path = paint(folder / "scene.tif", size)
    print(
        f"{'network':<10}{'bare s':>10}{'map s':>10}{'ratio':>8}{'s/Mpx':>8}{'forward':>9}   {size} x "
        f"{size}, best of {rounds}, interleaved"
    )
    for network in ("fcn", "mlp"):
        made = checkpoint(network)
        scorer = Scorer.of(made, device="cpu")
        best_bare, best_map, forward = np.inf, np.inf, 0.0
        for number in range(rounds):
            best_bare = min(best_bare, bare(scorer, path)[0])
            start = time.perf_counter()
            result = ls.map_scene(
                made,
                path,
                folder / f"{network}{number}",
                polygons=False,
                report=False,
                device="cpu",
                name="map",
            )
            best_map, forward = min(best_map, time.perf_counter() - start), result.forward_share
        ratio, per_megapixel = best_map / best_bare, best_map / size**2 * 1e6
        print(
            f"{network:<10}{best_bare:>10.2f}{best_map:>10.2f}{ratio:>8.3f}{per_megapixel:>8.3f}{forward:>9.3f}",
            flush=True,
        )


def map_and_measure(path: str, out: str, network: str, queue: multiprocessing.Queue) -> None:
    ls.map_scene(checkpoint(network), path, out, polygons=False, report=False, device="cpu", name="map")
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(folder: Path, sizes: tuple[int, ...]) -> None:
    peaks = {}
    for size in sizes:
        path = paint(folder / f"scene{size}.tif", size)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(
            target=map_and_measure, args=(str(path), str(folder / f"map{size}"), "fcn", queue)
        )
        process.start()
        peaks[size] = queue.get()
        process.join()
        print(f"{size:>6} x {size:<6} peak RSS {peaks[size]:8.0f} MiB", flush=True)
    print(f"ratio {peaks[sizes[-1]] / peaks[sizes[0]]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.memory:
            memory(Path(name), (4096, 16384))
        else:
            times(Path(name), arguments.size, arguments.rounds)
