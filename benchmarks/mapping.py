"""Mapping against the bare network: ratios measured side by side in one run.

    python benchmarks/mapping.py                time: 4096 x 4096 mapped against the same tiles already in
                                                memory, by PyTorch; GOMP_SPINCOUNT=1000 before it lets threads
                                                wait as the command line does
    python benchmarks/mapping.py --memory       peak memory of mapping 4096 x 4096 and 16384 x 16384, a
                                                process each, beside what it held before the map
    python benchmarks/mapping.py --memory --sizes 4096,8192
    python benchmarks/mapping.py --network mswbn --tile-size 224 --size 1536
                                                CPU seconds per megapixel in tiles of 224, one by one
                                                and batched, beside tiles of 1152

The scene is painted, compressed (ZSTD, 512 blocks, uint16, 4 bands) and written to a temporary folder. The
networks have random weights: what they predict is noise, what they cost is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window as RasterioWindow

import labelscape as ls
from labelscape.benchmark.machine import Clock
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.memory import DEFAULT_TILE
from labelscape.scoring.scorer import Scorer, normalise
from labelscape.scoring.stitch import plan_for, score_tiles

BANDS, CLASSES = 4, 6
NETWORKS: dict[str, dict] = {"fcn": {}, "mlp": {}, "smp/Unet": {"encoder": "resnet18"}}


def paint(path: Path, size: int) -> Path:
    """A scene of smooth fields and noise, written block by block."""
    if size % 512:
        raise SystemExit(f"A scene of {size} x {size} pixels cannot be painted: 512 must divide its side.")
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


def checkpoint(
    network: str, crop: int | None = None, classes: int = CLASSES, **options: object
) -> ls.Checkpoint:
    torch.manual_seed(0)
    net = ls.create_model(network, in_channels=BANDS, classes=classes, **options)
    return ls.Checkpoint(
        network=network,
        options=options,
        weights=state_arrays(net),
        legend=ls.Legend.of_names([f"class {i}" for i in range(classes)]),
        contract=ls.Contract(
            bands=tuple(str(i + 1) for i in range(BANDS)),
            dtype="uint16",
            normalisation=((2000.0, 1000.0),) * BANDS,
        ),
        recipe={} if crop is None else {"crop": crop},
    )


def bare(scorer: Scorer, path: Path) -> tuple[float, int]:
    """Seconds of the network alone over the tiles of the mapping, each already normalised and in the
    device's memory; and their pixels.
    """
    total, pixels, clock = 0.0, 0, Clock(scorer.device)
    with ls.Scene(path) as scene:
        for tile in plan_for(scorer, scene):
            patch = scene.read(tile.seen)
            image = normalise(patch.pixels, patch.valid, scorer.checkpoint.contract.normalisation)[None].to(
                memory_format=torch.channels_last
            )
            image = image.to(scorer.device)
            start = clock.wall()
            with torch.inference_mode():
                scorer.members[0].engine.forward(image)
            total += clock.wall() - start
            pixels += tile.seen.pixels
    return total, pixels


def times(folder: Path, size: int, rounds: int, device: str) -> None:
    path = paint(folder / "scene.tif", size)
    print(
        f"{'network':<10}{'bare s':>10}{'map s':>10}{'ratio':>8}{'quartiles':>16}{'s/Mpx':>8}{'forward':>9}"
        f"   {size} x {size}, medians of {rounds} rounds after a first one, interleaved, on {device}"
    )
    for network, options in NETWORKS.items():
        made = checkpoint(network, **options)
        scorer = Scorer.of(made, device=device)
        seconds, forward = [], 0.0
        for number in range(rounds + 1):
            alone = bare(scorer, path)[0]
            start = time.perf_counter()
            result = ls.map_scene(
                made,
                path,
                folder / f"{network.replace('/', '-')}{number}",
                polygons=False,
                report=False,
                device=device,
                engine="torch",
                name="map",
            )
            seconds.append((alone, time.perf_counter() - start))
            forward = result.forward_share
        # The first map loads libraries.
        kept = np.array(seconds[1:])
        without, mapping = np.median(kept, axis=0)
        low, ratio, high = np.percentile(kept[:, 1] / kept[:, 0], (25, 50, 75))
        between = f"{low:.3f} to {high:.3f}"
        print(
            f"{network:<10}{without:>10.2f}{mapping:>10.2f}{ratio:>8.3f}{between:>16}"
            f"{mapping / size**2 * 1e6:>8.3f}{forward:>9.3f}",
            flush=True,
        )


def tile_times(folder: Path, network: str, side: int, size: int, rounds: int) -> None:
    """Small tiles one by one and batched beside tiles as large as memory allows, interleaved. On one thread
    and in CPU seconds, which other work on the machine changes little.
    """
    torch.set_num_threads(1)
    path, scorer = paint(folder / "scene.tif", size), Scorer.of(checkpoint(network, side), device="cpu")
    with ls.Scene(path) as scene:
        small = plan_for(scorer, scene, tile_size=side)
        # Without full tiles at the border, which would be half of so small a scene.
        large = replace(plan_for(scorer, scene, tile_size=DEFAULT_TILE), side=0)
        plans = {
            f"{side}, one by one": replace(small, batch=1),
            f"{side}, batches of {small.batch}": small,
            f"{DEFAULT_TILE}": large,
        }
        best = dict.fromkeys(plans, np.inf)
        for _ in range(rounds):
            for name, plan in plans.items():
                start = time.process_time()
                for tile in score_tiles(scorer, scene, plan):
                    tile.classes()
                best[name] = min(best[name], time.process_time() - start)
    print(f"{network}, {size} x {size}, best of {rounds}, interleaved")
    print(f"{'tiles':<22}{'s/Mpx':>8}{'forward':>9}{'s/Mpx read':>12}{'ratio':>8}")
    for name, plan in plans.items():
        seconds, read = best[name] / size**2 * 1e6, plan.forward_share
        ratio = best[name] / best[f"{DEFAULT_TILE}"]
        print(f"{name:<22}{seconds:>8.3f}{read:>9.3f}{seconds / read:>12.3f}{ratio:>8.3f}", flush=True)


def map_and_measure(path: str, out: str, network: str, queue: multiprocessing.Queue) -> None:
    made = checkpoint(network)
    # Of the map alone: libraries, which are loaded at their first use, are not its growth.
    with tempfile.TemporaryDirectory() as folder:
        small = paint(Path(folder) / "small.tif", 512)
        ls.map_scene(made, small, folder, polygons=False, report=False, device="cpu", name="map")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ls.map_scene(made, path, out, polygons=False, report=False, device="cpu", name="map")
    queue.put((before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def memory(folder: Path, sizes: tuple[int, ...]) -> None:
    peaks: dict[int, float] = {}
    for size in sizes:
        path = paint(folder / f"scene{size}.tif", size)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(
            target=map_and_measure, args=(str(path), str(folder / f"map{size}"), "fcn", queue)
        )
        process.start()
        before, peak = queue.get()
        process.join()
        path.unlink()
        more = ""
        if peaks:
            last = max(peaks)
            grown = (peak - peaks[last]) * 2**20 / (size**2 - last**2)
            more = f", {grown:.2f} bytes for each pixel more than {last} x {last}"
        peaks[size] = peak
        print(f"{size:>6} x {size:<6} peak RSS {peak:8.0f} MiB ({before:.0f} before){more}", flush=True)
    print(f"ratio {peaks[sizes[-1]] / peaks[sizes[0]]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--sizes", default="4096,16384", help="Sides of the scenes of --memory, ascending.")
    parser.add_argument("--network", help="Time this network's tiles.")
    parser.add_argument("--tile-size", type=int, default=224)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="Where maps are made beside the bare networks.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.memory:
            memory(Path(name), tuple(map(int, arguments.sizes.split(","))))
        elif arguments.network:
            tile_times(Path(name), arguments.network, arguments.tile_size, arguments.size, arguments.rounds)
        else:
            times(Path(name), arguments.size, arguments.rounds, arguments.device)
