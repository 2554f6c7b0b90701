"""Learning curves: the same training on nested shares of the labels, scored on the same held-out pixels, to
tell whether more labels would help.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from labelscape.checkpoint import description
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.files import check_folder, check_local, written_whole
from labelscape.training.data import open_recipe_data
from labelscape.training.outputs import checkpoint_path, make_room
from labelscape.training.recipe import Recipe, as_recipe, in_todays_words
from labelscape.training.run import train
from labelscape.training.state import differing

Say = Callable[[str], None]
SHARES = (0.1, 0.25, 0.5, 1.0)
LEVEL = 0.95
LITTLE = 0.01
"""A point of mean IoU: a gain that is surely smaller is hardly worth labelling for (ours)."""


@dataclass(frozen=True)
class CurvePoint:
    """One training: its share of the training labels, its seed, its labelled training pixels and its scores
    on the held-out ones, fractions; `problem` says why there is none.
    """

    share: float
    seed: int
    pixels: int
    mean_iou: float | None
    overall_accuracy: float | None
    mean_f1: float | None
    checkpoint: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ShareScore:
    """Scores of one share over its trainings: mean labelled pixels, mean of the mean IoU, its 95 % interval
    (Student's t over trainings; None with one).
    """

    share: float
    pixels: int
    trainings: int
    mean_iou: float | None
    low: float | None
    high: float | None
    overall_accuracy: float | None


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """All trainings of a curve. Its intervals are over trainings with other seeds, which draw other first
    weights, crops and training blocks; the held-out pixels are the same for all.
    """

    network: str
    points: tuple[CurvePoint, ...]

    @property
    def shares(self) -> tuple[ShareScore, ...]:
        """The score of each share, ascending."""
        found = []
        for share in sorted({point.share for point in self.points}):
            mine = [p for p in self.points if p.share == share]
            scored = [p for p in mine if p.mean_iou is not None]
            mean, low, high = interval([p.mean_iou for p in scored])
            accuracy = float(np.mean([p.overall_accuracy for p in scored])) if scored else None
            pixels = round(float(np.mean([p.pixels for p in mine])))
            found.append(ShareScore(share, pixels, len(scored), mean, low, high, accuracy))
        return tuple(found)

    @property
    def gain(self) -> dict[str, Any] | None:
        """What the last step of the curve brought: the two largest shares, the mean difference of the mean
        IoU over trainings of one seed, its interval. None with fewer than two scored shares.
        """
        known = {(p.share, p.seed): p.mean_iou for p in self.points if p.mean_iou is not None}
        shares = sorted({share for share, _ in known})
        if len(shares) < 2:
            return None
        before, last = shares[-2:]
        # Paired: trainings of one seed share weights, and the smaller share lies in the larger.
        pairs = [
            known[last, s] - known[before, s] for share, s in known if share == last and (before, s) in known
        ]
        mean, low, high = interval(pairs)
        if mean is None:
            return None
        return {
            "before": before,
            "last": last,
            "mean": mean,
            "low": low,
            "high": high,
            "trainings": len(pairs),
        }

    @property
    def answer(self) -> str:
        """One sentence: would more labels help?"""
        return answered(self.gain)

    def __repr__(self) -> str:
        scored = sum(point.mean_iou is not None for point in self.points)
        return f"<LearningCurve of {self.network}: {scored} trainings, {len(self.shares)} shares>"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "network": self.network,
            "shares": [asdict(share) for share in self.shares],
            "gain": self.gain,
            "answer": self.answer,
            "trainings": [asdict(point) for point in self.points],
        }


def interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Mean and 95 % interval by Student's t; no interval of fewer than two values."""
    if not len(values):
        return None, None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = float(
        stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    )
    return mean, mean - half, mean + half


def answered(gain: Mapping[str, Any] | None) -> str:
    """The sentence of a gain, as `LearningCurve.gain` has it."""
    if gain is None:
        return "Whether more labels would help cannot be told: fewer than two shares could be trained."
    points = 100 * gain["mean"]
    step = f"from {100 * gain['before']:g} % to {100 * gain['last']:g} % of the labels"
    changed = f"{step} mean IoU changed by {points:+.1f} points"
    if gain["low"] is None:
        return (
            f"One training cannot tell whether more labels would help: {changed}, which may be chance. "
            "Repeat with `seeds=3` or more."
        )
    low, high = 100 * gain["low"], 100 * gain["high"]
    known = f"{changed} (95 % interval {low:+.1f} to {high:+.1f} over {gain['trainings']} trainings)"
    # By the interval, not the mean: with a few seeds the sign of the mean is often chance.
    if high < 0:
        return f"More labels like these would not help: {known}."
    if high < 100 * LITTLE:
        return f"More labels would hardly help: {known}."
    if low > 0:
        return f"More labels would probably help: {known}; the next step as a rule brings less."
    return f"It is not clear whether more labels would help: {known}. More seeds would narrow the interval."


def learning_curve(
    recipe: Recipe | Mapping[str, Any],
    out: str | Path,
    *,
    shares: Sequence[float] = SHARES,
    seeds: int = 1,
    overwrite: bool = False,
    say: Say | None = None,
) -> LearningCurve:
    """Train a recipe on nested shares of its training blocks (or images), with as many steps each, and score
    all on the same held-out pixels. Writes every training into a folder of `out`, and `curve.csv`,
    `curve.json`, `curve.png`.

    shares  of the labelled training blocks, two at least, such as (0.1, 0.25, 0.5, 1)
    seeds   trainings of each share, with seeds from the recipe's on: other first weights, crops, and training
            blocks; without at least two there is no interval

    Finished trainings of the same settings are not repeated, and an unfinished one continues. A share that
    cannot be trained, for lack of a class, is reported and has no score. Raises BadOption for shares or seeds
    that cannot be, or where nothing is held out; else as `train`.
    """
    recipe, shares = as_recipe(recipe), tuple(sorted({float(share) for share in shares}))
    check_folder(out, "The folder of a learning curve (out)")
    check_local(out)
    _check(recipe, shares, seeds)
    out, say = Path(out), say or (lambda text: None)
    make_room(out)
    # All shares of a seed before the next seed: a curve that is interrupted has few trainings of every share
    # instead of all of one.
    runs = [(share, recipe.seed + number) for number in range(seeds) for share in shares]
    points = []
    for number, (share, seed) in enumerate(runs, start=1):
        say(f"training {number} of {len(runs)}: {100 * share:g} % of the labels, seed {seed}")
        points.append(_point(recipe, share, seed, out, overwrite, say))
        # After each: a curve that is interrupted leaves what it has.
        write_curve(LearningCurve(recipe.network, tuple(points)), out)
    return LearningCurve(recipe.network, tuple(points))


def _check(recipe: Recipe, shares: Sequence[float], seeds: int) -> None:
    if len(shares) < 2 or not all(0 < share <= 1 for share in shares):
        shown = ", ".join(f"{share:g}" for share in shares) or "none"
        raise BadOption(f"A learning curve needs two or more shares above 0 and at most 1; found {shown}.")
    if seeds < 1:
        raise BadOption(f"`seeds={seeds}` must be at least 1.")
    if recipe.data.dataset:
        raise BadOption(
            "Learning curves are of one's own data, whose blocks or images are divided here; "
            f"{recipe.data.dataset} is a published set."
        )
    if not recipe.data.holdout:
        raise BadOption("A learning curve is scored on held-out labels: give `holdout` above 0.")
    if recipe.mate:
        raise BadOption("Learning curves are of one task; leave the second one (`mate`) out.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise BadOption("The trainings of a learning curve run one after the other, in a single process.")


def of_share(recipe: Recipe, share: float, seed: int) -> Recipe:
    """The recipe of one training: a share of the training blocks that its seed draws, the split of all."""
    data = {
        **recipe.data.model_dump(),
        "train_share": None if share == 1 else share,
        "split_seed": recipe.data.split_seed if recipe.data.split_seed is not None else recipe.seed,
    }
    # What is measured for maps costs time, and says nothing about labels.
    return recipe.replace(data=data, seed=seed, measure_tile_sizes=False, measure_unfamiliar=False)


def _point(recipe: Recipe, share: float, seed: int, out: Path, overwrite: bool, say: Say) -> CurvePoint:
    own = of_share(recipe, share, seed)
    place = out / f"share-{share:g}" / f"seed-{seed}"
    target = checkpoint_path(place, recipe.network)
    none = CurvePoint(share, seed, 0, None, None, None)
    try:
        with open_recipe_data(own.data, own.seed) as dataset:
            pixels = int(dataset.class_counts("train").sum())
        # Looked up, not trained again: a curve of four shares and three seeds is twelve trainings, and seldom
        # done in one go.
        scores = None if overwrite else _finished(target, own)
        if scores is None:
            scores = train(own, place, overwrite=overwrite, say=say).scores
        else:
            say(f"{target} is finished")
    except BadInput as problem:
        # A small share may hold one class only. What is wrong with all shares is wrong with the whole one.
        if share == 1:
            raise
        say(f"{100 * share:g} % of the labels, seed {seed}: {problem}")
        return replace(none, problem=str(problem))
    found = scores.get(recipe.network, {})
    return CurvePoint(
        share,
        seed,
        pixels,
        found.get("mean_iou"),
        found.get("overall_accuracy"),
        found.get("mean_f1"),
        checkpoint=str(target),
    )


def _finished(target: Path, recipe: Recipe) -> dict | None:
    """The scores of a training that is finished; None where there is none. Raises BadFile where it is one of
    other settings.
    """
    if not target.exists():
        return None
    found = description(target)
    changed = differing(in_todays_words(found["recipe"]), recipe.model_dump(mode="json"))
    if changed:
        raise BadFile(
            f"{target} is of a training with other settings ({', '.join(changed)}). Give the same settings, "
            "`overwrite=True` to train all again, or another `out`."
        )
    return found["scores"]


def write_curve(curve: LearningCurve, out: Path) -> dict[str, Path]:
    """Write `curve.csv` (a row for each training), `curve.json` and `curve.png` into a folder. Raises
    BadFile.
    """
    paths = {kind: out / f"curve.{kind}" for kind in ("csv", "json", "png")}
    with written_whole(paths["csv"], overwrite=True) as part, part.open("w", newline="") as file:
        rows = csv.DictWriter(file, fieldnames=list(CurvePoint.__dataclass_fields__))
        rows.writeheader()
        rows.writerows(asdict(point) for point in curve.points)
    with written_whole(paths["json"], overwrite=True) as part:
        part.write_text(json.dumps(curve.to_dict(), indent=2) + "\n", encoding="utf-8", newline="\n")
    with written_whole(paths["png"], overwrite=True) as part:
        _draw(curve, part)
    return paths


def _draw(curve: LearningCurve, path: Path) -> None:
    """Mean IoU over labelled training pixels: a point for each training, a line through the means with their
    intervals.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel="share of the training labels (%)", ylabel="mean IoU (%)", xscale="log")
    scored = [p for p in curve.points if p.mean_iou is not None]
    axes.plot([100 * p.share for p in scored], [100 * p.mean_iou for p in scored], "o", color="0.7", ms=4)
    means = [s for s in curve.shares if s.mean_iou is not None]
    x, y = [100 * s.share for s in means], [100 * s.mean_iou for s in means]
    axes.plot(x, y, "-", color="tab:blue", label=f"mean of {curve.network}")
    bars = [s for s in means if s.low is not None]
    axes.errorbar(
        [100 * s.share for s in bars],
        [100 * s.mean_iou for s in bars],
        yerr=[[100 * (s.mean_iou - s.low) for s in bars], [100 * (s.high - s.mean_iou) for s in bars]],
        fmt="none",
        color="tab:blue",
        capsize=3,
        label="95 % interval over trainings",
    )
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
