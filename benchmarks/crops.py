"""Training crops per second: ours, torchgeo's RandomGeoSampler and a plain PIL loader, on the same files in one run.

    python benchmarks/crops.py                 a tiled GeoTIFF (8192 x 8192, 4 bands, uint16, ZSTD) and a folder of 512 x 512 PNGs

Every loader gives the same: image (bands, 256, 256) float32 scaled by mean and deviation, and its label. One process each, no workers. Ours
is measured reading from files (as for data too large to hold) and from memory (as up to 1 GiB). torchgeo takes part where it is installed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from PIL import Image

import labelscape as ls
from labelscape.training.crops import Drawing, index_crops

CROP, BANDS, CLASSES = 256, 4, 5
MEAN, STD = 2000.0, 1000.0


def paint_geotiff(folder: Path, size: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 4e5, 0, -10, 5.8e6), "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "ZSTD"}
    image, label = folder / "scene.tif", folder / "labels.tif"
    with (
        rasterio.open(image, "w", driver="GTiff", height=size, width=size, count=BANDS, dtype="uint16", predictor=2, **place) as pixels,
        rasterio.open(label, "w", driver="GTiff", height=size, width=size, count=1, dtype="uint8", **place) as classes,
    ):
        for top in range(0, size, 512):
            for left in range(0, size, 512):
                window = rasterio.windows.Window(left, top, 512, 512)
                fields = rng.integers(0, CLASSES, (16, 16)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
                classes.write(fields[None], window=window)
                pixels.write((500 + 600.0 * fields[None] + rng.normal(0, 40, (BANDS, 512, 512))).astype(np.uint16), window=window)
    return image, label


def paint_pngs(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for side in ("images", "labels"):
        (folder / side).mkdir(parents=True)
    for i in range(count):
        fields = rng.integers(0, CLASSES, (16, 16)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
        picture = np.clip(40 + 35.0 * fields[..., None] + rng.normal(0, 6, (512, 512, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{i:04d}.png")
        Image.fromarray(fields).save(folder / "labels" / f"{i:04d}.png")
    return folder


def ours(images: list[str], labels: list[str], *, hold: bool) -> Iterator[torch.Tensor]:
    import labelscape.datasets.own as own

    limit, own.HOLD_BYTES = own.HOLD_BYTES, own.HOLD_BYTES if hold else 0
    dataset = ls.open_dataset(images, labels)
    own.HOLD_BYTES = limit
    drawing = Drawing(index_crops(dataset), ((MEAN, STD),) * len(dataset.bands), seed=0, batch=1, crop=CROP, sampling="uniform")
    number = 0
    while True:
        yield drawing.part(number, 0, 1)[0][0]
        number += 1


def torchgeo(image: Path, label: Path) -> Iterator[torch.Tensor] | None:
    try:
        from labelscape.nets.torchvision_guard import import_torchvision

        import_torchvision()
        from torchgeo.datasets import RasterDataset, stack_samples
        from torchgeo.samplers import RandomGeoSampler
    except (ImportError, RuntimeError) as error:
        print(f"torchgeo takes no part ({type(error).__name__}: {str(error).splitlines()[0]})")
        return None

    class Pixels(RasterDataset):
        filename_glob = image.name

    class Classes(RasterDataset):
        filename_glob, is_image = label.name, False

    both = Pixels(str(image.parent)) & Classes(str(label.parent))
    sampler = RandomGeoSampler(both, size=CROP, length=100_000)
    loader = torch.utils.data.DataLoader(both, sampler=sampler, batch_size=1, collate_fn=stack_samples)
    return ((sample["image"][0].float() - MEAN) / STD for sample in loader)


def by_hand(image: Path, label: Path, size: int) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(0)
    with rasterio.open(image) as pixels, rasterio.open(label) as classes:
        while True:
            top, left = rng.integers(0, size - CROP + 1, 2)
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


def measure(named: dict[str, Callable[[], Iterator[torch.Tensor] | None]], crops: int, rounds: int) -> None:
    """Interleaved rounds, the best of each; every iterator first gives a few crops that do not count."""
    running = {name: iterator for name, make in named.items() if (iterator := make()) is not None}
    for iterator in running.values():
        assert next(iterator).shape[-2:] == (CROP, CROP)
        list(islice(iterator, 10))
    best = dict.fromkeys(running, 0.0)
    for _ in range(rounds):
        for name, iterator in running.items():
            start = time.perf_counter()
            list(islice(iterator, crops))
            best[name] = max(best[name], crops / (time.perf_counter() - start))
    fastest = max(speed for name, speed in best.items() if not name.startswith("ours"))
    for name, speed in best.items():
        print(f"  {name:<24}{speed:>9.1f} crops/s{speed / fastest:>8.2f} of the best other")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--crops", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        image, label = paint_geotiff(Path(name), a.size)
        print(f"a tiled GeoTIFF, {a.size} x {a.size}, {BANDS} bands")
        measure({
            "ours, from the file": lambda: ours([str(image)], [str(label)], hold=False),
            "ours, held in memory": lambda: ours([str(image)], [str(label)], hold=True),
            "torchgeo": lambda: torchgeo(image, label),
            "rasterio, by hand": lambda: by_hand(image, label, a.size),
        }, a.crops, a.rounds)  # fmt: skip
        folder = paint_pngs(Path(name) / "pngs", 60)
        print("a folder of 60 PNGs, 512 x 512, 3 bands")
        measure({
            "ours, from the files": lambda: ours([str(folder)], [], hold=False),
            "ours, held in memory": lambda: ours([str(folder)], [], hold=True),
            "PIL, by hand": lambda: pil(folder),
        }, a.crops, a.rounds)  # fmt: skip
