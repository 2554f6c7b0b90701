"""Results of `labelscape table` as text: claimed beside measured, the means and each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labelscape.cli.options import as_options

if TYPE_CHECKING:
    from labelscape.training.reproduce import RowResult

MEANS = ("mean_iou", "overall_accuracy", "mean_f1")


def print_results(
    name: str, results: Sequence[RowResult], budget: float, changed: Sequence[str], *, short: bool = False
) -> None:
    """Where the numbers come from, the means of each row and, unless `short`, the classes that its paper
    prints.
    """
    from labelscape.nets.tables import TABLES

    metrics = [m for m in MEANS if any(m in r.row.claimed for r in results)]
    print(f"{name}: {TABLES[name].title}. In per cent")
    print(f"claimed   the paper: {TABLES[name].data}")
    for line in provenance(results, budget, changed):
        print(line)
    wide = max((len(r.label) for r in results), default=3) + 2
    print(f"\n{'':<{wide + 16}}" + "".join(f"{m:>34}" for m in metrics))
    print(f"{'row':<{wide}}{'steps':>16}" + f"{'claimed':>14}{'measured':>20}" * len(metrics))
    for result in results:
        line = f"{result.label:<{wide}}{steps(result):>16}"
        for metric in metrics:
            line += f"{claim(result, metric):>14}{said(result.summary(metric)):>20}"
        print(line + (f"   {as_options(result.why_not)}" if result.why_not else ""))
    if not short:
        print_classes(results)
    print_countings(results, metrics)


def provenance(results: Sequence[RowResult], budget: float, changed: Sequence[str]) -> list[str]:
    """Lines that say on what, how and how often was measured, and what is not the paper's."""
    lines = [
        f"measured  here: {where}" for where in dict.fromkeys(r.scored_on for r in results if r.scored_on)
    ]
    lines += [f"tested    {how}" for how in dict.fromkeys(r.tested for r in results if r.tested)]
    lines += [f"note      {note}" for note in dict.fromkeys(n for r in results for n in r.notes)]
    seeds = next((r.seeds for r in results if r.seeds), ())
    if seeds:
        several = "; the mean and its 95 % interval" if len(seeds) > 1 else ""
        other = f"; other than the paper: {', '.join(changed)}" if changed else ""
        lines.append(
            f"          {budget:g} of the paper's steps, seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}{several}{other}"
        )
    return lines


def steps(result: RowResult) -> str:
    """Steps of the row's network, after those of the network it starts from: `30 + 20`."""
    if not result.steps:
        return "-"
    return f"{result.base_steps} + {result.steps}" if result.base_steps else str(result.steps)


def claim(result: RowResult, metric: str) -> str:
    claimed = result.row.claimed.get(metric)
    return "-" if claimed is None else f"{claimed:.2f}"


def said(summary: tuple[float, float] | None) -> str:
    if summary is None:
        return "-"
    mean, half = summary
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} +- {half:.2f}"


def print_classes(results: Sequence[RowResult]) -> None:
    """One block for each row whose classes the paper prints: claimed beside measured."""
    for result in results:
        classes = [key for key in result.row.claimed if "/" in key]
        if not classes or not result.measured:
            continue
        wide = max(map(len, classes)) + 2
        print(f"\n{result.label}\n{'class':<{wide}}{'claimed':>14}{'measured':>20}")
        for key in classes:
            print(f"{key:<{wide}}{claim(result, key):>14}{said(result.summary(key)):>20}")


def print_countings(results: Sequence[RowResult], metrics: Sequence[str]) -> None:
    """The means once more where clutter can be counted in two ways."""
    from labelscape.nets.tables import CLUTTER_WRONG

    counted = [r for r in results if any(r.summary(CLUTTER_WRONG + m) for m in metrics)]
    if not counted:
        return
    print(
        "\nAbove, pixels of clutter are not scored (the paper trains without that class and does not say how "
        "it scores it).\nCounted as wrong, as the authors' published script does:"
    )
    wide = max(len(r.label) for r in counted) + 2
    for result in counted:
        means = "  ".join(f"{m} {said(result.summary(CLUTTER_WRONG + m))}" for m in metrics)
        print(f"{result.label:<{wide}}{means}")
