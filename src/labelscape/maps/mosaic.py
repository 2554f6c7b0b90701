"""Join the maps of many scenes (`mosaic`), with a report."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio

from labelscape.areas import mosaic as joined
from labelscape.areas.mosaic import METHODS, MosaicFile, MosaicSummary, Progress
from labelscape.evaluation.report import AreaRow, FileRow, Picture, Report, write_report
from labelscape.evaluation.units import area_unit
from labelscape.files import check_new, check_path
from labelscape.grid import decimated
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.creation import Given
from labelscape.scenes.files import gdal
from labelscape.version import __version__

SIDE = 1000
"""Pixels a side of the report's pictures, at most."""


def mosaic(
    maps: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    method: str | None = None,
    like: str | Path | None = None,
    crs: str | None = None,
    pixel_size: float | None = None,
    by_name: bool = False,
    report: bool = True,
    overwrite: bool = False,
    creation_options: Given = None,
    progress: Progress | None = None,
) -> MosaicSummary:
    """Join class maps into one, `out`: a GeoTIFF (COG) with colours, names, overviews; beside it a report.

    maps        class rasters (`_class.tif`), folders of them, globs, lists as `find_scenes` takes them
    method      how a pixel is decided that several maps answer: proba (the class of the highest mean
                probability), confidence (the most confident map), first or last; by default proba where
                every map has its `_proba.tif` beside it, else confidence
    like        a raster whose grid the mosaic gets
    crs, pixel_size
                the grid of the mosaic, in units of the CRS, over all maps
    by_name     classes of one name are one class, whatever their values
    report      write `<out>_report.html`
    creation_options
                GDAL's, such as {"COMPRESS": "LZW"}; see `rasters.creation`
    progress    shows a progress bar: called with a title, the number of blocks and "blocks"

    Maps of several CRSs make several files, out_32633.tif and so on, unless a grid is named; each place is
    then in one of them, so that areas count no ground twice. Memory is that of blocks. Raises BadInput where
    classes or pixel sizes differ, BadOption, BadFile.
    """
    check_path(out, "The mosaic")
    page = Path(out).with_name(f"{Path(out).stem}_report.html")
    check_new(page, overwrite=overwrite or not report)
    grid = {"like": like, "crs": crs, "pixel_size": pixel_size}
    how = {"overwrite": overwrite, "creation_options": creation_options, "progress": progress}
    done = joined.mosaic(maps, out, method=method, **grid, by_name=by_name, **how)
    if not report:
        return done
    done = replace(done, report=page)
    write_report(page, _page(done), overwrite=overwrite)
    return done


def _page(done: MosaicSummary) -> Report:
    legend = legend_of(done.files[0].path)[0]
    colors = {c.name: c.color for c in legend.classes}
    chips = tuple((c.name, c.color) for c in legend.classes)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    pictures = [
        Picture(
            f.path.stem,
            legend.paint(legend.indices(_small(f.path))),
            f"{f.size[0]:,} x {f.size[1]:,} pixels, {f.crs}; white is nodata",
            f"Mosaic of {f.maps} class maps",
            legend=chips if number == 0 else (),
        )
        for number, f in enumerate(done.files)
    ]
    return Report(
        title=f"Mosaic of {done.maps:,} maps",
        subtitle=f"{when[:10]}, labelscape {__version__}",
        lead=_lead(done),
        notes=done.notes,
        pictures=tuple(pictures),
        areas=tuple(AreaRow(a.name, colors[a.name], a.pixels, a.hectares) for a in done.areas),
        nodata_pixels=sum(file.nodata_pixels for file in done.files),
        files=tuple(
            FileRow(f.path.name, f"Class map in {f.crs} (COG)", f.path.stat().st_size) for f in done.files
        ),
        provenance={
            "Decided by": f"{done.method}: {METHODS[done.method]}",
            **{f"Overlap in {f.path.name}": _overlap(f) for f in done.files},
        },
    )


def _lead(done: MosaicSummary) -> str:
    pixels = sum(area.pixels for area in done.areas)
    hectares = sum(area.hectares or 0 for area in done.areas)
    unit = area_unit([(pixels, hectares)])
    size = f"{unit.text(hectares)} {unit.name}" if hectares else f"{pixels:,} pixels"
    text = f"{size} mapped, every place counted once. Where several maps answer: {METHODS[done.method]}."
    if len(done.files) > 1:
        text += f" The maps have {len(done.files)} CRSs: a file for each, each place in one of them only."
    return text


def _overlap(file: MosaicFile) -> str:
    share = 100 * file.disputed / max(1, file.overlapped)
    return f"{file.overlapped:,} pixels of several maps; their classes differ in {share:.1f} %"


def _small(path: Path) -> np.ndarray:
    """The mosaic's values in the size of a picture, from its mode overviews."""
    with gdal(), rasterio.open(path) as file:
        return file.read(1, out_shape=decimated(file.shape, SIDE))
