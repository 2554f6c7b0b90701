"""Sieve or polygonize many class maps (`sieve_maps`, `polygonize_maps`), in this process or on workers: one
map at a time, each as `sieve` and `polygonize` do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from labelscape.areas.polygon_files import check_target, is_database
from labelscape.areas.polygonize import PolygonSummary, check_numbers, polygonize
from labelscape.areas.sieve import SieveSummary, check_minimum, sieve
from labelscape.errors import BadFile, BadOption
from labelscape.files import check_path, make_folder
from labelscape.legend import Legend
from labelscape.progress import bar, print_line
from labelscape.scenes.files import is_raster, reading
from labelscape.scenes.scene_list import SceneList, find_scenes
from labelscape.workers.cluster import Call
from labelscape.workers.probe import Needs
from labelscape.workers.sent import for_workers
from labelscape.workers.share import TIME_LIMIT, Hands, cause_of, on_workers

if TYPE_CHECKING:
    from distributed import Client

Summary = TypeVar("Summary", SieveSummary, PolygonSummary)
Given = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class RasterRecord(Generic[Summary]):
    """What became of one of many class maps.

    raster   as it was given
    out      the file made of it
    seconds  from opening it to the last byte
    pixels   of the raster; 0 where it failed
    cause    why it failed, as a sentence; "" otherwise
    summary  as `sieve` or `polygonize` returns it; None where it failed
    """

    raster: str
    out: str
    state: Literal["done", "failed"]
    seconds: float = 0.0
    pixels: int = 0
    cause: str = ""
    summary: Summary | None = None


def sieve_maps(
    rasters: Given,
    out: str | Path,
    legend: Legend | None = None,
    *,
    min_area: float,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | Client | None = None,
    block_timeout: float | None = TIME_LIMIT,
) -> tuple[RasterRecord[SieveSummary], ...]:
    """Sieve many class maps into the folder `out`, each to a file of its own name, as `sieve` does. One that
    fails is reported in its record, and the others are sieved.

    rasters  files, folders of class maps (`_class.tif`; without any, all rasters in it), globs, lists as
             `find_scenes` takes them
    workers  processes of this machine that share the maps, one each; by default none
    cluster  instead: the address or scheduler file of a Dask cluster, or a `distributed.Client` of one
    block_timeout
             seconds without progress after which a worker is ended, and its work given to another one

    Raises BadFile where a raster does not exist, BadOption for a minimum that is not above 0, BadInput where
    a worker cannot do the job, ClusterLost where the scheduler is gone.
    """
    check_minimum(min_area)
    act = partial(sieve, min_area=min_area, overwrite=overwrite)
    made = partial(_made, act, legend)
    return _each(made, "sieve", class_maps(rasters), out, ".tif", Hands(workers, cluster, block_timeout))


def polygonize_maps(
    rasters: Given,
    out: str | Path,
    legend: Legend | None = None,
    *,
    polygons_as: str = "gpkg",
    sieve: float = 0.0,
    min_area: float = 0.0,
    simplify: float = 0.0,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | Client | None = None,
    block_timeout: float | None = TIME_LIMIT,
) -> tuple[RasterRecord[PolygonSummary], ...]:
    """Polygonize many class maps into the folder `out`, each to a file of its own name, as `polygonize` does.
    One that fails is reported in its record, and the others are polygonized.

    polygons_as  gpkg, geojson, fgb or parquet

    Other parameters and errors are those of `sieve_maps` and `polygonize`.
    """
    check_numbers(min_area, simplify)
    if sieve:
        check_minimum(sieve)
    suffix = f".{polygons_as.removeprefix('.')}"
    check_target(Path("map").with_suffix(suffix))
    settings = {"sieve": sieve, "min_area": min_area, "simplify": simplify}
    made = partial(_made, partial(polygonize, **settings, overwrite=overwrite), legend)
    return _each(made, "polygonize", class_maps(rasters), out, suffix, Hands(workers, cluster, block_timeout))


def class_maps(given: Given) -> SceneList:
    """The class maps that are meant. Raises BadFile where one does not exist or a folder holds none."""
    found: list[str | Path] = []
    for one in [given] if isinstance(given, (str, Path)) else given:
        check_path(one, "A class map")
        if not Path(one).is_dir():
            found.append(one)
            continue
        # Beside the class maps of `map` lie confidences and probabilities, which are none.
        own = sorted(Path(one).glob("*_class.tif")) or sorted(p for p in Path(one).iterdir() if is_raster(p))
        if not own:
            raise BadFile(f"The folder {one} holds no rasters.")
        found += own
    if not found:
        raise BadOption("No class map is given.")
    return find_scenes(found)


def _each(
    made: Callable[[str, str], RasterRecord],
    verb: str,
    maps: SceneList,
    out: str | Path,
    suffix: str,
    hands: Hands,
) -> tuple[RasterRecord, ...]:
    """A record for each map, in their order."""
    check_path(out, "The folder of the results (out)")
    if is_database(out):
        raise BadOption("Several class maps are written to a folder, a file each; found a database.")
    for note in maps.notes:
        print_line(f"note: {note}")
    make_folder(Path(out))
    targets = [str(Path(out) / f"{one.name}{suffix}") for one in maps]
    run = _here if hands.alone else partial(_on_workers, hands=hands, out=Path(out))
    records: dict[int, RasterRecord] = {}
    for number, record in run(made, verb, maps, targets):
        records[number] = record
    return tuple(records[number] for number in range(len(maps)))


def _here(
    made: Callable[[str, str], RasterRecord], verb: str, maps: SceneList, targets: Sequence[str]
) -> Iterator[tuple[int, RasterRecord]]:
    for number, (one, target) in enumerate(zip(maps, targets)):
        print_line(f"{verb} {number + 1} of {len(maps)}: {_text(one.source)}")
        yield number, made(_text(one.source), target)


def _on_workers(
    made: Callable[[str, str], RasterRecord],
    verb: str,
    maps: SceneList,
    targets: Sequence[str],
    *,
    hands: Hands,
    out: Path,
) -> Iterator[tuple[int, RasterRecord]]:
    # Absolute paths: workers have another working folder.
    calls = (
        Call(n, verb, made, (_text(for_workers(one.source)), str(Path(target).absolute())), network=False)
        for n, (one, target) in enumerate(zip(maps, targets))
    )
    ended = on_workers(
        hands, Needs(out.absolute()), calls, len(maps), verb=verb, unit="rasters", pixels=_pixels
    )
    for call, found in ended:
        given, target = _text(maps[call.number].source), targets[call.number]
        if isinstance(found, RasterRecord):
            # As they were given.
            yield call.number, RasterRecord(**{**vars(found), "raster": given, "out": target})
        else:
            yield call.number, RasterRecord(given, target, "failed", cause=str(found))


def _pixels(record: RasterRecord) -> float | None:
    return record.pixels if record.state == "done" else None


def _made(act: Callable[..., Any], legend: Legend | None, raster: str, out: str) -> RasterRecord:
    """Make one file, here or on a worker. Whatever is wrong with the raster becomes its record."""
    start = time.monotonic()
    try:
        with reading(raster) as file:
            height, pixels = file.height, file.height * file.width
        with bar(Path(raster).name, height, "rows") as tick:
            summary = act(raster, out, legend, tick=tick)
    except Exception as error:
        return RasterRecord(raster, out, "failed", time.monotonic() - start, cause=cause_of(error))
    return RasterRecord(raster, out, "done", time.monotonic() - start, pixels, summary=summary)


def _text(source: str | Path | tuple[str, ...]) -> str:
    """A raster's path. Several files of one scene are no class map: opening this fails, and says so."""
    return ",".join(source) if isinstance(source, tuple) else str(source)
