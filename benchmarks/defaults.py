"""The tables from which the networks' defaults (`nets/catalog.py`, `training/recipe.py`) are taken.
Optimizers, learning rates and factors on them, for each network, are searched in three stages.

1. Every optimizer at every rate, one seed, without factors.
2. The best rate of each optimizer with each set of factors, the same seed.
3. The best `--keep` settings of a network with the other seeds too; the winner is named by their mean.

    python benchmarks/defaults.py gid-mtl5 FOLDER --out runs/defaults --steps 150 --seeds 0,1,2
    python benchmarks/defaults.py camvid FOLDER --networks mswbn,smp/Unet
    python benchmarks/defaults.py own centre.tif --labels buildings.geojson --class-column class \
        --background other --area labelled_area.geojson --block 512
    python benchmarks/defaults.py camvid FOLDER --search crops,warm-ups --crop 128 --seeds 0

With --search crops the network's own optimizer and rate learn from larger and smaller crops, with about as
many pixels a step; with warm-ups the rate rises over none, a twentieth and a fifth of the steps.

One JSON a run: what has finished in --out is not done again, so a search can be stopped and continued, or
shared by several machines by --networks. Scored on the part val where the data set has one, so that the test
part chooses nothing; else on test. Small versions of the networks, as in compare.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compare import NETWORKS as SMALL

import labelscape as ls
from labelscape.errors import LabelscapeError
from labelscape.files import written_whole
from labelscape.nets.catalog import entry
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.outputs import checkpoint_path

RATES = {"sgd": (0.02, 0.05), "adamw": (0.001, 0.003)}
FACTORS: dict[str, dict[str, dict[str, float]]] = {
    "mswbn": {
        "heads 0.1": {"high.1": 0.1, "lbm.low.1": 0.1},
        "heads and trunk 0.1": {"high.1": 0.1, "lbm.low.1": 0.1, "trunk": 0.1},
        "heads 0.1, generators 0.01": {
            "high.1": 0.1,
            "lbm.low.1": 0.1,
            **{f"hwm.hierarchies.{level}.generator": 0.01 for level in range(3)},
        },
    },
    "dgcwnet": {"trunk 0.1": {"trunk": 0.1}},
    "ifbfnet": {"trunk 0.1": {"trunk": 0.1}},
    "deeplabv3plus": {"trunk 0.1": {"trunk": 0.1}},
    "pspnet": {"trunk 0.1": {"trunk": 0.1}},
}
CROPS = {64: 32, 128: 8, 192: 4}
"""Side of a crop -> crops a step: 131,072 pixels, or 147,456."""
WARMUPS = (0.0, 0.05, 0.2)
"""Shares of the steps."""
OPTIONS = {
    **SMALL,
    "pspnet": {"backbone": "tf_efficientnet_lite0", "pretrained": True, "width": 128, "aux_width": 64},
    "smp/Unet": {"encoder": "resnet18", "pretrained": False},
    # As they are: those of their papers are small.
    "fcn": {},
    "skip": {},
    "unpooling": {},
}


@dataclass(frozen=True)
class Cell:
    """One setting of the grid."""

    network: str
    optimizer: str
    rate: float
    factors: str
    """"none", or the name of a line in FACTORS."""
    crop: int | None = None
    """Of CROPS; None: --crop and --batch."""
    warmup: float = 0.05
    """Share of the steps."""

    def settings(self, a: argparse.Namespace) -> dict:
        named = {"none": {}, **FACTORS.get(self.network, {})}
        return {
            "optimizer": self.optimizer,
            "rate": self.rate,
            "rate_factors": named[self.factors],
            "crop": self.crop or a.crop,
            "batch": CROPS[self.crop] if self.crop else a.batch,
            "warmup": int(a.steps * self.warmup),
        }

    @property
    def folder(self) -> str:
        parts = [self.network, self.optimizer, f"{self.rate:g}", self.factors]
        parts += [f"crop{self.crop}"] if self.crop else []
        parts += [f"warmup{self.warmup:g}"] if self.warmup != Cell.warmup else []
        return "-".join(parts).replace("/", "-").replace(" ", "-").lower()


def first_stage(network: str) -> list[Cell]:
    return [Cell(network, optimizer, rate, "none") for optimizer, rates in RATES.items() for rate in rates]


def second_stage(first: dict[Cell, float]) -> list[Cell]:
    """The best rate of each optimizer, with every set of factors. `first`: mean IoU by cell."""
    cells = []
    for optimizer in RATES:
        scored = {cell: score for cell, score in first.items() if cell.optimizer == optimizer}
        if scored:
            best = max(scored, key=scored.__getitem__)
            cells += [replace(best, factors=name) for name in FACTORS.get(best.network, {})]
    return cells


def measured(cell: Cell, seed: int, a: argparse.Namespace) -> float | None:
    """Mean IoU in per cent of one run, None where the loss diverged; read from --out where it is finished."""
    data = Path(a.folder).stem if a.dataset == "own" else a.dataset
    place = Path(a.out) / data / cell.folder / f"seed{seed}"
    recipe = ls.make_recipe(
        data=data_of(a),
        network=cell.network,
        options=OPTIONS[cell.network],
        steps=a.steps,
        base_steps=0,
        seed=seed,
        device=a.device,
        **cell.settings(a),
    )
    finished, settings = place / "score.json", recipe.model_dump(mode="json")
    if finished.exists():
        stored = json.loads(finished.read_text())
        if stored["recipe"] != settings:
            sys.exit(f"{finished} was measured with other settings; give those, or another --out.")
        return stored["mean_iou"]
    score = None
    try:
        target = checkpoint_path(place, cell.network)  # trained but not scored when it was stopped
        made = ls.load(target) if target.exists() else ls.train(recipe, place, score=False)
        with open_recipe_data(recipe.data, recipe.seed) as dataset:
            part = "val" if dataset.is_labelled("val") else scored_part(dataset)
            found = ls.evaluate(made, dataset, part=part, device=a.device).metrics
        score = 100 * found["mean_iou"]
    except LabelscapeError as error:
        if "loss became" not in str(error):
            raise
    with written_whole(finished, overwrite=True) as file:
        file.write_text(json.dumps({"recipe": settings, "mean_iou": score}, indent=1))
    for file in place.glob("*.safetensors"):  # hundreds of runs: their scores are what is kept
        file.unlink()
    return score


def data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a published data set, or own")
    parser.add_argument("folder", help="its folder, or the scene")
    parser.add_argument("--labels")
    parser.add_argument("--class-column")
    parser.add_argument("--background")
    parser.add_argument("--area")
    parser.add_argument("--block", type=int)


def data_of(a: argparse.Namespace) -> dict:
    """The data of a recipe, from `data_arguments`."""
    if a.dataset != "own":
        return {"dataset": a.dataset, "images": [a.folder]}
    more = {"class_column": a.class_column, "background": a.background, "area": a.area, "block": a.block}
    return {"images": [a.folder], "labels": [a.labels], **{k: v for k, v in more.items() if v}}


def line_of(cell: Cell, scores: list[float | None]) -> str:
    """Mean and range over the seeds; a setting that diverged for any seed has none."""
    of = cell.factors + (f", crop {cell.crop} x {CROPS[cell.crop]}" if cell.crop else "")
    of += f", warm-up {cell.warmup:g}" if cell.warmup != Cell.warmup else ""
    named = f"{cell.network:<16}{cell.optimizer:<7}{cell.rate:>8g}  {of:<26}"
    if None in scores:
        return f"{named}{'diverged':>8}"
    spread = f"{max(scores) - min(scores):8.2f}" if len(scores) > 1 else ""
    return f"{named}{statistics.mean(scores):8.2f}{spread}"


def own_cell(network: str) -> Cell:
    """The network's own defaults."""
    own = entry(network).defaults
    return Cell(network, own["optimizer"], own["rate"], "none")


def variants(network: str, searched: Sequence[str], a: argparse.Namespace) -> list[Cell]:
    """The network's own defaults, then with other crops and other warm-ups."""
    own = own_cell(network)
    others = {
        "crops": [replace(own, crop=crop) for crop in CROPS if crop != a.crop],
        "warm-ups": [replace(own, warmup=share) for share in WARMUPS if share != own.warmup],
    }
    return [own, *(cell for name in searched for cell in others[name])]


def compare(network: str, searched: Sequence[str], seeds: list[int], a: argparse.Namespace) -> str:
    """Every seed of every variant, a line each; returns the best one's."""
    lines = {}
    for cell in variants(network, searched, a):
        found = [measured(cell, seed, a) for seed in seeds]
        lines[line_of(cell, found)] = -1.0 if None in found else statistics.mean(found)
        print(line_of(cell, found), flush=True)
    return max(lines, key=lines.__getitem__)


def search(network: str, seeds: list[int], a: argparse.Namespace) -> str:
    """Run the three stages of one network and print their lines; returns the winner's."""
    scores: dict[Cell, float] = {}
    for stage in (first_stage, second_stage):
        for cell in stage(network) if stage is first_stage else stage(scores):
            score = measured(cell, seeds[0], a)
            print(line_of(cell, [score]), flush=True)
            if score is not None:
                scores[cell] = score
    best: tuple[float, str] = (0.0, f"{network}: every setting diverged")
    for cell in sorted(scores, key=scores.__getitem__, reverse=True)[: a.keep]:
        found = [measured(cell, seed, a) for seed in seeds]
        line = line_of(cell, found)
        print(line, flush=True)
        if None not in found:
            best = max(best, (statistics.mean(found), line))
    return best[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data_arguments(parser)
    parser.add_argument("--out", default="runs/defaults")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--networks", default=",".join(OPTIONS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--keep", type=int, default=3, help="settings that all seeds try")
    parser.add_argument("--search", default="rates", help="rates; or crops, warm-ups, or both by a comma")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    searched = a.search.split(",")
    if searched != ["rates"] and (unknown := set(searched) - {"crops", "warm-ups"}):
        parser.error(f"--search is rates, or crops and warm-ups by a comma; found {', '.join(unknown)}.")
    if "crops" in searched and CROPS.get(a.crop) != a.batch:
        parser.error(f"--search crops compares with one of {CROPS}; give --crop and --batch of these.")
    seeds = [int(seed) for seed in a.seeds.split(",")]
    print(f"{a.dataset}: {a.steps} steps of {a.batch} crops of {a.crop}, seeds {a.seeds}")
    print(f"{'network':<16}{'':<7}{'rate':>8}  {'factors':<26}{'mIoU %':>8}{'range':>8}")
    best = [
        search(network, seeds, a) if searched == ["rates"] else compare(network, searched, seeds, a)
        for network in a.networks.split(",")
    ]
    print("\nbest of each network; a difference smaller than the ranges is chance:")
    print(*best, sep="\n")


if __name__ == "__main__":
    main()
