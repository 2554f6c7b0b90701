"""How long a map takes, as `check` says: on a clock that only the work moves, whatever the load."""

import numpy as np
import pytest
import world

from labelscape.areas import polygonize as areas_polygonize
from labelscape.maps import duration, plan
from labelscape.maps.run import map_scene
from labelscape.rasters.write import MapWriter
from labelscape.scenes.raster import Scene
from labelscape.scoring.scorer import Scorer

SIDE = 384
QUIET = {"device": "cpu", "engine": "torch", "tile_size": 128, "overlap": 16}


@pytest.fixture
def clock(monkeypatch):
    """Seconds of reading and predicting a pixel, of finishing a raster and of a polygon: all else is free."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(duration, "time", clock)
    monkeypatch.setattr(plan, "time", clock)
    # A small scene is in proportion to its blocks as a large one.
    monkeypatch.setattr(duration, "BLOCK", 128)
    monkeypatch.setattr(duration, "QUICK", 32)

    def costs(owner, name, seconds):
        free = getattr(owner, name)

        def act(*given, **settings):
            found = free(*given, **settings)
            clock.now += seconds(found, *given)
            return found

        monkeypatch.setattr(owner, name, act)

    costs(Scene, "read", lambda found, *_: 1e-6 * found.valid.size)
    costs(Scorer, "batch_logits", lambda found, *_: 1e-5 * found[:, 0].numel())
    costs(MapWriter, "finish", lambda *_: 0.5)
    outlined = areas_polygonize.polygonize

    def polygonize(*given, **settings):
        made = outlined(*given, **settings)
        clock.now += 1e-3 * made.written
        return made

    monkeypatch.setattr(areas_polygonize, "polygonize", polygonize)
    monkeypatch.setattr(duration, "polygonize", polygonize)
    return clock


def scene(path, *, rows, columns):
    """Noise in the upper left corner, nodata elsewhere."""
    pixels = np.zeros((3, SIDE, SIDE), np.uint16)
    noise = np.random.default_rng(0).integers(1, 9000, (3, rows // 4, columns // 4))
    pixels[:, :rows, :columns] = noise.repeat(4, axis=1).repeat(4, axis=2)
    return world.write(path, pixels, nodata=0)


def said(path, **settings):
    """Seconds that `check` says."""
    return 60 * plan.check(world.tiny_checkpoint(), path, **QUIET, **settings).plan.minutes


def took(clock, path, out, **settings):
    """Seconds of the map."""
    before = clock.now
    map_scene(world.tiny_checkpoint(), path, out, report=False, force=True, **QUIET, **settings)
    return clock.now - before


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE // 3])
def test_check_says_how_long_a_map_takes(clock, tmp_path, side):
    path = scene(tmp_path / "scene.tif", rows=side, columns=side)
    predicted = said(path)
    mapped = took(clock, path, tmp_path / "map")
    # Without rasters and polygons, or with all of an empty scene, it would not be.
    assert mapped / 2 < predicted < 2 * mapped


def test_polygons_and_rasters_are_part_of_it(clock, tmp_path):
    path = scene(tmp_path / "scene.tif", rows=SIDE, columns=SIDE)
    with_all, without = said(path), said(path, polygons=False)
    polygons = map_scene(
        world.tiny_checkpoint(), path, tmp_path / "map", report=False, force=True, **QUIET
    ).outlined
    assert polygons.written > 500
    assert with_all - without == pytest.approx(1e-3 * polygons.written, rel=0.5)
    assert said(path, polygons=False, proba=True) - without == pytest.approx(0.5)
    # A raster more, and fewer polygons.
    assert without + 0.5 < said(path, sieve=0.5) < with_all + 0.5


def test_a_network_too_slow_for_a_tile_is_timed_on_less(clock, tmp_path, monkeypatch):
    path = scene(tmp_path / "scene.tif", rows=SIDE, columns=SIDE)

    def checked():
        before = clock.now
        return said(path, polygons=False), clock.now - before

    whole, longer = checked()
    monkeypatch.setattr(duration, "LONGEST", 0.03)
    quick, shorter = checked()
    # The price of a pixel is the same, and the tile of 128 x 128 pixels at 1e-5 s is not predicted.
    assert quick == pytest.approx(whole, rel=0.1)
    assert longer - shorter > 0.5 * 128**2 * 1e-5
