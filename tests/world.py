"""A tiny painted landscape: known classes, bands that tell them apart, a CRS, a corner without data.
Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.features import shapes

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
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


def write(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: CRS | None = UTM,
    transform: Affine = NORTH_UP,
    nodata: float | None = None,
    **options: object,
) -> Path:
    """A raster of (B, H, W) or (H, W)."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    place = {} if crs is None else {"crs": crs, "transform": transform}
    profile = {
        "driver": "GTiff",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype.name,
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **{**profile, **place, **options}) as file:
        file.write(pixels)
    return path


VIRTUAL = """<VRTDataset rasterXSize="{}" rasterYSize="{}"><SRS>EPSG:32633</SRS>
<GeoTransform>400000,10,0,5800000,0,-10</GeoTransform>{}</VRTDataset>"""
VIRTUAL_BAND = """<VRTRasterBand dataType="UInt16" band="{0}"><SimpleSource>
<SourceFilename relativeToVRT="1">{1}</SourceFilename><SourceBand>{0}</SourceBand>
</SimpleSource></VRTRasterBand>"""


def virtual(path: Path, source: str, height: int = 96, width: int = 128) -> Path:
    """A virtual raster of the three bands of `source`, a file in the same folder."""
    bands = "".join(VIRTUAL_BAND.format(band, source) for band in (1, 2, 3))
    path.write_text(VIRTUAL.format(width, height, bands))
    return path


def make(
    folder: Path,
    height: int = 96,
    width: int = 128,
    *,
    bands: int = 3,
    dtype: str = "uint16",
    crs: CRS | None = UTM,
    transform: Affine = NORTH_UP,
    nodata: float | None = None,
    seed: int = 0,
    name: str = "scene",
) -> World:
    """Paint a scene and write it; with `nodata` the upper left ninth has no data."""
    classes = paint(height, width, seed=seed)
    pixels = spectra(classes, bands, dtype, seed=seed)
    if nodata is not None:
        pixels[:, : height // 3, : width // 3] = nodata
    scene = write(folder / f"{name}.tif", pixels, crs=crs, transform=transform, nodata=nodata)
    return World(scene, classes, pixels, crs, transform)


def label_raster(
    world: World, path: Path, *, values: tuple[int, ...] = (0, 1, 2), unlabelled: np.ndarray | None = None
) -> Path:
    """The painted classes as a label raster with these values; 255 where `unlabelled`."""
    labels = np.array(values, np.uint8)[world.classes]
    if unlabelled is not None:
        labels[unlabelled] = IGNORE
    return write(path, labels, crs=world.crs, transform=world.transform)


def label_polygons(
    world: World,
    path: Path,
    *,
    crs: str = "EPSG:4326",
    column: str = "kind",
    only: tuple[int, ...] = (0, 1, 2),
) -> Path:
    """The painted classes as polygons in another CRS, by the file's suffix."""
    import pyogrio
    import pyproj
    import shapely

    found = [
        (shapely.geometry.shape(g), int(v))
        for g, v in shapes(world.classes, transform=world.transform)
        if int(v) in only
    ]
    geometries = np.array([g for g, _ in found])
    change = pyproj.Transformer.from_crs(world.crs.to_wkt(), crs, always_xy=True)
    geometries = shapely.transform(
        geometries, lambda xy: np.column_stack(change.transform(xy[:, 0], xy[:, 1]))
    )
    names = np.array([LEGEND.names[v] for _, v in found], object)
    driver = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix]
    pyogrio.raw.write(
        path, shapely.to_wkb(geometries), [names], [column], geometry_type="Polygon", crs=crs, driver=driver
    )
    return path


UNITS = (0.0001, -0.1)
"""Scale and offset that the training scenes of a tiny checkpoint declared."""


def tiny_checkpoint(
    network: str = "skip",
    *,
    seed: int = 0,
    bands: Sequence[str] = ("1", "2", "3"),
    scaling: tuple[float, float] = (4500.0, 2000.0),
    temperature: float = 1.3,
    like: Path | None = None,
    warmed: bool = True,
    recipe: dict | None = None,
    **options: object,
) -> Checkpoint:
    """An untrained network of a few channels; its units and temperature are not the defaults.

    like    a scene whose contract it carries (see `contract_like`), instead of `bands` and `scaling`
    warmed  batch normalisations hold statistics of noise; False leaves them at 0 and 1
    options of the network, beside `widths`
    """
    import torch

    from labelscape.nets.catalog import create_model
    from labelscape.scoring.engines import state_arrays

    contract = (
        contract_like(like)
        if like
        else Contract(tuple(bands), "uint16", (scaling,) * len(bands), units=(UNITS,) * len(bands))
    )
    options = {"widths": [8, 8, 8, 8], **options}
    torch.manual_seed(seed)
    net = create_model(network, in_channels=len(contract.bands), classes=len(LEGEND), **options)
    for _ in range(10 * warmed):
        net(torch.randn(2, len(contract.bands), 64, 64))
    return Checkpoint(
        network=network,
        options=options,
        weights=state_arrays(net),
        legend=LEGEND,
        contract=contract,
        recipe=recipe or {},
        temperature=temperature,
    )


def description_of(checkpoint: Path) -> dict:
    """The JSON in a checkpoint's header, as it is stored."""
    from safetensors import safe_open

    with safe_open(checkpoint, framework="numpy") as file:
        return json.loads(file.metadata()["labelscape"])


def ten_metre_fcn() -> Checkpoint:
    """An untrained `fcn` of four channels that fits the scenes of `make`; it declares no units."""
    import torch

    from labelscape.nets.catalog import create_model
    from labelscape.scoring.engines import state_arrays

    torch.manual_seed(0)
    net = create_model("fcn", in_channels=3, classes=3, widths=(4, 4, 4, 4))
    return Checkpoint(
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        weights=state_arrays(net),
        legend=LEGEND,
        contract=Contract(
            bands=("1", "2", "3"),
            dtype="uint16",
            normalisation=((4500.0, 2000.0),) * 3,
            pixel_size=10.0,
            crs_kind="projected",
        ),
    )


def contract_like(path: Path) -> Contract:
    """What training on this scene alone writes into a checkpoint; UNITS where the scene declares none."""
    from labelscape.contract.bands import survey
    from labelscape.contract.colours import colours_of
    from labelscape.scenes.placing import declares
    from labelscape.scenes.raster import Scene

    with Scene(path) as scene:
        statistics, samples = survey([scene])
        return Contract(
            bands=scene.bands,
            dtype=scene.dtype.name,
            normalisation=tuple((s.mean, s.std) for s in statistics),
            statistics=statistics,
            colours=colours_of(samples),
            units=scene.units if declares(scene.units) else (UNITS,) * len(scene.bands),
            pixel_size=scene.grid.ground_pixel_size,
            nodata=scene.nodata,
            crs_kind="projected" if scene.grid.crs and scene.grid.crs.is_projected else "none",
        )


def rectangle(world: World, path: Path, top: int, left: int, height: int, width: int) -> Path:
    """A GeoJSON rectangle of pixels, in the world's own CRS."""
    corners = [
        world.transform @ c
        for c in (
            (left, top),
            (left + width, top),
            (left + width, top + height),
            (left, top + height),
            (left, top),
        )
    ]
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{world.crs.to_epsg()}"}}
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return path


# ---------------------------------------------------------------- published data sets, tiny, in their layouts


def picture(
    path: Path, height: int, width: int, bands: int = 3, *, seed: int = 0, dtype: str = "uint8"
) -> np.ndarray:
    """Write noise as a picture without coordinates, by suffix, folders and all; returns what was written
    (B, H, W).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(1, 200, (bands, height, width)).astype(dtype)
    write(path, pixels, crs=None, **_driver(path))
    return pixels


def codes(path: Path, values: np.ndarray) -> Path:
    """Write label values (H, W), or colours (H, W, 3), without coordinates, by suffix, folders and all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, values if values.ndim == 2 else values.transpose(2, 0, 1), crs=None, **_driver(path))


def draw(classes: int, height: int, width: int, *, seed: int) -> np.ndarray:
    """(H, W) uint8 noise of 0..classes-1."""
    return np.random.default_rng(1000 + seed).integers(0, classes, (height, width)).astype(np.uint8)


def _driver(path: Path) -> dict[str, object]:
    kinds = {
        ".png": {"driver": "PNG"},
        ".jpg": {"driver": "JPEG", "quality": 100},
        ".tif": {"driver": "GTiff", "photometric": "MINISBLACK", "alpha": "NO"},
    }
    return kinds[path.suffix]


GID_COLORS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 255, 255), (255, 255, 0), (0, 0, 255), (0, 0, 0)], np.uint8
)
LAND_COLORS = np.array(
    [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)],
    np.uint8,
)
ISPRS_COLORS = np.array(
    [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0), (0, 0, 0)],
    np.uint8,
)


def gid_scenes(
    root: Path, count: int = 5, *, bands: int = 3, dtype: str = "uint8", folder: str = "image_RGB"
) -> list[np.ndarray]:
    """The five-class folder of GID with scenes of 20 x 30; returns the classes drawn, 5 for background."""
    base, drawn = root / "Large-scale Classification_5classes", []
    for i in range(count):
        name = f"GF2_PMS{1 + i % 2}__L1A00005645{i:02d}-MSS{1 + i % 2}"
        picture(base / folder / f"{name}.tif", 20, 30, bands, seed=i, dtype=dtype)
        drawn.append(draw(6, 20, 30, seed=i))
        codes(base / "label_5classes" / f"{name}_label.tif", GID_COLORS[drawn[-1]])
    return drawn


def deepglobe_land(root: Path, count: int = 4, *, mirror: bool = False) -> list[np.ndarray]:
    """Masks of 16 x 16 with careless colours, and pictures without masks beside them; returns the classes
    drawn, 6 for unknown.
    """
    drawn = []
    images, masks = (
        ("data/training_data/images", "data/training_data/masks") if mirror else ("land-train", "land-train")
    )
    for i in range(count):
        picture(root / images / f"{100 + i}_sat.jpg", 16, 16, seed=i)
        drawn.append(draw(7, 16, 16, seed=i))
        off = np.random.default_rng(i).integers(0, 100, (16, 16, 3))
        careless = np.where(LAND_COLORS[drawn[-1]] == 255, 255 - off, off).astype(np.uint8)
        codes(root / masks / f"{100 + i}_mask.png", careless)
    picture(root / ("data/test_data/images" if mirror else "land-valid") / "999_sat.jpg", 16, 16)
    return drawn


def vaihingen(
    root: Path, tiles: tuple[int, ...] = (1, 3, 11), *, by_archive: bool = False
) -> dict[int, np.ndarray]:
    """Tiles of 12 x 14 with full and eroded labels; returns the classes drawn. Eroded labels are black in the
    first two rows.

    `by_archive`: every archive is unpacked into a folder of its own name.
    """
    drawn = {}
    base = root / "ISPRS_semantic_labeling_Vaihingen" if by_archive else root
    eroded_folder = (
        root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_for_participants"
        if by_archive
        else root / "gts_eroded_for_participants"
    )
    for tile in tiles:
        picture(base / "top" / f"top_mosaic_09cm_area{tile}.tif", 12, 14, seed=tile)
        picture(base / "ndsm" / f"dsm_09cm_matching_area{tile}_normalized.jpg", 12, 14, 1, seed=tile)
        drawn[tile] = draw(6, 12, 14, seed=tile)
        eroded = drawn[tile].copy()
        eroded[:2] = 6
        codes(base / "gts_for_participants" / f"top_mosaic_09cm_area{tile}.tif", ISPRS_COLORS[drawn[tile]])
        codes(eroded_folder / f"top_mosaic_09cm_area{tile}_noBoundary.tif", ISPRS_COLORS[eroded])
    return drawn


def potsdam(
    root: Path, tiles: tuple[str, ...] = ("2_10", "4_12", "2_11", "3_13")
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tiles of 16 x 16 with coordinates; colours of 4_12 are off and the heights of 3_13 a column short.
    Returns classes and pictures.
    """
    drawn, photos = {}, {}
    for i, tile in enumerate(tiles):
        row, column = (int(n) for n in tile.split("_"))
        photos[tile] = picture(root / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif", 16, 16, 4, seed=i)
        write(
            root / "4_Ortho_RGBIR" / f"top_potsdam_{tile}_RGBIR.tif", photos[tile], photometric="RGB"
        )  # GDAL calls the fourth band alpha
        heights = root / "1_DSM_normalisation" / f"dsm_potsdam_{row:02d}_{column:02d}_normalized_lastools.jpg"
        picture(heights, 16, 15 if tile == "3_13" else 16, 1, seed=i)
        drawn[tile] = draw(6, 16, 16, seed=i)
        colors = ISPRS_COLORS[drawn[tile]].astype(int)
        if tile == "4_12":
            colors = np.where(colors == 255, 251, 3)
        codes(root / "5_Labels_for_participants" / f"top_potsdam_{tile}_label.tif", colors.astype(np.uint8))
    return drawn, photos


def cityscapes(root: Path, *, train_ids: bool = False) -> dict[str, np.ndarray]:
    """One picture of 8 x 16 a part; returns name -> label ids drawn (0..33)."""
    drawn = {}
    for i, (part, city) in enumerate((("train", "aachen"), ("val", "lindau"), ("test", "berlin"))):
        name = f"{city}_{i:06d}_000019"
        picture(root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png", 8, 16, seed=i)
        drawn[name] = draw(34, 8, 16, seed=i)
        codes(root / "gtFine" / part / city / f"{name}_gtFine_instanceIds.png", drawn[name])
        if part != "test":
            kind = "labelTrainIds" if train_ids else "labelIds"
            codes(
                root / "gtFine" / part / city / f"{name}_gtFine_{kind}.png",
                drawn[name] % 19 if train_ids else drawn[name],
            )
    return drawn


def pascal_context(root: Path, ids: np.ndarray, *, mat: bool) -> dict[str, np.ndarray]:
    """VOC2010 with two pictures of 10 x 12. `ids` are the 60 values that (b) numbers 0..59; returns name
    -> ids drawn, one of `ids`.
    """
    import scipy.io

    base, drawn = root / "VOC2010", {}
    (base / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(("train", "val")):
        name = f"2008_00000{i}"
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{name} \n")
        picture(base / "JPEGImages" / f"{name}.jpg", 10, 12, seed=i)
        places = draw(60, 10, 12, seed=i)
        drawn[name] = ids[places]
        if mat:
            # Values that are none of the 59 are background: 1 is an accordion.
            values = np.where(drawn[name] == 0, 1, drawn[name]).astype(np.uint16)
            (root / "trainval").mkdir(exist_ok=True)
            scipy.io.savemat(root / "trainval" / f"{name}.mat", {"LabelMap": values})
        else:
            codes(base / "SegmentationClassContext" / f"{name}.png", places)
    return drawn


def pairs(
    root: Path,
    sides: dict[str, tuple[str, str]],
    names: dict[str, list[str]],
    high: int,
    *,
    suffix: str = ".png",
) -> dict[str, np.ndarray]:
    """Pictures and label values 0..high of 9 x 11: part -> (image folder, label folder) and part -> names;
    returns name -> values drawn.
    """
    drawn = {}
    for part, (images, labels) in sides.items():
        for name in names[part]:
            drawn[name] = draw(high + 1, 9, 11, seed=len(drawn))
            picture(root / images / f"{name}{suffix}", 9, 11, seed=len(drawn))
            codes(root / labels / f"{name}.png", drawn[name])
    return drawn
