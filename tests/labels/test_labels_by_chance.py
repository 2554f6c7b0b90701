"""Label files of any kind, type, nodata, mask, CRS, orientation and class names, against an oracle in plain
NumPy: every pixel has the class that was painted, or none.
"""

import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from labelscape.grid import Grid
from labelscape.labels.labels import open_labels
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE

UTM, DEGREES, MERCATOR = "EPSG:32633", "EPSG:4326", "EPSG:3857"
HEIGHT, WIDTH, SIZE = 16, 24, 10.0
PLACE = Affine(SIZE, 0, 400_000, 0, -SIZE, 5_800_000)
GRIDS = {
    "north up": Grid(CRS.from_string(UTM), PLACE, HEIGHT, WIDTH),
    "south up": Grid(
        CRS.from_string(UTM), Affine(SIZE, 0, 400_000, 0, SIZE, 5_800_000 - HEIGHT * SIZE), HEIGHT, WIDTH
    ),
    "turned": Grid(CRS.from_string(UTM), PLACE @ Affine.rotation(20), HEIGHT, WIDTH),
}
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


@dataclass(frozen=True)
class RasterCase:
    """A label raster and how it is read."""

    dtype: str
    codes: tuple[int, ...]
    nodata: float | None
    mask: str
    crs: str
    flip: bool
    scale: float
    named: bool
    threshold: int | None
    seed: int


@st.composite
def raster_cases(draw):
    dtype = draw(st.sampled_from(TYPES))
    lowest, highest = (-1000, 100_000) if dtype[0] == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    named = draw(st.booleans())
    low, high = (max(lowest, -200), min(highest, 70_000)) if named else (0, min(highest, 254))
    codes = draw(st.lists(st.integers(low, high), min_size=2, max_size=5, unique=True))
    ends = [float(lowest), float(highest), -9999.0, 0.0, 255.0]
    if dtype[0] == "f":
        ends += [float(np.finfo(dtype).min), float("nan"), 1e20, 0.5]
    fits = [e for e in ends if dtype[0] == "f" or lowest <= e <= highest]
    return RasterCase(
        dtype,
        tuple(codes),
        draw(st.sampled_from([None, *fits])),
        draw(st.sampled_from(["none", "inside", "msk"])),
        draw(st.sampled_from([UTM, DEGREES, MERCATOR])),
        draw(st.booleans()),
        draw(st.sampled_from([1.0, 1.0, 0.5, 3.0])),
        named,
        draw(st.sampled_from([None, None, 2])),
        draw(st.integers(0, 2**20)),
    )


def placed(case, grid):
    """Transform and shape of a label raster about where the scene is, in its own CRS."""
    columns, rows = np.meshgrid([0, WIDTH / 2, WIDTH], [0, HEIGHT / 2, HEIGHT])
    change = pyproj.Transformer.from_crs(UTM, case.crs, always_xy=True)
    x, y = change.transform(*(grid.transform @ (columns, rows)))
    rng = np.random.default_rng(case.seed)
    across, down = (x.max() - x.min()) / WIDTH * case.scale, (y.max() - y.min()) / HEIGHT * case.scale
    # Beginning beside the scene's corner, and ending before it or beyond it.
    left, top = x.min() + rng.integers(-3, 8) * across, y.max() - rng.integers(-3, 6) * down
    height, width = (int(n) for n in rng.integers(6, 40, 2))
    if case.flip:
        return Affine(across, 0, left, 0, down, top - height * down), height, width
    return Affine(across, 0, left, 0, -down, top), height, width


def write_raster(folder, case, grid):
    transform, height, width = placed(case, grid)
    rng = np.random.default_rng(case.seed + 1)
    stored = np.array(case.codes)[rng.integers(len(case.codes), size=(height, width))].astype(case.dtype)
    if case.nodata is not None:
        stored[rng.random(stored.shape) < 0.2] = case.nodata
    valid = rng.random(stored.shape) < (1.0 if case.mask == "none" else 0.7)
    path = folder / "labels.tif"
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": case.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=case.mask == "inside"),
        rasterio.open(
            path, "w", **profile, crs=CRS.from_string(case.crs), transform=transform, nodata=case.nodata
        ) as file,
    ):
        file.write(stored, 1)
        if case.mask != "none":
            file.write_mask((valid * 255).astype(np.uint8))
    return path, stored, valid, transform


def seen(stored, valid, transform, crs, grid):
    """The stored value and validity at every pixel centre of the scene; which lie in the file, and how near
    (in label pixels) the next border is.
    """
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    change = pyproj.Transformer.from_crs(UTM, crs, always_xy=True)
    across, down = ~transform @ change.transform(*(grid.transform @ (columns, rows)))
    inside = (across >= 0) & (down >= 0) & (across < stored.shape[1]) & (down < stored.shape[0])
    c, r = (np.where(inside, np.floor(n), 0).astype(int) for n in (across, down))
    near = np.minimum(abs(across - np.round(across)), abs(down - np.round(down)))
    return stored[r, c], valid[r, c] & inside, near


def expected_of(case, values, valid, table):
    """Class indices by the documented rules, value by value in Python."""
    found = np.full(values.shape, IGNORE)
    for at in np.ndindex(values.shape):
        value = float(values[at])
        if not valid[at] or not np.isfinite(value):
            continue
        is_nodata = case.nodata is not None and values[at] == np.asarray(case.nodata).astype(values.dtype)
        if case.threshold is not None:
            found[at] = IGNORE if is_nodata else int(value >= case.threshold)
        elif value in table:
            found[at] = table[value]
        else:
            assert is_nodata or value == 255
    return found


def check_raster(case, turn):
    grid = GRIDS[turn]
    with tempfile.TemporaryDirectory() as folder:
        path, stored, valid, transform = write_raster(Path(folder), case, grid)
        names = {f"c{n}": code for n, code in enumerate(case.codes)}
        rules = LabelRules(
            classes=names if case.named and case.threshold is None else None, threshold=case.threshold
        )
        # Unnamed: the values that are labelled somewhere, ascending, without nodata and 255.
        labelled = stored[valid].astype(float)
        labelled = labelled[np.isfinite(labelled)]
        if case.nodata is not None:
            labelled = labelled[labelled != np.float64(np.asarray(case.nodata).astype(case.dtype))]
        present = sorted(set(labelled.tolist()) - {255.0})
        table = {v: n for n, v in enumerate(map(float, case.codes) if case.named else present)}
        if case.threshold is None and (
            not table or (not case.named and not (present[0] >= 0 and present[-1] < 255))
        ):
            return False
        values, sure, near = seen(stored, valid, transform, case.crs, grid)
        labels = open_labels(path, grid, rules)
        found = labels.read()
        labels.close()
        # On a border between label pixels, the last bit of a coordinate decides.
        clear = near > 1e-3
        np.testing.assert_array_equal(found[clear], expected_of(case, values, sure, table)[clear])
    return True


def touches(case, grid):
    """Does the raster overlap the scene? What does not is refused, and tested elsewhere."""
    transform, height, width = placed(case, grid)
    _, sure, _ = seen(np.zeros((height, width)), np.ones((height, width), bool), transform, case.crs, grid)
    return sure.any()


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET, derandomize=True)
@given(raster_cases(), st.sampled_from(list(GRIDS)))
def test_rasters_by_chance(case, turn):
    if touches(case, GRIDS[turn]):
        check_raster(case, turn)


@pytest.mark.long
@settings(max_examples=3000, deadline=None, suppress_health_check=QUIET)
@given(raster_cases(), st.sampled_from(list(GRIDS)))
def test_many_rasters_by_chance(case, turn):
    if touches(case, GRIDS[turn]):
        check_raster(case, turn)


# ------------------------------------------------------------------------------------------------ polygons

NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cn")), min_size=1, max_size=12)


@st.composite
def polygon_cases(draw):
    kind = draw(st.sampled_from(["text", "integer", "yes or no", "number"]))
    values = {
        "text": st.one_of(
            NAMES, st.sampled_from(["nan", "NULL", " a", "a ", "A", "e\u0301", "\u00e9", "", "x,y"])
        ),
        "integer": st.integers(-(2**31) + 1, 2**31 - 1),
        "yes or no": st.booleans(),
        "number": st.sampled_from([0.0, 1.0, 2.5, -3.0, 1e6]),
    }[kind]
    blocks = draw(st.lists(st.one_of(st.none(), values), min_size=6, max_size=6))
    return {
        "kind": kind,
        "blocks": blocks,
        "crs": draw(st.sampled_from([UTM, DEGREES, MERCATOR])),
        "suffix": draw(st.sampled_from([".gpkg", ".fgb"])),
        "collection": draw(st.booleans()),
        "background": draw(st.sampled_from([None, "other"])),
        "turn": draw(st.sampled_from(list(GRIDS))),
    }


def name_of(kind, value):
    """A class name as documented: no decimals for whole numbers, blanks and Unicode form do not count."""
    if value is None:
        return ""
    if kind == "text":
        return " ".join(unicodedata.normalize("NFC", value).split())
    return str(int(value)) if kind == "number" and value == int(value) else str(value)


def check_polygons(case):
    grid, side = GRIDS[case["turn"]], 8
    change = pyproj.Transformer.from_crs(UTM, case["crs"], always_xy=True)
    names = [name_of(case["kind"], value) for value in case["blocks"]]
    if not any(names):
        return
    known = sorted({name for name in names if name})
    if case["background"]:
        known = ([] if "other" in known else ["other"]) + known
    outside = known.index("other") if case["background"] else IGNORE
    expected, shapes = np.full((HEIGHT, WIDTH), outside), []
    for n, name in enumerate(names):
        top, left = n // 3 * side, n % 3 * side
        # A pixel less on each side: land between blocks is nobody's.
        expected[top + 1 : top + side - 1, left + 1 : left + side - 1] = known.index(name) if name else IGNORE
        ring = grid.transform @ (
            left + np.array([1, side - 1, side - 1, 1]),
            top + np.array([1, 1, side - 1, side - 1]),
        )
        shape = shapely.Polygon(np.column_stack(change.transform(*ring)))
        shapes.append(shapely.GeometryCollection([shape, shape.centroid]) if case["collection"] else shape)
    types = {"text": object, "integer": np.int32, "yes or no": bool, "number": float}
    empty = np.array([value is None for value in case["blocks"]])
    filler = {"text": None, "integer": 0, "yes or no": False, "number": np.nan}[case["kind"]]
    column = np.array([filler if v is None else v for v in case["blocks"]], types[case["kind"]])
    masks = [empty] if case["kind"] in ("integer", "yes or no") else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"l!{case['suffix']}"
        plain = Path(folder) / f"plain{case['suffix']}"
        pyogrio.raw.write(
            plain,
            shapely.to_wkb(np.array(shapes)),
            [column],
            ["kind"],
            field_mask=masks,
            geometry_type="Unknown",
            crs=case["crs"],
            layer="l",
            # An index would put features of FlatGeobuf into another order; no two overlap here.
        )
        plain.rename(path)
        rules = LabelRules(class_column="kind", background=case["background"])
        labels = open_labels(path, grid, rules)
        assert labels.legend.names == known
        np.testing.assert_array_equal(labels.read(), expected)


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET, derandomize=True)
@given(polygon_cases())
def test_polygons_by_chance(case):
    check_polygons(case)


@pytest.mark.long
@settings(max_examples=1500, deadline=None, suppress_health_check=QUIET)
@given(polygon_cases())
def test_many_polygons_by_chance(case):
    check_polygons(case)
