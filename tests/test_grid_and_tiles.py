import numpy as np
import pytest
import world
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
