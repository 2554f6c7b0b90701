"""The report of an evaluation: scores under each convention, borders, objects, lines, where it is wrong, and
how far confidences can be trusted, on one page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.figures import reliability_figure, steps_figure
from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.evaluation.objects import GROUPED, ObjectCounts
from labelscape.evaluation.paths import PathCounts
from labelscape.evaluation.places import Places, ranked, wrong_of
from labelscape.evaluation.printed import scene_rows
from labelscape.evaluation.reliability import Reliability
from labelscape.evaluation.report import ConfusionFigure, FileRow, Report, write_report
from labelscape.evaluation.score_tables import ModelScores
from labelscape.evaluation.sections import Figure, Section, Table
from labelscape.evaluation.text import percent
from labelscape.evaluation.topology import TopologyCounts
from labelscape.evaluation.where import where_section

MOST_FILES = 20
"""Files of one kind that are listed by name (ours): data sets of images have hundreds."""
MOST_SCENES = 30
"""Scenes that are listed with their scores (ours), for the same reason."""


def write_page(
    path: Path,
    found: Evaluation,
    *,
    title: str,
    subtitle: str = "",
    measured_on: str = "",
    places: Places | None = None,
    files: Mapping[Path, str] | None = None,
    facts: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write all that was counted as one HTML file; `places` gives the pictures, `facts` the settings shown
    last. Raises BadFile where it exists or cannot be written.
    """
    pooled = found.confusion
    report = Report(
        title=f"Evaluation of {title}",
        subtitle=subtitle,
        lead=worst_in_words(found),
        # Names of options are marked in messages of Python; a page has no such marks.
        notes=tuple(note.replace("`", "") for note in (*found.notes, found.failure) if note),
        measured_on=measured_on,
        scores=(ModelScores(title, found.metrics),),
        definitions=tuple(DEFINITIONS.values()),
        confusion=ConfusionFigure(found.names, pooled.counts, unpredicted=pooled.unpredicted),
        sections=tuple(_sections(found, places)),
        files=_files(files or {}),
        provenance=facts or {},
    )
    return write_report(path, report, overwrite=overwrite)


def _files(files: Mapping[Path, str]) -> tuple[FileRow, ...]:
    """The files with what they hold; more than MOST_FILES that hold the same are one row."""
    rows = []
    for holds in dict.fromkeys(files.values()):
        same = [path for path, what in files.items() if what == holds]
        sizes = [path.stat().st_size for path in same]
        if len(same) > MOST_FILES:
            name = f"{same[0].name} and {len(same) - 1:,} more"
            rows.append(FileRow(name, f"{holds}; {len(same):,} files", sum(sizes)))
        else:
            rows += [FileRow(path.name, holds, size) for path, size in zip(same, sizes)]
    return tuple(rows)


def worst_in_words(found: Evaluation) -> str | None:
    """A sentence on the blocks that hold half of all errors."""
    blocks, pooled = ranked(found), found.confusion
    errors = pooled.labelled - int(np.trace(pooled.counts))
    if not errors or not blocks:
        return None
    summed = np.cumsum([wrong_of(block) for block in blocks])
    number = int(np.searchsorted(summed, errors / 2)) + 1
    first, w = blocks[0].scene, blocks[0].window
    return (
        f"Half of the {errors:,} errors lie in {number} of {len(blocks)} blocks; most in that of {first} "
        f"from row {w.top}, column {w.left}."
    )


def _sections(found: Evaluation, places: Places | None) -> Iterator[Section]:
    if len(found.per_scene) > 1:
        yield _scenes(found)
    yield card_section(found)
    if found.per_ring:
        yield _borders(found)
    if found.objects:
        parts = tuple(_object_part(one) for one in found.objects)
        yield Section(
            "Objects",
            (f"A true and a predicted object match where their IoU is 0.5 or more; {GROUPED}.",),
            parts=parts,
        )
    if found.topology:
        yield _topology(found.topology)
    if found.paths:
        yield _paths(found.paths)
    if found.distances is not None:
        yield where_section(found, places)
    if found.reliability:
        yield reliability_section(found.reliability)


def _scenes(found: Evaluation) -> Section:
    head, *rows = scene_rows(found.per_scene)
    text = "Each scene or image scored alone, the worst first."
    if len(rows) > MOST_SCENES:
        text += f" {MOST_SCENES} of {len(rows):,} are shown; counts.json holds all."
    return Section("Scenes", (text,), tables=(Table(head, tuple(rows[:MOST_SCENES])),))


def card_section(found: Evaluation) -> Section:
    rows = tuple((line.name, percent(line.value), line.definition, line.used_by) for line in found.card)
    heads = ("metric", "%", "definition", "reported so by")
    text = (
        "The same pixels under each convention in use. Compare a score only with one of the same definition.",
    )
    return Section("The score under each convention", text, tables=(Table(heads, rows, texts=(2, 3)),))


def _borders(found: Evaluation) -> Section:
    bands = found.trimap
    names = tuple("all" if band["within"] is None else str(band["within"]) for band in bands)
    rows = tuple(
        (
            "all pixels" if band["within"] is None else f"at most {band['within']}",
            percent(band["overall_accuracy"]),
            percent(band["mean_iou"]),
            f"{band['labelled_pixels']:,}",
        )
        for band in bands
    )
    scores = [None if b["overall_accuracy"] is None else 100 * b["overall_accuracy"] for b in bands]
    figure = Figure(
        "Accuracy near borders",
        steps_figure(names, scores, "pixels from a border of the reference, at most", "overall accuracy, %"),
        alt="Overall accuracy within each distance of a border, as in the table",
    )
    heads = ("pixels from a border", "OA %", "mIoU %", "labelled pixels")
    text = (
        "Labels are least certain where one class meets another. Scores of the pixels within each distance "
        "of a border of the reference (trimap accuracy); the score on an eroded reference stands above.",
    )
    return Section("Near borders", text, figures=(figure,), tables=(Table(heads, rows),))


def _object_part(one: ObjectCounts) -> Section:
    facts = one.to_dict()
    rows = tuple(
        (
            "larger" if row["up_to_pixels"] is None else f"up to {row['up_to_pixels']:,}",
            *(f"{row[key]:,}" for key in ("truth", "found", "predicted", "right")),
        )
        for row in facts["by_size"]
    )
    said = {key: percent(facts[key]) for key in ("precision", "recall", "f1", "boundary_f1", "boundary_iou")}
    true, _, predicted = (f"{count:,}" for count in facts["borders"][:3])
    text = (
        f"Precision {said['precision']} %, recall {said['recall']} %, F1 {said['f1']} % of objects. Borders "
        f"within {one.tolerance} pixels: boundary F1 {said['boundary_f1']} %, boundary IoU "
        f"{said['boundary_iou']} % ({true} true and {predicted} predicted border pixels).",
    )
    heads = ("pixels", "true", "found", "predicted", "right")
    return Section(one.name, text, tables=(Table(heads, rows),))


def _topology(found: Sequence[TopologyCounts]) -> Section:
    rows = tuple(
        (one.name, *(percent(one.to_dict()[key]) for key in ("cldice", "precision", "sensitivity")))
        for one in found
    )
    heads = ("class", "clDice %", "topology precision %", "topology sensitivity %")
    text = (
        "Are lines connected? Precision is the share of the predicted skeleton inside the true lines, "
        "sensitivity that of the true skeleton inside the predicted ones; clDice is their harmonic mean.",
    )
    return Section("Lines", text, tables=(Table(heads, rows),))


def _paths(found: Sequence[PathCounts]) -> Section:
    rows = tuple(
        (one.name, *(percent(one.to_dict()[key]) for key in ("apls", "of_truth", "of_prediction")))
        for one in found
    )
    heads = ("class", "APLS %", "true paths %", "predicted paths %")
    text = (
        "Are routes as long as they should be? Shortest paths between places of the true lines are measured "
        "along the predicted ones, and the other way round; a missing path counts 0. APLS (Van Etten et al. "
        "2018) is the harmonic mean.",
    )
    return Section("Paths along lines", text, tables=(Table(heads, rows),))


def reliability_section(found: Sequence[Reliability]) -> Section:
    curves = [(one.called, one.curve) for one in found]
    errors = "; ".join(f"{one.called}: {percent(one.ece)} %" for one in found)
    text = [f"Expected calibration error over {len(found[0].pixels)} bins: {errors}."]
    if len(found) == 1:
        text.append(
            "This model was not calibrated; labelscape calibrate fits a temperature on held-out pixels."
            if found[0].temperature
            else "Several predictions were averaged: there is no single temperature to compare with."
        )
    figure = Figure(
        "Reliability diagram",
        reliability_figure(curves),
        "on the dashed line confidences mean what they say; below it the model is too sure",
        f"Share of right pixels by confidence. {errors}",
    )
    rows = tuple(
        (f"{low:.2f} to {high:.2f}", *(cell for one in found for cell in _bin(one.curve[k], one.pixels[k])))
        for k, (low, high) in enumerate(_edges(len(found[0].pixels)))
        if any(one.pixels[k] for one in found)
    )
    heads = ("confidence", *(f"{what}, {one.called}" for one in found for what in ("right %", "pixels")))
    return Section("Confidence", tuple(text), figures=(figure,), tables=(Table(heads, rows),))


def _bin(values: np.ndarray, pixels: int) -> tuple[str, str]:
    return ("-" if np.isnan(values[1]) else percent(float(values[1]))), f"{int(pixels):,}"


def _edges(bins: int) -> Iterator[tuple[float, float]]:
    for k in range(bins):
        yield k / bins, (k + 1) / bins
