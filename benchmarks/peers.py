"""Mapping one scene with one network in several ways, side by side in one run: seconds per scene megapixel,
seams, memory.

    python benchmarks/peers.py                 Labelscape, and the loop one writes by hand with rasterio and
                                               torch
    PYTHONPATH=PLACE python benchmarks/peers.py   also with torchgeo's grid sampler and geoai's function,
                                                  where PLACE holds them

The network is Unet with a resnet18 of segmentation-models-pytorch, 6 classes, trained for a minute on the
painted scene (4 bands, uint16, ZSTD, blocks of 512). Peers run as their tutorials do: 512 pixels a tile, a
quarter of overlap, sums of probabilities, default memory layout. Every way runs in a process of its own,
`--rounds` times in turn; the best round counts, in which OpenVINO finds the network that an earlier one has
converted. All write a compressed class raster; Labelscape also writes confidence, overviews, colours, names,
areas and the journal that lets it go on after a kill. Beside each way: its time over that of the fastest
peer, and the share of pixels that have the class of Labelscape's own map in PyTorch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from mapping import BANDS, CLASSES, paint
from rasterio.windows import Window as RasterioWindow

import labelscape as ls
from labelscape.scoring.engines import build_network, state_arrays

NETWORK, OPTIONS = "smp/Unet", {"encoder": "resnet18"}
MEAN, DEVIATION = 2000.0, 1000.0
TILE, OVERLAP = 512, 128


def train(path: Path, steps: int) -> ls.Checkpoint:
    """The network that tells the six levels of the first band apart from what lies around."""
    torch.manual_seed(0)
    net = ls.create_model(NETWORK, in_channels=BANDS, classes=CLASSES, **OPTIONS).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    with rasterio.open(path) as file:
        whole = file.read(window=RasterioWindow(0, 0, 1024, 1024))
    for _ in range(steps):
        places = rng.integers(0, 1024 - 128, (6, 2))
        crops = np.stack([whole[:, r : r + 128, c : c + 128] for r, c in places]).astype(np.float32)
        truth = torch.from_numpy(
            np.clip((crops[:, 0] - 500) / 3500 * CLASSES, 0, CLASSES - 1).astype(np.int64)
        )
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy((crops - MEAN) / DEVIATION)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ls.Checkpoint(
        network=NETWORK,
        options=OPTIONS,
        weights=state_arrays(net),
        legend=ls.Legend.of_names([f"class {i}" for i in range(CLASSES)]),
        contract=ls.Contract(
            bands=tuple(str(i + 1) for i in range(BANDS)),
            dtype="uint16",
            normalisation=((MEAN, DEVIATION),) * BANDS,
        ),
    )


def with_labelscape(
    model: Path, scene: Path, out: Path, engine: str = "torch", precision: str = "32"
) -> None:
    # What bfloat16 changes is printed here, not refused.
    how: dict[str, Any] = {"engine": engine, "precision": precision, "force": precision != "32"}
    ls.map_scene(model, scene, out, polygons=False, report=False, device="cpu", name="map", **how)


OURS: dict[str, Callable] = {
    "labelscape": with_labelscape,
    "openvino": partial(with_labelscape, engine="openvino"),
    "openvino bf16": partial(with_labelscape, engine="openvino", precision="bf16"),
}
"""Labelscape, by what runs the network."""


def by_hand(model: Path, scene: Path, out: Path) -> None:
    """Tile by tile with rasterio, all probabilities summed in memory."""
    net = build_network(ls.load(model)).eval()
    with rasterio.open(scene) as file:
        tiles = [(r, c) for r in starts(file.height) for c in starts(file.width)]
        summed = np.zeros((CLASSES, file.height, file.width), np.float32)
        for row, column in tiles:
            pixels = file.read(window=RasterioWindow(column, row, TILE, TILE)).astype(np.float32)
            add(summed, net, torch.from_numpy((pixels - MEAN) / DEVIATION)[None], row, column)
        write(out / "map_class.tif", summed, file.profile)


def with_torchgeo(model: Path, scene: Path, out: Path) -> None:
    """A RasterDataset, a GridGeoSampler and a DataLoader; torchgeo leaves putting tiles together to its
    user.
    """
    from torch.utils.data import DataLoader

    from labelscape.nets.libraries import import_torchvision

    import_torchvision()
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    net = build_network(ls.load(model)).eval()

    class Image(RasterDataset):
        filename_glob = scene.name

    dataset = Image(str(scene.parent))
    sampler = GridGeoSampler(dataset, size=TILE, stride=TILE - OVERLAP)
    with rasterio.open(scene) as file:
        summed, profile, transform = (
            np.zeros((CLASSES, file.height, file.width), np.float32),
            file.profile,
            file.transform,
        )
    places = [
        (round((y.stop - transform.f) / transform.e), round((x.start - transform.c) / transform.a))
        for x, y, _ in sampler
    ]
    for (row, column), batch in zip(places, DataLoader(dataset, sampler=sampler, collate_fn=stack_samples)):
        add(summed, net, (batch["image"].float() - MEAN) / DEVIATION, row, column)
    write(out / "map_class.tif", summed, profile)


def with_geoai(model: Path, scene: Path, out: Path) -> None:
    """geoai's own function, which divides values by 255 before the network sees them."""
    from labelscape.nets.libraries import import_torchvision

    import_torchvision()
    from geoai.train import semantic_inference_on_geotiff

    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build_network(ls.load(model))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.net((image * 255 - MEAN) / DEVIATION)

    semantic_inference_on_geotiff(
        Scaled(),
        str(scene),
        str(out / "map_class.tif"),
        window_size=TILE,
        overlap=OVERLAP,
        num_channels=BANDS,
        num_classes=CLASSES,
        device=torch.device("cpu"),
        quiet=True,
    )


def starts(length: int) -> list[int]:
    """Where tiles start, the last one at the scene's end."""
    return [*range(0, max(1, length - TILE), TILE - OVERLAP), length - TILE]


def add(summed: np.ndarray, net: torch.nn.Module, image: torch.Tensor, row: int, column: int) -> None:
    with torch.no_grad():
        found = net(image).softmax(1)[0].numpy()
    view = summed[:, row : row + TILE, column : column + TILE]
    view += found[:, : view.shape[1], : view.shape[2]]


def write(path: Path, summed: np.ndarray, profile: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{**profile, "count": 1, "dtype": "uint8", "predictor": 1}) as file:
        file.write(summed.argmax(0).astype(np.uint8), 1)


def seam(classes: np.ndarray, lines: list[int]) -> float:
    """Share of changes across these rows and columns over the share across all others: 1 where tiles leave
    no trace.
    """
    shares = []
    for changes in (classes[1:] != classes[:-1], (classes[:, 1:] != classes[:, :-1]).T):
        mine = np.zeros(len(changes), bool)
        mine[[line - 1 for line in lines if 0 < line <= len(changes)]] = True
        shares.append((changes[mine].mean(), changes[~mine].mean()))
    return float(np.mean([border for border, _ in shares]) / np.mean([inside for _, inside in shares]))


def peak_bytes() -> int:
    """The most this process has held. getrusage would count what the parent held when it made us."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def timed(way: Callable, model: Path, scene: Path, out: Path, queue: multiprocessing.Queue) -> None:
    before = peak_bytes()
    start = time.perf_counter()
    try:
        way(model, scene, out)
        queue.put((time.perf_counter() - start, peak_bytes() - before))
    except BaseException:
        queue.put(None)  # who waits must not wait for ever
        raise


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    a = parser.parse_args()
    ways = {way: OURS[way] for way in OURS if way == "labelscape" or find_spec("openvino")}
    ways["by hand"] = by_hand
    ways |= {
        name: way for name, way in (("torchgeo", with_torchgeo), ("geoai", with_geoai)) if find_spec(name)
    }
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scene").mkdir()
        scene = paint(folder / "scene" / "scene.tif", a.size)
        model = ls.save(train(scene, a.steps), folder / "unet.safetensors")
        found: dict[str, list] = {way: [] for way in ways}
        for number in range(a.rounds):
            for way, function in ways.items():
                queue = context.Queue()
                process = context.Process(
                    target=timed, args=(function, model, scene, folder / f"{way}{number}", queue)
                )
                process.start()
                if (run := queue.get()) is None:
                    raise SystemExit(f"{way} failed; see above.")
                found[way].append(run)
                process.join()
        ours = our_lines(model, scene)
        theirs = [edge for start in starts(a.size) for edge in (start, start + TILE)]
        print(
            f"{'way':<14}{'s/Mpx':>8}{'of best peer':>14}{'same class':>12}{'seam':>7}{'bytes/pixel':>13}   "
            f"{a.size} x {a.size}, best of {a.rounds}, in turn"
        )
        best = {way: min(seconds for seconds, _ in runs) / a.size**2 * 1e6 for way, runs in found.items()}
        peer = min(value for way, value in best.items() if way not in OURS)
        first = classes_of(folder, "labelscape")
        for way, value in best.items():
            classes = classes_of(folder, way)
            held = max(grown for _, grown in found[way]) / a.size**2
            print(
                f"{way:<14}{value:>8.3f}{value / peer:>14.2f}{(classes == first).mean():>12.2%}"
                f"{seam(classes, ours if way in OURS else theirs):>7.2f}{held:>13.1f}"
            )


def classes_of(folder: Path, way: str) -> np.ndarray:
    with rasterio.open(folder / f"{way}0" / "map_class.tif") as file:
        return file.read(1)


def our_lines(model: Path, scene: Path) -> list[int]:
    """Where tiles begin to fade, meet, and end to fade."""
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.stitch import plan_for

    with ls.Scene(scene) as opened:
        plan = plan_for(Scorer.of(ls.load(model), device="cpu"), opened)
        ends = range(plan.core, opened.grid.shape[0], plan.core)
    return [line + d for line in ends for d in (-plan.fade, 0, plan.fade)]


if __name__ == "__main__":
    main()
