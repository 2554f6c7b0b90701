"""Results of `labelscape table` as text: claimed beside measured, the means and each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelscape.cli.options import as_options

if TYPE_CHECKING:
    from labelscape.training.reproduce import RowResult
    from labelscape.training.table_cost import Cost
    from labelscape.training.timing import Time

TIME_COLUMNS = ("claimed", "measured", "claimed ratio", "measured ratio", "floor")
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
    print_means(results, {metric: metric for metric in metrics})
    if not short:
        print_classes(results)
    print_second_tasks(results, short=short)
    print_countings(results, metrics)


def print_means(results: Sequence[RowResult], metrics: Mapping[str, str]) -> None:
    """One line for each row: metrics, each under its heading, claimed beside measured."""
    wide = max((len(r.label) for r in results), default=3) + 2
    print(f"\n{'':<{wide + 16}}" + "".join(f"{heading:>34}" for heading in metrics.values()))
    print(f"{'row':<{wide}}{'steps':>16}" + f"{'claimed':>14}{'measured':>20}" * len(metrics))
    for result in results:
        line = f"{result.label:<{wide}}{steps(result):>16}"
        for metric in metrics:
            line += f"{claim(result, metric):>14}{said(result.summary(metric)):>20}"
        print(line + (f"   {as_options(result.why_not)}" if result.why_not else ""))


def print_second_tasks(results: Sequence[RowResult], *, short: bool) -> None:
    """The same of tasks that were learned beside the rows' own: the mean and, unless `short`, each class."""
    from labelscape.nets.tables import of_task

    for name in dict.fromkeys(r.second["name"] for r in results if r.second):
        scored = [r for r in results if r.second and r.second["name"] == name]
        for where in dict.fromkeys(r.second["scored_on"] for r in scored):
            print(f"\nsecond task {name}, measured here: {where}")
        start = of_task(name, "")
        keys = [key for key in scored[0].measured[0] if key.startswith(f"{start}iou/")]
        shown = [f"{start}mean_iou", *(() if short else keys)]
        # A row without an answer of its own is above, with the reason.
        print_means(scored, {key: key.removeprefix(start) for key in shown})


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
        # Whatever was changed stands beside the numbers, or they would be taken for the paper's protocol.
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
    # One seed has no interval.
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} +- {half:.2f}"


def print_classes(results: Sequence[RowResult]) -> None:
    """One block for each row whose classes the paper prints: claimed beside measured."""
    for result in results:
        # A key with a slash is a class of a metric: `iou/water`.
        classes = [key for key in result.row.claimed if "/" in key]
        # A claim with nothing beside it is no comparison.
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


def print_times(name: str, times: Sequence[Time], changed: Sequence[str]) -> None:
    """Times claimed and measured, each also as a ratio to the rival's, and the ratio of multiplications."""
    if not times:
        print(f"{name}: none of these rows has a time in its paper")
        return
    other = f" Other than the paper: {', '.join(changed)}." if changed else ""
    print(f"{name}: times on this machine, random pixels.{other}")
    print(
        f"Each row took turns with {times[0].rival}; ratios are to its time in the same run, the floor is "
        "the ratio of multiplications.\n"
    )
    wide = max(len(t.label) for t in times) + 2
    whats = max(len(t.what) for t in times) + 2
    head = "".join(f"{word:>16}" for word in TIME_COLUMNS)
    print(f"{'row':<{wide}}{'':<{whats}}{head}")
    for t in times:
        floor = "-" if t.floor is None else f"{t.floor:.3f}"
        numbers = (f"{t.claimed:.4g}", f"{t.measured:.4g}", f"{t.claimed_ratio:.3f}", f"{t.ratio:.3f}", floor)
        print(f"{t.label:<{wide}}{t.what:<{whats}}" + "".join(f"{number:>16}" for number in numbers))


def print_costs(
    name: str, costs: Sequence[Cost], told: Sequence[str], left_out: Sequence[str], seeds: int
) -> None:
    """What each row will cost, and why others are not run; times are those of all seeds."""
    from labelscape.cli.train_ahead import lasting

    print(
        f"{name}: nothing is trained. Time is estimated from small steps on this device, by multiplications;"
    )
    print("reading and scoring come on top. Rows that are another one take no time of their own.")
    for line in (*told, *left_out):
        print(as_options(line))
    if not costs:
        return
    wide = max(len(c.plan.label) for c in costs) + 2
    print(f"\n{'':>3} {'row':<{wide}}{'parameters':>12}{'steps':>18}{'batch':>12}{'memory':>12}{'time':>14}")
    for cost in costs:
        recipe = cost.plan.recipe
        steps = f"{recipe.base_steps:,} + {recipe.steps:,}" if recipe.base_steps else f"{recipe.steps:,}"
        # Rows of one network, data and settings are trained once.
        time = f"= row {cost.plan.same_as}" if cost.plan.same_as else lasting(seeds * cost.seconds)
        size = f"{recipe.batch} x {recipe.crop}"
        memory = f"{cost.bytes / 2**30:.1f} GiB"
        print(
            f"{cost.plan.number:>3} {cost.plan.label:<{wide}}{cost.parameters:>12,}{steps:>18}{size:>12}"
            f"{memory:>12}{time:>14}" + ("" if cost.fits else "   more than this device holds")
        )
