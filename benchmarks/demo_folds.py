"""Is the demo's lead over the random forest luck of its split? Its recipe and the forest on every fold of a
cross-validation over blocks: scores, and paired differences with their spread.

    python benchmarks/demo_folds.py --folds 5 [--only 1,2] [--seed 0] [-o steps=400 -o rate=0.002]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

from labelscape.cli.parsing import settings_of
from labelscape.demo import FOREST, MLP, MLP_TTA, demo_data, demo_recipe, train_and_score

MEASURES = {"overall_accuracy": "OA", "mean_iou": "mIoU"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", help="these folds alone, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args()
    data = {name: value for name, value in demo_data().items() if name != "holdout"}
    print(f"| fold | measure | {FOREST} | {MLP} | {MLP_TTA} | CPU s |\n|---|---|---|---|---|---|")
    gains: dict[tuple[str, str], list[float]] = {}
    for fold in map(int, a.only.split(",")) if a.only else range(1, a.folds + 1):
        recipe = demo_recipe({**data, "fold": f"{fold}/{a.folds}"})
        start = time.process_time()
        with tempfile.TemporaryDirectory() as out:
            _, found = train_and_score(recipe.replace(seed=a.seed, **settings_of(a.settings)), out)
        seconds = time.process_time() - start
        for measure, name in MEASURES.items():
            scores = {model: 100 * one[measure] for model, one in found.items()}
            cells = " | ".join(f"{score:.2f}" for score in scores.values())
            print(f"| {fold} | {name} | {cells} | {seconds:.0f} |", flush=True)
            for model in (MLP, MLP_TTA):
                gains.setdefault((name, model), []).append(scores[model] - scores[FOREST])
    for (name, model), found in gains.items():
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        print(
            f"{name}, {model} against {FOREST}: {statistics.mean(found):+.2f}{spread} points over "
            f"{len(found)} folds, better in {sum(gain > 0 for gain in found)}"
        )


if __name__ == "__main__":
    main()
