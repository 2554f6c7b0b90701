"""A tiny painted landscape: known classes, bands that tell them apart, a CRS, a corner without data. Nothing is downloaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes

from labelscape.legend import IGNORE, Legend

LEGEND = Legend.of_names(["water", "field", "forest"])
UTM = CRS.from_epsg(32633)
NORTH_UP = Affine(10, 0, 400_000, 0, -10, 5_800_000)
ROTATED = Affine.translation(400_000, 5_800_000) @ Affine.rotation(17) @ Affine.scale(10, -10)
DEGREES = Affine(0.0001, 0, 14.0, 0, -0.0001, 52.0)


@dataclass(frozen=True)
class World:
    """A scene file, its classes as an array (H, W), and where both came from."""

    scene: Path
    classes: np.ndarray
    pixels: np.ndarray
    crs: CRS | None
    transform: Affine


def paint(height: int, width: int, *, seed: int = 0, patch: int = 16) -> np.ndarray:
    """(H, W) uint8 classes in square fields of `patch` pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(len(LEGEND), size=(-(-height // patch), -(-width // patch)), dtype=np.uint8)
    return np.kron(coarse, np.ones((patch, patch), np.uint8))[:height, :width]


def spectra(classes: np.ndarray, bands: int, dtype: str, *, seed: int = 0) -> np.ndarray:
    """(B, H, W): each class has its own level in each band, and a little noise."""
    rng = np.random.default_rng(seed + 1)
    levels = rng.permuted(np.tile(np.linspace(0.15, 0.85, len(LEGEND)), (bands, 1)), axis=1)
    values = levels[:, classes] + rng.normal(0, 0.02, (bands, *classes.shape))
    if dtype == "float32":
        return values.astype(np.float32)
    return (np.clip(values, 0.01, 1) * {"uint8": 250, "uint16": 9000, "int16": 9000}[dtype]).astype(dtype)


def write(path: Path, pixels: np.ndarray, *, crs: CRS | None = UTM, transform: Affine = NORTH_UP, nodata: float | None = None, **options: object) -> Path:
    """A raster of (B, H, W) or (H, W)."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    place = {} if crs is None else {"crs": crs, "transform": transform}
    profile = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name, "nodata": nodata}
    with rasterio.open(path, "w", **{**profile, **place, **options}) as file:
        file.write(pixels)
    return path


def make(
    folder: Path, height: int = 96, width: int = 128, *, bands: int = 3, dtype: str = "uint16", crs: CRS | None = UTM,
    transform: Affine = NORTH_UP, nodata: float | None = None, seed: int = 0, name: str = "scene",
) -> World:  # fmt: skip
    """Paint a scene and write it; with `nodata` the upper left ninth has no data."""
    classes = paint(height, width, seed=seed)
    pixels = spectra(classes, bands, dtype, seed=seed)
    if nodata is not None:
        pixels[:, : height // 3, : width // 3] = nodata
    scene = write(folder / f"{name}.tif", pixels, crs=crs, transform=transform, nodata=nodata)
    return World(scene, classes, pixels, crs, transform)


def label_raster(world: World, path: Path, *, values: tuple[int, ...] = (0, 1, 2), unlabelled: np.ndarray | None = None) -> Path:
    """The painted classes as a label raster with these values; 255 where `unlabelled`."""
    labels = np.array(values, np.uint8)[world.classes]
    if unlabelled is not None:
        labels[unlabelled] = IGNORE
    return write(path, labels, crs=world.crs, transform=world.transform)


def label_polygons(world: World, path: Path, *, crs: str = "EPSG:4326", column: str = "kind", only: tuple[int, ...] = (0, 1, 2)) -> Path:
    """The painted classes as polygons in another CRS, by the file's suffix."""
    import pyogrio
    import pyproj
    import shapely

    found = [(shapely.geometry.shape(g), int(v)) for g, v in shapes(world.classes, transform=world.transform) if int(v) in only]
    geometries = np.array([g for g, _ in found])
    change = pyproj.Transformer.from_crs(world.crs.to_wkt(), crs, always_xy=True)
    geometries = shapely.transform(geometries, lambda xy: np.column_stack(change.transform(xy[:, 0], xy[:, 1])))
    names = np.array([LEGEND.names[v] for _, v in found], object)
    driver = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix]
    pyogrio.raw.write(path, shapely.to_wkb(geometries), [names], [column], geometry_type="Polygon", crs=crs, driver=driver)
    return path


def rectangle(world: World, path: Path, top: int, left: int, height: int, width: int) -> Path:
    """A GeoJSON rectangle of pixels, in the world's own CRS."""
    corners = [world.transform @ c for c in ((left, top), (left + width, top), (left + width, top + height), (left, top + height), (left, top))]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{world.crs.to_epsg()}"}}
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return path
