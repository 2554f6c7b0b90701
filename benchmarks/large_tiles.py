"""What training for large tiles (`train --map-size`) gives: scores in tiles of the training crop and of the
map's size, of networks that see the whole tile, trained in five ways.

    python benchmarks/large_tiles.py gid-mtl5 FOLDER --crop 96 --map-size 224
    python benchmarks/large_tiles.py camvid FOLDER --crop 128 --map-size 480
    python benchmarks/large_tiles.py own centre.tif --labels buildings.geojson --class-column class \
        --background other --area labelled_area.geojson --block 512 --crop 128 --map-size 512

plain          trained at the crop
BN             the same weights, batch normalisation's statistics at the map's size (--map-steps 0)
larger         the last steps at larger crops (-o map_tiles=0)
larger + BN    both (--map-size alone)
agg=mean       DGCWNet without a sum that grows with the tile: a network of its own here

Both scores are of the same held-out pixels, at most --pixels. What --out holds already is not done again,
and an interrupted training continues. Small trunks, as in compare.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from defaults import OPTIONS as SMALL
from defaults import data_arguments, data_of

import labelscape as ls
from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.evaluation.tile_sizes import measure_tile_sizes
from labelscape.files import written_whole
from labelscape.training.batchnorm import at_map_size
from labelscape.training.data import blank_checkpoint, open_recipe_data, scored_part
from labelscape.training.loop import run_phase
from labelscape.training.map_size import without_map_size
from labelscape.training.outputs import forget_state
from labelscape.training.recipe import Recipe
from labelscape.training.setup import build_network, make_tasks
from labelscape.training.team import gather

NETWORKS = {
    "mswbn": ("mswbn", {}),
    "dgcwnet": ("dgcwnet", {}),
    "dgcwnet agg=mean": ("dgcwnet", {"agg": "mean"}),
    "ifbfnet": ("ifbfnet", {}),
    "pspnet": ("pspnet", {}),
    "deeplabv3plus": ("deeplabv3plus", {}),
}
WAYS = {"plain": (False, False), "BN": (False, True), "larger": (True, False), "larger + BN": (True, True)}
"""Whether the last steps run at larger crops, and whether statistics are estimated."""


@dataclass(frozen=True)
class Bench:
    """Open data, and what is asked of it."""

    dataset: Dataset
    blank: Callable[[Recipe], Checkpoint]
    asked: argparse.Namespace
    done: dict[str, dict]

    def recipe(self, label: str, seed: int) -> Recipe:
        """With `map_size`: the last steps at larger crops, statistics at that size."""
        a, (network, options) = self.asked, NETWORKS[label]
        rate = {"rate": a.rate} if a.rate else {}
        larger = {"map_crop": a.map_crop, "map_batch": a.map_batch} if a.map_crop else {}
        return ls.make_recipe(
            data=data_of(a),
            network=network,
            options={**SMALL[network], **options},
            steps=a.steps,
            batch=a.batch,
            crop=a.crop,
            warmup=a.steps // 20,
            augment="mirror" if a.dataset == "camvid" else "dihedral",
            map_size=a.map_size,
            map_steps=round(a.share * a.steps),
            map_tiles=a.tiles,
            seed=seed,
            device=a.device,
            **rate,
            **larger,
        )

    def measure(self, label: str, seed: int) -> None:
        """All ways of one network and seed, each added to --out as it is done."""
        recipe = self.recipe(label, seed)
        for larger in (False, True):
            missing = [w for w, (large, _) in WAYS.items() if large == larger and not self.known(w, recipe)]
            if not missing:
                continue
            made = self.trained(recipe.replace(map_tiles=0) if larger else without_map_size(recipe))
            for way in missing:
                found = self.with_statistics(made, recipe) if WAYS[way][1] else made
                sides = (recipe.crop, recipe.map_size)
                curve = measure_tile_sizes(
                    found,
                    self.dataset,
                    part=scored_part(self.dataset),
                    sides=sides,
                    pixels=self.asked.pixels,
                    device=recipe.device,
                )
                row = {"network": label, "way": way, "seed": seed, **curve.to_dict()}
                self.done[self.key(way, recipe)] = row
                with written_whole(self.asked.out, overwrite=True) as file:
                    file.write_text(json.dumps(self.done, indent=1))
                print(label, way, seed, curve, flush=True)
            forget_state(self.state_folder, recipe.network)

    def key(self, way: str, recipe: Recipe) -> str:
        """Everything that decides the score."""
        larger, estimated = WAYS[way]
        settings = recipe.model_dump(mode="json")
        for name in ("device", *(() if estimated else ("map_tiles",))):
            settings.pop(name, None)
        for name in () if larger else ("map_steps", "map_crop", "map_batch"):
            settings.pop(name, None)
        return json.dumps([way, self.asked.pixels, settings], sort_keys=True)

    def known(self, way: str, recipe: Recipe) -> dict | None:
        return self.done.get(self.key(way, recipe))

    @property
    def state_folder(self) -> Path:
        return self.asked.out.parent / f"{self.asked.out.stem}.states"

    def trained(self, recipe: Recipe) -> Checkpoint:
        self.state_folder.mkdir(parents=True, exist_ok=True)
        try:
            return run_phase(recipe, self.dataset, self.blank(recipe), self.state_folder)
        except ls.LabelscapeError as error:
            if "other settings" not in str(error):
                raise
        forget_state(self.state_folder, recipe.network)  # left by a run of another seed or way
        return run_phase(recipe, self.dataset, self.blank(recipe), self.state_folder)

    def with_statistics(self, made: Checkpoint, recipe: Recipe) -> Checkpoint:
        """As training ends with `map_tiles`."""
        net = build_network(recipe, self.dataset, None, None)
        drawing = make_tasks(recipe, self.dataset, made, None)[0].drawing
        weights, _ = at_map_size(
            recipe, net, drawing, gather(recipe.device, "32"), dict(made.weights), lambda line: None
        )
        return replace(made, weights=weights)


def table(bench: Bench, labels: list[str], seeds: list[int]) -> list[str]:
    """One line a network, one column a way: mean IoU in per cent in tiles of the crop / of the map's size,
    the mean over the seeds and, in brackets, the highest less the lowest.
    """
    a = bench.asked
    lines = [
        f"mIoU % in tiles of {a.crop} / of {a.map_size}; mean over the seeds (highest less lowest)",
        f"| network | seeds | {' | '.join(WAYS)} |",
        f"|---|---:|{'---:|' * len(WAYS)}",
    ]
    for label in labels:
        # Of seeds that are measured in every way: else columns would not compare.
        rows = [[bench.known(way, bench.recipe(label, seed)) for way in WAYS] for seed in seeds]
        rows = [row for row in rows if None not in row]
        if rows:
            cells = [
                " / ".join(_cell(row[n]["mean_iou"][at] for row in rows) for at in (0, 1))
                for n in range(len(WAYS))
            ]
            lines.append(f"| {label} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def _cell(scores: Iterable[float]) -> str:
    found = [100 * score for score in scores]
    return f"{statistics.mean(found):.1f} ({max(found) - min(found):.1f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/large_tiles.json"))
    parser.add_argument("--network", default=",".join(NETWORKS), help="one or several, with commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--map-size", type=int, default=224)
    parser.add_argument("--share", type=float, default=0.25, help="share of the steps at larger crops")
    parser.add_argument("--map-crop", type=int, help="default: what the memory of a step allows")
    parser.add_argument("--map-batch", type=int)
    parser.add_argument("--tiles", type=int, default=32)
    parser.add_argument("--rate", type=float, help="default: the network's own")
    parser.add_argument("--pixels", type=int, default=3_000_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="only print what --out holds")
    return parser.parse_args()


def main() -> None:
    a = arguments()
    a.out.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    with suppress(FileNotFoundError):
        done = json.loads(a.out.read_text())
    labels, seeds = a.network.split(","), [int(seed) for seed in a.seeds.split(",")]
    first = Bench(None, None, a, done)
    if not a.table:
        recipe = first.recipe(labels[0], seeds[0])
        with open_recipe_data(recipe.data, recipe.seed) as dataset:
            once = blank_checkpoint(recipe, dataset)
            # Statistics are the same for all: every network here starts from the same trunk.
            bench = replace(first, dataset=dataset, blank=lambda r: replace(once, recipe=r.model_dump()))
            for seed in seeds:
                for label in labels:
                    bench.measure(label, seed)
    print("\n".join(table(first, labels, seeds)))


if __name__ == "__main__":
    main()
