"""Draw a stratified random sample of a map's pixels and write it for blind interpretation: `sample`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from labelscape.areas.sieve import check_minimum
from labelscape.areas.sieve import sieve as merge_small_areas
from labelscape.assessment.census import (
    Census,
    ClassMap,
    Strata,
    confidence_beside,
    count,
    open_map,
    strata_of_confidence,
    strata_of_raster,
)
from labelscape.assessment.draw import Drawn, draw_blocks, draw_pixels, strata_of_blocks
from labelscape.assessment.points import Design, write_sample
from labelscape.assessment.size import (
    ALLOCATIONS,
    allocate,
    deviations,
    expected_accuracies,
    predicted_error,
    smallest_size,
)
from labelscape.errors import BadOption, check_names, check_seed
from labelscape.files import (
    check_new,
    check_not_read,
    check_path,
    check_written,
    new_files,
    private_folder,
    temporary_folder,
)
from labelscape.version import __version__

EXPECTED = 0.8
"""User's accuracy that is expected where nothing is said (ours)."""
TARGET = 0.02
"""Standard error of the overall accuracy that is aimed at by default (ours): +- 4 points."""
FLOOR = 50
"""Points that every stratum gets at least; Olofsson et al. (2014) advise 50 to 100 for rare classes."""
MOST = 100_000
"""Points of a sample at most (ours): somebody has to judge each, and all of them are in memory."""
ALIKE = 0.1
"""Correlation of errors within a block that is expected (ours), for the number of points."""


@dataclass(frozen=True, eq=False)
class SampleSummary:
    """A sample that was drawn: the files, and by stratum its name, pixels, points and weight (share of the
    area).

    points           in all; `blocks` that hold them, None without blocks
    predicted_se     standard error that the design should reach, of the overall accuracy or of the share of
                     `target_class`, if accuracies are as expected
    notes            what may surprise
    """

    paths: tuple[Path, ...]
    strata: tuple[tuple[str, int, int, float], ...]
    points: int
    blocks: int | None
    predicted_se: float
    target_class: str | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        blocks = f" in {self.blocks:,} blocks" if self.blocks else ""
        return f"<SampleSummary: {self.points:,} points{blocks}, {len(self.strata)} strata, {self.paths[0]}>"

    def to_dict(self) -> dict:
        """JSON values."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        strata = [dict(zip(("name", "pixels", "points", "weight"), row)) for row in self.strata]
        return {**named, "paths": [str(p) for p in self.paths], "strata": strata, "notes": list(self.notes)}


def sample(
    raster: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    target_se: float | None = None,
    target_class: str | None = None,
    expect: float | Mapping[str, float] = EXPECTED,
    allocation: str = "proportional",
    floor: int = FLOOR,
    strata: str | Path | None = None,
    sieve: float = 0.0,
    confidence_bands: Sequence[float] = (),
    block: int | None = None,
    per_block: int = 10,
    seed: int = 0,
    second: bool = False,
    overwrite: bool = False,
    strip_rows: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> SampleSummary:
    """Draw a stratified random sample of the pixels of a class map, and write it to `out`, a GeoPackage.

    size              number of points; without it, as many as `target_se` needs
    target_se         standard error to reach: of the overall accuracy, or of the share of the map that is
                      `target_class` on the ground; 0.02 by default
    expect            user's accuracy that is expected, for all classes or by class (or stratum)
    allocation        proportional (to area), equal, or neyman (to area x expected standard deviation)
    floor             points of every stratum at least, so that rare classes have an interval
    strata            by default the map's classes; or a class raster on the same grid
    sieve             strata are the classes of the map sieved to this minimum mapping unit (hectares)
    confidence_bands  strata are bands of `<name>_confidence.tif`, the map's own or `strata`: (60, 85) makes
                      three
    block             draw squares of this many pixels a side first, then `per_block` points in each: cheaper
                      to visit, less precise
    seed              the same seed draws the same pixels
    second            write a second interpreter's copy, in another order: `<out>_second.gpkg`
    tick              called with the number of rows done

    Every pixel of a stratum is equally likely to be drawn. Pixels of unequal ground area (degrees, Mercator)
    are weighted in `assess`. The layers show points, pixels and a form with the classes, in random order,
    not what the map says there. Raises BadOption for options that cannot work, BadInput for a raster that is
    not a class map or strata that do not cover it, BadFile.
    """
    check_path(raster, "The class map")
    check_path(out, "The sample's file")
    paths = (Path(out), Path(out).with_name(f"{Path(out).stem}_second.gpkg"))[: 1 + second]
    asked = _Asked(size, target_se, target_class, expect, allocation, floor, block, per_block, seed)
    for path in paths:
        check_not_read(path, [raster, strata])
    _check(paths, asked, overwrite)
    with _strata(raster, Path(out), strata, sieve, confidence_bands, tick) as given:
        with open_map(raster, given) as one:
            plan, design = _drawn(one, asked, strip_rows, tick)
    with new_files(paths):
        _write(paths, design, seed, overwrite)
    return _summary(paths, plan, design, asked)


@dataclass(frozen=True)
class _Asked:
    """The settings of `sample` that decide which pixels of the strata are drawn."""

    size: int | None
    target_se: float | None
    target_class: str | None
    expect: float | Mapping[str, float]
    allocation: str
    floor: int
    block: int | None
    per_block: int
    seed: int


def _check(paths: Sequence[Path], asked: _Asked, overwrite: bool) -> None:
    """Raises BadOption or BadFile, before the map is read."""
    for path in paths:
        check_written(path)
        if path.suffix.lower() != ".gpkg":
            raise BadOption(f"{path}: a sample is a GeoPackage (.gpkg), which holds points, pixels and form.")
        check_new(path, overwrite=overwrite, why=", perhaps with answers in it")
    check_seed(asked.seed)
    target_se = asked.target_se
    if asked.size is not None and target_se is not None:
        raise BadOption("Give either `size` or `target_se`: the one follows from the other.")
    if target_se is not None and not 0 < target_se < 0.5:
        raise BadOption(f"`target_se={target_se!r}` must be above 0 and below 0.5, such as 0.02.")
    check_names("allocation", [asked.allocation], ALLOCATIONS)
    for name in ("size", "floor", "block", "per_block"):
        value = getattr(asked, name)
        if value is not None and value < 2:
            raise BadOption(f"`{name}={value}` must be at least 2: one point has no variance.")
        # Before the map is counted: numbers beyond 64 bits would end its arithmetic.
        if value is not None and name != "block" and value >= 2**31:
            raise BadOption(f"`{name}={value}` must be at most {MOST:,}: somebody has to judge each point.")


@contextmanager
def _strata(
    raster: str | Path,
    out: Path,
    strata: str | Path | None,
    sieve: float,
    bands: Sequence[float],
    tick: Callable[[int], None] | None,
) -> Iterator[Strata | None]:
    """What divides the map; a sieved copy exists for the time of a block only. None for the map's classes."""
    if sieve and (strata is not None or bands):
        raise BadOption("Strata are given by `sieve`, or by `strata` and `confidence_bands`, not by both.")
    if sieve:
        check_minimum(sieve)
        # The sieved copy is as large as the map: beside the result there is room for it.
        with private_folder(out.parent) if out.parent.is_dir() else temporary_folder() as folder:
            copy = Path(folder) / "sieved.tif"
            merge_small_areas(raster, copy, min_area=sieve, tick=tick)
            yield strata_of_raster(copy, f"classes of the map sieved to {sieve:g}")
    elif len(bands):
        yield strata_of_confidence(strata or confidence_beside(raster, "strata"), bands)
    else:
        yield None if strata is None else strata_of_raster(strata)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Points (or blocks) of each stratum, and what they follow from: the stratum's pixels, blocks or pixels
    to draw from (`units`), share of the area, ground area.
    """

    points: np.ndarray
    pixels: np.ndarray
    units: np.ndarray
    weights: np.ndarray
    area: np.ndarray
    error: float

    @classmethod
    def of(cls, census: Census, spread: np.ndarray, asked: _Asked) -> _Plan:
        size, kind, floor = asked.size, asked.allocation, asked.floor
        target = TARGET if asked.target_se is None else asked.target_se
        per_block = None if asked.block is None else asked.per_block
        pixels, area = census.pixels.sum(axis=1), census.area.sum(axis=1)
        # What is drawn, pixels or blocks: the finite population correction counts these.
        units = pixels
        # Points of a block resemble each other: they count for fewer.
        effect = 1.0
        if per_block:
            numbers, of, area = strata_of_blocks(census)
            units = np.bincount(of, minlength=len(pixels))
            pixels = np.bincount(
                of, weights=census.blocks[numbers].sum(axis=1), minlength=len(pixels)
            ).astype(int)
            # Kish's design effect, 1 + (m - 1) rho, for each point of a block.
            effect = (1 + (per_block - 1) * ALIKE) / per_block
            # Two blocks at least: one has no variance.
            floor = max(2, -(-floor // per_block))
            # From here on sizes are numbers of blocks.
            size = None if size is None else max(1, round(size / per_block))
        # Rounded: shares must not depend, in the last digit, on how the map was read.
        weights = np.round(area / area.sum(), 12)
        if size is None:
            # The error of a block's mean is sqrt(effect) times that of one point, so that fewer units do.
            size = smallest_size(target / np.sqrt(effect), kind, weights, spread, units, floor)
        points = allocate(size, kind, weights, spread, units, floor)
        if per_block is None:
            error = predicted_error(points, weights, spread, units)
        else:
            # Between blocks and within them: where all blocks are drawn, their pixels still vary.
            between = predicted_error(points, weights, spread * np.sqrt(ALIKE), units)
            within = predicted_error(points * per_block, weights, spread * np.sqrt(1 - ALIKE), pixels)
            error = np.hypot(between, within)
        return cls(points, pixels, units, weights, area, float(error))


def _drawn(
    one: ClassMap, asked: _Asked, strip_rows: int | None, tick: Callable[[int], None] | None
) -> tuple[_Plan, Design]:
    """Count the map, plan the sample and draw it."""
    names, strata = one.legend.names, one.strata.names
    if asked.block is not None and asked.block >= max(one.grid.shape):
        raise BadOption(
            f"`block={asked.block}` is as large as the map ({one.grid.width} x {one.grid.height} pixels): "
            "there is one block, and no variance between blocks. Take a smaller one, or leave `block` out."
        )
    if asked.target_class is not None:
        check_names("class", [asked.target_class], names)
    # Before the map is counted, which may take minutes: another name in `expect` is refused at once.
    expected = expected_accuracies(asked.expect, EXPECTED, names, strata)
    census = count(one, block=asked.block, strip_rows=strip_rows, tick=tick)
    spread = deviations(census.area, expected, names, strata, asked.target_class)
    plan = _Plan.of(census, spread, asked)
    number = int(plan.points.sum()) * (1 if asked.block is None else asked.per_block)
    if number > MOST:
        raise BadOption(
            f"{number:,} points would be drawn, and somebody has to judge each; a sample has {MOST:,} at "
            "most. Ask for fewer (`size`), or for a larger standard error (`target_se`)."
        )
    if asked.block is None:
        drawn = draw_pixels(one, census, plan.points, asked.seed, strip_rows=strip_rows, tick=tick)
    else:
        drawn = draw_blocks(one, census, plan.points, asked.block, asked.per_block, asked.seed)
    return plan, _design(one, census, plan, drawn, asked)


def _design(one: ClassMap, census: Census, plan: _Plan, drawn: Drawn, asked: _Asked) -> Design:
    """The design, its points in random order: neighbours in the file would be of one stratum."""
    # An interpreter who can guess the map's class tends to agree with it: accuracies would be too high.
    order = np.random.default_rng([asked.seed, 0]).permutation(len(drawn.rows))

    def shuffled(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[order]

    facts = {
        "software": f"labelscape {__version__}",
        "map": Path(one.path).name,
        # Strata hold for these pixels alone: `assess` refuses the map once they have changed.
        "map_sha256": census.sha256,
        "unit": "square metres" if one.grid.is_on_earth else "pixels",
        "legend": json.loads(one.legend.to_json()),
        # Pixel counting, which is biased by the map's errors: printed beside the estimates, not used in them.
        "mapped_area": census.area.sum(axis=0).tolist(),
        "mapped_pixels": census.pixels.sum(axis=0).tolist(),
        "strata": {
            "by": one.strata.by,
            "names": list(one.strata.names),
            "area": plan.area.tolist(),
            "pixels": plan.pixels.tolist(),
            "units": plan.units.tolist(),
        },
        "allocation": asked.allocation,
        "seed": asked.seed,
        "block": None if asked.block is None else {"side": asked.block, "per_block": asked.per_block},
    }
    return Design(
        facts,
        one.grid,
        *(shuffled(v) for v in (drawn.rows, drawn.columns, drawn.stratum, drawn.probability)),
        *(shuffled(v) for v in (drawn.block, drawn.block_area, drawn.block_pixels)),
    )


def _write(paths: Sequence[Path], design: Design, seed: int, overwrite: bool) -> None:
    """Write the sample, and its copy for a second interpreter where there are two paths."""
    for copy, path in enumerate(paths):
        # Another order for the second: what a point suggests for the next is not the same for both.
        order = np.random.default_rng([seed, 1, copy]).permutation(len(design))
        write_sample(path, design, order if copy else np.arange(len(design)), overwrite=overwrite)


def _summary(paths: tuple[Path, ...], plan: _Plan, design: Design, asked: _Asked) -> SampleSummary:
    names, notes = design.facts["strata"]["names"], []
    if asked.size is not None and len(design) > asked.size:
        notes.append(
            f"{len(design):,} points instead of {asked.size:,}: every stratum gets {asked.floor} at least "
            "(`floor`)."
        )
    if asked.size is not None and len(design) < asked.size:
        why = (
            "the map has no more pixels"
            if asked.block is None
            else "whole blocks are drawn, as many as there are"
        )
        notes.append(f"{len(design):,} points instead of {asked.size:,}: {why}.")
    rows = zip(names, plan.pixels, np.bincount(design.stratum, minlength=len(names)), plan.weights)
    return SampleSummary(
        paths,
        tuple((name, int(n), int(k), float(w)) for name, n, k, w in rows),
        len(design),
        # With blocks, a plan's points are blocks.
        None if asked.block is None else int(plan.points.sum()),
        plan.error,
        asked.target_class,
        tuple(notes),
    )
