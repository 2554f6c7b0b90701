"""Is the demo's lead over the random forest luck of its split? Its recipe and the forest on every fold of a
cross-validation over blocks: scores, and paired differences with their spread.

    python benchmarks/demo_folds.py --folds 5 [--only 1,2] [--seed 0] [-o steps=400 -o rate=0.002]

Other recipes and means of several models' probabilities are scored on the same folds beside it (what stands
after a name is changed in the demo's recipe; `erode`, `smooth` and `indices` are those of `demo_tried`, and
`seed` is added to --seed, which divides the folds):

    python benchmarks/demo_folds.py --keep FOLDER --model "short: steps=800" --mean "short + random forest"
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from demo_tried import eroded, indices_file, smoothed

from labelscape.checkpoint import Checkpoint, load
from labelscape.cli.parsing import settings_of
from labelscape.datasets.own import Dataset
from labelscape.demo import FOREST, MLP, TTA, demo_data, demo_recipe
from labelscape.errors import LabelscapeError
from labelscape.evaluation.confusion import count
from labelscape.evaluation.measure import scorer_for, tiles_with_truth
from labelscape.evaluation.metrics import mean_iou, overall_accuracy
from labelscape.legend import IGNORE
from labelscape.model_card import scored_with
from labelscape.scoring.arrays import as_numpy
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.stitch import plan_for
from labelscape.training.data import open_recipe_data
from labelscape.training.forest import grow_forest
from labelscape.training.outputs import checkpoint_path
from labelscape.training.recipe import Recipe
from labelscape.training.run import train

MEASURES = {"OA": overall_accuracy, "mIoU": mean_iou}

Settings = dict[str, Any]
Scores = dict[tuple[str, str], float]
"""Of one fold: (column, measure) -> per cent."""


def main() -> None:
    a = arguments()
    with tempfile.TemporaryDirectory() as nowhere:
        folder = Path(a.keep or nowhere)
        folder.mkdir(parents=True, exist_ok=True)
        models = {MLP: settings_of(a.settings), **dict(model_of(text, folder) for text in a.models)}
        if unknown := {one for mean in a.means for one in parts_of(mean)} - {FOREST, *models}:
            raise SystemExit(
                f"--mean names {', '.join(sorted(unknown))}; known: {', '.join((FOREST, *models))}."
            )
        folds = [int(fold) for fold in a.only.split(",")] if a.only else range(1, a.folds + 1)
        found: list[Scores] = []
        for fold in folds:
            scores, seconds = scores_on(f"{fold}/{a.folds}", a.seed, models, a.means, folder)
            names = list(dict.fromkeys(name for name, _ in scores))
            if not found:
                print(f"| fold | measure | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
            for measure in MEASURES:
                cells = " | ".join(f"{scores[name, measure]:.2f}" for name in names)
                print(f"| {fold} | {measure} | {cells} |", flush=True)
            print(f"fold {fold}, training, CPU s:", ", ".join(f"{n} {s:.0f}" for n, s in seconds.items()))
            found.append(scores)
    for name in names[1:]:
        print_differences(found, name, FOREST)
    for name in names:
        for base in (MLP, scored_with(MLP, TTA)):
            if name not in (FOREST, MLP, scored_with(MLP, TTA)) and (TTA in name) == (TTA in base):
                print_differences(found, name, base)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", help="these folds alone, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the folds, the weights and the crops")
    parser.add_argument("-o", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--model", dest="models", action="append", default=[], metavar="NAME: KEY=VALUE KEY=VALUE"
    )
    parser.add_argument("--mean", dest="means", action="append", default=[], metavar="NAME + NAME")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="keep trainings there by name and seed, and repeat none"
    )
    return parser.parse_args()


def model_of(text: str, folder: Path) -> tuple[str, Settings]:
    """Name and settings of a --model."""
    name, _, rest = text.partition(":")
    settings = settings_of(rest.split())
    if settings.pop("indices", False):
        settings.setdefault("data", {})["images"] = [str(indices_file(folder))]
    return name.strip(), settings


def parts_of(mean: str) -> list[str]:
    """Names of the models of a --mean."""
    return [one.strip() for one in mean.split("+")]


def recipe_of(settings: Mapping[str, Any], fold: str, seed: int) -> Recipe:
    """The demo's recipe with other settings, on a fold of the blocks that `seed` divides."""
    data = {name: value for name, value in demo_data().items() if name != "holdout"} | {"fold": fold}
    if more := settings.get("seed", 0):
        data["split_seed"] = seed
    data |= settings.get("data", {})
    rest = {name: value for name, value in settings.items() if name not in ("data", "seed")}
    # What tells unfamiliar input is measured after training, and changes no score.
    return demo_recipe(data).replace(seed=seed + more, measure_unfamiliar=False, **rest)


def scores_on(
    fold: str, seed: int, models: Mapping[str, Settings], means: list[str], folder: Path
) -> tuple[Scores, dict[str, float]]:
    """Scores of the forest, of every model and of every mean, without and with test-time augmentation; CPU
    seconds of every training.
    """
    scores: Scores = {}
    seconds: dict[str, float] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    truth = None
    for name, settings in models.items():
        tried = {key: settings[key] for key in ("erode", "smooth") if key in settings}
        recipe = recipe_of({k: v for k, v in settings.items() if k not in tried}, fold, seed)
        place = folder / name / f"s{recipe.seed}f{fold.partition('/')[0]}"
        checkpoint, seconds[name] = trained(recipe, place, **tried)
        with open_recipe_data(recipe.data, recipe.seed) as dataset:
            if truth is None:
                truth = truth_of(dataset)
                forest = forest_probabilities(dataset, seed)
                found[FOREST] = {"none": forest, TTA: forest}
            assert np.array_equal(truth, truth_of(dataset)), f"{name} holds other pixels out"
            found[name] = {tta: probabilities(checkpoint, dataset, tta) for tta in ("none", TTA)}
    for mean in means:
        parts = [found[one] for one in parts_of(mean)]
        found[mean] = {tta: sum(part[tta] for part in parts) / len(parts) for tta in ("none", TTA)}
    for name, by_tta in found.items():
        for tta, values in by_tta.items() if name != FOREST else [("none", by_tta["none"])]:
            confusion = count(truth, values.argmax(axis=1).astype(np.uint8), values.shape[1])
            column = name if tta == "none" else scored_with(name, tta)
            scores |= {(column, measure): 100 * of(confusion) for measure, of in MEASURES.items()}
    return scores, seconds


def trained(recipe: Recipe, place: Path, *, erode: int = 0, smooth: float = 0) -> tuple[Checkpoint, float]:
    """What the recipe trains, and its CPU seconds; both from the folder where they are there already."""
    path, took = checkpoint_path(place, recipe.network), place / "seconds.txt"
    if took.exists():
        checkpoint = load(path)
        if checkpoint.recipe != recipe.model_dump(mode="json"):
            raise SystemExit(f"{path} was trained by another recipe; give another folder or name.")
        return checkpoint, float(took.read_text())
    start = time.process_time()
    with eroded(erode), smoothed(smooth):
        checkpoint = train(recipe, place, overwrite=True, score=False)
    seconds = time.process_time() - start
    took.write_text(f"{seconds}\n")
    return checkpoint, seconds


def truth_of(dataset: Dataset) -> np.ndarray:
    """(n,) uint8 classes of the held-out pixels, row by row."""
    (scene,) = dataset.part("test")
    truth = scene.read_labels(scene.scene.grid.window, "test")
    return truth[truth != IGNORE]


def probabilities(checkpoint: Checkpoint, dataset: Dataset, tta: str) -> np.ndarray:
    """(n, K) of the held-out pixels, row by row."""
    (scene,) = dataset.part("test")
    window = scene.scene.grid.window
    scorer = scorer_for([checkpoint], "cpu", "32", Protocol(tta=tta))
    whole = np.zeros((len(dataset.legend), *window.shape), np.float32)
    for tile, _ in tiles_with_truth(scorer, scene, plan_for(scorer, scene.scene), "test"):
        whole[:, *tile.window.inset_of(window)] = as_numpy(tile.probabilities)
    return whole[:, scene.read_labels(window, "test") != IGNORE].T


def forest_probabilities(dataset: Dataset, seed: int) -> np.ndarray:
    """(n, K) of the held-out pixels, row by row."""
    (scene,) = dataset.part("test")
    patch, truth = scene.read(scene.scene.grid.window, "test")
    return grow_forest(dataset, seed=seed).predict_proba(patch.pixels[:, truth != IGNORE].T)


def print_differences(found: list[Scores], name: str, base: str) -> None:
    """Mean and spread over the folds of one column less another."""
    for measure in MEASURES:
        gains = [scores[name, measure] - scores[base, measure] for scores in found]
        spread = f" ± {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
        print(
            f"{measure}, {name} against {base}: {statistics.mean(gains):+.2f}{spread} points over "
            f"{len(gains)} fold{'s' * (len(gains) > 1)}, better in {sum(gain > 0 for gain in gains)}"
        )


if __name__ == "__main__":
    try:
        main()
    except LabelscapeError as error:  # settings that no recipe can have
        raise SystemExit(str(error)) from None
