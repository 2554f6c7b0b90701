"""Sieve or polygonize many class maps (`sieve_maps`, `polygonize_maps`), in this process or on workers: one
map at a time, each as `sieve` and `polygonize` do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from labelscape.areas.finished import Finished
from labelscape.areas.polygon_files import check_target, is_database
from labelscape.areas.polygonize import PolygonSummary, check_numbers, polygonize
from labelscape.areas.sieve import SievedClass, SieveSummary, check_minimum, sieve
from labelscape.errors import BadFile, BadOption
from labelscape.files import check_folder, check_path, make_folder
from labelscape.legend import Legend
from labelscape.progress import bar, print_line
from labelscape.rasters import creation
from labelscape.scenes.files import is_raster, reading
from labelscape.scenes.scene_list import SceneList, find_scenes
from labelscape.version import build
from labelscape.workers.calls import Call
from labelscape.workers.probe import Needs
from labelscape.workers.seen import Seen
from labelscape.workers.sent import for_workers
from labelscape.workers.share import TIME_LIMIT, Hands, cause_of, on_workers, said_where_stopped

if TYPE_CHECKING:
    from distributed import Client

Summary = TypeVar("Summary", SieveSummary, PolygonSummary)
Given = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class RasterRecord(Generic[Summary]):
    """What became of one of many class maps.

    raster   as it was given
    out      the file made of it
    state    done, failed, or skipped: finished by an earlier run with the same settings
    seconds  from opening it to the last byte; 0 where it was skipped
    pixels   of the raster; 0 where it failed
    cause    why it failed, as a sentence; "" otherwise
    summary  as `sieve` or `polygonize` returns it; None where it failed
    """

    raster: str
    out: str
    state: Literal["done", "skipped", "failed"]
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
    creation_options: creation.Given = None,
    workers: int | None = None,
    cluster: str | Client | None = None,
    block_timeout: float | None = TIME_LIMIT,
) -> tuple[RasterRecord[SieveSummary], ...]:
    """Sieve many class maps into the folder `out`, each to a file of its own name, as `sieve` does. One that
    fails is reported in its record, and the others are sieved. Started again with the same settings, it
    makes only what is missing or has changed.

    rasters  files, folders of class maps (`_class.tif`; without any, all rasters in it), globs, lists as
             `find_scenes` takes them
    workers  processes of this machine that share the maps, one each; by default none
    creation_options  GDAL's, such as {"COMPRESS": "LZW"}
    cluster  instead: the address or scheduler file of a Dask cluster, or a `distributed.Client` of one
    block_timeout
             seconds without progress after which a worker is ended, and its work given to another one

    Raises BadFile where a raster does not exist, BadOption for a minimum that is not above 0, BadInput where
    a worker cannot do the job, ClusterLost where the scheduler is gone.
    """
    check_minimum(min_area)
    settings: dict[str, Any] = {"min_area": min_area}
    # Left out where there are none: what earlier versions have finished is not made again.
    if options := creation.as_texts(creation_options):
        settings["creation_options"] = options
    many = _Many("sieve", ".tif", legend, settings, overwrite, SieveSummary)
    act = partial(sieve, **settings)
    return _each(many, act, class_maps(rasters), out, Hands(workers, cluster, block_timeout))


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
    # With any name: a format without its driver is refused before the first map, not by each of them.
    check_target(Path("map").with_suffix(suffix))
    settings = {"sieve": sieve, "min_area": min_area, "simplify": simplify}
    many = _Many("polygonize", suffix, legend, settings, overwrite, PolygonSummary)
    act = partial(polygonize, **settings)
    return _each(many, act, class_maps(rasters), out, Hands(workers, cluster, block_timeout))


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


@dataclass(frozen=True)
class _Many:
    """What is done with each of many class maps, and how its result is told."""

    verb: str
    suffix: str
    legend: Legend | None
    settings: dict[str, Any]
    overwrite: bool
    summary: type


def _each(
    many: _Many, act: Callable[..., Any], maps: SceneList, out: str | Path, hands: Hands
) -> tuple[RasterRecord, ...]:
    """A record for each map, in their order."""
    check_folder(out, "The folder of the results (out)")
    if is_database(out):
        raise BadOption("Several class maps are written to a folder, a file each; found a database.")
    for note in maps.notes:
        print_line(f"note: {note}")
    make_folder(Path(out))
    settings = {**many.settings, "legend": many.legend and many.legend.to_json(), "version": build()}
    finished = Finished(Path(out), many.verb, settings)
    records: dict[int, RasterRecord] = {}
    missing: list[_Task] = []
    for number, one in enumerate(maps):
        task = _Task(number, one.source, str(Path(out) / f"{one.name}{many.suffix}"))
        # By settings and content, not by the file being there: one of another minimum would be taken for
        # done.
        facts = None if many.overwrite else finished.facts(_text(task.source), task.out)
        if facts is None:
            missing.append(task)
        else:
            summary = _summary(many.summary, facts["summary"])
            pixels = facts["pixels"]
            records[number] = RasterRecord(_text(task.source), task.out, "skipped", 0.0, pixels, "", summary)
    made = partial(_made, partial(act, overwrite=many.overwrite), many.legend)
    run = _here if hands.alone else partial(_on_workers, hands=hands, out=Path(out))
    for number, record in run(made, many.verb, missing) if missing else ():
        records[number] = record
        if record.state == "done":
            facts = {"pixels": record.pixels, "summary": asdict(record.summary)}
            finished.add(record.raster, record.out, facts)
    return tuple(records[number] for number in range(len(maps)))


def _summary(kind: type, values: dict[str, Any]) -> Any:
    if kind is SieveSummary:
        values = {**values, "classes": tuple(SievedClass(**one) for one in values["classes"])}
    return kind(**values)


class _Task(NamedTuple):
    number: int
    source: str | Path | tuple[str, ...]
    out: str


def _here(
    made: Callable[[str, str], RasterRecord], verb: str, tasks: Sequence[_Task]
) -> Iterator[tuple[int, RasterRecord]]:
    ended = 0
    with said_where_stopped(
        lambda: f"{ended} of {len(tasks)} rasters are finished; repeat the command for the others"
    ):
        for task in tasks:
            print_line(f"{verb} {ended + 1} of {len(tasks)}: {_text(task.source)}")
            yield task.number, made(_text(task.source), task.out)
            ended += 1


def _on_workers(
    made: Callable[[str, str], RasterRecord], verb: str, tasks: Sequence[_Task], *, hands: Hands, out: Path
) -> Iterator[tuple[int, RasterRecord]]:
    # Absolute paths: workers have another working folder.
    rasters = [_text(for_workers(one.source)) for one in tasks]
    calls = (
        Call(n, verb, made, (raster, str(Path(one.out).absolute())), False, Seen.here(raster))
        for n, (raster, one) in enumerate(zip(rasters, tasks))
    )
    needs = Needs(out.absolute(), seen=Seen.here(rasters[0]))
    shown = {"verb": verb, "unit": "rasters", "pixels": _pixels, "kept": True}
    ended = on_workers(hands, needs, calls, len(tasks), **shown)
    for call, found in ended:
        task = tasks[call.number]
        given = _text(task.source)
        if isinstance(found, RasterRecord):
            # As they were given.
            yield task.number, RasterRecord(**{**vars(found), "raster": given, "out": task.out})
        else:
            yield task.number, RasterRecord(given, task.out, "failed", cause=cause_of(found))


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
