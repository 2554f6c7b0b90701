"""Vector files: the only module that calls pyogrio, and that knows which files it fails on."""

from __future__ import annotations

import datetime
import json
import os
import re
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labelscape.crs import Unrelated, as_wkt
from labelscape.errors import BadFile, BadInput, BadOption, LabelscapeError, UnknownName
from labelscape.files import check_regular
from labelscape.mistaken import UNFINISHED, no_such_file, what_it_is
from labelscape.scenes.files import RASTER_SUFFIXES, is_local, reason, suffix_of
from labelscape.scenes.nested import is_too_deep
from labelscape.scenes.vector_paths import as_it_is, member_of, vectors_inside
from labelscape.text import some

VECTOR_SUFFIXES = {
    *(".gpkg", ".geojson", ".json", ".topojson", ".shp", ".shz", ".fgb", ".parquet", ".geoparquet"),
    *(".kml", ".kmz", ".gml", ".gdb", ".sqlite", ".geojsonl", ".geojsons", ".ndjson", ".tab", ".mif"),
    *(".gpx", ".dxf"),
}
PARQUET = {".parquet", ".geoparquet"}
SQLITE = {".gpkg", ".sqlite"}
UNICODE = SQLITE | {".fgb", ".geojson", ".json", ".geojsonl", ".parquet"}
"""Formats whose text is UTF-8 and nothing else."""
POLYGONS = ("Polygon", "Surface", "Geometry", "Collection", "TIN", "Triangle", "Unknown")
"""Parts of the names of geometry types that may hold polygons."""


QGIS = re.compile(r"\|(layername|layerid|subset|geometrytype)=")
"""What QGIS adds to the path of a layer."""


@dataclass(frozen=True)
class VectorSource:
    """A vector file and the layer to read; None takes the first that may hold polygons."""

    path: str | Path
    layer: str | None = None

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, text: str | Path | VectorSource) -> VectorSource:
        """`fields.gpkg|layername=crops` or `|layerid=1`, as QGIS writes a layer, or a path alone. Raises
        BadInput for a layer that QGIS filters or a number that no layer has, BadFile where the file cannot
        be read.
        """
        if isinstance(text, VectorSource):
            return text
        # A file may be called so.
        if is_local(text) and os.path.exists(text):
            return cls(text)
        path, *settings = QGIS.split(str(text))
        given = dict(zip(settings[::2], settings[1::2]))
        if "subset" in given:
            raise BadInput(
                f"{path}: the layer is filtered ({given['subset']}), and filters are not applied here: all "
                "of its features would be read. In QGIS, export the filtered layer (Save Features As) and "
                "pass that file."
            )
        if "layerid" in given and "layername" not in given:
            return cls(path, _numbered(path, given["layerid"]))
        return cls(path, given.get("layername") or None)


class Layer(NamedTuple):
    """A layer of a vector file; `geometry` is None for a table without geometry."""

    name: str
    geometry: str | None

    @property
    def may_hold_polygons(self) -> bool:
        return self.geometry is not None and any(part in self.geometry for part in POLYGONS)


class Features(NamedTuple):
    """What a layer holds.

    geometries  (N,) shapely geometries; None where a feature has none or it cannot be decoded
    columns     name -> (N,) values: text as object, whole numbers and yes/no as masked arrays where empty
    crs         as text; None where the file does not say
    notes       what GDAL warned of, and which of several layers was taken
    """

    geometries: np.ndarray
    columns: dict[str, np.ndarray]
    crs: str | None
    notes: tuple[str, ...] = ()


def is_vector(source: str | Path) -> bool:
    """Is this a vector file: by its suffix; where that is no raster's either, by what GDAL finds in it?"""
    path = str(VectorSource.of(source).path)
    suffix = suffix_of(path)
    if suffix in VECTOR_SUFFIXES or suffix in RASTER_SUFFIXES:
        return suffix in VECTOR_SUFFIXES
    if is_local(path) and not os.path.exists(path):
        return False
    if is_local(path) and vectors_inside(path, VECTOR_SUFFIXES):
        return True
    try:
        return any(layer.geometry is not None for layer in layers_of(path))
    except BadFile:
        return False


def layers_of(path: str | Path) -> list[Layer]:
    """The layers of a vector file. Raises BadFile where it cannot be read."""
    import pyogrio

    if is_local(path):
        check_regular(path)
    with _failures(path), _opened(path) as plain, _warned():
        return [Layer(str(name), kind) for name, kind in pyogrio.list_layers(plain)]


def _numbered(path: str, number: str) -> str:
    """The name of the layer that QGIS gives by its number, from 0."""
    names = [layer.name for layer in layers_of(path)]
    if not number.isdecimal() or int(number) >= len(names):
        raise BadInput(
            f"{path} has no layer of the number {number}: it has the layers {', '.join(names)}, numbered "
            f"from 0. Name one: {path}|layername=NAME."
        )
    return names[int(number)]


def read_features(given: str | Path | VectorSource, columns: Sequence[str] | None = None) -> Features:
    """Read one layer of a vector file. Raises BadFile for a file that cannot be read, UnknownName for a layer
    that it does not have, BadInput where no layer has geometry.
    """
    source = VectorSource.of(given)
    if is_local(source.path) and not os.path.exists(source.path):
        raise BadFile(no_such_file(source))
    if is_local(source.path):
        check_regular(source.path)
    if Path(source.path).suffix.lower() in PARQUET:
        return _read_parquet(source)
    layer, notes = _chosen_layer(source)
    import pyogrio
    import shapely

    with _failures(source.path), _opened(source.path) as plain, _warned() as said:
        meta, _, wkb, fields = pyogrio.raw.read(plain, layer=layer, columns=columns)
        # Rings that are not closed are closed; what cannot be decoded at all becomes None.
        with np.errstate(invalid="ignore"):  # coordinates that are NaN
            geometries = np.atleast_1d(shapely.from_wkb(wkb, on_invalid="fix"))
    # Older versions of pyogrio do not give the types: columns then stay as they came.
    kinds = zip(meta.get("ogr_types", ()), meta.get("ogr_subtypes", ()))
    found = {
        name: _as_stored(values, *kind)
        for name, values, kind in zip(meta["fields"], fields, [*kinds] or [("", "")] * len(fields))
    }
    _check_numbers(source, layer, found)
    wrong: list[str] = []
    # In other formats nothing is to be guessed: what looks so is what somebody wrote.
    if Path(source.path).suffix.lower() not in UNICODE:
        found, wrong = _in_utf8(found)
    if wrong:
        said.append(
            f"{source}: the text of {', '.join(wrong)} is UTF-8, though the file (or its .cpg) declares "
            "another encoding: it is read as UTF-8"
        )
    # GDAL turned into UTF-8 what is in an encoding that it knows of.
    if meta.get("encoding") == "ISO-8859-1" and (doubtful := _beyond_ascii(found, wrong)):
        said.append(
            f"{source}: no encoding is declared (a .cpg file) that is known, and {doubtful} is read as "
            "Latin-1. If words are wrong, write the encoding, such as 1251 or GBK, into a file of the same "
            "name with .cpg at its end"
        )
    return Features(geometries, found, meta["crs"], (*notes, *said))


def _beyond_ascii(columns: Mapping[str, np.ndarray], but: Sequence[str]) -> str:
    """The columns that have text beyond ASCII, each with a word of it, without some; "" for none."""
    found = []
    for name, values in columns.items():
        if values.dtype == object and name not in but:
            words = (v for v in values if isinstance(v, str) and not v.isascii())
            found += [f"{name} ({word.strip()[:40]!r})" for word in [next(words, "")] if word]
    return some(found, 3)


def _check_numbers(source: VectorSource, layer: str, columns: Mapping[str, np.ndarray]) -> None:
    """Raises BadInput where a column of numbers of a GeoPackage holds text: SQLite stores what it is given,
    and GDAL reads the text as 0, which may be a class.
    """
    if Path(source.path).suffix.lower() not in SQLITE:
        return
    for name, values in columns.items():
        if values.dtype.kind not in "iuf":
            continue
        column, table = (one.replace('"', '""') for one in (name, layer))
        # Cast, since the result has the column's type too.
        text = f'SELECT CAST("{column}" AS TEXT) FROM "{table}" WHERE typeof("{column}") = \'text\''
        found = queried(source.path, text)
        if found:
            raise BadInput(
                f"{source}: the column {name} is of numbers and holds text ({found[0][0]!r} in "
                f"{len(found)} features), which would be read as 0. Write the text into a column of text."
            )


def _in_utf8(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Columns with text that was UTF-8 and read as Latin-1 (`Ã©` for `é`) as it was written; which ones.

    A Shapefile without a .cpg is taken for Latin-1, and copied tables keep a .cpg that is not theirs. No word
    of Latin-1 happens to be UTF-8 beyond ASCII, let alone all of a column.
    """
    found, wrong = dict(columns), []
    for name, values in columns.items():
        if values.dtype != object or all(not isinstance(v, str) or v.isascii() for v in values):
            continue
        try:
            found[name] = np.array([_recoded(v) if isinstance(v, str) else v for v in values], object)
            wrong.append(name)
        except UnicodeError:
            continue
    return found, wrong


def _recoded(text: str) -> str:
    """UTF-8 text whose bytes were taken for Latin-1 or Windows-1252. Raises UnicodeError for other text."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeEncodeError:
        return text.encode("cp1252").decode("utf-8")


def layer_facts(path: str | Path, layer: str) -> dict[str, Any]:
    """What a layer says of itself, as `pyogrio.read_info` returns it: driver, CRS, columns, number of
    features. Raises BadFile.
    """
    import pyogrio

    with _failures(path), _opened(path) as plain, _warned():
        # Otherwise formats that do not store the number give -1.
        return pyogrio.read_info(plain, layer=layer, force_feature_count=True)


def queried(path: str | Path, sql: str) -> list[tuple[Any, ...]]:
    """The rows of an SQL query on a vector file, without geometries. Raises BadFile."""
    import pyogrio

    with _failures(path), _opened(path) as plain, _warned():
        # OGR's own SQL, the default of GeoJSON and FlatGeobuf, knows no GROUP BY.
        _, _, _, columns = pyogrio.raw.read(plain, sql=sql, sql_dialect="SQLITE", read_geometry=False)
    return list(zip(*(column.tolist() for column in columns)))


def columns_of(path: str | Path, layer: str) -> list[str]:
    """Names of the columns of a layer. Raises BadFile."""
    import pyogrio

    with _failures(path), _opened(path) as plain, _warned():
        return [str(name) for name in pyogrio.read_info(plain, layer=layer)["fields"]]


def read_table(
    path: str | Path, layer: str | None = None, columns: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The columns of a table, such as a .dbf, or of a layer, without its geometry. Raises BadFile."""
    import pyogrio

    with _failures(path), _opened(path) as plain, _warned():
        meta, _, _, fields = pyogrio.raw.read(plain, layer=layer, columns=columns, read_geometry=False)
    found = dict(zip(meta["fields"], fields))
    return found if Path(path).suffix.lower() in UNICODE else _in_utf8(found)[0]


def choices(source: VectorSource) -> list[str]:
    """The layers of a file that may be meant where none is named: those that may hold polygons, else all with
    geometry; without empty ones beside others. Raises BadFile for a file that does not exist or cannot be
    read.
    """
    if is_local(source.path) and not os.path.exists(source.path):
        raise BadFile(no_such_file(source))
    if Path(source.path).suffix.lower() in PARQUET:
        return [Path(source.path).stem]
    # Tables beside the polygons, such as the styles that QGIS stores, are no choice.
    placed = [layer for layer in layers_of(source.path) if layer.geometry is not None]
    usable = [layer.name for layer in placed if layer.may_hold_polygons] or [layer.name for layer in placed]
    # Nor are layers that were made and left empty, while others are not.
    filled = [name for name in usable if _holds_features(source.path, name)] if len(usable) > 1 else []
    return filled or usable


def _holds_features(path: str | Path, layer: str) -> bool:
    """False for a layer that is known to be empty; some formats do not store the number."""
    import pyogrio

    with _failures(path), _opened(path) as plain, _warned():
        return pyogrio.read_info(plain, layer=layer)["features"] != 0


def _chosen_layer(source: VectorSource) -> tuple[str, list[str]]:
    """The layer to read, and a line where it was one of several."""
    if source.layer is not None:
        names = [layer.name for layer in layers_of(source.path)]
        if source.layer not in names:
            raise UnknownName(f"layer of {source}", source.layer, names)
        return source.layer, []
    usable = choices(source)
    if not usable:
        names = [layer.name for layer in layers_of(source.path)]
        raise BadInput(
            f"{source} has no layer with geometry (it holds {', '.join(names) or 'nothing'}); polygons were "
            "expected."
        )
    if len(usable) == 1:
        return usable[0], []
    listed = ", ".join(usable)
    return usable[0], [f"{source} has the layers {listed}: using {usable[0]} (choose with `layer`)"]


def _as_stored(values: np.ndarray, kind: str, subtype: str) -> np.ndarray:
    """A column in its own type: pyogrio turns whole numbers and yes/no into floats where one is empty."""
    if values.dtype.kind != "f" or not kind.startswith("OFTInteger"):
        return values
    empty = np.isnan(values)
    whole = np.where(empty, 0, values).astype(bool if subtype == "OFSTBoolean" else np.int64)
    return np.ma.array(whole, mask=empty)


def need_pyarrow(what: object, or_else: str = "") -> None:
    """Raises BadFile where pyarrow is not installed, which reads GeoParquet."""
    if find_spec("pyarrow") is None:
        raise BadFile(f"Reading {what} needs pyarrow: pip install 'labelscape[parquet]'{or_else}.")


def _read_parquet(source: VectorSource) -> Features:
    """GeoParquet, by pyarrow: the GDAL in pyogrio's wheel cannot read it."""
    need_pyarrow(source, ", or save it as .gpkg")
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    try:
        table = pq.read_table(str(source.path))
        geo = json.loads((table.schema.metadata or {}).get(b"geo", b"null"))
        if geo is None:
            raise BadInput(
                f"{source} is a table without geometry (no `geo` metadata); polygons were expected."
            )
        column = geo["columns"][geo["primary_column"]]
        # GeoParquet 1.1 also has encodings of its own for points, lines and polygons, which are not WKB.
        if column.get("encoding") != "WKB":
            raise BadFile(
                f"{source} stores geometry as {column.get('encoding')}; WKB was expected. Save it as .gpkg."
            )
        wkb = table[geo["primary_column"]].to_pylist()
        # GDAL leaves such geometries out of what it reads from other formats.
        wkb = [None if item and is_too_deep(item) else item for item in wkb]
        geometries = shapely.from_wkb(np.array(wkb, object), on_invalid="fix")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, (BadInput, BadFile)):
            raise
        raise BadFile(f"{source} cannot be read as GeoParquet: {reason(error)}.") from error
    # Absent, it means longitude and latitude; null, that it is not known.
    crs = column.get("crs", "OGC:CRS84")
    columns = _columns_of_table(
        table.drop_columns([name for name in geo["columns"] if name in table.column_names])
    )
    try:
        # As text, PROJJSON too.
        place = as_wkt(crs if isinstance(crs, str) else json.dumps(crs)) if crs else None
    except Unrelated as error:
        raise BadFile(f"{source} cannot be read as GeoParquet: {reason(error)}.") from error
    return Features(geometries, columns, place)


def _columns_of_table(table: Any) -> dict[str, np.ndarray]:
    """All columns of an Arrow table, whatever their type, as GDAL gives those of other formats: one that was
    left out would be missed quietly where it holds the classes. Records become a column for each of their
    parts (`names.primary`), days and times ISO text, lists stay lists.
    """
    import pyarrow as pa

    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return {name: _as_array(table[name]) for name in table.column_names}


def _as_array(column: Any) -> np.ndarray:
    """Whole numbers and yes/no as masked arrays, fractions as floats, all else as objects."""
    import pyarrow as pa

    # Categories (pandas' `category`) are stored as numbers with a dictionary; the words are the values.
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    items = column.to_pylist()
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        dtype = bool if pa.types.is_boolean(kind) else None
        empty = np.array([item is None for item in items], bool)
        return np.ma.array(np.array([item or 0 for item in items], dtype), mask=empty)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.array(items, float)
    if pa.types.is_temporal(kind):
        items = [item.isoformat() if hasattr(item, "isoformat") else item for item in items]
    found = np.empty(len(items), object)
    found[:] = items
    return found


@contextmanager
def _opened(path: str | Path) -> Iterator[str]:
    """What GDAL is given for a file to read. Raises BadFile where a part of a Shapefile is missing."""
    if is_local(path) and str(path).lower().endswith(".shp"):
        _check_parts(Path(path))
    with as_it_is(path) as plain:
        yield member_of(path, plain, VECTOR_SUFFIXES)


def _check_parts(path: Path) -> None:
    """A Shapefile is several files: without .shx it cannot be read, without .dbf it has no columns."""
    lacking = [
        part
        for part in (".shx", ".dbf")
        if path.is_file() and not any(path.with_suffix(p).exists() for p in (part, part.upper()))
    ]
    if lacking:
        raise BadFile(
            f"{path} is one file of a Shapefile; {' and '.join(path.stem + part for part in lacking)} not "
            "found beside it. Copy all of its files together (.shp, .shx, .dbf, .prj)."
        )


@contextmanager
def _failures(path: str | Path) -> Iterator[None]:
    """Everything that reading raises, as BadFile."""
    import pyogrio
    import shapely

    try:
        yield
    except UnicodeDecodeError as error:
        raise BadFile(
            f"{path} has text in another encoding than the file (or its .cpg) declares: {reason(error)}. "
            "Write the right one, often ISO-8859-1 or 1252, into the .cpg file, or save it as .gpkg in a GIS "
            "with that encoding chosen."
        ) from error
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.GeometryError,
        pyogrio.errors.FieldError,
        pyogrio.errors.FeatureError,
        pyogrio.errors.CRSError,
        shapely.errors.ShapelyError,
        OverflowError,
        ValueError,  # an address that is none
    ) as error:
        if isinstance(error, LabelscapeError):
            raise
        if is_local(path) and (found := what_it_is(path)):
            raise BadFile(f"{path} {found}.") from error
        # GDAL's advice on how to name a driver is none for a path given here.
        why = re.split(r"[;. ]*It might help", reason(error))[0].rstrip(".")
        if "readonly database" in why:
            why = UNFINISHED
        raise BadFile(f"{path} cannot be read as a vector file: {why}.") from error


@contextmanager
def _warned() -> Iterator[list[str]]:
    """What pyogrio and GDAL warn of, as lines instead of warnings; several equal ones are one."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    texts = dict.fromkeys(str(one.message).strip() for one in caught)
    # The layer is chosen and named here.
    said += [text for text in texts if not text.startswith("More than one layer")][:3]


# -------------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: Path, *, indexed: bool = True) -> Iterator[str]:
    """The path under which GDAL writes the file `path`; `indexed` where layers of a GeoPackage have a spatial
    index. Raises OSError where it cannot be written.
    """
    import pyogrio

    try:
        with as_it_is(path, new=True) as plain:
            yield plain
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        pyogrio.errors.FeatureError,
        pyogrio.errors.FieldError,
        pyogrio.errors.CRSError,
    ) as error:
        raise OSError(str(error).rstrip(".")) from error
    if indexed and path.suffix.lower() == ".gpkg" and path.exists():
        _check_index(path)


def _check_index(path: Path) -> None:
    """Raises OSError where a layer of a GeoPackage has no spatial index: on a full disk GDAL leaves it out
    without a word, and the file is slow, and of other bytes than elsewhere.
    """
    with closing(sqlite3.connect(path)) as base:
        tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master")}
        layers = base.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
    for layer, column in layers:
        if f"rtree_{layer}_{column}" not in tables:
            raise OSError(f"there was no room for the spatial index of its layer {layer}")


def append_polygons(
    plain: str,
    wkb: np.ndarray,
    columns: Mapping[str, np.ndarray],
    *,
    layer: str,
    crs: str | None,
    first: bool,
    options: Mapping[str, str],
) -> None:
    """Append polygons to a layer of a GeoPackage at a path of `writing`; the first ones make the layer."""
    import pyogrio

    with _at_a_fixed_time(), _without_crs_warning():
        pyogrio.raw.write(
            plain,
            wkb,
            list(columns.values()),
            list(columns),
            geometry_type="Polygon",
            driver="GPKG",
            layer=layer,
            crs=crs,
            # The first batch makes the layer; appending to one that does not exist fails.
            append=not first,
            layer_options=dict(options) if first else None,
        )


def write_layer(
    plain: str,
    wkb: np.ndarray,
    columns: Mapping[str, np.ndarray],
    *,
    layer: str,
    geometry: str,
    crs: str | None,
) -> None:
    """Write one layer of a GeoPackage at a path of `writing`, beside the layers that it has; masked values of
    a column are null. `geometry` is a type of geometry, such as "Point".
    """
    import pyogrio

    with _at_a_fixed_time(), _without_crs_warning():
        pyogrio.raw.write(
            plain,
            wkb,
            [np.ma.getdata(values) for values in columns.values()],
            list(columns),
            field_mask=[
                np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
                for values in columns.values()
            ],
            geometry_type=geometry,
            driver="GPKG",
            layer=layer,
            crs=crs,
        )


def translate(source: Path, plain: str, driver: str, layer: str, options: dict[str, Any] | None) -> None:
    """Translate a layer of polygons to another format as a stream."""
    import pyogrio

    with (
        as_it_is(source) as readable,
        # A stream of record batches: the layer is never in memory as a whole. Without pyarrow, which is
        # optional.
        pyogrio.raw.open_arrow(readable, layer=layer, use_pyarrow=False) as (meta, stream),
        _without_crs_warning(),
    ):
        pyogrio.raw.write_arrow(
            stream,
            plain,
            driver=driver,
            # GDAL calls the column so when the layer gives it no name.
            geometry_name=meta["geometry_name"] or "wkb_geometry",
            crs=meta["crs"],
            layer_options=options,
            geometry_type="Polygon",
            layer=layer,
        )


def written_at() -> str:
    """The time of writing that is stored: SOURCE_DATE_EPOCH (seconds since 1970) where it is set, else always
    the same, so that the same map has the same bytes. Raises BadOption where that is no time.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(given) if given.isdecimal() else 0
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise BadOption(f"SOURCE_DATE_EPOCH={given} is no time in seconds since 1970.") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


_TIME = threading.Lock()


@contextmanager
def _at_a_fixed_time() -> Iterator[None]:
    """GDAL notes `written_at` as the time of what it writes. Set afterwards, the bytes would not be the same:
    SQLite counts changes in the file, and two notes of one millisecond are one.
    """
    import pyogrio

    option, fixed = "OGR_CURRENT_DATE", written_at()
    with _TIME:  # the option is that of the whole process
        before = pyogrio.get_gdal_config_option(option)
        pyogrio.set_gdal_config_options({option: fixed})
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options({option: before})


@contextmanager
def _without_crs_warning() -> Iterator[None]:
    with warnings.catch_warnings():  # a map without coordinates is not a mistake
        warnings.filterwarnings("ignore", "'crs' was not provided")
        yield
