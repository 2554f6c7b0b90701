"""The report of an accuracy assessment: areas and accuracies with their intervals, the sentence for a paper,
where points agree, and how they were drawn, on one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from labelscape.assessment.answers import Answers
from labelscape.assessment.points import Design
from labelscape.assessment.result import Assessment
from labelscape.assessment.words import overall, unit_of
from labelscape.evaluation.report import Report, write_report
from labelscape.evaluation.sections import Picture, Section, Table
from labelscape.grid import decimated
from labelscape.rasters.class_map import class_raster
from labelscape.scenes.files import reading
from labelscape.version import __version__

SIDE = 1000
"""Pixels a side of the map's picture, at most."""
AGREES, DIFFERS, OPEN = (40, 150, 60), (200, 30, 30), (120, 120, 120)
"""Colours of points: map and reference agree, they differ, no answer."""


def write_page(
    path: Path,
    done: Assessment,
    raster: str | Path,
    design: Design,
    mapped: np.ndarray,
    answers: Answers,
    *,
    overwrite: bool = False,
) -> Path:
    """Write the report of an assessment. Raises BadFile where it exists or cannot be written."""
    report = Report(
        title=f"Accuracy assessment of {Path(raster).name}",
        subtitle=f"{done.estimates.points:,} points, {done.estimator}, labelscape {__version__}",
        lead=f"Overall accuracy {overall(done.estimates)} %, with its 95 % confidence interval.",
        notes=done.notes,
        sections=(
            *_sections(done),
            Section("Map and points", pictures=(_picture(raster, design, mapped, answers),)),
            _strata(done),
        ),
        provenance=_facts(done),
    )
    return write_report(path, report, overwrite=overwrite)


def _sections(done: Assessment) -> Iterator[Section]:
    head, *rows = done.table()
    yield Section(
        "Areas and accuracies",
        ("Areas of the classes on the ground, corrected for the map's errors. In brackets: 95 % intervals.",),
        tables=(Table(head, tuple(rows)),),
    )
    yield Section("For a paper", (done.sentence,))
    yield _matrices(done)
    if done.estimates.bootstrap is not None:
        yield _bootstrap(done)
    if done.agreement is not None:
        between = done.agreement
        text = (
            f"Two interpreters agree on {100 * between.agreement:.1f} % of {between.points:,} points, kappa "
            f"{between.kappa:.3f}. Their disagreement is in no interval.",
        )
        yield Section("Agreement of interpreters", text)


def _matrices(done: Assessment) -> Section:
    found = done.estimates
    heads = ("map class", *found.names)
    counts = tuple((name, *map(str, row)) for name, row in zip(found.names, found.counts.tolist()))
    shares = tuple(
        (name, *(f"{share:.4f}" for share in row))
        for name, row in zip(found.names, found.proportions.tolist())
    )
    return Section(
        "Error matrices",
        ("Rows are classes of the map, columns those of the reference.",),
        tables=(Table(heads, counts, "Points"), Table(heads, shares, "Estimated share of the mapped area")),
    )


def _bootstrap(done: Assessment) -> Section:
    found, unit = done.estimates, unit_of(done.design)
    rows = tuple(
        (
            name,
            f"{low / unit.square_metres:,.{unit.digits}f}",
            f"{high / unit.square_metres:,.{unit.digits}f}",
        )
        for name, (low, high) in zip(found.names, found.bootstrap["area"])
    )
    low, high = 100 * found.bootstrap["oa"][0]
    text = (
        f"Percentile intervals beside those of the formulas. Overall accuracy: {low:.1f} to {high:.1f} %.",
    )
    heads = ("class", f"area from, {unit.name}", "to")
    return Section("Bootstrap", text, tables=(Table(heads, rows),))


def _strata(done: Assessment) -> Section:
    strata = done.design["strata"]
    total = sum(strata["area"])
    rows = tuple(
        (name, f"{pixels:,}", f"{100 * area / total:.2f}")
        for name, pixels, area in zip(strata["names"], strata["pixels"], strata["area"])
    )
    text = (f"Strata: {strata['by']}. Allocation: {done.design['allocation']}. Seed {done.design['seed']}.",)
    return Section("Design", text, tables=(Table(("stratum", "pixels", "share of area, %"), rows),))


def _facts(done: Assessment) -> dict[str, object]:
    return {
        "Map": done.design["map"],
        "Map's pixels (SHA-256)": done.design["map_sha256"],
        "Sampled with": done.design["software"],
        "Points drawn": done.drawn,
        "Points without an answer": done.unanswered,
        "Estimator": done.estimator,
    }


def _picture(raster: str | Path, design: Design, mapped: np.ndarray, answers: Answers) -> Picture:
    """The map with its points, coloured by whether they agree."""
    legend = design.legend
    with reading(raster) as file:
        whole = class_raster(file, raster)
        shape = decimated(whole.grid.shape, SIDE)
        picture = legend.paint(legend.indices(whole.read(whole.grid.window, shape)))
    shrink = max(1.0, max(whole.grid.shape) / SIDE)
    # Lighter, so that points stand out.
    picture = (255 - (255 - picture) * 0.6).astype(np.uint8)
    colours = np.where(answers.answered, np.where(mapped == answers.classes, 0, 1), 2)
    height, width = picture.shape[:2]
    size = max(1, min(height, width) // 200)
    # Those that differ last, on top of the others.
    order = np.argsort(np.array([0, 2, 1])[colours], kind="stable")
    for row, column, kind in zip(design.rows[order] / shrink, design.columns[order] / shrink, colours[order]):
        top, left = int(row), int(column)
        # In a white frame: a class may have the colour of a point.
        for reach, colour in ((size + 1, (255, 255, 255)), (size, (AGREES, DIFFERS, OPEN)[kind])):
            inside = np.s_[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1]
            picture[inside] = colour
    named = (("map and reference agree", AGREES), ("they differ", DIFFERS), ("no answer", OPEN))
    right, wrong, left_open = (int((colours == kind).sum()) for kind in range(3))
    said = f"{right:,} points agree, {wrong:,} differ" + (
        f", {left_open:,} without answer" if left_open else ""
    )
    classes = tuple(
        (c.name, tuple((255 - (255 - np.array(c.color)) * 0.6).astype(int))) for c in legend.classes
    )
    return Picture(
        "Map and points", picture, said, f"The class map with its points: {said}", (*named, *classes)
    )
