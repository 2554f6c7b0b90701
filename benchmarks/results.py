"""Write what `compare.py` measured as a page: command, recipe, table, IoU per class, curves.

python benchmarks/results.py runs/gid-mtl5 --command "python benchmarks/compare.py gid-mtl5 FOLDER --out runs
--steps 150" --out docs/results
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import labelscape as ls
from labelscape.evaluation.figures import curve_figure, png


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--command", required=True)
    parser.add_argument("--machine", default="")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    name = a.runs.name
    made = {
        scores.parent.name: (
            ls.load(next(scores.parent.glob("*.safetensors"))),
            json.loads(scores.read_text()),
        )
        for scores in sorted(a.runs.glob("*/scores.json"))
    }
    made = dict(sorted(made.items(), key=lambda item: -item[1][1]["mean_iou"]))
    with (a.out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "step", "loss", "rate"])
        for network, (checkpoint, _) in made.items():
            writer.writerows(
                [network, h["step"], f"{h['loss']:.4f}", f"{h['rate']:.6f}"] for h in checkpoint.history
            )
    curves = [
        (network, [h["step"] for h in c.history], [h["loss"] for h in c.history])
        for network, (c, _) in made.items()
    ]
    (a.out / f"{name}.png").write_bytes(png(curve_figure(curves, "loss")))
    (a.out / f"{name}.md").write_text(page(name, a.command, a.machine, made))
    print(a.out / f"{name}.md")


def page(name: str, command: str, machine: str, made: dict) -> str:
    recipe = next(iter(made.values()))[0].recipe
    rows = ["| network | options | parameters | mIoU % | mean F1 % | OA % |", "|---|---|---:|---:|---:|---:|"]
    for network, (checkpoint, s) in made.items():
        parameters = sum(
            w.size
            for key, w in checkpoint.weights.items()
            if "running" not in key and "num_batches" not in key
        )
        options = ", ".join(f"{key} {json.dumps(value)}" for key, value in checkpoint.options.items())
        measured = (s["mean_iou"], s["mean_f1"], s["overall_accuracy"])
        rows.append(
            f"| {network} | {options} | {parameters:,} | "
            + " | ".join(f"{100 * v:.2f}" for v in measured)
            + " |"
        )
    classes = next(iter(made.values()))[1]["classes"]
    each = [
        "| IoU % | " + " | ".join(c["name"] for c in classes) + " |",
        "|---" + "|---:" * len(classes) + "|",
    ]
    for network, (_, s) in made.items():
        each.append(
            f"| {network} | "
            + " | ".join("-" if c["iou"] is None else f"{100 * c['iou']:.1f}" for c in s["classes"])
            + " |"
        )
    kept = (
        "steps",
        "batch",
        "crop",
        "rate",
        "schedule",
        "power",
        "warmup",
        "momentum",
        "weight_decay",
        "losses",
        "aux_weight",
        "augment",
        "scale_range",
        "sampling",
        "seed",
        "precision",
    )
    settings = ", ".join(f"{key} {json.dumps(recipe[key])}" for key in kept)
    return "\n".join(
        [
            f"# {name}: the networks side by side",
            "",
            f"    {command}",
            *([f"\n{machine}"] if machine else []),
            "",
            f"One recipe for all, one seed each: {settings}.",
            "",
            "Measured by Labelscape on the data set's own held-out part, nothing of it taken from a paper. "
            "Equal steps on a small budget say how fast each "
            "network learns from this start, not where it ends.",
            "",
            *rows,
            "",
            *each,
            "",
            "The loss of dgcwnet and ifbfnet holds that of their auxiliary heads too.",
            "",
            f"![loss over the steps]({name}.png)",
            "",
            f"Every line of the logs: [{name}.csv]({name}.csv).",
            "",
        ]
    )


if __name__ == "__main__":
    main()
