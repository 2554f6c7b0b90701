"""Write polygons to a file or a table, in batches: GeoPackage, GeoJSON, FlatGeobuf, GeoParquet, PostGIS.

Each writer consumes an iterator of batches once, so that only one batch is in memory. GeoJSON and FlatGeobuf
cannot be appended to cheaply, so they are translated from a GeoPackage beside the target. The GDAL in
pyogrio's wheel has neither a Parquet nor a PostgreSQL driver: for those pyarrow and psycopg are optional
extras.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np
import shapely
from rasterio.crs import CRS

from labelscape.crs import as_projjson, transformed
from labelscape.errors import BadFile, BadOption
from labelscape.files import check_written, private_folder
from labelscape.scenes.vectors import append_polygons, translate, writing

LAYER = "land_cover"
DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
SUFFIXES = (*DRIVERS, ".parquet")
APART = 0.001
"""In units of a CRS, metres or feet: less than a unit of the last digit of GeoJSON's degrees (RFC 7946)."""
COLUMNS = ("value", "class", "pixels", "area_ha")


@dataclass(frozen=True)
class Batch:
    """Polygons (N,) in the map's CRS and their columns: class values, class names, pixels, hectares (NaN
    where unknown).
    """

    polygons: np.ndarray
    values: np.ndarray
    names: np.ndarray
    pixels: np.ndarray
    hectares: np.ndarray


def is_database(out: str | Path) -> bool:
    """Is this the address of a PostgreSQL database, as libpq (postgresql://) or GDAL (PG:) writes it?"""
    return str(out).startswith(("postgresql://", "postgres://", "PG:"))


def check_crs(out: str | Path, crs: CRS | None) -> None:
    """Raises BadOption where the format of `out` needs a CRS and the map has none."""
    if Path(out).suffix.lower() == ".geojson" and crs is None:
        raise BadOption(
            f"{Path(out).name}: the map has no coordinate reference system, and GeoJSON is in degrees of "
            "longitude and latitude (RFC 7946). Use .gpkg, .fgb or .parquet (`polygons_as`)."
        )


def check_target(out: str | Path) -> None:
    """Raises BadOption where polygons cannot be written to `out`: its suffix is unknown, or an optional
    package is not installed; BadFile where no file can have its name. Called before any work.
    """
    if not is_database(out):
        check_written(out)
    module, extra = ("psycopg", "postgis") if is_database(out) else ("pyarrow", "parquet")
    if not is_database(out) and Path(out).suffix.lower() not in SUFFIXES:
        if Path(out).suffix.lower() == ".shp":
            raise BadOption(
                f"{Path(out).name}: Shapefiles cut column names to 10 characters and hold no style; use "
                f"{Path(out).with_suffix('.gpkg').name}, which every GIS opens."
            )
        raise BadOption(
            f"{Path(out).name}: polygons are written as {', '.join(SUFFIXES)} or to "
            "postgresql://user@host/db?table=name."
        )
    # find_spec looks for a package without importing it.
    if (is_database(out) or Path(out).suffix.lower() == ".parquet") and find_spec(module) is None:
        raise BadOption(
            f"Writing {'to PostGIS' if is_database(out) else '.parquet'} needs {module}: pip install "
            f"'labelscape[{extra}]'."
        )


def write_file(path: Path, suffix: str, batches: Iterator[Batch], crs: CRS | None) -> None:
    """Write all batches to `path`, in a private folder, in the format of `suffix`. Raises OSError where it
    cannot be written.
    """
    if suffix == ".parquet":
        _write_parquet(path, batches, crs)
        return
    with writing(path) as target:
        if suffix == ".gpkg":
            _write_package(target, batches, crs)
            return
        if suffix == ".geojson" and crs is not None and crs.is_projected:
            batches = (replace(one, polygons=off_the_antimeridian(one.polygons, crs)) for one in batches)
        # Beside the target: a copy of all polygons may not fit into /tmp.
        with private_folder(path.parent) as folder:
            package = folder / "polygons.gpkg"
            # The copy is read once from end to end: an index would only cost time.
            with writing(package, indexed=False) as copy:
                _write_package(copy, batches, crs, SPATIAL_INDEX="NO")
            # RFC7946: without it GDAL writes GeoJSON of 2008 in the map's own CRS, which RFC 7946 abolished;
            # with it, it is reprojected to WGS 84.
            options = {"RFC7946": "YES"} if DRIVERS[suffix] == "GeoJSON" else None
            translate(package, target, DRIVERS[suffix], LAYER, options)


def off_the_antimeridian(polygons: np.ndarray, crs: CRS) -> np.ndarray:
    """Polygons with those of their corners that lie on the antimeridian moved by APART towards their inside:
    GDAL gives such corners the longitude 180, also of a polygon that ends at -180, which then runs round the
    world. In polar projections pixels end there.
    """
    points, of = shapely.get_coordinates(polygons, return_index=True)
    lon, _ = transformed(points[:, 0], points[:, 1], crs)
    there = np.abs(np.abs(lon) - 180) < 1e-9
    if not there.any():
        return polygons
    moved = polygons.copy()
    for number in np.unique(of[there]):
        mine = of == number
        inside = shapely.get_coordinates(shapely.point_on_surface(polygons[number]))
        towards = inside - points[mine]
        step = APART * towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), APART)
        moved[number] = shapely.set_coordinates(
            polygons[[number]].copy(), points[mine] + step * there[mine][:, None]
        )[0]
    return moved


def _write_package(plain: str, batches: Iterator[Batch], crs: CRS | None, **options: str) -> None:
    text = crs.to_wkt() if crs else None
    for number, batch in enumerate(batches):
        fields = dict(zip(COLUMNS, (batch.values, batch.names, batch.pixels, batch.hectares)))
        wkb = shapely.to_wkb(batch.polygons)
        append_polygons(plain, wkb, fields, layer=LAYER, crs=text, first=number == 0, options=options)


def _write_parquet(path: Path, batches: Iterator[Batch], crs: CRS | None) -> None:
    """GeoParquet 1.1: WKB, the CRS as PROJJSON, bounds of the file and of each polygon (to filter without
    WKB).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sides = ("xmin", "ymin", "xmax", "ymax")
    box = pa.struct([(side, pa.float64()) for side in sides])
    schema = pa.schema(
        [
            ("value", pa.int32()),
            ("class", pa.string()),
            ("pixels", pa.int64()),
            ("area_ha", pa.float64()),
            ("geometry", pa.binary()),
            ("bbox", box),
        ]
    )
    bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
    try:
        # A stored Arrow schema would hide the `geo` entry from readers that ask Arrow for the metadata.
        with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
            for batch in batches:
                boxes = shapely.bounds(batch.polygons).reshape(-1, 4)
                bounds = np.r_[
                    np.fmin(bounds[:2], boxes[:, :2].min(axis=0, initial=np.inf)),
                    np.fmax(bounds[2:], boxes[:, 2:].max(axis=0, initial=-np.inf)),
                ]
                columns = [
                    batch.values,
                    batch.names,
                    batch.pixels,
                    # Null, not NaN: in a sum over the column NaN would swallow all.
                    pa.array(batch.hectares, mask=np.isnan(batch.hectares)),
                    pa.array(shapely.to_wkb(batch.polygons), pa.binary()),
                    pa.StructArray.from_arrays(list(boxes.T.copy()), fields=list(box)),
                ]
                arrays = [
                    c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema)
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            writer.add_key_value_metadata({"geo": json.dumps(geo_metadata(crs, bounds))})
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def geo_metadata(crs: CRS | None, bounds: np.ndarray) -> dict:
    """The `geo` entry of a GeoParquet 1.1 file. Without a CRS `crs` is null: leaving it out would mean
    degrees (OGC:CRS84).
    """
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": as_projjson(crs) if crs else None}
    # Readers skip row groups whose bounding boxes lie elsewhere, without decoding WKB.
    column["covering"] = {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}}
    # No polygon, no bounds: infinity is not JSON.
    if np.isfinite(bounds).all():
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def database_of(out: str) -> tuple[str, str, str]:
    """Parse `postgresql://user@host/db?table=schema.name` or `PG:dbname=db table=name` -> (libpq connection
    string, schema or "", table).

    The default table is `land_cover` in the first schema of the search path. Raises BadOption where the text
    cannot be parsed.
    """
    table = LAYER
    if out.startswith("PG:"):
        from psycopg import Error, conninfo

        # libpq knows no `table`; it is GDAL's word, and taken out before connecting.
        words = out.removeprefix("PG:").split()
        given = [w.partition("=")[2].strip("'") for w in words if w.startswith("table=")]
        connection = " ".join(w for w in words if not w.startswith("table="))
        try:
            conninfo.conninfo_to_dict(connection)
        except Error as error:
            raise BadOption(
                f"The database after PG: cannot be parsed ({error}); expected PG:dbname=NAME host=HOST "
                "user=NAME table=NAME."
            ) from error
    else:
        parts = urlsplit(out)
        query = parse_qsl(parts.query)
        given = [value for key, value in query if key == "table"]
        connection = urlunsplit(parts._replace(query=urlencode([(k, v) for k, v in query if k != "table"])))
    if given:
        table = given[-1]
    schema, _, name = table.rpartition(".")
    if not name or "." in schema:
        raise BadOption(f"table={table} must be table=NAME or table=SCHEMA.NAME.")
    return connection, schema, name


def srid_of(crs: CRS | None) -> int:
    """The SRID (EPSG code) of a CRS; 0 without coordinates. Raises BadOption where it has no EPSG code."""
    if crs is None:
        return 0
    code = crs.to_epsg()
    if code is None:
        raise BadOption(
            "PostGIS needs an EPSG code, and the map's CRS has none; write a .gpkg or reproject the map."
        )
    return code


def rows_of(batch: Batch, srid: int) -> Iterator[tuple]:
    """Rows for COPY: value, class, pixels, area_ha, geometry as EWKB in hexadecimal."""
    polygons = shapely.to_wkb(shapely.set_srid(batch.polygons, srid), hex=True, include_srid=True)
    hectares = [None if h != h else h for h in batch.hectares.tolist()]
    return zip(
        batch.values.tolist(), batch.names.tolist(), batch.pixels.tolist(), hectares, polygons.tolist()
    )


def write_database(out: str, batches: Iterator[Batch], crs: CRS | None, *, overwrite: bool = False) -> None:
    """Write all batches to a table of a PostGIS database, in one transaction: on failure there is no table,
    and an earlier one is kept.

    Raises BadFile where the table exists and may not be replaced, the database cannot be reached or has no
    PostGIS; BadOption for an address that cannot be parsed.
    """
    import psycopg
    from psycopg import sql

    connection, schema, name = database_of(out)
    srid = srid_of(crs)
    table = sql.Identifier(schema, name) if schema else sql.Identifier(name)
    try:
        with psycopg.connect(connection) as base:
            if base.execute("SELECT to_regclass(%s)", (table.as_string(base),)).fetchone()[0] is not None:
                if not overwrite:
                    raise BadFile(
                        f"The table {name} exists; pass `overwrite=True` to replace it, or name another with "
                        "?table=NAME."
                    )
                # Inside the transaction: where a later step fails, the old table is still there.
                base.execute(sql.SQL("DROP TABLE {}").format(table))
            base.execute(
                sql.SQL(
                    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, value integer, "
                    '"class" text, pixels bigint, '
                    "area_ha double precision, geom geometry(Polygon, {}))"
                ).format(table, sql.Literal(srid))
            )
            with base.cursor() as cursor:
                # COPY streams rows in one statement; an INSERT for each polygon would be many times slower.
                with cursor.copy(
                    sql.SQL('COPY {} (value, "class", pixels, area_ha, geom) FROM STDIN').format(table)
                ) as copy:
                    for batch in batches:
                        for row in rows_of(batch, srid):
                            copy.write_row(row)
            # After the rows: building the index once is faster than extending it for each.
            base.execute(sql.SQL("CREATE INDEX ON {} USING gist (geom)").format(table))
    except psycopg.errors.UndefinedObject as error:  # the type geometry
        raise BadFile(
            "The database lacks the PostGIS extension; its owner can add it with CREATE EXTENSION postgis."
        ) from error
    except psycopg.Error as error:
        raise BadFile(f"The table {name} cannot be written: {str(error).strip()}") from error
