"""One class map out of many: overlapping neighbours, several UTM zones, onto their own pixels or a grid that
the user names.

Where several maps have a class for a pixel, the decision is one of

    proba       the class of the highest mean of their probabilities (`_proba.tif`); of equal means the class
                that comes first in the legend. A pixel with one answer keeps it, and is the class "unknown"
                where all answers are
    confidence  the class of the map that is most confident there (`_confidence.tif`); of equal ones the first
    first, last the map that was given first or last, as in `rio merge`

Maps of another CRS or pixel size are sampled at the centres of the mosaic's pixels (nearest neighbour). Maps
of several CRSs become one file a CRS, unless a grid is named; each place is then in one of the files, so that
areas and polygons of all of them count no ground twice: in that of the UTM zone whose central meridian is
nearest, of those that have a map there; in that of the CRS that came first where one is no UTM zone. All maps
of a place decide there, also those of the neighbouring zone.

Work goes block by block: memory grows neither with the mosaic nor with the number of maps in a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labelscape.areas.mosaic_blocks import MosaicBlocks
from labelscape.areas.mosaic_grids import MapSource, named_grid, read_sources, zone_grids
from labelscape.errors import BadInput, BadOption, UnknownName
from labelscape.files import check_new, check_not_read, check_path, check_written, locked
from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.creation import CreationOptions, Given
from labelscape.rasters.overviews import count_areas
from labelscape.rasters.write import MapWriter
from labelscape.scenes.scene_list import find_scenes
from labelscape.version import __version__

METHODS = {
    "proba": "the class of the highest mean probability",
    "confidence": "the class of the most confident map",
    "first": "the class of the map given first",
    "last": "the class of the map given last",
}
Progress = Callable[[str, int, str], AbstractContextManager[Callable[..., None]]]
"""`progress.bar`, or another function that shows title, total and unit."""


@dataclass(frozen=True)
class MosaicClass:
    """Area of a class in a mosaic; `hectares` on the WGS 84 ellipsoid, None where that is not known."""

    name: str
    pixels: int
    hectares: float | None


@dataclass(frozen=True)
class MosaicFile:
    """One file of a mosaic. `overlapped`: pixels that several maps answered; `disputed`: those of them in
    which the maps' classes differ.
    """

    path: Path
    crs: str
    size: tuple[int, int]
    maps: int
    areas: tuple[MosaicClass, ...]
    nodata_pixels: int
    overlapped: int
    disputed: int


@dataclass(frozen=True)
class MosaicSummary:
    """What `mosaic` made: its files, one a CRS, the number of maps, how pixels of several were decided
    (`method`), and the areas over all files.
    """

    files: tuple[MosaicFile, ...]
    maps: int
    method: str
    areas: tuple[MosaicClass, ...]
    notes: tuple[str, ...] = ()
    report: Path | None = None

    def __repr__(self) -> str:
        count = f"{len(self.files)} file{'s' * (len(self.files) != 1)}"
        return f"<MosaicSummary: {self.maps:,} maps in {count}, {METHODS[self.method]}>"


def mosaic(
    maps: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    method: str | None = None,
    like: str | Path | None = None,
    crs: str | None = None,
    pixel_size: float | None = None,
    by_name: bool = False,
    overwrite: bool = False,
    creation_options: Given = None,
    progress: Progress | None = None,
) -> MosaicSummary:
    """Join class maps into one, `out`: a GeoTIFF (COG) with colours, names, overviews and areas.

    The arguments are those of `maps.mosaic.mosaic`, which adds a report.

    Maps of several CRSs make several files, out_32633.tif and so on, unless a grid is named. Raises BadInput
    where classes or pixel sizes differ, BadOption, BadFile.
    """
    check_path(out, "The mosaic")
    how = CreationOptions.of(creation_options)
    if Path(out).suffix.lower() not in (".tif", ".tiff"):
        raise BadOption(f"{out}: a mosaic is a GeoTIFF (.tif, .tiff).")
    if method is not None and method not in METHODS:
        raise UnknownName("way to decide a pixel of several maps (`method`)", method, METHODS)
    listed = find_scenes(_class_maps(maps))
    paths = [str(one.source) for one in listed if isinstance(one.source, str)]
    sources, legend = read_sources(paths, by_name=by_name)
    method = _chosen_method(sources, method)
    if like is None and crs is None and pixel_size is None:
        grids = zone_grids(sources)
    else:
        grids = [named_grid(sources, like, crs, pixel_size)]
    targets = _targets(Path(out), grids)
    for path in targets:
        check_written(path)
        check_not_read(path, [*(source.path for source in sources), like])
        check_new(path, overwrite=overwrite)
    # One lock for the files of all zones: two mosaics of one name would mix theirs.
    with locked(Path(out)):
        for path in targets:  # once more: another one may have been finished meanwhile
            check_new(path, overwrite=overwrite)
        files, notes = [], list(listed.notes)
        for zone, (path, grid) in enumerate(zip(targets, grids)):
            blocks = MosaicBlocks(sources, legend, method, grid, zone if len(grids) > 1 else None)
            made = _written(blocks, path, progress or _unseen, how, overwrite=overwrite)
            files += [made] if made else []
            if made is None:  # that of an earlier mosaic would be taken for a part of this one
                path.unlink(missing_ok=True)
                Path(f"{path}.aux.xml").unlink(missing_ok=True)
            notes += [] if made else [f"{path.name} is not written: other maps have all its places"]
    if not files:
        raise BadInput("No map has a class on the grid of the mosaic: is it elsewhere, or all nodata?")
    return MosaicSummary(tuple(files), len(sources), method, _together(files, legend), tuple(notes))


def _class_maps(given: str | Path | Sequence[str | Path]) -> list[str]:
    """Folders as the class maps in them. Raises BadInput where a folder has none."""
    found = []
    for one in [given] if isinstance(given, (str, Path)) else given:
        check_path(one, "A class map")
        if not Path(one).is_dir():
            found.append(str(one))
            continue
        # By the name: confidences, probabilities and sieved maps lie in the same folder.
        inside = sorted(str(path) for path in Path(one).glob("*_class.tif"))
        if not inside:
            raise BadInput(f"The folder {one} holds no class maps (*_class.tif).")
        found += inside
    return found


def _chosen_method(sources: Sequence[MapSource], method: str | None) -> str:
    """Raises BadInput where a map lacks what the method needs."""
    if method in ("first", "last"):
        return method
    for kind in [method] if method else ["proba", "confidence"]:
        lacks = next((source for source in sources if kind not in source.has), None)
        if lacks is None:
            return kind
    cure = "map with `proba=True`, or decide" if kind == "proba" else "decide"
    raise BadInput(
        f"{lacks.path} has no {Path(lacks.beside(kind)).name} beside it, which `method={kind}` needs: {cure} "
        "by `method=first` or `method=last`."
    )


def _targets(out: Path, grids: Sequence[Grid]) -> list[Path]:
    if len(grids) == 1:
        return [out]
    codes = [grid.crs.to_epsg() for grid in grids]
    return [
        out.with_name(f"{out.stem}_{code or f'crs{number}'}{out.suffix}")
        for number, code in enumerate(codes, start=1)
    ]


def _together(files: Sequence[MosaicFile], legend: Legend) -> tuple[MosaicClass, ...]:
    """The areas of all files. Pixels of several CRSs are of different sizes, hectares are not."""
    found = []
    for number, one in enumerate(legend.classes):
        each = [file.areas[number] for file in files]
        known = all(area.hectares is not None for area in each)
        hectares = math.fsum(area.hectares for area in each) if known else None
        found.append(MosaicClass(one.name, sum(area.pixels for area in each), hectares))
    return tuple(found)


def _unseen(title: str, total: int, unit: str) -> AbstractContextManager[Callable[..., None]]:
    return nullcontext(lambda done=1: None)


def _written(
    blocks: MosaicBlocks, path: Path, progress: Progress, how: CreationOptions, *, overwrite: bool
) -> MosaicFile | None:
    """Write one file, counting its areas; None where all its places belong to others."""
    grid, legend = blocks.grid, blocks.legend
    pixels, metres = np.zeros(256, np.int64), np.zeros(256)
    todo = blocks.touched()
    tags = {
        "labelscape_version": __version__,
        "labelscape_mosaic": f"{len(blocks.placed)} maps; where several answer, {METHODS[blocks.method]}",
    }
    said = {"overwrite": overwrite, "creation_options": how}
    with blocks, ExitStack() as opened, progress(f"mosaic {path.name}", len(todo), "blocks") as tick:
        # Opened by the first block with a class: a zone whose places all belong to others leaves no file.
        writer = None
        for block in todo:
            values = blocks.classes(block)
            if (values != IGNORE).any():
                writer = writer or opened.enter_context(
                    MapWriter(path, grid, 1, IGNORE, legend=legend, tags=tags, **said)
                )
                counts, areas = count_areas(values, grid, block)
                pixels, metres = pixels + counts, metres + areas
                writer.write(block, values)
            tick()
        # Inside the writer, which then leaves no file.
        for one in blocks.placed:
            one.source.check_same()
    if writer is None:
        return None
    known = grid.is_on_earth
    areas = tuple(
        MosaicClass(c.name, int(pixels[c.value]), float(metres[c.value]) / 10_000 if known else None)
        for c in legend.classes
    )
    nodata = grid.window.pixels - int(sum(area.pixels for area in areas))
    size, overlap = (grid.width, grid.height), (blocks.overlapped, blocks.disputed)
    return MosaicFile(path, grid.crs.to_string(), size, len(blocks.placed), areas, nodata, *overlap)
