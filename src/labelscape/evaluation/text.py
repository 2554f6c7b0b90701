"""Scores as rows of text, and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.evaluation.units import area_unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Scores = Mapping[str, Mapping]
"""What `metrics.summary` gives, by the model's name."""

PRINTED = ("overall_accuracy", "mean_iou", "mean_f1", "kappa")


def percent(value: float | None) -> str:
    """A fraction in per cent with two decimals; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def class_names(scores: Scores) -> list[str]:
    """Every class that a model was scored on, in the order of the first model that has it."""
    return list(dict.fromkeys(entry["name"] for score in scores.values() for entry in score["classes"]))


def of_class(score: Mapping, name: str) -> Mapping:
    """One class's entry of a summary, found by name: models need not share an order. Empty where the model
    has no such class.
    """
    return next((entry for entry in score["classes"] if entry["name"] == name), {})


def score_table(scores: Scores, names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Rows of text in per cent: "class" and IoU, F1 of every model; one row per class; then mean, OA and
    kappa x 100.

    A model without a class shows "-" there. `names` picks and orders the classes; by default all.
    """
    rows = [("class", *(f"{_printable(model)} {what}" for model in scores for what in ("IoU", "F1")))]
    for name in class_names(scores) if names is None else names:
        cells = (
            percent(of_class(score, name).get(key)) for score in scores.values() for key in ("iou", "f1")
        )
        rows.append((_printable(name), *cells))
    rows.append(
        (
            "mean (mIoU, mean F1)",
            *(percent(score.get(key)) for score in scores.values() for key in ("mean_iou", "mean_f1")),
        )
    )
    for label, key in (("OA", "overall_accuracy"), ("kappa x 100", "kappa")):
        rows.append((label, *(cell for score in scores.values() for cell in (percent(score.get(key)), ""))))
    return rows


def print_scores(
    scores: Scores,
    names: Sequence[str] | None = None,
    *,
    console: Console | None = None,
    definitions: bool = True,
) -> None:
    """Print models side by side: IoU and F1 per class, then their means, OA and kappa, in per cent, with what
    the words mean.

    Models that do not fit beside each other in a terminal follow below each other. `console` is stdout by
    default; a pipe or a file gets lines as long as they need to be.
    """
    if not scores:
        return
    from rich.console import Console

    console = console or Console()
    rows = score_table(scores, names)
    models = [_printable(model) for model in scores]
    group: list[int] = []
    for i in range(len(models)):
        if group and console.is_terminal and _beside(rows, models, [*group, i]).width > console.width:
            _print_whole(console, _beside(rows, models, group))
            group = []
        group.append(i)
    _print_whole(console, _beside(rows, models, group))
    if definitions:
        for key in PRINTED:
            console.print(
                DEFINITIONS[key],
                style="dim",
                markup=False,
                highlight=False,
                soft_wrap=not console.is_terminal,
            )


def _beside(rows: list[tuple[str, ...]], models: list[str], group: list[int]) -> Table:
    """A table of the models in `group`, one column each, as wide as it needs to be."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="")
    # Text, not str: in a str rich would read "[red]" as an order.
    table.add_column(Text("\n%"), no_wrap=True)
    # Flush right by our own spaces: rich would drop those that hold the place of a missing F1.
    wide = {i: max(15, cell_len(models[i])) for i in group}
    for i in group:
        pair = f"{'IoU':>7}{'F1':>8}".rjust(wide[i])
        table.add_column(Text(" " * (wide[i] - cell_len(models[i])) + f"{models[i]}\n{pair}"), no_wrap=True)
    for number, (name, *cells) in enumerate(rows[1:], start=1):
        pairs = (f"{cells[2 * i]:>7}{cells[2 * i + 1]:>8}".rjust(wide[i]) for i in group)
        table.add_row(Text(name), *map(Text, pairs), end_section=number == len(rows) - 4)
    endless = Console(width=100_000)
    table.width = table.__rich_measure__(endless, endless.options).maximum
    return table


def _print_whole(console: Console, table: Table) -> None:
    console.print(table, soft_wrap=True)
    console.print()


def _printable(text: str) -> str:
    """A name from a stranger's checkpoint must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def print_areas(areas: Sequence) -> None:
    """Print `area_lines` of `ClassArea` values."""
    print("\n".join(area_lines([(a.name, a.pixels, a.hectares) for a in areas])))


def area_lines(areas: Sequence[tuple[str, int, float | None]]) -> list[str]:
    """A line per class (name, pixels, hectares): pixels, share and area in a unit that fits the map."""
    total = max(1, sum(pixels for _, pixels, _ in areas))
    unit = area_unit((pixels, hectares) for _, pixels, hectares in areas)
    lines = [f"{'class':<20}{'pixels':>14}{'share':>9}{unit.name:>14}"]
    for name, pixels, hectares in areas:
        share = f"{100 * pixels / total:.2f}%"
        lines.append(f"{_printable(name):<20}{pixels:>14,}{share:>9}{unit.text(hectares):>14}")
    return lines
