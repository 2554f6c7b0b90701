"""Zarr stores and NetCDF files as scenes: bands, place, nodata and units as they are declared."""

import json
import os

import numpy as np
import pytest
import rasterio
import world

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Window
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.scene_list import find_scenes
from labelscape.scenes.stamps import Watched

EAST = 400_005.0 + 10 * np.arange(60)
NORTH = 5_799_995.0 - 10 * np.arange(40)
PIXELS = np.random.default_rng(0).integers(1, 9000, (3, 40, 60)).astype("<u2")
WKT = world.UTM.to_wkt()
GRID = {"crs_wkt": WKT, "spatial_ref": WKT, "grid_mapping_name": "transverse_mercator"}
PLACED = {"grid_mapping": "spatial_ref"}


def array(store, name, values, dims, attrs=None, fill=None, chunk=20):
    """One array of a Zarr store of version 2, in chunks without compression."""
    folder = store / name
    folder.mkdir(parents=True)
    chunks = [min(chunk, n) for n in values.shape]
    about = {"zarr_format": 2, "shape": list(values.shape), "chunks": chunks, "dtype": values.dtype.str}
    about |= {"compressor": None, "fill_value": fill, "order": "C", "filters": None}
    (folder / ".zarray").write_text(json.dumps(about))
    (folder / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": list(dims), **(attrs or {})}))
    counts = [-(-n // c) for n, c in zip(values.shape, chunks)]
    for place in np.ndindex(*counts):
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunks))]
        # Chunks at the edge are stored whole.
        part = np.pad(part, [(0, c - n) for c, n in zip(chunks, part.shape)]) if chunks else part
        (folder / (".".join(map(str, place)) or "0")).write_bytes(part.tobytes())


def store(folder, *, crs=True, y=NORTH, **arrays):
    """A Zarr store as xarray writes one; `arrays` are name -> (values, dims, attributes, fill value)."""
    folder.mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    if crs:
        array(folder, "spatial_ref", np.array(0, "<i8"), [], GRID)
    array(folder, "x", EAST, ["x"])
    array(folder, "y", np.asarray(y), ["y"])
    for name, (values, dims, *more) in arrays.items():
        array(folder, name, np.asarray(values), dims, *more)
    return folder


def assert_is(scene, pixels=PIXELS):
    assert scene.grid.crs == world.UTM and scene.grid.transform.almost_equals(world.NORTH_UP, 1e-9)
    np.testing.assert_array_equal(scene.read().pixels, pixels)
    np.testing.assert_array_equal(scene.read(Window(13, 14, 15, 16)).pixels, pixels[:, 13:28, 14:30])


def test_a_store_with_an_axis_of_bands_is_a_scene(tmp_path):
    attrs = {**PLACED, "_FillValue": 7, "scale_factor": 1e-4, "add_offset": -0.1}
    pixels = PIXELS.copy()
    pixels[:, :9] = 7
    bands = np.array(["B02", "B03", "B8A"], "<U3")
    place = store(tmp_path / "s2.zarr", band=(bands, ["band"]), s2=(pixels, ["band", "y", "x"], attrs, 7))
    for given in (place, str(place), f'ZARR:"{place}"'):
        with open_scene(given) as scene:
            assert_is(scene, pixels)
            assert scene.bands == ("B02", "B03", "B8A")
            assert scene.units == ((1e-4, -0.1),) * 3 and scene.nodata == 7
            assert not scene.read().valid[:9].any()
    with open_scene(place, bands=["B8A"]) as scene:
        np.testing.assert_array_equal(scene.read().pixels, pixels[2:])
        assert scene.name == "s2"
    (listed,) = find_scenes([place]).scenes
    assert (listed.name, str(listed.source)) == ("s2", str(place))


def test_variables_of_a_store_are_named_and_are_bands_together(tmp_path):
    place = store(
        tmp_path / "a.zarr", **{n: (p, ["y", "x"], PLACED) for n, p in zip(("red", "green", "nir"), PIXELS)}
    )
    with pytest.raises(BadFile, match=r"container of several rasters; name one of them, or several") as told:
        open_scene(place)
    said = str(told.value)
    for name in ("red", "green", "nir"):
        assert f"ZARR:{place}:/{name}" in said
    # Coordinates are no rasters.
    assert ":/x" not in said and "spatial_ref" not in said
    one = f'ZARR:"{place}":/nir'
    with open_scene(one) as scene:
        assert_is(scene, PIXELS[2:])
    with open_scene([f'ZARR:"{place}":/{name}' for name in ("nir", "red")]) as scene:
        assert scene.bands == ("nir", "red")
        assert_is(scene, PIXELS[[2, 0]])
    # Changed chunks are changed scenes, by either name.
    for name in (place, one):
        before = Watched.of([str(name)])
        assert before.stamps and None not in before.stamps.values() and not before.changed()
        chunk = place / "nir" / "0.0"
        chunk.write_bytes(chunk.read_bytes()[::-1])
        os.utime(chunk, ns=(1, len(str(name))))
        assert before.changed()


def test_dates_are_no_bands(tmp_path):
    days = np.array([0, 31, 62], "<i8")
    series = store(tmp_path / "t.zarr", time=(days, ["time"]), red=(PIXELS, ["time", "y", "x"], PLACED))
    with pytest.raises(BadInput, match=r"t\.zarr has 3 rasters along time 3.*\.isel\(time=0\)"):
        open_scene(series)
    one = store(tmp_path / "o.zarr", time=(days[:1], ["time"]), red=(PIXELS[:1], ["time", "y", "x"], PLACED))
    assert_is(open_scene(one), PIXELS[:1])
    both = np.stack([PIXELS, PIXELS])
    cube = store(
        tmp_path / "c.zarr",
        level=(days[:2], ["level"]),
        band=(days, ["band"]),
        s2=(both, ["level", "band", "y", "x"], PLACED),
    )
    with pytest.raises(BadInput, match=r"6 rasters along level 2, band 3"):
        open_scene(cube)


def test_arrays_without_a_place_are_refused(tmp_path):
    nowhere = store(tmp_path / "n.zarr", crs=False, red=(PIXELS[0], ["y", "x"]))
    with pytest.raises(BadInput, match=r"coordinates, but GDAL finds no CRS.*-a_srs EPSG:32633"):
        open_scene(nowhere)
    crooked = NORTH.copy()
    crooked[20:] -= 35
    uneven = store(tmp_path / "u.zarr", y=crooked, red=(PIXELS[0], ["y", "x"], PLACED))
    with pytest.raises(BadInput, match="not evenly spaced"):
        open_scene(uneven)


def test_rows_from_south_to_north_lie_as_they_are(tmp_path):
    place = store(tmp_path / "a.zarr", y=NORTH[::-1], s2=(PIXELS[:, ::-1], ["band", "y", "x"], PLACED))
    with open_scene(place) as scene:
        top = scene.grid.transform.f + scene.grid.transform.e / 2
        row = 0 if top > NORTH[-1] else -1
        assert abs(top - (NORTH[0] if row == 0 else NORTH[-1])) < 1e-6
        expected = PIXELS if row == 0 else PIXELS[:, ::-1]
        np.testing.assert_array_equal(scene.read().pixels, expected)


def test_a_netcdf_file_is_a_scene(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    signed = (PIXELS % 3000).astype(np.int16)  # NetCDF 3 has no unsigned types
    dataset = xarray.DataArray(
        signed, dims=("band", "y", "x"), coords={"band": [2, 3, 8], "y": NORTH, "x": EAST}, name="s2"
    )
    dataset = dataset.rio.write_crs("EPSG:32633").rio.write_coordinate_system().rio.write_transform()
    dataset.attrs |= {"scale_factor": 1e-4, "add_offset": -0.1}
    dataset.to_dataset().to_netcdf(tmp_path / "a.nc", engine="scipy")
    with open_scene(tmp_path / "a.nc") as scene:
        assert_is(scene, signed)
        assert scene.bands == ("2", "3", "8") and scene.units == ((1e-4, -0.1),) * 3
    days = np.array(["2024-05-01", "2024-06-01", "2024-07-01"], "M8[ns]")
    dates = dataset.rename(band="time").assign_coords(time=days)
    dates.to_dataset().to_netcdf(tmp_path / "t.nc", engine="scipy")
    with pytest.raises(BadInput, match="3 rasters along time 3"):
        open_scene(tmp_path / "t.nc")


def test_a_store_is_mapped_as_the_file_of_its_pixels(tmp_path):
    from labelscape.maps.run import map_scene

    made = world.make(tmp_path, 40, 60)
    place = store(tmp_path / "scene.zarr", s2=(made.pixels.astype("<u2"), ["band", "y", "x"], PLACED))
    how = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}
    model = world.ten_metre_fcn()
    one = map_scene(model, made.scene, tmp_path / "tif", **how)
    other = map_scene(model, place, tmp_path / "zarr", **how)
    with rasterio.open(one.paths["class"]) as a, rasterio.open(other.paths["class"]) as b:
        np.testing.assert_array_equal(a.read(), b.read())
        assert a.crs == b.crs and a.transform.almost_equals(b.transform, 1e-9)
    assert json.loads(other.paths["run"].read_text())["scene_files"][0][0] == "scene.zarr"
