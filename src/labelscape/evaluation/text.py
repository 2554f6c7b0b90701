"""Print scores and areas as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.evaluation.units import area_unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from labelscape.evaluation.conventions import Convention
    from labelscape.evaluation.objects import ObjectCounts
    from labelscape.evaluation.paths import PathCounts
    from labelscape.evaluation.topology import TopologyCounts

Scores = Mapping[str, Mapping]
"""`metrics.summary` by the model's name."""

PRINTED = ("overall_accuracy", "mean_iou", "mean_f1", "kappa")


def percent(value: float | None) -> str:
    """A fraction in per cent with two decimals; "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def interval(low: float | None, high: float | None) -> str:
    """Of a difference of fractions, in per cent with signs; "-" where it is undefined."""
    return "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def class_names(scores: Scores) -> list[str]:
    """All classes that any model was scored on, in order of appearance."""
    return list(
        dict.fromkeys(entry["name"] for score in scores.values() for entry in score.get("classes", ()))
    )


def of_class(score: Mapping, name: str) -> Mapping:
    """The entry of a class in a summary, by name, since models may differ in the order of classes; empty
    where the model does not have it.
    """
    return next((entry for entry in score.get("classes", ()) if entry["name"] == name), {})


def score_table(scores: Scores, names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Rows of text in per cent: "class" and IoU, F1 of every model; one row per class; then mean, OA and
    kappa x 100.

    A model without a class shows "-" there. `names` picks and orders the classes; by default all.
    """
    rows = [("class", *(f"{printable(model)} {what}" for model in scores for what in ("IoU", "F1")))]
    for name in class_names(scores) if names is None else names:
        cells = (
            percent(of_class(score, name).get(key)) for score in scores.values() for key in ("iou", "f1")
        )
        rows.append((printable(name), *cells))
    rows.append(
        (
            "mean (mIoU, mean F1)",
            *(percent(score.get(key)) for score in scores.values() for key in ("mean_iou", "mean_f1")),
        )
    )
    for label, key in (("OA", "overall_accuracy"), ("kappa x 100", "kappa")):
        # One number per model, in the column of IoU; that of F1 stays empty.
        rows.append((label, *(cell for score in scores.values() for cell in (percent(score.get(key)), ""))))
    return rows


def print_scores(
    scores: Scores,
    names: Sequence[str] | None = None,
    *,
    console: Console | None = None,
    definitions: bool = True,
) -> None:
    """Print scores of models side by side: IoU and F1 per class, then means, OA and kappa, in per cent, and
    the definitions of the metrics.

    Models that do not fit into the width of a terminal are printed below each other. `console` is stdout by
    default; in a pipe or a file lines are not wrapped.
    """
    if not scores:
        return
    from rich.console import Console

    console = console or Console()
    rows = score_table(scores, names)
    models = [printable(model) for model in scores]
    group: list[int] = []
    for i in range(len(models)):
        # Models are added until the next one would not fit; in a file lines may be as long as they are.
        if group and console.is_terminal and _beside(rows, models, [*group, i]).width > console.width:
            print_whole(console, _beside(rows, models, group))
            group = []
        group.append(i)
    print_whole(console, _beside(rows, models, group))
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
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="")
    # Text, not str: in a str rich would interpret "[red]" as markup.
    table.add_column(Text("\n%"), no_wrap=True)
    # Right-aligned with our own spaces: rich would strip those in place of a missing F1.
    wide = {i: max(15, cell_len(models[i])) for i in group}
    for i in group:
        pair = f"{'IoU':>7}{'F1':>8}".rjust(wide[i])
        table.add_column(Text(" " * (wide[i] - cell_len(models[i])) + f"{models[i]}\n{pair}"), no_wrap=True)
    for number, (name, *cells) in enumerate(rows[1:], start=1):
        pairs = (f"{cells[2 * i]:>7}{cells[2 * i + 1]:>8}".rjust(wide[i]) for i in group)
        # A line below the classes: the last three rows are of no class.
        table.add_row(Text(name), *map(Text, pairs), end_section=number == len(rows) - 4)
    table.width = whole_width(table)
    return table


def whole_width(table: Table) -> int:
    """Columns of text that a table needs."""
    from rich.console import Console

    # rich shrinks a table to its console: measured on one without limits, it keeps its width.
    endless = Console(width=100_000)
    return table.__rich_measure__(endless, endless.options).maximum


def print_whole(console: Console, table: Table) -> None:
    """Print a table, and an empty line."""
    # soft_wrap: rich would cut cells at 80 columns in a pipe.
    console.print(table, soft_wrap=True)
    console.print()


def printable(text: str) -> str:
    """Replace control characters: names of a downloaded checkpoint may contain escape sequences."""
    # Not str.isascii: names in any script stay, escape sequences go.
    return "".join(c if c.isprintable() else "?" for c in text)


def print_areas(areas: Sequence) -> None:
    """Print the areas of classes, `ClassArea` values, as a table."""
    print("\n".join(area_lines([(a.name, a.pixels, a.hectares) for a in areas])))


def area_lines(areas: Sequence[tuple[str, int, float | None]]) -> list[str]:
    """Lines of a table of (name, pixels, hectares): pixels, share, and area in a unit that suits the map."""
    # Of a map of nothing but nodata there is no pixel to divide by.
    total = max(1, sum(pixels for _, pixels, _ in areas))
    unit = area_unit((pixels, hectares) for _, pixels, hectares in areas)
    lines = [f"{'class':<20}{'pixels':>14}{'share':>9}{unit.name:>14}"]
    for name, pixels, hectares in areas:
        share = f"{100 * pixels / total:.2f}%"
        lines.append(f"{printable(name):<20}{pixels:>14,}{share:>9}{unit.text(hectares):>14}")
    return lines


def print_card(
    card: Sequence[Convention], trimap: Sequence[Mapping], *, console: Console | None = None
) -> None:
    """Print the score under each convention, with its definition and who reports it so, then the scores near
    borders of the reference where they were counted.
    """
    from rich.console import Console
    from rich.table import Column, Table

    console = console or Console()
    # Names of arguments are longer than the column of a narrow terminal: cut short nobody can search them.
    users = Column("reported so by", overflow="fold")
    table = Table("metric", "%", "definition", users, title="the same pixels under each convention")
    for line in card:
        table.add_row(line.name, percent(line.value), line.definition, line.used_by)
    console.print(table)
    if not trimap:
        return
    table = Table(
        "pixels from a border", "OA %", "mIoU %", "labelled pixels", title="near borders of the reference"
    )
    for band in trimap:
        within = "all" if band["within"] is None else f"at most {band['within']}"
        scores = (percent(band["overall_accuracy"]), percent(band["mean_iou"]))
        table.add_row(within, *scores, f"{band['labelled_pixels']:,}")
    console.print(table)


def print_objects(found: Sequence[ObjectCounts], *, console: Console | None = None) -> None:
    """Print for each class its objects by size, true and predicted, with those that match, and the scores of
    its borders.
    """
    from rich.console import Console
    from rich.table import Table

    from labelscape.evaluation.objects import GROUPED

    console = console or Console()
    for one in found:
        facts = one.to_dict()
        title = f"objects of {printable(one.name)}, matched at IoU 0.5"
        table = Table("pixels", "true", "found", "predicted", "right", title=title)
        for row in facts["by_size"]:
            size = "larger" if row["up_to_pixels"] is None else f"up to {row['up_to_pixels']:,}"
            table.add_row(size, *(f"{row[key]:,}" for key in ("truth", "found", "predicted", "right")))
        print_whole(console, table)
        said = {
            key: percent(facts[key]) for key in ("precision", "recall", "f1", "boundary_f1", "boundary_iou")
        }
        print(f"({GROUPED})")
        print(f"objects: precision {said['precision']} %, recall {said['recall']} %, F1 {said['f1']} %")
        within = f"borders, within {one.tolerance} pixel{'s' * (one.tolerance != 1)}"
        # Where labels seldom meet, a score is of a handful of pixels.
        true, _, predicted = (f"{count:,}" for count in facts["borders"][:3])
        print(
            f"{within}: boundary F1 {said['boundary_f1']} %, boundary IoU {said['boundary_iou']} % "
            f"({true} true and {predicted} predicted border pixels)"
        )


def print_topology(found: Sequence[TopologyCounts]) -> None:
    """Print clDice and its parts for each class."""
    for one in found:
        facts = one.to_dict()
        parts = (f"topology {key} {percent(facts[key])} %" for key in ("precision", "sensitivity"))
        print(f"skeletons of {printable(one.name)}: clDice {percent(facts['cldice'])} % ({', '.join(parts)})")


def print_paths(found: Sequence[PathCounts]) -> None:
    """Print APLS and its parts for each class."""
    for one in found:
        facts = one.to_dict()
        parts = (
            f"true paths {percent(facts['of_truth'])} %, predicted paths {percent(facts['of_prediction'])} %"
        )
        print(f"paths along {printable(one.name)}: APLS {percent(facts['apls'])} % ({parts})")
