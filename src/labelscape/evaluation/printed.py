"""Print what one evaluation found beside its scores: the confusion matrix with user's and producer's
accuracies, and the scores of single scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.metrics import mean_iou, overall_accuracy, plain, precision, recall
from labelscape.evaluation.text import percent, print_whole, printable, whole_width

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_SCENES = 10
"""Scenes that are printed (ours): data sets of images have hundreds."""

Rows = list[tuple[str, ...]]


def matrix_rows(counts: Confusion, names: Sequence[str]) -> Rows:
    """Rows of text, the head first: labelled pixels by true (rows) and predicted class (columns), in the last
    column the producer's accuracy of each true class, in the last row the user's accuracy of each predicted
    one, in per cent. "none" counts labelled pixels without a prediction, where there are any.
    """
    called = [printable(name) for name in names]
    missing = bool(counts.unpredicted.any())
    rows = [("truth \\ predicted", *called, *(["none"] if missing else []), "PA %")]
    produced, used = recall(counts), precision(counts)
    for k, name in enumerate(called):
        own = counts.counts[k].tolist() + ([int(counts.unpredicted[k])] if missing else [])
        rows.append((name, *(f"{pixels:,}" for pixels in own), percent(plain(float(produced[k])))))
    users = (percent(plain(float(share))) for share in used)
    rows.append(("UA %", *users, *([""] if missing else []), ""))
    return rows


def scene_rows(per_scene: Mapping[str, Confusion]) -> Rows:
    """Rows of text, the head first: overall accuracy, mIoU and labelled pixels of each scene with labels, the
    worst first.
    """
    labelled = [(name, counts) for name, counts in per_scene.items() if counts.labelled]
    labelled.sort(key=lambda one: overall_accuracy(one[1]))
    head = ("scene", "OA %", "mIoU %", "labelled pixels")
    return [head] + [
        (printable(name), percent(overall_accuracy(c)), percent(plain(mean_iou(c))), f"{c.labelled:,}")
        for name, c in labelled
    ]


def print_matrix(counts: Confusion, names: Sequence[str], *, console: Console | None = None) -> None:
    """Print the confusion matrix; of too many classes for the terminal only where it can be found."""
    from rich.console import Console

    console = console or Console()
    rows = matrix_rows(counts, names)
    table = _table(rows)
    # Wrapped numbers cannot be read, and cells cut short are wrong; a file has lines of any length.
    if console.is_terminal and table.width > console.width:
        print(
            f"confusion matrix: {len(names)} classes are {table.width} columns wide; redirect the output to "
            "a file, or see --out (report.html) or --json."
        )
        return
    _print(console, "confusion matrix in pixels, with user's (UA) and producer's accuracy (PA)", table)


def print_scenes(per_scene: Mapping[str, Confusion], *, console: Console | None = None) -> None:
    """Print the scores of the scenes, the worst MOST_SCENES of more; nothing for a single one."""
    from rich.console import Console

    head, *rows = scene_rows(per_scene)
    if len(rows) < 2:
        return
    shown = rows[:MOST_SCENES]
    title = f"scenes, the worst {len(shown)} of {len(rows):,}" if len(rows) > len(shown) else "scenes"
    _print(console or Console(), title, _table([head, *shown]))


def _print(console: Console, title: str, table: Table) -> None:
    # Above it, not as the title of the table, which would become as wide.
    console.print(f"\n{title}:", markup=False, highlight=False, soft_wrap=True)
    print_whole(console, table)


def _table(rows: Rows) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head, *body = rows
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="")
    for number, name in enumerate(head):
        # Text, not str: in a str rich would interpret "[red]" as markup.
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in body:
        table.add_row(*map(Text, row))
    table.width = whole_width(table)
    return table
