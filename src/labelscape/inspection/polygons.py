"""Polygon files: layers, CRS, columns, and the classes of those that Labelscape wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelscape.areas.polygon_files import COLUMNS
from labelscape.errors import BadFile
from labelscape.evaluation.text import area_lines
from labelscape.inspection.card import Info, damaged, lines, size_text
from labelscape.labels.corrections import ANSWER, RIGHT
from labelscape.scenes.vectors import PARQUET, layer_facts, layers_of, need_pyarrow, queried
from labelscape.text import typed

SHAPEFILE = {".dbf": "its table of columns", ".prj": "its CRS", ".shx": "the index of its shapes"}
"""Files that a Shapefile is made of beside .shp, and what is lost without them."""
MOST_CLASSES = 256


def polygons(path: Path) -> Info | None:
    """A file of polygons; None for a GeoPackage without any layer. Raises BadFile where it cannot be read."""
    if path.suffix.lower() in PARQUET:
        # GeoParquet has one table and no layers.
        layers, driver = [_parquet(path)], "Parquet"
        tables: list[str] = []
    else:
        driver, layers, tables = _layers(path)
    if not layers:
        return None
    lost = _lost(path)
    # A file geodatabase (.gdb) is a folder.
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    facts = {"driver": driver, "bytes": size, "layers": layers, "tables": tables}
    facts["missing_files"] = lost
    card: dict[str, Any] = {"polygons": str(path), "format": driver, "file size": size_text(facts["bytes"])}
    card["tables"] = ", ".join(tables)
    card["Missing files"] = ", ".join(f"{name} ({SHAPEFILE[name[-4:].lower()]})" for name in lost)
    # By the columns: names of layers may have been changed since.
    own = any(layer["classes"] for layer in layers)
    review = next((layer for layer in layers if {RIGHT, ANSWER} <= layer["columns"].keys()), None)
    if review is not None:
        facts["answered"] = _answered(path, review["name"])
        card["answered"] = f"{facts['answered']:,} of {review['features']:,} areas"
        card["use"] = (
            "answer it in QGIS over imagery; then labelscape train SCENE "
            f"--labels OLD --corrections {typed(path)} --network NETWORK --start MODEL"
        )
    else:
        made_here = "areas of a map: open them in QGIS, which takes the colours from the file; or "
        card["use"] = (made_here if own else "") + _use(layers)
    table = [line for layer in layers for line in ("", *_as_text(layer))][1:]
    return Info("polygons", str(path), facts, lines(card, table))


def _use(layers: list[dict[str, Any]]) -> str:
    """What the polygons are good for: without columns they are of one class."""
    if not any(layer["columns"] for layer in layers):
        return (
            "an area of interest: labelscape map MODEL SCENE --area FILE; or labels of one class: labelscape "
            "train SCENE --labels FILE --background other"
        )
    layer = " --layer LAYER" if len(layers) > 1 else ""
    return f"labels for training: labelscape train SCENE --labels FILE --class-column COLUMN{layer}"


def _layers(path: Path) -> tuple[str, list[dict[str, Any]], list[str]]:
    """The format, the layers with geometry, and the names of tables without."""
    listed = layers_of(path)
    found = [layer_facts(path, layer.name) for layer in listed if layer.geometry is not None]
    layers = [_layer(path, one) for one in found]
    driver = str(found[0]["driver"]) if found else ""
    return driver, layers, [layer.name for layer in listed if layer.geometry is None]


def _layer(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    columns = {str(name): str(kind) for name, kind in zip(found["fields"], found["dtypes"])}
    bounds = found.get("total_bounds")
    layer = {
        "name": str(found["layer_name"]),
        "geometry": str(found["geometry_type"]),
        "crs": found["crs"],
        "features": int(found["features"]),
        "bounds": None if bounds is None else [float(b) for b in bounds],
        "columns": {name: "text" if kind == "object" else kind for name, kind in columns.items()},
    }
    own = set(COLUMNS) <= columns.keys()
    return {**layer, "classes": _classes(path, layer["name"]) if own else []}


def _classes(path: Path, layer: str) -> list[dict[str, Any]]:
    """Polygons, pixels and hectares of each class. Counted by SQL: reading millions of rows into Python takes
    gigabytes.
    """
    quoted = '"' + layer.replace('"', '""') + '"'
    rows = queried(
        path,
        'SELECT "value", "class", COUNT(*) AS n, SUM("pixels") AS p, SUM("area_ha") AS h '
        f'FROM {quoted} GROUP BY "value", "class" ORDER BY "value" LIMIT {MOST_CLASSES}',
    )
    with damaged(f"{path} has other columns than a map's polygons"):
        return [_class(*row) for row in rows]


def _answered(path: Path, layer: str) -> int:
    """Areas of a review file with an answer of any kind."""
    quoted = '"' + layer.replace('"', '""') + '"'
    given = " OR ".join(f"COALESCE(\"{column}\", '') <> ''" for column in (RIGHT, ANSWER))
    ((count,),) = queried(path, f"SELECT COUNT(*) FROM {quoted} WHERE {given}")
    return int(count)


def _class(value: Any, name: Any, polygons: Any, pixels: Any, hectares: Any) -> dict[str, Any]:
    # NaN or null where the map has no coordinates: neither is a number of JSON.
    known = hectares is not None and hectares == hectares
    return {
        "value": int(value),
        "name": str(name),
        "polygons": int(polygons),
        "pixels": int(pixels),
        "hectares": float(hectares) if known else None,
    }


def _parquet(path: Path) -> dict[str, Any]:
    """A GeoParquet file by its own description, since the GDAL of pyogrio's wheel has no Parquet driver."""
    import json

    need_pyarrow(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            about = json.loads((file.metadata.metadata or {}).get(b"geo", b"null"))
            main = about["columns"][about["primary_column"]]
            schema, features = file.schema_arrow, file.metadata.num_rows
            own = set(COLUMNS) <= set(schema.names)
            rows = (
                file.read(list(COLUMNS))
                .group_by(["value", "class"])
                .aggregate([("value", "count"), ("pixels", "sum"), ("area_ha", "sum")])
                if own
                else None
            )
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{path} is not a GeoParquet file ({str(error).splitlines()[0]}).") from error
    crs = (main.get("crs") or {}).get("id") or {}
    classes = (
        []
        if rows is None
        else [
            _class(r["value"], r["class"], r["value_count"], r["pixels_sum"], r["area_ha_sum"])
            for r in sorted(rows.to_pylist(), key=lambda r: r["value"])
        ]
    )
    return {
        "name": path.stem,
        "geometry": ", ".join(main.get("geometry_types", ())),
        "crs": f"{crs['authority']}:{crs['code']}" if crs else None,
        "features": features,
        "bounds": main.get("bbox"),
        "columns": {
            f.name: "text" if pa.types.is_string(f.type) else str(f.type)
            for f in schema
            if f.name not in (about["primary_column"], "bbox")
        },
        "classes": classes,
    }


def _as_text(layer: dict[str, Any]) -> list[str]:
    # A Shapefile without .prj, or a file of a program that writes none.
    crs = layer["crs"] or "none"
    columns = ", ".join(f"{name} ({kind})" for name, kind in layer["columns"].items())
    card = {
        "layer": layer["name"],
        "geometry": f"{layer['features']:,} {layer['geometry']}",
        # A CRS without a code is given as WKT; all of it would fill the screen.
        "CRS": crs if len(crs) < 60 else f"{crs.partition(',')[0]}, ...]",
        "columns": columns or "none: all polygons are one class",
    }
    table = area_lines([(c["name"], c["pixels"], c["hectares"]) for c in layer["classes"]])
    return [*lines(card).splitlines(), *(["", *table] if layer["classes"] else [])]


def _lost(path: Path) -> list[str]:
    """Files that a Shapefile lacks; suffixes of either case."""
    if path.suffix.lower() != ".shp":
        return []
    # In capitals too, as programs of older systems write them.
    there = {file.suffix.lower() for file in path.parent.glob("*") if file.stem == path.stem}
    return [path.with_suffix(suffix).name for suffix in SHAPEFILE if suffix not in there]
