import numpy as np
import pyproj
import pytest
import world
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from labelscape.errors import BadOption
from labelscape.grid import Grid, Window
from labelscape.scoring.tiles import plan_tiles

sizes = st.integers(1, 300)


@settings(deadline=None, max_examples=60)
@given(
    height=sizes,
    width=sizes,
    stride=st.sampled_from([1, 4, 16, 32]),
    tiles=st.integers(2, 6),
    halos=st.integers(0, 2),
)
def test_every_pixel_is_answered_for_exactly_once(height, width, stride, tiles, halos):
    tile_size, overlap = stride * (tiles + 2 * halos), stride * halos
    whole = Window(0, 0, height, width)
    plan = plan_tiles(whole, tile_size=tile_size, overlap=overlap, stride=stride)
    count = np.zeros((height, width), int)
    for tile in plan:
        count[tile.core.inset_of(whole)] += 1
        assert tile.core & tile.seen == tile.core
        assert tile.seen & whole == tile.seen
        assert tile.seen.top % stride == 0
        assert tile.seen.left % stride == 0
        assert max(tile.seen.shape) <= max(
            tile_size, max(whole.shape) if max(whole.shape) <= tile_size else 0
        )
        for low, high, edge in (
            (tile.core.top - tile.seen.top, tile.seen.bottom - tile.core.bottom, height),
            (tile.core.left - tile.seen.left, tile.seen.right - tile.core.right, width),
        ):
            assert low in (0, overlap) or edge <= tile_size
            assert high <= overlap
    assert (count == 1).all()
    assert len(list(plan)) == len(plan)


def test_halos_are_rounded_up_to_strides_and_impossible_ones_refused():
    plan = plan_tiles(Window(0, 0, 1000, 1000), tile_size=512, overlap=83, stride=16)
    assert plan.halo == 96
    assert plan.core % 16 == 0
    with pytest.raises(BadOption, match="at least"):
        plan_tiles(Window(0, 0, 1000, 1000), tile_size=128, overlap=83, stride=16)


@settings(deadline=None)
@given(top=sizes, left=sizes, height=sizes, width=sizes, margin=st.integers(0, 50))
def test_windows_grow_and_meet(top, left, height, width, margin):
    window, bounds = Window(top, left, height, width), Window(0, 0, 400, 400)
    grown = window.grown(margin, bounds)
    assert grown & window == window & bounds
    assert window.grown(margin).shape == (height + 2 * margin, width + 2 * margin)
    outer = Window(-50, -50, 800, 800)
    array = np.arange(800 * 800).reshape(800, 800)
    np.testing.assert_array_equal(
        array[window.grown(margin).inset_of(outer)],
        array[
            top + 50 - margin : top + height + 50 + margin, left + 50 - margin : left + width + 50 + margin
        ],
    )


def test_pixel_sizes_and_areas_on_the_ellipsoid():
    utm = Grid(world.UTM, world.NORTH_UP, 100, 200)
    assert utm.pixel_size == (10, 10)
    # 13.5 degrees east is 1.5 from the zone's meridian: the scale there is known to 1e-4.
    assert utm.ground_pixel_size == pytest.approx(10, rel=1e-3)
    assert utm.ground_area(utm.window) == pytest.approx(100 * 200 * 100, rel=2e-3)
    rotated = Grid(world.UTM, world.ROTATED, 100, 200)
    assert rotated.pixel_size == pytest.approx((10, 10))
    assert rotated.ground_area(rotated.window) == pytest.approx(100 * 200 * 100, rel=2e-3)
    degrees = Grid(CRS.from_epsg(4326), world.DEGREES, 100, 100)
    # At 52 degrees north a ten-thousandth of a degree is 11.13 m north and 6.87 m east.
    assert degrees.ground_area(degrees.window) == pytest.approx(100 * 11.126 * 100 * 6.866, rel=2e-3)
    mercator = Grid(CRS.from_epsg(3857), world.Affine(0.149, 0, 9_500_000, 0, -0.149, 3_200_000), 10, 10)
    assert mercator.ground_pixel_size < 0.149 * 0.9  # Web Mercator stretches
    assert Grid(None, world.Affine.identity(), 5, 5).ground_area(Window(0, 0, 5, 5)) == 25


def test_grids_match_to_a_hundredth_of_a_pixel():
    grid = Grid(world.UTM, world.NORTH_UP, 100, 200)
    assert grid.matches(Grid(world.UTM, world.NORTH_UP @ world.Affine.translation(0.005, 0), 100, 200))
    assert not grid.matches(Grid(world.UTM, world.NORTH_UP @ world.Affine.translation(0.5, 0), 100, 200))
    assert not grid.matches(Grid(world.UTM, world.NORTH_UP, 100, 201))
    cropped = grid.crop(Window(10, 20, 5, 6))
    assert cropped.transform @ (0, 0) == grid.transform @ (20, 10)


WORLD_MERCATOR = Affine(40_075_016.68 / 400, 0, -20_037_508.34, 0, -40_075_016.68 / 400, 20_037_508.34)
LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
MOON = (
    'GEOGCS["Moon 2000",DATUM["D_Moon_2000",SPHEROID["Moon_2000_IAU_IAG",1737400,0]],'
    'PRIMEM["Reference_Meridian",0],UNIT["degree",0.0174532925199433]]'
)


@pytest.mark.parametrize(
    ("crs", "transform", "shape"),
    [
        ("EPSG:4326", Affine(0.25, 0, -180, 0, -0.25, 90), (720, 1440)),
        ("EPSG:4326", Affine(0.25, 0, -180, 0, 0.25, -90), (720, 1440)),
        ("EPSG:4326", Affine(0.05, 0, 10, 0, -0.05, 60), (300, 77)),
        ("EPSG:3857", WORLD_MERCATOR, (400, 400)),
        ("EPSG:32633", Affine(1000, 0, 100_000, 0, -1000, 9_000_000), (900, 800)),
        ("EPSG:3035", Affine(5000, 0, 2_500_000, 0, -5000, 5_500_000), (800, 900)),
        ("EPSG:3413", Affine(5000, 0, -2_000_000, 0, -5000, 2_000_000), (800, 800)),
    ],
)
def test_areas_are_those_of_the_ellipsoid_row_by_row(crs, transform, shape):
    grid = Grid(CRS.from_user_input(crs), transform, *shape)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, shape[0], 60), rng.integers(0, shape[1], 60)
    # Each side in a hundred steps: PROJ's geodesics are shorter than parallels.
    right = []
    steps = np.linspace(0, 1, 100, endpoint=False)
    ring = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps])
    down = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps])
    change = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    for row, column in zip(rows, columns):
        lonlat = change.transform(*(transform @ (column + ring, row + down)))
        right.append(abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*lonlat)[0]))
    np.testing.assert_allclose(grid.pixel_areas(rows, columns), right, rtol=2e-5)


@pytest.mark.parametrize("size", [0.05, 0.13, 10, 300])
@pytest.mark.parametrize(
    ("crs", "left", "top"),
    [
        ("EPSG:32633", 420_000, 5_540_000),
        ("EPSG:32745", 330_000, 3_060_000),
        ("EPSG:3035", 4_300_000, 3_200_000),
        ("EPSG:2154", 650_000, 6_860_000),
        ("EPSG:3413", -300_000, -2_200_000),
    ],
)
@pytest.mark.parametrize("shape", [(4000, 3000), (1, 700), (5, 1)])
def test_areas_of_pixels_of_any_size_follow_the_scale_of_the_projection(crs, left, top, size, shape):
    """A pixel of 0.13 m is smaller than what geodesic polygons are right to, by a thousandth of itself."""
    grid = Grid(CRS.from_user_input(crs), Affine(size, 0, left, 0, -size, top), *shape)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, shape[0], 50), rng.integers(0, shape[1], 50)
    centres = grid.transform @ (columns + 0.5, rows + 0.5)
    lonlat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(*centres)
    scale = pyproj.Proj(crs).get_factors(*lonlat).areal_scale
    np.testing.assert_allclose(grid.pixel_areas(rows, columns), size**2 / scale, rtol=2e-7)
    middle = grid.pixel_areas(shape[0] // 2, shape[1] // 2)[0]
    assert grid.ground_pixel_size**2 == pytest.approx(middle, rel=1e-7)


def test_the_earth_in_degrees_has_its_area():
    grid = Grid(CRS.from_epsg(4326), Affine(0.25, 0, -180, 0, -0.25, 90), 720, 1440)
    assert grid.pixel_areas(np.arange(720), 0).sum() * 1440 == pytest.approx(510_065_621_724_089, rel=1e-9)


@pytest.mark.parametrize("crs", [LOCAL, MOON, "EPSG:4978", "+proj=ortho +lat_0=40"])
def test_where_the_place_on_earth_is_unknown_areas_are_counted_in_pixels(crs):
    made = CRS.from_string(crs) if crs.startswith("+") else CRS.from_user_input(crs)
    # For the orthographic view: a corner of the picture beside the Earth.
    grid = Grid(made, Affine(10, 0, 9e6, 0, -10, 9e6), 20, 30)
    assert grid.ground_pixel_size is None
    assert not grid.is_on_earth
    assert grid.ground_area(Window(2, 3, 4, 5)) == 20
    assert grid.pixel_areas([1, 2], [3, 4]).tolist() == [1, 1]


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.data(),
    st.integers(8, 40),
    st.integers(0, 6),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["crop", "hann", "none"]),
)
def test_a_part_of_a_scene_is_answered_by_the_tiles_of_all_of_it(
    height, width, data, tile_size, overlap, stride, blend
):
    ground = Window(data.draw(st.integers(-50, 0)), data.draw(st.integers(-50, 0)), height, width)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    part = Window(
        ground.top + top,
        ground.left + left,
        data.draw(st.integers(1, height - top)),
        data.draw(st.integers(1, width - left)),
    )
    how = {"tile_size": tile_size, "overlap": overlap, "stride": stride, "blend": blend}
    try:
        plan, of_all = plan_tiles(part, **how, around=ground), plan_tiles(ground, **how)
    except BadOption:
        return
    tiles = list(plan)
    assert len(plan) == len(tiles)
    covered = np.zeros(part.shape, int)
    for tile in tiles:
        covered[tile.answers.inset_of(part)] += 1
    assert (covered == 1).all()
    every = {tile.core: tile for tile in of_all}
    for tile in tiles:
        its = every[tile.core]
        assert (tile.seen, tile.final, tile.answers) == (its.seen, its.final, its.answers & part)
    rows, columns = plan.along
    places = [plan.place_of(tile.answers) for tile in tiles]
    assert places == [(row, column) for row in range(rows) for column in range(columns)]
    # What is blended with them is predicted too.
    fed = {tile.core for tile in plan.with_neighbours()}
    steps = (0, plan.core) if plan.fade else (0,)
    before = {(t.core.top - up, t.core.left - back) for t in tiles for up in steps for back in steps}
    assert {core for core in every if (core.top, core.left) in before} == fed
