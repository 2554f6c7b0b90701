"""Training crops per second: ours, torchgeo's RandomGeoSampler and a plain PIL loader, on the same files in
one run.

    python benchmarks/crops.py                 tiled GeoTIFFs (4 bands, uint16, ZSTD) of 12288 and of 6144
                                               pixels a side, and a folder of 512 x 512 PNGs

Every loader gives the same: image (bands, 256, 256) float32 scaled by mean and deviation, and its label. Each
runs in a process of its own, one after the other, round by round, with 512 MiB of GDAL cache, and the best
round of each counts. Ours draws batches of 8 as training does, with its threads, and holds data in memory
where the machine has enough to spare; "from the files" reads windows all the same. The others read one crop
after the other, without workers. CPU seconds are those of all threads of a process. torchgeo takes part where
it is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from PIL import Image

import labelscape as ls
from labelscape.training.crops import Drawing, index_crops
from labelscape.training.reading import Reader, threads_for

CROP, BANDS, CLASSES = 256, 4, 5
MEAN, STD = 2000.0, 1000.0


def paint_geotiff(folder: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    place = {
        "crs": "EPSG:32633",
        "transform": Affine(10, 0, 4e5, 0, -10, 5.8e6),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "ZSTD",
    }
    image, label = folder / "scene.tif", folder / "labels.tif"
    with (
        rasterio.open(
            image,
            "w",
            driver="GTiff",
            height=size,
            width=size,
            count=BANDS,
            dtype="uint16",
            predictor=2,
            **place,
        ) as pixels,
        rasterio.open(
            label, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8", **place
        ) as classes,
    ):
        for top in range(0, size, 512):
            for left in range(0, size, 512):
                window = rasterio.windows.Window(left, top, 512, 512)
                fields = rng.integers(0, CLASSES, (16, 16)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
                classes.write(fields[None], window=window)
                pixels.write(
                    (500 + 600.0 * fields[None] + rng.normal(0, 40, (BANDS, 512, 512))).astype(np.uint16),
                    window=window,
                )


def paint_pngs(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for side in ("images", "labels"):
        (folder / side).mkdir(parents=True)
    for i in range(count):
        fields = rng.integers(0, CLASSES, (16, 16)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
        picture = np.clip(40 + 35.0 * fields[..., None] + rng.normal(0, 6, (512, 512, 3)), 0, 255).astype(
            np.uint8
        )
        Image.fromarray(picture).save(folder / "images" / f"{i:04d}.png")
        Image.fromarray(fields).save(folder / "labels" / f"{i:04d}.png")
    return folder


def ours(folder: Path, *, hold: bool = True) -> Iterator[torch.Tensor]:
    given = [[str(folder / "scene.tif")], [str(folder / "labels.tif")]]
    dataset = ls.open_dataset(*(given if (folder / "scene.tif").exists() else [[str(folder)]]), hold=hold)
    scaling = ((MEAN, STD),) * len(dataset.bands)
    drawing = Drawing(index_crops(dataset), scaling, seed=0, batch=8, crop=CROP, sampling="uniform")
    with Reader(threads_for([drawing], 1)) as reader:
        ahead = reader.begin(drawing, 0, 0, 1)
        for step in count(1):
            images, _ = ahead()
            ahead = reader.begin(drawing, step, 0, 1)
            yield from images


def torchgeo(folder: Path) -> Iterator[torch.Tensor]:
    from labelscape.nets.libraries import import_torchvision

    import_torchvision()
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    class Pixels(RasterDataset):
        filename_glob = "scene.tif"

    class Classes(RasterDataset):
        filename_glob, is_image = "labels.tif", False

    both = Pixels(str(folder)) & Classes(str(folder))
    sampler = RandomGeoSampler(both, size=CROP, length=100_000)
    loader = torch.utils.data.DataLoader(both, sampler=sampler, batch_size=1, collate_fn=stack_samples)
    return ((sample["image"][0].float() - MEAN) / STD for sample in loader)


def by_hand(folder: Path) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(0)
    with rasterio.open(folder / "scene.tif") as pixels, rasterio.open(folder / "labels.tif") as classes:
        while True:
            top, left = rng.integers(0, pixels.width - CROP + 1, 2)
            window = rasterio.windows.Window(left, top, CROP, CROP)
            classes.read(1, window=window)
            yield torch.from_numpy((pixels.read(window=window).astype(np.float32) - MEAN) / STD)


def pil(folder: Path) -> Iterator[torch.Tensor]:
    rng, names = np.random.default_rng(0), sorted((folder / "images").iterdir())
    while True:
        name = names[rng.integers(len(names))]
        top, left = rng.integers(0, 512 - CROP + 1, 2)
        box = (left, top, left + CROP, top + CROP)
        picture = np.asarray(Image.open(name).crop(box), np.float32)
        np.asarray(Image.open(folder / "labels" / name.name).crop(box))
        yield torch.from_numpy((picture - MEAN) / STD).movedim(-1, 0)


LOADERS = {
    "ours": ours,
    "ours, from the files": lambda folder: ours(folder, hold=False),
    "torchgeo": torchgeo,
    "rasterio, by hand": by_hand,
    "PIL, by hand": pil,
}


def speed_of(loader: str, folder: Path, crops: int) -> tuple[float, float]:
    """Crops per second of one loader in this process, and per CPU second; a few first ones do not count."""
    crops_of = LOADERS[loader](folder)
    assert next(crops_of).shape[-2:] == (CROP, CROP)
    list(islice(crops_of, 15))
    start, cpu = time.perf_counter(), time.process_time()
    list(islice(crops_of, crops))
    return crops / (time.perf_counter() - start), crops / (time.process_time() - cpu)


def compare(loaders: list[str], folder: Path, crops: int, rounds: int) -> None:
    """Print the best round of each loader, and how it stands to the best that is not ours."""
    best = dict.fromkeys(loaders, (0.0, 0.0))
    for _ in range(rounds):
        for loader in list(best):
            command = [sys.executable, __file__, "--one", loader, str(folder), "--crops", str(crops)]
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "GDAL_CACHEMAX": "512"}
            )
            if done.returncode:
                print(f"  {loader} takes no part: {done.stderr.strip().splitlines()[-1]}")
                del best[loader]
            else:
                found = map(float, done.stdout.split()[-2:])
                best[loader] = tuple(max(pair) for pair in zip(best[loader], found, strict=True))
    others = [pair for loader, pair in best.items() if not loader.startswith("ours")]
    fastest, least = (max(column) for column in zip(*others))
    for loader, (speed, per_cpu) in best.items():
        print(
            f"  {loader:<24}{speed:>9.1f} crops/s{speed / fastest:>8.2f} of the best other"
            f"{per_cpu:>9.1f} a CPU second{per_cpu / least:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="12288,6144", help="of the GeoTIFFs")
    parser.add_argument("--one", nargs=2, metavar=("LOADER", "FOLDER"), help="only this one, here")
    a = parser.parse_args()
    if a.one:
        print(*speed_of(a.one[0], Path(a.one[1]), a.crops))
        sys.exit()
    with tempfile.TemporaryDirectory() as name:
        for size in map(int, a.sizes.split(",")):
            folder = Path(name) / str(size)
            folder.mkdir()
            paint_geotiff(folder, size)
            print(
                f"a tiled GeoTIFF, {size} x {size}, {BANDS} bands, {size * size * BANDS * 2 / 2**30:.2g} GiB",
                flush=True,
            )
            compare(
                ["ours", "ours, from the files", "torchgeo", "rasterio, by hand"], folder, a.crops, a.rounds
            )
        folder = paint_pngs(Path(name) / "pngs", 60)
        print("a folder of 60 PNGs, 512 x 512, 3 bands", flush=True)
        compare(["ours", "ours, from the files", "PIL, by hand"], folder, a.crops, a.rounds)
