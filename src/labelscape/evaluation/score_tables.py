"""Tables that compare the scores of models, for reports."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labelscape.evaluation.text import class_names, of_class, percent


@dataclass(frozen=True)
class ModelScores:
    """A model's name and its `metrics.summary`; `note` is shown below the tables."""

    name: str
    metrics: Mapping
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A number as text; `best` marks the best of the models compared."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Rows of (class, cells) under two rows of headings: groups over heads."""

    groups: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def overall_table(scores: Sequence[ModelScores]) -> ScoreTable | None:
    """One row of overall scores per model, in per cent; kappa times 100 like the rest."""
    if not scores:
        return None
    keys = {
        "overall_accuracy": "OA",
        "mean_iou": "mIoU",
        "mean_f1": "mean F1",
        "mean_accuracy": "mean accuracy",
        "frequency_weighted_iou": "fwIoU",
        "kappa": "kappa x 100",
    }
    mark = comparable(scores)
    columns = [_cells([s.metrics.get(key) for s in scores], mark) for key in keys]
    counted = [s.metrics.get("labelled_pixels") for s in scores]
    pixels = [Cell("-" if count is None else f"{count:,}") for count in counted]
    rows = tuple((s.name, cells) for s, cells in zip(scores, zip(*columns, pixels, strict=True), strict=True))
    return ScoreTable((), (*keys.values(), "labelled pixels"), rows)


def per_class_tables(scores: Sequence[ModelScores]) -> list[ScoreTable]:
    """IoU, F1, UA, PA and labelled pixels of every class: one table for one model; for more, two or four that
    still fit on a page.
    """
    if not scores:
        return []
    measures = {"iou": "IoU", "f1": "F1", "precision": "UA", "recall": "PA"}
    mark = comparable(scores)
    # Four columns for one model, up to six for three: what a printed page holds.
    at_once = 4 if len(scores) == 1 else 2 if len(scores) <= 3 else 1
    parts = [tuple(measures)[start : start + at_once] for start in range(0, 4, at_once)]
    tables = []
    for keys in parts:
        rows = []
        # By number: two models may have one name.
        for name in class_names({str(i): s.metrics for i, s in enumerate(scores)}):
            entries = [of_class(s.metrics, name) for s in scores]
            by_measure = [_cells([entry.get(key) for entry in entries], mark) for key in keys]
            # The first model's: where supports differ, a note says so.
            support = next((entry["support"] for entry in entries if "support" in entry), None)
            # Grouped by measure, models side by side, since models are what is compared.
            rows.append(
                (name, (*itertools.chain(*by_measure), Cell("-" if support is None else f"{support:,}")))
            )
        several = len(scores) > 1
        groups = tuple(measures[key] for key in keys) if several else ()
        heads = (
            tuple(s.name for _ in keys for s in scores) if several else tuple(measures[key] for key in keys)
        )
        tables.append(ScoreTable(groups, (*heads, "labelled pixels"), tuple(rows)))
    return tables


def comparable(scores: Sequence[ModelScores]) -> bool:
    """Were all models scored on the same pixels (classes and support)? If not, none is marked as best."""
    # Class by class: equal totals may be of other pixels.
    supports = {
        frozenset((entry["name"], entry.get("support")) for entry in s.metrics.get("classes", ()))
        for s in scores
    }
    return len(supports) <= 1


def score_notes(scores: Sequence[ModelScores]) -> list[str]:
    """Notes on what limits a comparison of the scores."""
    notes = []
    if not comparable(scores):
        notes.append(
            "These models were not scored on the same pixels: their numbers cannot be compared. Support is "
            "the first model's."
        )
    for s in scores:
        if s.note:
            notes.append(f"{s.name}: {s.note}")
        # Scores from elsewhere may come without counts.
        missing = sum((s.metrics.get("confusion") or {}).get("unpredicted", []))
        if missing:
            notes.append(f"{s.name}: {missing:,} labelled pixels have no prediction; they count as wrong.")
    absent = [
        name
        for name in class_names({str(i): s.metrics for i, s in enumerate(scores)})
        if _absent(scores, name)
    ]
    if absent:
        notes.append(f"Not among the labelled pixels: {', '.join(absent)}.")
    return notes


def _absent(scores: Sequence[ModelScores], name: str) -> bool:
    return not any(of_class(s.metrics, name).get("support") for s in scores)


def _cells(values: Sequence[float | None], mark: bool) -> tuple[Cell, ...]:
    """Values in per cent; `mark` marks the best as printed (after rounding), ties included."""
    texts = [percent(value) for value in values]
    known = [float(text) for text in texts if text != "-"]
    # Where all are alike none is best.
    differ = mark and len(set(known)) > 1
    return tuple(Cell(text, differ and text != "-" and float(text) == max(known)) for text in texts)
