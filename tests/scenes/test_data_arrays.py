"""DataArrays and Datasets of xarray as scenes: where they lie, which axis is which, and that they are read by
windows.
"""

import numpy as np
import pytest
import world

from labelscape.errors import BadInput, UnknownName
from labelscape.grid import Window
from labelscape.scenes.mosaic import open_scene

xarray = pytest.importorskip("xarray")
pytest.importorskip("rioxarray")

EAST = 400_005.0 + 10 * np.arange(60)
NORTH = 5_799_995.0 - 10 * np.arange(40)
PIXELS = np.random.default_rng(0).integers(1, 9000, (3, 40, 60)).astype(np.uint16)
WINDOW = Window(3, 4, 5, 6)


def array_of(pixels=PIXELS, dims=("band", "y", "x"), x=EAST, y=NORTH, **coords):
    places = {dims[-2]: y, dims[-1]: x}
    made = xarray.DataArray(pixels, dims=dims, coords={**places, **coords})
    return made.rio.write_crs("EPSG:32633")


class Counted(xarray.backends.BackendArray):
    """Pixels in a file, of which is noted how many are read."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.read = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, key):
        return xarray.core.indexing.explicit_indexing_adapter(
            key, self.shape, xarray.core.indexing.IndexingSupport.BASIC, self.raw
        )

    def __deepcopy__(self, memo):
        return self  # `write_crs` copies what it is given

    def raw(self, key):
        found = self.pixels[key]
        self.read += found.size
        return found

    def variable(self, dims, **attrs):
        return xarray.Variable(dims, xarray.core.indexing.LazilyIndexedArray(self), attrs)


def assert_is(scene, pixels=PIXELS, transform=world.NORTH_UP):
    assert scene.grid.crs == world.UTM and scene.grid.transform.almost_equals(transform, 1e-9)
    np.testing.assert_array_equal(scene.read().pixels, pixels)


@pytest.mark.parametrize(
    "dims",
    [
        ("band", "y", "x"),
        ("bands", "lat", "lon"),
        ("channel", "latitude", "longitude"),
        ("band", "Lat", "Lon"),
    ],
)
def test_rows_and_columns_have_the_names_of_the_field(dims):
    assert_is(open_scene(array_of(dims=dims)))
    turned = array_of(dims=dims).transpose(dims[2], dims[0], dims[1])
    assert_is(open_scene(turned))


def test_a_file_is_read_by_windows_whatever_its_dimensions():
    """A new axis, a single date, one variable a band: none of them loads what is lazy."""
    for dims, pixels in (
        (("band", "y", "x"), PIXELS),
        (("y", "x"), PIXELS[0]),
        (("time", "y", "x"), PIXELS[:1]),
        (("y", "x", "band"), np.moveaxis(PIXELS, 0, 2)),
        (("time", "band", "y", "x"), PIXELS[None]),
    ):
        file = Counted(pixels)
        array = xarray.DataArray(file.variable(dims), coords={"y": NORTH, "x": EAST}).rio.write_crs(32633)
        with open_scene(array) as scene:
            assert file.read == 0
            expected = PIXELS[: len(scene.bands), 3:8, 4:10]
            np.testing.assert_array_equal(scene.read(WINDOW).pixels, expected)
            assert file.read == expected.size, dims


def test_variables_of_a_dataset_are_bands_that_are_read_by_windows():
    files = {name: Counted(plane) for name, plane in zip(("red", "green", "nir"), PIXELS)}
    dataset = xarray.Dataset(
        {name: file.variable(("y", "x")) for name, file in files.items()}, {"y": NORTH, "x": EAST}
    ).rio.write_crs(32633)
    with open_scene(dataset) as scene:
        assert scene.bands == ("red", "green", "nir") and scene.name == "scene"
        np.testing.assert_array_equal(scene.read(WINDOW, ["nir"]).pixels, PIXELS[2:, 3:8, 4:10])
        assert [file.read for file in files.values()] == [0, 0, 30]
        assert_is(scene)
    with open_scene(dataset, bands=["nir", "red"]) as scene:
        np.testing.assert_array_equal(scene.read().pixels, PIXELS[[2, 0]])
    with pytest.raises(UnknownName, match="No band of scene is called 'swir'"):
        open_scene(dataset, bands=["swir"])


def test_what_dask_computes_is_computed_by_chunks():
    dask = pytest.importorskip("dask.array")
    made = []

    def chunk(block, block_info=None):
        made.append(block_info[None]["chunk-location"])
        return block

    lazy = dask.from_array(PIXELS, chunks=(3, 10, 10)).map_blocks(chunk, dtype=PIXELS.dtype, meta=PIXELS[:0])
    with open_scene(array_of(lazy)) as scene:
        assert made == []
        np.testing.assert_array_equal(scene.read(Window(12, 22, 5, 6)).pixels, PIXELS[:, 12:17, 22:28])
        assert made == [(0, 1, 2)]


def test_variables_of_a_dataset_keep_types_nodata_and_units():
    planes = [PIXELS[0].copy(), (PIXELS[1] % 200).astype(np.uint8), PIXELS[2].astype(np.float32)]
    planes[0][:5], planes[1][5:9] = 0, 255
    dataset = xarray.Dataset(
        {
            "red": (("y", "x"), planes[0], {"_FillValue": 0, "scale_factor": 1e-4, "add_offset": -0.1}),
            "cloud": (("y", "x"), planes[1], {"_FillValue": 255}),
            "t": (("y", "x"), planes[2]),
        },
        {"y": NORTH, "x": EAST},
    ).rio.write_crs(32633)
    with open_scene(dataset) as scene:
        assert scene.units == ((1e-4, -0.1), (1.0, 0.0), (1.0, 0.0))
        # Of several, 0 and 255 count only where all such bands have theirs, as in files.
        assert scene.read().valid.all()
        np.testing.assert_array_equal(scene.read().pixels, np.stack(planes))
        assert not scene.read(None, ["red"]).valid[:5].any()
        assert scene.read(None, ["red"]).valid[5:].sum() == (planes[0][5:] != 0).sum()
        assert not scene.read(None, ["cloud"]).valid[5:9].any()
    with open_scene(dataset, nodata=7) as scene:
        assert scene.read(None, ["cloud"]).valid.sum() == (planes[1] != 7).sum()


@pytest.mark.parametrize("turn", [slice(None, None, -1), slice(5, 25), slice(None, None, 2)])
def test_the_coordinates_say_where_pixels_lie_not_a_transform_from_before(tmp_path, turn):
    """rioxarray's stored transform stays as it was where an array is flipped or thinned."""
    import rioxarray

    path = world.write(tmp_path / "a.tif", PIXELS)
    array = rioxarray.open_rasterio(path).isel(y=turn)
    with open_scene(array) as scene:
        y = scene.grid.transform.f + scene.grid.transform.e * (np.arange(scene.grid.height) + 0.5)
        np.testing.assert_allclose(y, array.y.values)
        np.testing.assert_array_equal(scene.read().pixels, PIXELS[:, turn])
    with open_scene(array.isel(x=slice(None, None, 2)).assign_attrs(a=1)) as scene:
        assert scene.grid.transform.a == 20


def test_a_coarsened_array_has_its_own_pixels(tmp_path):
    import rioxarray

    array = rioxarray.open_rasterio(world.write(tmp_path / "a.tif", PIXELS)).coarsen(x=2, y=2).mean()
    with open_scene(array) as scene:
        assert scene.grid.shape == (20, 30)
        assert scene.grid.transform.almost_equals(world.NORTH_UP @ world.Affine.scale(2), 1e-9)


def test_ascending_rows_lie_as_they_are():
    array = array_of(PIXELS[:, ::-1], y=NORTH[::-1])
    with open_scene(array) as scene:
        assert scene.grid.transform.e == 10 and scene.grid.transform.f == 5_799_600
        np.testing.assert_array_equal(scene.read().pixels, PIXELS[:, ::-1])


def test_one_date_is_none_and_several_are_refused():
    series = array_of(PIXELS[None], ("time", "band", "y", "x"), time=np.array(["2024-05-01"], "M8[ns]"))
    assert_is(open_scene(series))
    two = xarray.concat([series, series.assign_coords(time=np.array(["2024-06-01"], "M8[ns]"))], "time")
    with pytest.raises(BadInput, match=r"time, band, y, x.*\.isel\(time=0\).*\.median\('time'\)"):
        open_scene(two)
    # However the axis is called: its values are dates.
    with pytest.raises(BadInput, match=r"\.isel\(when=0\)"):
        open_scene(two.isel(band=0).rename(time="when"))
    # A level of its own beside the bands says nothing either; a band alone stays a band.
    assert_is(open_scene(array_of(PIXELS[None], ("level", "band", "y", "x"))))
    assert_is(open_scene(array_of(PIXELS[None, :1], ("level", "band", "y", "x"))), PIXELS[:1])
    with pytest.raises(BadInput, match=r"level, band, y, x.*\.isel\(level=0\)"):
        open_scene(array_of(np.stack([PIXELS, PIXELS]), ("level", "band", "y", "x")))


def test_coordinates_without_a_crs_are_refused():
    array = array_of().drop_vars("spatial_ref")
    with pytest.raises(BadInput, match=r"coordinates but no CRS.*\.rio\.write_crs\('EPSG:32633'\)"):
        open_scene(array)
    assert open_scene(array.drop_vars(["x", "y"])).grid.crs is None  # a picture


@pytest.mark.parametrize("attrs", [{"proj:code": "EPSG:32633"}, {"proj:epsg": 32633}, {"crs": "EPSG:32633"}])
def test_a_crs_in_attributes_is_one(attrs):
    array = array_of().drop_vars("spatial_ref").assign_attrs(attrs)
    assert_is(open_scene(array))
    dataset = array.drop_attrs().to_dataset(name="scene").assign_attrs(attrs)
    assert open_scene(dataset).grid.crs == world.UTM


def test_a_crs_variable_that_was_not_decoded_is_found():
    dataset = array_of().drop_vars("spatial_ref").to_dataset(name="scene")
    dataset["spatial_ref"] = array_of().spatial_ref.drop_vars("spatial_ref").variable
    assert "spatial_ref" in dataset.data_vars
    assert_is(open_scene(dataset))


def test_pixels_that_are_not_evenly_spaced_are_refused():
    y = NORTH.copy()
    y[20:] -= 30
    with pytest.raises(BadInput, match=r"coordinates y that are not evenly spaced"):
        open_scene(array_of(y=y))
    # Degrees in 32 bits are, nearly.
    lon = (14 + 0.0001 * np.arange(60)).astype(np.float32)
    degrees = array_of(dims=("band", "lat", "lon"), x=lon, y=52 - 0.0001 * np.arange(40))
    with open_scene(degrees.rio.write_crs(4326)) as scene:
        assert scene.grid.transform.almost_equals(world.Affine(1e-4, 0, 13.99995, 0, -1e-4, 52.00005), 1e-5)


def test_a_dataset_that_is_no_scene_is_told_what_it_has():
    dataset = xarray.Dataset({"red": array_of(), "cloud": array_of(PIXELS[0], ("y", "x"))})
    with pytest.raises(
        BadInput, match=r"red \(band 3 x y 40 x x 60\), cloud \(y 40 x x 60\).*dataset\[NAME\]"
    ):
        open_scene(dataset)
    assert_is(open_scene(dataset[["red"]]))
    with open_scene(dataset[["cloud"]]) as scene:
        assert scene.bands == ("cloud",) and scene.name == "cloud"
    with pytest.raises(BadInput, match="no variable with two dimensions"):
        open_scene(xarray.Dataset({"a": 3}))
