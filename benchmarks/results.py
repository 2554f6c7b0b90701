"""Write what `compare.py` measured as a page: command, recipe, table with intervals over the seeds, IoU per
class, curves.

python benchmarks/results.py runs/gid-mtl5 --command "python benchmarks/compare.py gid-mtl5 FOLDER --out runs"
--out docs/results
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from compare import ROWS
from scipy.stats import t as student

import labelscape as ls
from labelscape.evaluation.figures import curve_figure, png

RIVAL = "deeplabv3plus"
"""Every row on the same start is compared with this one, seed by seed."""
STARTS = ("-from-nothing", "-resnet101")
"""How names of rows end that start otherwise."""
OWN = ("optimizer", "rate", "rate_factors")
"""Settings of a recipe that each network has for itself."""
SHARED = ("steps", "batch", "crop", "schedule", "power", "warmup", "momentum", "weight_decay", "losses")
SHARED += ("aux_weight", "augment", "scale_range", "sampling", "precision")
Made = dict[int, ls.Checkpoint]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--command", required=True)
    parser.add_argument("--machine", default="")
    parser.add_argument("--name", help="of the page; unless given, that of the folder")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    name = a.name or a.runs.name
    made = {row: found for row in ROWS if (found := read(a.runs / row, ROWS[row][0]))}
    made = dict(sorted(made.items(), key=lambda item: -statistics.mean(scores(item[1], "mean_iou"))))
    with (a.out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "step", "loss", "rate"])
        for row, seeds in made.items():
            for seed, c in seeds.items():
                writer.writerows(
                    [row, seed, h["step"], f"{h['loss']:.4f}", f"{h['rate']:.6f}"] for h in c.history
                )
    curves = []
    for row, seeds in made.items():
        first = seeds[min(seeds)].history
        curves.append((row, [h["step"] for h in first], [h["loss"] for h in first]))
    (a.out / f"{name}.png").write_bytes(png(curve_figure(curves, "loss")))
    (a.out / f"{name}.md").write_text(page(name, a.command, a.machine, made))
    print(a.out / f"{name}.md")


def read(place: Path, network: str) -> Made:
    """Seed -> finished checkpoint of one row."""
    found = {}
    for file in sorted(place.glob(f"seed*/{network}.safetensors")):
        checkpoint = ls.load(file)
        if network in checkpoint.scores:
            found[int(file.parent.name.removeprefix("seed"))] = checkpoint
    return found


def scores(seeds: Made, metric: str) -> list[float]:
    return [100 * c.scores[c.network][metric] for c in seeds.values()]


def interval(values: Sequence[float]) -> str:
    """Mean and half of the 95 % interval of the mean (Student's t); the value alone where there is one."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.2f} ± {half:.2f}"


def against(made: dict[str, Made], row: str) -> str:
    """Difference in mean IoU to the rival with the same start, over the seeds that both have."""
    rival = RIVAL + next((start for start in STARTS if row.endswith(start)), "")
    if rival not in made or row == rival or "pretrained" not in ROWS[row][1]:
        return ""
    both = sorted(set(made[row]) & set(made[rival]))
    pairs = zip(
        scores({s: made[row][s] for s in both}, "mean_iou"),
        scores({s: made[rival][s] for s in both}, "mean_iou"),
        strict=True,
    )
    differences = [a - b for a, b in pairs]
    return interval(differences) if differences else ""


def parameters_of(checkpoint: ls.Checkpoint) -> int:
    counters = ("running", "num_batches")
    return sum(w.size for key, w in checkpoint.weights.items() if not any(c in key for c in counters))


def written(values: dict) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in values.items())


def page(name: str, command: str, machine: str, made: dict[str, Made]) -> str:
    some = next(iter(next(iter(made.values())).values()))
    recipe = ls.make_recipe(**some.recipe)
    rows = [
        f"| row | seeds | mIoU % | against {RIVAL} | mean F1 % | OA % | tile | parameters |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    settings = ["| row | its own settings | options |", "|---|---|---|"]
    for row, seeds in made.items():
        first = seeds[min(seeds)]
        tiles = sorted({c.tile_sizes.default for c in seeds.values() if c.tile_sizes})
        measured = [interval(scores(seeds, metric)) for metric in ("mean_f1", "overall_accuracy")]
        cells = [
            row,
            " ".join(map(str, seeds)),
            interval(scores(seeds, "mean_iou")),
            against(made, row),
            *measured,
            ", ".join(map(str, tiles)) or "exact",
            f"{parameters_of(first):,}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
        own = {key: getattr(ls.make_recipe(**first.recipe), key) for key in OWN}
        settings.append(f"| {row} | {written(own)} | {written(first.options)} |")
    classes = [c["name"] for c in some.scores[some.network]["classes"]]
    each = ["| IoU % | " + " | ".join(classes) + " |", "|---" + "|---:" * len(classes) + "|"]
    for row, seeds in made.items():
        per_seed = [c.scores[c.network]["classes"] for c in seeds.values()]
        means = []
        for k in range(len(classes)):
            known = [
                100 * classes_of[k]["iou"] for classes_of in per_seed if classes_of[k]["iou"] is not None
            ]
            means.append(f"{statistics.mean(known):.1f}" if known else "-")
        each.append(f"| {row} | {' | '.join(means)} |")
    shared = written({key: getattr(recipe, key) for key in SHARED})
    return "\n".join(
        [
            f"# {name}: the networks side by side",
            "",
            f"    {command}",
            *([f"\n{machine}"] if machine else []),
            "",
            f"Equal for all: {shared}. Each network has its own defaults for the rest (below).",
            "",
            "Measured by Labelscape on the data set's own held-out part, nothing of it taken from a paper. "
            "Each checkpoint is tested at its own best tile size, chosen on the validation part. Mean and 95 "
            "% interval of the mean over the seeds (Student's t): the seed changes first weights and crops; "
            "it says nothing about other pictures. Equal steps on a small budget say how fast each network "
            "learns from this start, not where it ends.",
            "",
            *rows,
            "",
            *each,
            "",
            *settings,
            "",
            "The loss of dgcwnet, ifbfnet and pspnet holds that of their auxiliary heads too.",
            "",
            f"![loss over the steps]({name}.png)",
            "",
            f"Every line of the logs: [{name}.csv]({name}.csv).",
            "",
        ]
    )


if __name__ == "__main__":
    main()
