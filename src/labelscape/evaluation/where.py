"""The part of an evaluation's report that shows where a model is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelscape.evaluation.blocks import BlockCounts
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.distances import DISTANCES, LAGS, DistanceCounts
from labelscape.evaluation.figures import steps_figure
from labelscape.evaluation.metrics import overall_accuracy
from labelscape.evaluation.places import Overview, Place, Places, error_legend
from labelscape.evaluation.sections import ColourBar, Figure, Picture, Section, Table, shades
from labelscape.evaluation.text import percent
from labelscape.legend import IGNORE, VIRIDIS, Legend

LINE = (255, 255, 255)
"""Colour of the outlines of blocks."""


def where_section(found: Evaluation, places: Places | None) -> Section:
    """Scores of blocks on a map, pictures of the worst of them, and errors by distance."""
    parts: list[Section] = []
    if places is not None and places.overviews:
        parts.append(_block_maps(found, places.overviews))
    if places is not None:
        parts += [_place(number, one, places.legend) for number, one in enumerate(places.worst, start=1)]
    parts.append(_by_distance(found.distances))
    return Section("Where it is wrong", parts=tuple(parts))


def _block_maps(found: Evaluation, overviews: Sequence[Overview]) -> Section:
    blocks = {one.scene: [b for b in found.per_block if b.scene == one.scene] for one in overviews}
    scores = [overall_accuracy(b.counts) for some in blocks.values() for b in some]
    # From the worst block's score, in steps of 5 %: most are near 100 %, and would all look alike.
    low = min(0.95, np.floor(20 * min(scores)) / 20)
    labels = tuple(f"{100 * share:.3g} %" for share in np.linspace(low, 1, len(VIRIDIS)))
    pictures = tuple(
        Picture(
            one.scene,
            block_map(one, blocks[one.scene], low),
            f"{len(blocks[one.scene])} blocks, {one.wrong:,} labelled pixels wrong",
            f"{one.scene} with its blocks coloured by overall accuracy; scores of all are in blocks.csv",
            bar=ColourBar(VIRIDIS, labels),
        )
        for one in overviews
    )
    text = ("Overall accuracy of each block with labels; dark is worst.",)
    return Section("Blocks", text, pictures)


def block_map(one: Overview, blocks: Sequence[BlockCounts], low: float) -> np.ndarray:
    """The scene in grey with its blocks coloured by their overall accuracy, from `low` to 1: uint8
    (h, w, 3).
    """
    grey = one.picture.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    # Lighter, so that the colours of blocks stand out.
    picture = (128 + grey / 2).astype(np.uint8)
    down, across = (drawn / real for drawn, real in zip(picture.shape[:2], one.shape))
    for block in blocks:
        w = block.window
        rows = slice(round(w.top * down), max(round(w.top * down) + 1, round(w.bottom * down)))
        columns = slice(round(w.left * across), max(round(w.left * across) + 1, round(w.right * across)))
        colour = shades(np.array((overall_accuracy(block.counts) - low) / (1 - low)))
        inside = picture[rows, columns]
        # Mixed in, not drawn over: the scene shows through, by which a place is found again.
        inside[:] = 0.3 * inside + 0.7 * colour
        if min(inside.shape[:2]) > 8:
            inside[0], inside[:, 0] = LINE, LINE
    return picture


def _place(number: int, one: Place, legend: Legend) -> Section:
    """One of the worst blocks: scene, reference, prediction and errors side by side."""
    labelled = one.truth != IGNORE
    wrong = labelled & (one.truth != one.predicted)
    seen = [k for k in range(len(legend)) if (one.truth == k).any() or (one.predicted[labelled] == k).any()]
    key = tuple((legend.names[k], legend.colors[k]) for k in seen)
    errors = error_legend(legend)
    shown = np.where(labelled, np.where(wrong, one.truth + 1, 0), IGNORE).astype(np.uint8)
    w = one.window
    where = f"{one.scene}, rows {w.top} to {w.bottom}, columns {w.left} to {w.right}"
    pictures = (
        Picture("Scene", one.picture, alt=f"The scene in {where}"),
        Picture("Reference", legend.paint(one.truth), alt=f"The labels in {where}", legend=key),
        Picture(
            "Prediction",
            legend.paint(np.where(labelled, one.predicted, IGNORE)),
            alt=f"Predicted classes in {where}",
        ),
        Picture(
            "Errors",
            errors.paint(shown),
            "the class that was missed, in its colour",
            f"Errors in {where}",
            (("right", errors.colors[0]),),
        ),
    )
    return Section(
        f"{number}. {where}",
        (f"{one.wrong:,} labelled pixels are wrong. {_mixed_up(one, legend)}",),
        pictures,
    )


def _mixed_up(one: Place, legend: Legend) -> str:
    """The most frequent error of a place, in words."""
    # Both classes as one number: a single pass counts all pairs.
    pairs = np.bincount(
        (one.truth.astype(int) * 256 + one.predicted)[(one.truth != IGNORE) & (one.truth != one.predicted)]
    )
    if not pairs.size:
        return ""
    truth, predicted = divmod(int(pairs.argmax()), 256)
    called = "not predicted" if predicted == IGNORE else f"called {legend.names[predicted]}"
    return f"Most often {legend.names[truth]} is {called}."


def _by_distance(distances: DistanceCounts) -> Section:
    groups = distances.by_distance()
    figures, tables, text = [_variogram(distances)], [], []
    if groups:
        names = [f"≤ {g['within']}" if g["within"] else f"> {DISTANCES[-1]}" for g in groups]
        wrong = [None if g["overall_accuracy"] is None else 100 - 100 * g["overall_accuracy"] for g in groups]
        figures.insert(
            0,
            Figure(
                "Errors by distance to training labels",
                steps_figure(names, wrong, "pixels to the nearest training label", "wrong, %"),
                alt="Share of wrong pixels by distance to the nearest training label, as in the table",
            ),
        )
        rows = tuple(
            (name, percent(g["overall_accuracy"]), percent(g["mean_iou"]), f"{g['labelled_pixels']:,}")
            for name, g in zip(names, groups)
        )
        tables.append(Table(("pixels to a training label", "OA %", "mIoU %", "labelled pixels"), rows))
    else:
        text.append("No scored scene was split into blocks, so distances to training labels are unknown.")
    text.append(_alike(distances))
    if distances.warning:
        text.append(distances.warning.replace("`", ""))
    return Section("Errors by distance", tuple(text), figures=tuple(figures), tables=tuple(tables))


def _alike(distances: DistanceCounts) -> str:
    """The correlation length of errors in words."""
    length = distances.correlation_length
    if length == 0:
        return "There is no error."
    if length is None:
        return (
            "Errors are still alike at the longest distance of two labelled pixels here, "
            f"{distances.longest} pixels: how far they are alike is unknown."
        )
    return (
        f"Errors are alike over up to {length} pixels: from there two pixels are no more often wrong "
        "together than any two."
    )


def _variogram(distances: DistanceCounts) -> Figure:
    pairs, length = distances.pairs, distances.correlation_length
    values = [d / p / 2 if p else None for d, p in zip(distances.differing.tolist(), pairs.tolist())]
    mark = LAGS.index(length) if length in LAGS else None
    return Figure(
        "How far errors are alike",
        steps_figure([str(lag) for lag in LAGS], values, "distance of two pixels", "semivariance", mark),
        "indicator variogram of errors; dashed: where it reaches its plateau",
        "Semivariance of errors by distance of two pixels",
    )
