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


def spent(clock, act):
    before = clock.now
    act()
    return clock.now - before


def both(clock, path, out, **settings):
    """The predicted and the spent seconds of a map."""
    model = world.tiny_checkpoint()
    settings = {**QUIET, **settings}
    before = clock.now
    found = plan.check(model, path, **settings)
    checked = clock.now - before
    took = spent(clock, lambda: map_scene(model, path, out, report=False, force=True, **settings))
    return 60 * found.plan.minutes, took, checked


@pytest.mark.parametrize(("rows", "columns"), [(SIDE, SIDE), (2 * SIDE // 3, 2 * SIDE // 3)])
def test_check_says_how_long_a_map_takes(clock, tmp_path, rows, columns):
    path = scene(tmp_path / "scene.tif", rows=rows, columns=columns)
    said, took, _ = both(clock, path, tmp_path / "map")
    assert took / 2 < said < 2 * took


def test_polygons_and_rasters_are_part_of_it(clock, tmp_path):
    path = scene(tmp_path / "scene.tif", rows=SIDE, columns=SIDE)
    with_all, took, _ = both(clock, path, tmp_path / "all")
    without, fewer, _ = both(clock, path, tmp_path / "none", polygons=False)
    assert took - fewer > 0.5
    assert with_all - without == pytest.approx(took - fewer, rel=0.5)
    proba, _, _ = both(clock, path, tmp_path / "proba", polygons=False, proba=True)
    assert proba - without == pytest.approx(0.5)
    # Sieved: a raster more, and fewer polygons.
    sieved, _, _ = both(clock, path, tmp_path / "sieved", sieve=0.5)
    assert 0.5 < sieved < with_all


def test_a_network_too_slow_for_a_tile_is_timed_on_less(clock, tmp_path, monkeypatch):
    path = scene(tmp_path / "scene.tif", rows=SIDE, columns=SIDE)
    monkeypatch.setattr(duration, "LONGEST", 0.03)
    said, took, checked = both(clock, path, tmp_path / "map")
    assert took / 2 < said < 2 * took
    monkeypatch.setattr(duration, "LONGEST", 20)
    *_, longer = both(clock, path, tmp_path / "again")
    assert longer - checked > 0.5 * 128**2 * 1e-5
