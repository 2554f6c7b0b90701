"""Estimate accuracies and areas of a map from an interpreted sample: `assess`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.assessment.agreement import Agreement, agreement
from labelscape.assessment.answers import Answers, design_of, read_answers
from labelscape.assessment.census import content_hash, count, open_map, pixel_areas
from labelscape.assessment.page import write_page
from labelscape.assessment.points import Design
from labelscape.assessment.result import Assessment
from labelscape.assessment.training_labels import check_not_training, label_notes, labels_of
from labelscape.assessment.words import rough
from labelscape.errors import BadInput, BadOption, check_seed
from labelscape.evaluation.accuracy import AreaEstimates, Blocks, estimate
from labelscape.files import check_new, check_not_read, check_path, check_written, new_files, written_whole
from labelscape.grid import Window
from labelscape.progress import told_where_lost
from labelscape.rasters.made_by import MadeBy, made_by
from labelscape.scenes.vectors import write_layer, writing

MANY_UNANSWERED = 0.05
"""Share of unanswered points from which a note says that they may bias the estimates (ours)."""


SAME_EXTENT = 0.001
"""Relative difference of two maps' areas up to which they cover the same (ours)."""


def assess(
    raster: str | Path,
    points: str | Path,
    *,
    second: str | Path | None = None,
    design: str | Path | None = None,
    column: str = "reference",
    other_map: bool = False,
    independent: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    tick: Callable[[int], None] | None = None,
) -> Assessment:
    """Estimate the accuracy of a class map and the areas of its classes from a sample of `sample`.

    points     the GeoPackage with the answers in `column`: class values or names, empty for no answer
    second     the second interpreter's file: their agreement is reported, the first's answers are used
    design     the GeoPackage that `sample` wrote, where `points` is an export in another format
    other_map  the map is another one on the same grid than the sample was drawn for; its strata stay
    independent  somebody interpreted the points on training labels without seeing the labels
    bootstrap  replicates of a bootstrap beside the formulas, such as 2000; 0 for none
    out        also write `<out>.json`, `<out>.gpkg` (points, both classes, weights), a report `<out>.html`
    tick       called with the number of the map's rows read

    Points without an answer are left out, as if they had not been drawn in their stratum. Raises BadInput
    where the points are no probability sample (none was drawn, or points or probabilities were changed), the
    map was changed after sampling, points lie outside it or on nodata, an answer is no class, a stratum has
    fewer than two answers, or the labels that the map's model was trained with are the answers; BadFile.
    """
    for path, what in ((raster, "The class map"), (points, "The file of points")):
        check_path(path, what)
    _check_drawing(bootstrap, seed)
    # Answers among them, days of somebody's work.
    targets = _targets(out, overwrite, reads=(raster, points, second, design))
    made = made_by(raster)
    if os.path.exists(points):
        # Before the design is looked for: label files have none, and that message would hide the mistake.
        check_not_training(points, labels_of(made))
    drawn = design_of(points, design)
    mapped, area = _at_points(raster, drawn, other_map, tick)
    counted = _counted(raster, drawn, other_map, tick)
    answers = read_answers(points, drawn, drawn.legend, column)
    # Before the second interpreter's: of two files without answers the first one is named.
    notes = (*_notes(drawn, answers, made, independent), *_elsewhere(drawn, counted))
    other = None if second is None else _second(second, drawn, points, column)
    found = _estimated(drawn, mapped, answers, area, counted, bootstrap, seed)
    # Reported, not part of the intervals: these hold the error of sampling, not that of interpreters.
    between = None if other is None else agreement(answers.classes, other.classes, len(drawn.legend))
    if between is not None:
        notes += _alike(between, points, second)
    notes += rough(found)
    unanswered, told = int((~answers.answered).sum()), _told(drawn, other_map)
    result = Assessment(found, len(drawn), unanswered, *told, between, notes, targets)
    if targets:
        with new_files(targets.values()), told_where_lost(lambda: (json.dumps(result.to_dict()),)):
            _write(result, drawn, mapped, answers, other, overwrite)
            write_page(targets["html"], result, raster, drawn, mapped, answers, overwrite=overwrite)
    return result


def _check_drawing(bootstrap: int, seed: int) -> None:
    if bootstrap < 0:
        raise BadOption(f"`bootstrap={bootstrap}` must be a number of replicates of at least 0.")
    check_seed(seed)


def _estimator(design: Design, other_map: bool) -> str:
    """Whose equations `estimate` comes to with this design: one function computes all of them."""
    if design.block is not None:
        # Blocks are the units of the first stage, pixels those of the second (Cochran sec. 11.10).
        return "two-stage cluster estimator (Cochran 1977)"
    # Olofsson's equations suppose that the strata are the classes of the map that is assessed; Stehman's
    # indicator functions allow any strata.
    own = design.facts["strata"]["by"] == "map classes" and not other_map
    return "Olofsson et al. (2014)" if own else "Stehman (2014)"


def _told(design: Design, other_map: bool) -> tuple[dict[str, Any], str]:
    """The design and the estimator as the result tells them: another map's classes are not the strata."""
    facts, strata = design.facts, design.facts["strata"]
    if other_map and strata["by"] == "map classes":
        facts = {**facts, "strata": {**strata, "by": f"classes of {facts['map']}"}}
    return facts, _estimator(design, other_map)


def _targets(out: str | Path | None, overwrite: bool, reads: tuple[object, ...]) -> dict[str, Path]:
    """The files to write, by suffix. Raises BadFile, before any work, where one exists or has no valid
    name, BadOption where one is among the files that are read.
    """
    if out is None:
        return {}
    stem = Path(out)
    if stem.suffix.lower() in (".json", ".gpkg", ".html"):
        stem = stem.with_suffix("")
    targets = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("json", "gpkg", "html")}
    for path in targets.values():
        check_written(path)
        check_not_read(path, reads)
        check_new(path, overwrite=overwrite)
    return targets


def _at_points(
    raster: str | Path, design: Design, other_map: bool, tick: Callable[[int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The map's class index and the ground area (N,) at each point. Raises BadInput where the map is not the
    one that was sampled.
    """
    with open_map(raster) as one:
        if not one.grid.matches(design.grid):
            raise BadInput(
                f"{raster} ({one.grid.width} x {one.grid.height} pixels) has another grid than the map that "
                f"was sampled, {design.facts['map']} ({design.grid.width} x {design.grid.height}): points "
                "lie outside it or in other pixels. Give that map, or another on its grid."
            )
        if one.legend.names != design.legend.names or one.legend.values != design.legend.values:
            raise BadInput(
                f"{raster} has the classes {', '.join(one.legend.names)}; the sample was drawn for "
                f"{', '.join(design.legend.names)}. Give a map with these classes."
            )
        # Pixel by pixel: points are few, and the map may be larger than memory.
        windows = [Window(int(r), int(c), 1, 1) for r, c in zip(design.rows, design.columns)]
        mapped = np.array([one.classes(one.values(w))[0, 0] for w in windows], np.int64)
        area = np.array([pixel_areas(one.grid, w)[0, 0] for w in windows])
    # After what costs nothing: the hash reads all pixels.
    if not other_map and content_hash(raster, tick=tick) != design.facts["map_sha256"]:
        raise BadInput(
            f"{raster} is not the map that was sampled: its pixels have changed (SHA-256), so the "
            "strata that points were drawn from are no longer its classes. Give the map as it was; to assess "
            "another map on the same grid with this sample, pass `other_map=True`."
        )
    # The sample stands for the sampled map's extent; what another map leaves out would count as nothing.
    outside = np.flatnonzero(mapped < 0) + 1
    if outside.size:
        raise BadInput(
            f"{outside.size} points lie where {raster} has no data (point {outside[0]} first): the sample "
            "stands for more than this map covers. Assess a map that covers all of it."
        )
    return mapped, area


def _counted(
    raster: str | Path, design: Design, other_map: bool, tick: Callable[[int], None] | None
) -> np.ndarray:
    """(K,) mapped area of each class of the map that is assessed; of the sampled one its design knows it."""
    if not other_map:
        return np.array(design.facts["mapped_area"])
    with open_map(raster) as one:
        return count(one, tick=tick).area.sum(axis=0)


def _elsewhere(design: Design, mapped_area: np.ndarray) -> tuple[str, ...]:
    """A note where another map covers more or less than the sampled one: its mapped areas and the estimates
    are then of two regions.
    """
    ours, sampled = mapped_area.sum(), sum(design.facts["mapped_area"])
    if abs(ours - sampled) <= SAME_EXTENT * sampled:
        return ()
    return (
        f"This map covers {100 * ours / sampled:.1f} % of the area that the sampled map covers: accuracies "
        "and estimated areas are of the sampled map's extent, mapped areas of this map's.",
    )


def _second(path: str | Path, design: Design, first: str | Path, column: str) -> Answers:
    """The second interpreter's answers. Raises BadInput where they are of another sample, or none at all."""
    if os.path.realpath(path) == os.path.realpath(first):
        raise BadInput(
            f"{path} is the first interpreter's own file, which agrees with itself. Pass the file that the "
            "second one answered; `labelscape sample --second` writes one."
        )
    theirs = design_of(path, None)
    # Two interpreters of two samples would agree on points that were never the same pixels.
    if theirs.to_json() != design.to_json():
        raise BadInput(f"{path} and {first} are different samples; two interpreters answer the same points.")
    found = read_answers(path, design, design.legend, column)
    if not found.answered.any():
        raise BadInput(f"No point of {path} has an answer; the second interpreter chooses a class for each.")
    return found


def _alike(between: Agreement, first: str | Path, second: str | Path) -> tuple[str, ...]:
    """What to say of two interpreters who answered no point, or all points alike."""
    if not between.points:
        raise BadInput(f"{first} and {second} have no answered point in common, so nothing can be compared.")
    if between.agreement < 1:
        return ()
    return (
        f"Both interpreters gave the same answer at all {between.points} points: if {second} is a copy of "
        f"{first}, this says nothing.",
    )


def _notes(design: Design, answers: Answers, made: MadeBy, independent: bool) -> tuple[str, ...]:
    notes, missing = [], int((~answers.answered).sum())
    if missing == len(design):
        raise BadInput(
            f"No point of {answers.path} has an answer; open it in QGIS and choose a class for each point."
        )
    if missing:
        text = f"{missing} of {len(design)} points have no answer and are left out, as if never drawn"
        if missing > MANY_UNANSWERED * len(design):
            text += ": if they are of other classes than the rest of their stratum, estimates are biased"
        notes.append(f"{text}.")
    classes = design.legend.classes
    # Who types the codes that classes are called by answers other classes, without a word.
    if any(map(design.legend.code_of_another, design.legend.values)):
        called = ", ".join(f"{one.value} is the class {one.name}" for one in classes)
        notes.append(f"Answers that are numbers are class values, as the form stores them: {called}.")
    return (*notes, *label_notes(design, answers, made, independent))


def _estimated(
    design: Design,
    mapped: np.ndarray,
    answers: Answers,
    area: np.ndarray,
    mapped_area: np.ndarray,
    bootstrap: int,
    seed: int,
) -> AreaEstimates:
    # n_h counts answers, N_h all pixels: unbiased only if answers are missing at random within strata.
    strata, kept = design.facts["strata"], answers.answered
    blocks = None
    if design.block is not None:
        blocks = Blocks(design.block[kept], design.block_area[kept], design.block_pixels[kept])
    return estimate(
        design.stratum[kept],
        mapped[kept],
        answers.classes[kept],
        stratum_area=np.array(strata["area"]),
        stratum_units=np.array(strata["units"]),
        names=design.legend.names,
        strata_names=strata["names"],
        # Pixels of unequal area make each share a ratio of two sums (Cochran sec. 6.10).
        pixel_area=area[kept],
        blocks=blocks,
        mapped_area=mapped_area,
        bootstrap=bootstrap,
        seed=seed,
    )


def _write(
    result: Assessment,
    design: Design,
    mapped: np.ndarray,
    answers: Answers,
    other: Answers | None,
    overwrite: bool,
) -> None:
    with written_whole(result.paths["json"], overwrite=overwrite) as part:
        part.write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
    names = np.array(design.legend.names, object)
    columns: dict[str, np.ndarray] = {
        "point": np.arange(1, len(design) + 1, dtype=np.int32),
        "map_class": names[mapped],
        "reference": _named(names, answers),
        "agrees": np.ma.array((mapped == answers.classes).astype(np.int32), mask=~answers.answered),
        "stratum": np.array(design.facts["strata"]["names"], object)[design.stratum],
        "probability": design.probability.astype(float),
    }
    if other is not None:
        columns["second"] = _named(names, other)
    crs = design.grid.crs.to_wkt() if design.grid.crs else None
    with written_whole(result.paths["gpkg"], overwrite=overwrite) as part, writing(part) as plain:
        place = shapely.to_wkb(shapely.points(design.centres))
        write_layer(plain, place, columns, layer="assessed_points", geometry="Point", crs=crs)


def _named(names: np.ndarray, answers: Answers) -> np.ndarray:
    """Names of the classes that were answered, masked where there is none."""
    # -1, no answer, would be the last name: masked below.
    return np.ma.array(names[np.maximum(answers.classes, 0)], mask=~answers.answered)
