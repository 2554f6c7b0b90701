"""Training in bfloat16 against 32 bits: time of a step and held-out score, of the same recipe and seeds.

    python benchmarks/half_precision.py gid-mtl5 FOLDER --steps 200 --seeds 0,1
    python benchmarks/half_precision.py gid-mtl5 FOLDER --network mlp,mswbn --out runs/half.json

Seconds are those of the processor, which other work on the machine changes little; a run in one precision
follows the same run in the other. Scores are the mean IoU of the part that the
data set holds out, always predicted in 32 bits. Small trunks, as in compare.py. What --out holds already is
not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from defaults import OPTIONS

import labelscape as ls
from labelscape.checkpoint import Checkpoint
from labelscape.datasets.own import Dataset
from labelscape.files import written_whole
from labelscape.training.data import blank_checkpoint, open_recipe_data, scored_part
from labelscape.training.loop import run_phase

PRECISIONS = ("32", "bf16")


def recipe_of(network: str, precision: str, seed: int, a: argparse.Namespace) -> ls.Recipe:
    return ls.make_recipe(
        data={"dataset": a.dataset, "images": [a.folder]},
        network=network,
        options=OPTIONS[network],
        steps=a.steps,
        base_steps=0,
        batch=a.batch,
        crop=a.crop,
        warmup=a.steps // 20,
        seed=seed,
        precision=precision,
        device="cpu",
    )


def measured(recipe: ls.Recipe, dataset: Dataset, blank: Checkpoint) -> dict[str, float]:
    """CPU seconds a step, and mean IoU in per cent."""
    with TemporaryDirectory() as folder:
        start = time.process_time()
        made = run_phase(recipe, dataset, replace(blank, recipe=recipe.model_dump()), Path(folder))
        seconds = time.process_time() - start
    metrics = ls.evaluate(made, dataset, part=scored_part(dataset), device="cpu").metrics
    return {"step": seconds / recipe.steps, "score": 100 * metrics["mean_iou"]}


def line(network: str, runs: list[dict[str, dict[str, float]]]) -> str:
    """Means over the seeds, in brackets the highest less the lowest."""
    cells = []
    for what, form in (("step", "{:.3f}"), ("score", "{:.1f}")):
        for precision in PRECISIONS:
            values = [run[precision][what] for run in runs]
            cells.append(f"{form.format(statistics.mean(values))} ({form.format(max(values) - min(values))})")
    ratio = statistics.mean(run["bf16"]["step"] / run["32"]["step"] for run in runs)
    return f"| {network} | {len(runs)} | {cells[0]} | {cells[1]} | {ratio:.2f} | {cells[2]} | {cells[3]} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a published data set")
    parser.add_argument("folder")
    parser.add_argument("--network", default="mlp,deeplabv3plus,mswbn,ifbfnet", help="one or several")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("runs/half_precision.json"))
    a = parser.parse_args()
    a.out.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, float]] = {}
    with suppress(FileNotFoundError):
        done = json.loads(a.out.read_text())
    networks, seeds = a.network.split(","), [int(seed) for seed in a.seeds.split(",")]
    first = recipe_of(networks[0], "32", seeds[0], a)
    print("| network | seeds | CPU s/step, 32 | bf16 | ratio | mIoU %, 32 | bf16 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with open_recipe_data(first.data, first.seed) as dataset:
        for network in networks:
            # Of each network: what its images are scaled by depends on its first weights.
            blank, runs = blank_checkpoint(recipe_of(network, "32", seeds[0], a), dataset), []
            for seed in seeds:
                runs.append({})
                for precision in PRECISIONS:
                    recipe = recipe_of(network, precision, seed, a)
                    key = recipe.model_dump_json()
                    if key not in done:
                        done[key] = measured(recipe, dataset, blank)
                        with written_whole(a.out, overwrite=True) as file:
                            file.write_text(json.dumps(done, indent=1))
                    runs[-1][precision] = done[key]
            print(line(network, runs), flush=True)


if __name__ == "__main__":
    main()
