"""Draw a stratified random sample of a map's pixels and write it for blind interpretation: `sample`."""

from __future__ import annotations

import json
import tempfile
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
from labelscape.errors import BadFile, BadOption, check_names
from labelscape.files import check_path, check_written, private_folder
from labelscape.version import __version__

EXPECTED = 0.8
"""User's accuracy that is expected where nothing is said (ours)."""
TARGET = 0.02
"""Standard error of the overall accuracy that is aimed at by default (ours): +- 4 points."""
FLOOR = 50
"""Points that every stratum gets at least; Olofsson et al. (2014) advise 50 to 100 for rare classes."""
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
    _check(paths, size, target_se, allocation, floor, block, per_block, overwrite)
    notes: list[str] = []
    with _strata(raster, Path(out), strata, sieve, confidence_bands, tick) as given:
        with open_map(raster, given) as one:
            names = one.legend.names
            if target_class is not None:
                check_names("class", [target_class], names)
            expected = expected_accuracies(expect, EXPECTED, names, one.strata.names)
            census = count(one, block=block, strip_rows=strip_rows, tick=tick)
            spread = deviations(census.area, expected, names, one.strata.names, target_class)
            target = TARGET if target_se is None else target_se
            plan = _Plan.of(census, spread, size, target, allocation, floor, block and per_block)
            if block is None:
                drawn = draw_pixels(one, census, plan.points, seed, strip_rows=strip_rows, tick=tick)
            else:
                drawn = draw_blocks(one, census, plan.points, block, per_block, seed)
            design = _design(one, census, plan, drawn, block, per_block, seed, allocation)
    if size is not None and len(design) > size:
        notes.append(
            f"{len(design):,} points instead of {size:,}: every stratum gets {floor} at least (`floor`)."
        )
    for copy, path in enumerate(paths):
        # Another order for the second: what a point suggests for the next is not the same for both.
        order = np.random.default_rng([seed, 1, copy]).permutation(len(design))
        write_sample(path, design, order if copy else np.arange(len(design)), overwrite=overwrite)
    rows = zip(
        one.strata.names, plan.pixels, np.bincount(drawn.stratum, minlength=len(plan.pixels)), plan.weights
    )
    return SampleSummary(
        paths,
        tuple((name, int(n), int(k), float(w)) for name, n, k, w in rows),
        len(design),
        None if block is None else int(plan.points.sum()),
        plan.error,
        target_class,
        tuple(notes),
    )


def _check(
    paths: Sequence[Path],
    size: int | None,
    target_se: float | None,
    allocation: str,
    floor: int,
    block: int | None,
    per_block: int,
    overwrite: bool,
) -> None:
    """Raises BadOption or BadFile, before the map is read."""
    for path in paths:
        check_written(path)
        if path.suffix.lower() != ".gpkg":
            raise BadOption(f"{path}: a sample is a GeoPackage (.gpkg), which holds points, pixels and form.")
        if path.exists() and not overwrite:
            raise BadFile(f"{path} exists, perhaps with answers in it; pass `overwrite=True` to replace it.")
    if size is not None and target_se is not None:
        raise BadOption("Give either `size` or `target_se`: the one follows from the other.")
    if target_se is not None and not 0 < target_se < 0.5:
        raise BadOption(f"`target_se={target_se!r}` must be above 0 and below 0.5, such as 0.02.")
    check_names("allocation", [allocation], ALLOCATIONS)
    for name, value, least in (
        ("size", size, 2), ("floor", floor, 2), ("block", block, 2), ("per_block", per_block, 2),
    ):  # fmt: skip
        if value is not None and value < least:
            raise BadOption(f"`{name}={value}` must be at least {least}: one point has no variance.")


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
        with private_folder(out.parent if out.parent.is_dir() else tempfile.gettempdir()) as folder:
            copy = Path(folder) / "sieved.tif"
            merge_small_areas(raster, copy, min_area=sieve, tick=tick)
            yield strata_of_raster(copy, f"classes of the map sieved to {sieve:g}")
    elif len(bands):
        yield strata_of_confidence(strata or _confidence_of(Path(raster)), bands)
    else:
        yield None if strata is None else strata_of_raster(strata)


def _confidence_of(raster: Path) -> Path:
    """The confidence beside a map. Raises BadFile where it is not there."""
    path = raster.with_name(f"{raster.stem.removesuffix('_class')}_confidence.tif")
    if not path.exists():
        raise BadFile(f"{path} does not exist; name the raster of the map's confidence with `strata`.")
    return path


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
    def of(
        cls,
        census: Census,
        spread: np.ndarray,
        size: int | None,
        target: float,
        kind: str,
        floor: int,
        per_block: int | None,
    ) -> _Plan:
        pixels, area = census.pixels.sum(axis=1), census.area.sum(axis=1)
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
            size = None if size is None else max(1, round(size / per_block))
        # Rounded: shares must not depend, in the last digit, on how the map was read.
        weights = np.round(area / area.sum(), 12)
        if size is None:
            size = smallest_size(target / np.sqrt(effect), kind, weights, spread, units, floor)
        points = allocate(size, kind, weights, spread, units, floor)
        error = predicted_error(points, weights, spread, units) * np.sqrt(effect)
        return cls(points, pixels, units, weights, area, float(error))


def _design(
    one: ClassMap,
    census: Census,
    plan: _Plan,
    drawn: Drawn,
    block: int | None,
    per_block: int,
    seed: int,
    allocation: str,
) -> Design:
    """The design, its points in random order: neighbours in the file would be of one stratum."""
    order = np.random.default_rng([seed, 0]).permutation(len(drawn.rows))

    def shuffled(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[order]

    facts = {
        "software": f"labelscape {__version__}",
        "map": Path(one.path).name,
        "map_sha256": census.sha256,
        "unit": "square metres" if one.grid.is_on_earth else "pixels",
        "legend": json.loads(one.legend.to_json()),
        "mapped_area": census.area.sum(axis=0).tolist(),
        "mapped_pixels": census.pixels.sum(axis=0).tolist(),
        "strata": {
            "by": one.strata.by,
            "names": list(one.strata.names),
            "area": plan.area.tolist(),
            "pixels": plan.pixels.tolist(),
            "units": plan.units.tolist(),
        },
        "allocation": allocation,
        "seed": seed,
        "block": None if block is None else {"side": block, "per_block": per_block},
    }
    return Design(
        facts,
        one.grid,
        *(shuffled(v) for v in (drawn.rows, drawn.columns, drawn.stratum, drawn.probability)),
        *(shuffled(v) for v in (drawn.block, drawn.block_area, drawn.block_pixels)),
    )
