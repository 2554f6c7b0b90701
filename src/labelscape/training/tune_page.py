"""The page of a hyper-parameter search: the winner, all trials, and what the settings did to the score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.evaluation.report import Report, write_report
from labelscape.evaluation.score_tables import ModelScores
from labelscape.evaluation.sections import Figure, Section, Table
from labelscape.evaluation.text import percent
from labelscape.training.tune_result import Trial, Tuning, shown
from labelscape.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

FEW = 10
"""Finished trials below which the importance of settings says little (ours)."""


def write_page(found: Tuning, path: Path) -> Path:
    """Write a search that has a winner as one HTML file, in place of an earlier one. Raises BadFile."""
    best = found.best
    counts = {state: sum(one.state == state for one in found.trials) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    report = Report(
        title=f"Hyper-parameter search: {found.recipe.network}",
        subtitle=f"labelscape {__version__}",
        lead=f"Trial {best.number} has won: {found.score_name} {percent(best.score)} % on validation blocks. "
        f"{len(found.trials)} trials: {said}.",
        notes=tuple(_notes(found)),
        measured_on="The winner on the test blocks, which no trial was trained or scored on.",
        scores=(ModelScores(f"trial {best.number}", found.test),) if found.test else (),
        sections=tuple(_sections(found)),
        provenance={name: value for name, value in found.recipe.model_dump(mode="json").items()},
    )
    return write_report(path, report, overwrite=True)


STATES = ("finished", "pruned", "failed", "running")


def _notes(found: Tuning) -> Iterator[str]:
    if found.test is None:
        yield (
            "No test blocks are labelled. The score of the winner on validation blocks is too good: it is "
            f"the best of {len(found.trials)}."
        )
        return
    yield (
        f"Trials are compared on validation blocks, and the best of {len(found.trials)} such scores is too "
        "good, by luck alone. The test blocks were scored for the winner only: report that score."
    )
    if found.tested > 1:
        yield (
            f"The search went on after it had a winner: {found.tested} winners have been scored on the test "
            "blocks. Do not choose among them by that score."
        )


def _sections(found: Tuning) -> Iterator[Section]:
    best = found.best
    rows = tuple((name, shown(value), found.over[name]) for name, value in best.settings.items())
    # The command as a paragraph: in a table's cell it would be a line of a thousand letters.
    text = ("Train it again with:", found.command)
    yield Section(
        "The winner", text, tables=(Table(("setting", "value", "varied over"), rows, texts=(1, 2)),)
    )
    yield Section("What the settings did", _on_importance(found), figures=tuple(_figures(found)))
    heads = ("trial", *found.over, f"{found.score_name} %", "step", "state", "minutes", "cause")
    cells = tuple(_cells(found, one) for one in found.trials)
    if any(one.cause for one in found.trials):
        table = Table(heads, cells, texts=(len(heads) - 1,))
    else:
        table = Table(heads[:-1], tuple(row[:-1] for row in cells))
    yield Section("Trials", (_ON_TRIALS,), tables=(table,))


_ON_TRIALS = (
    "Scores are of validation blocks; that of a pruned trial is its best until then. Minutes of a trial that "
    "was interrupted are those since it went on."
)


def _cells(found: Tuning, one: Trial) -> tuple[str, ...]:
    chosen = (shown(one.settings[name]) if name in one.settings else "-" for name in found.over)
    minutes = "-" if one.minutes is None else f"{one.minutes:.1f}"
    won = " (best)" if one is found.best else ""
    return (
        f"{one.number}{won}", *chosen, percent(one.score), str(one.step), one.state, minutes, one.cause
    )  # fmt: skip


def _on_importance(found: Tuning) -> tuple[str, ...]:
    if not found.importance:
        return ("Too few trials are finished to tell which setting matters.",)
    finished = sum(one.state == "finished" for one in found.trials)
    text = (
        "Importance: each setting's share of the variance of the scores of finished trials (fANOVA, Hutter "
        "et al. 2014)."
    )
    return (text, f"Of {finished} trials it says little.") if finished < FEW else (text,)


def _figures(found: Tuning) -> Iterator[Figure]:
    from labelscape.evaluation.figures import INK, LINES, blank, plain_axes

    if found.importance:
        names = list(found.importance)[::-1]
        figure = blank(5.6, 1 + 0.35 * len(names))
        axes = figure.add_subplot()
        axes.barh(range(len(names)), [100 * found.importance[name] for name in names], color=LINES[0])
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.set_xlabel("importance, %", fontsize=9, color=INK)
        plain_axes(axes)
        axes.set_axisbelow(True)
        said = ", ".join(f"{name} {percent(share)} %" for name, share in found.importance.items())
        yield Figure("Importance", figure, alt=f"Importance of the settings: {said}")
    yield Figure(
        "Course",
        _course(found),
        "the score of each trial, and the best so far",
        alt="Scores of the trials in their order",
    )
    yield Figure(
        "Score over each setting",
        _slices(found),
        "filled: finished; hollow: pruned, its best score until then; orange: the winner",
        alt="The score of every trial over each setting, as in the table of the trials",
    )


def _course(found: Tuning) -> Drawing:
    from labelscape.evaluation.figures import INK, LINES, blank, plain_axes

    figure = blank(5.6, 3.1)
    axes = figure.add_subplot()
    _scatter(axes, found, [(one, one.number) for one in found.trials])
    finished = [one for one in found.trials if one.state == "finished"]
    leading = [max(100 * one.score for one in finished[: n + 1]) for n in range(len(finished))]
    axes.step([one.number for one in finished], leading, where="post", color=LINES[0], linewidth=1.2)
    axes.set_xlabel("trial", fontsize=9, color=INK)
    axes.set_ylabel(f"{found.score_name}, %", fontsize=9, color=INK)
    plain_axes(axes)
    return figure


def _slices(found: Tuning) -> Drawing:
    """A panel for each setting, three in a row."""
    from labelscape.evaluation.figures import INK, blank, log_ticks, plain_axes

    names = list(found.over)
    rows = -(-len(names) // 3)
    figure = blank(3.2 * min(3, len(names)), 2.7 * rows)
    panels = figure.subplots(rows, min(3, len(names)), sharey=True, squeeze=False).flat
    for name, axes in zip(names, panels):
        known = [one for one in found.trials if name in one.settings]
        values = [one.settings[name] for one in known]
        # A range is drawn to its scale, other values side by side in the order in which they were given.
        if all(type(value) in (int, float) for value in values) and ":" in found.over[name]:
            places: list[Any] = values
            if found.over[name].endswith(":log"):
                axes.set_xscale("log")
        else:
            order = sorted({shown(value) for value in values}, key=found.over[name].find)
            places = [order.index(shown(value)) for value in values]
            axes.set_xticks(range(len(order)), order, parse_math=False)
            axes.margins(x=0.25)
        _scatter(axes, found, list(zip(known, places)))
        if axes.get_xscale() == "log":
            log_ticks(axes.xaxis)
        axes.set_xlabel(name, fontsize=9, color=INK, parse_math=False)
        plain_axes(axes)
    for axes in list(panels):  # those that are left over in the last row
        axes.set_axis_off()
    figure.axes[0].set_ylabel(f"{found.score_name}, %", fontsize=9, color=INK)
    return figure


def _scatter(axes: Axes, found: Tuning, placed: list[tuple[Trial, Any]]) -> None:
    from labelscape.evaluation.figures import FAINT, LINES

    best = found.best
    styles = {
        "pruned": {"facecolors": "none", "edgecolors": FAINT},
        "finished": {"color": LINES[0]},
        "best": {"color": LINES[1], "zorder": 3},
    }
    for kind, style in styles.items():
        of_kind = [
            (place, 100 * one.score)
            for one, place in placed
            if one.score is not None and ("best" if one is best else one.state) == kind
        ]
        if of_kind:
            axes.scatter(*zip(*of_kind), s=22, **style)
