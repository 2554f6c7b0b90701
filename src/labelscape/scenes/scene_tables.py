"""Lists of scenes in files: text, CSV, GeoParquet and GDAL's tile indexes, entry by entry."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labelscape.errors import BadFile, BadInput, joined
from labelscape.scenes.files import reason
from labelscape.scenes.stac_many import PARQUET, Listed, items_in
from labelscape.scenes.vectors import columns_of, layers_of, need_pyarrow, read_table

TEXTS = {".txt", ".lst", ".list"}
TABLES = {".csv", ".tsv", *PARQUET}
INDEXES = {".gpkg", ".shp", ".fgb", ".geojson", ".json"}
COLUMNS = ("href", "location", "path", "file", "filename", "filepath", "image", "scene", "url", "uri")
"""Names of the column of paths, the first that a table has: `location` is gdaltindex's, `href` STAC's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The files of a listed scene, as written; `where` for messages; `anywhere`: may they be relative to the
    current folder too?
    """

    paths: tuple[str, ...]
    where: str
    anywhere: bool = False


@dataclass(frozen=True, slots=True)
class TileIndex:
    """The layer of a vector file, and its column of paths."""

    layer: str
    column: str


PLACES = [{"x", "y"}, {"lon", "lat"}, {"longitude", "latitude"}, {"lng", "lat"}, {"easting", "northing"}]
"""Columns of tables of points."""


def entries_of(file: str, index: TileIndex | None = None) -> Iterator[Entry | Listed]:
    """The entries of a list in its order; of a vector file those of its `index`. Raises BadFile where it
    cannot be read, BadInput where it has no column of paths.
    """
    suffix = Path(file).suffix.lower()
    if suffix in TEXTS:
        return _lines(file)
    if suffix in PARQUET:
        return _parquet(file)
    return _table(file) if index is None else _features(file, index)


def tile_index(file: str) -> TileIndex | None:
    """The first layer of a vector file that has a column of paths; None for another file. A GeoPackage may
    also be a raster, and GDAL opens a `.gti.gpkg` as one mosaic.
    """
    path = Path(file)
    if path.suffix.lower() not in INDEXES or path.stem.lower().endswith(".gti"):
        return None
    try:
        for layer in layers_of(file):
            if column := _column(columns_of(file, layer.name)):
                return TileIndex(layer.name, column)
    except BadFile:
        pass
    return None


def _column(names: object) -> str | None:
    """The name of the column of paths."""
    lower = {str(name).lower(): str(name) for name in reversed(list(names))}
    return next((lower[name] for name in COLUMNS if name in lower), None)


def _without_column(file: str, names: object) -> BadInput:
    names = list(map(str, names))
    lower, cure = {name.lower() for name in names}, ""
    if shapes := [name for name in names if name.lower() in ("wkt", "geometry", "geom", "the_geom")]:
        # GDAL looks for WKT alone, and knows no CRS of a text.
        known = f"-oo GEOM_POSSIBLE_NAMES={shapes[0]} -a_srs EPSG:CODE"
        cure = (
            f" Polygons as text are not read: convert them (ogr2ogr {known} {Path(file).stem}.gpkg {file})."
        )
    elif any(pair <= lower for pair in PLACES):
        cure = (
            " Points are no labels, which are polygons or rasters: draw an area of one class around each (in "
            "QGIS: Create Points Layer from Table, then Buffer)."
        )
    return BadInput(
        f"{file} has no column of paths: its columns are {', '.join(names) or 'none'}; one called href, path "
        f"or location was expected.{cure}"
    )


def _lines(file: str) -> Iterator[Entry]:
    # Names of files may have bytes that are not UTF-8.
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            if "\0" in text:
                raise BadFile(f"{file} is not a text file: a list of scenes has a path a line.")
            if text and not text.startswith("#"):
                yield Entry(_files(text, file), f"{file}, line {number}")


def _files(text: str, file: str) -> tuple[str, ...]:
    folder = Path(file).parent
    return split_files(text, lambda name: (folder / name).exists())


def split_files(text: str, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """Files of one scene are separated by commas, which the name of a file that `exists` may have too, and
    the query of an address (`https://...?bbox=1,2,3,4`).
    """
    if "://" in text and "?" in text:
        return (text,)
    return joined([part for part in text.split(",") if part], exists)


def _table(file: str) -> Iterator[Entry]:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        try:
            first = lines.readline()
            # Spreadsheets of many countries separate by semicolons; of equal counts the comma wins.
            sign = "\t" if Path(file).suffix.lower() == ".tsv" else max(",;\t", key=first.count)
            names = [name.strip() for name in next(csv.reader([first], delimiter=sign), [])]
            column = _column(names)
            if column is None:
                raise _without_column(file, names)
            for number, row in enumerate(csv.reader(lines, delimiter=sign), start=2):
                text = row[names.index(column)].strip() if len(row) > names.index(column) else ""
                if text:
                    yield Entry((text,), f"{file}, line {number}")
        except csv.Error as error:
            raise BadFile(f"{file} cannot be read as a table ({error}).") from error


def _parquet(file: str) -> Iterator[Entry | Listed]:
    need_pyarrow(file)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            # The assets of stac-geoparquet are structures; the items are read by the module that knows them.
            if {"id", "assets"} <= set(names):
                yield from items_in(file)
                return
            column = _column(names)
            if column is None:
                raise _without_column(file, names)
            number = 0
            for batch in table.iter_batches(columns=[column]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if text:
                        yield Entry((str(text),), f"{file}, row {number}", anywhere=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"{file} cannot be read as GeoParquet: {reason(error)}.") from error


def _features(file: str, index: TileIndex) -> Iterator[Entry]:
    (texts,) = read_table(file, index.layer, [index.column]).values()
    for number, text in enumerate(texts, start=1):
        if isinstance(text, str) and text:
            yield Entry((text,), f"{file}, feature {number}", anywhere=True)
