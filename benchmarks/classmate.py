"""What a second task in the same batches (DFCNet's classmate) is worth: land cover alone, beside roads, and
beside crops of the roads' pictures that teach nothing, over several seeds.

    python benchmarks/classmate.py LAND ROADS --classes building=0,land=1,road=2,vegetation=3,water=4 \\
        --ignore-value 5 --out runs

LAND and ROADS are folders with images/, labels/ and lists of names train.txt, val.txt and test.txt; ROADS has
grey masks and needs no val.txt. Every seed trains one `fc-densenet` on LAND, from which all three ways start.

alone     without a second task
control   crops of ROADS take part in batch statistics; their loss has weight 0
roads     the classmate: both losses count

What has finished in --out is not done again, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from compare import NETWORKS

import labelscape as ls
from labelscape.training.outputs import checkpoint_path

START = "fc-densenet"
WAYS: dict[str, float | None] = {"alone": None, "control": 0.0, "roads": 1.0}
"""Way -> weight of the roads' loss."""
OPTIONS = {name: value for name, value in NETWORKS["dfcnet"].items() if name != "mate_classes"}


def recipe_of(way: str, seed: int, a: argparse.Namespace) -> ls.Recipe:
    if way == START:
        trunk = {name: OPTIONS[name] for name in ("encoder", "decoder", "growth", "width", "stem")}
        return _recipe(a, seed, START, trunk)
    weight = WAYS[way]
    if weight is None:
        return _recipe(a, seed, "dfcnet", {**OPTIONS, "mate_classes": 0}, start=start_of(seed, a))
    roads = {"images": [a.roads], "threshold": 128, "classes": {"other": 0, "road": 1}}
    return _recipe(
        a, seed, "dfcnet", OPTIONS, start=start_of(seed, a), mate={"data": roads, "weight": weight}
    )


def _recipe(a: argparse.Namespace, seed: int, network: str, options: dict, **more) -> ls.Recipe:
    classes = {name: int(value) for name, value in (pair.split("=") for pair in a.classes.split(","))}
    return ls.make_recipe(
        data={"images": [a.land], "classes": classes, "ignore_values": a.ignore_value},
        network=network,
        options=options,
        steps=a.steps,
        batch=a.batch,
        crop=a.crop,
        warmup=a.steps // 20,
        seed=seed,
        device=a.device,
        save_every=50,
        **more,
    )


def start_of(seed: int, a: argparse.Namespace) -> str:
    return str(checkpoint_path(Path(a.out) / START / f"seed{seed}", START))


def trained(way: str, seed: int, a: argparse.Namespace) -> ls.Checkpoint:
    recipe, place = recipe_of(way, seed, a), Path(a.out) / way / f"seed{seed}"
    target = checkpoint_path(place, recipe.network)
    if not target.exists():
        ls.train(recipe, place, say=lambda text: print(text, file=sys.stderr))
    made = ls.load(target)
    if made.recipe != recipe.model_dump(mode="json"):
        sys.exit(f"{target} was trained with other settings; give those, or another --out.")
    return made


def ious(scores: dict) -> dict[str, float]:
    return {row["name"]: row["iou"] for row in scores["classes"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("land")
    parser.add_argument("roads")
    parser.add_argument("--classes", required=True, help="of LAND: NAME=VALUE,NAME=VALUE")
    parser.add_argument("--ignore-value", type=int, nargs="*", default=[])
    parser.add_argument("--out", default="runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=129)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"also {START} alone, which others start from")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    ways = a.ways.split(",")
    if unknown := [way for way in ways if way not in (START, *WAYS)]:
        parser.error(f"unknown ways {', '.join(unknown)}; known: {', '.join((START, *WAYS))}")
    print(f"{a.steps} steps of {a.batch} crops of {a.crop}, of the classmate as many more")
    print(f"{'way':<12}{'seed':>5}{'mIoU %':>8}{'OA %':>8}{'road IoU %':>12}  IoU % by class", flush=True)
    found: dict[str, list[float]] = {}
    for seed in map(int, a.seeds.split(",")):  # seeds outside: a search cut short has all ways
        trained(START, seed, a)
        for way in ways:
            made = trained(way, seed, a)
            scores = made.scores[made.network]
            iou = 100 * scores["mean_iou"]
            found.setdefault(way, []).append(iou)
            road = "-"
            if WAYS.get(way):
                road = f"{100 * ious(ls.evaluate(made, task='road', device=a.device).metrics)['road']:.2f}"
            each = " ".join(f"{name} {100 * value:.1f}" for name, value in ious(scores).items())
            accuracy = 100 * scores["overall_accuracy"]
            print(f"{way:<12}{seed:>5}{iou:>8.2f}{accuracy:>8.2f}{road:>12}  {each}", flush=True)
    for way, each in found.items():
        spread = f" ± {statistics.stdev(each):.2f}" if len(each) > 1 else ""
        print(f"{way:<12} mean of {len(each)}: {statistics.mean(each):.2f}{spread}")


if __name__ == "__main__":
    main()
