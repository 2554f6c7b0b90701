"""What holds for every kind of scene, and how scenes print."""

from __future__ import annotations

import base64
import io
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from PIL import Image
from rasterio.crs import CRS

from labelscape.errors import BadOption, WrongType
from labelscape.grid import Window
from labelscape.scenes.array import ArrayScene
from labelscape.scenes.lazy import LazyScene
from labelscape.scenes.memory import HeldScene
from labelscape.scenes.mosaic import MosaicScene, open_scene
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Scene
from labelscape.scenes.validity import bands_and_validity

KINDS = (FileScene, MosaicScene, LazyScene, HeldScene, ArrayScene)


@pytest.fixture
def scenes(tmp_path):
    """The same picture as every kind of scene."""
    made = world.make(tmp_path, 50, 70, nodata=0)
    (tmp_path / "tiles").mkdir()
    for left, right in ((0, 30), (30, 70)):
        world.write(
            tmp_path / "tiles" / f"{left}.tif",
            made.pixels[:, :, left:right],
            transform=world.NORTH_UP @ Affine.translation(left, 0),
            nodata=0,
        )
    with ExitStack() as opened:
        yield [
            opened.enter_context(scene)
            for scene in (
                Scene(made.scene),
                open_scene(tmp_path / "tiles"),
                LazyScene(made.scene, name="lazy", band_names=("1", "2", "3")),
                Scene(made.scene).hold(),
                ArrayScene(made.pixels, world.NORTH_UP, world.UTM, nodata=0),
            )
        ]


def test_every_kind_reads_the_same(scenes):
    assert tuple(type(scene) for scene in scenes) == KINDS
    first = scenes[0]
    window = first.grid.window.grown(-7)
    for scene in scenes:
        assert isinstance(scene, Scene)
        assert scene.grid.matches(first.grid) and scene.bands == first.bands and scene.dtype == first.dtype
        for read in (scene.read, scene.hold().read, scene.again().read) if scene is not first else ():
            mine, theirs = read(window, ["3", "1"]), first.read(window, ["3", "1"])
            np.testing.assert_array_equal(mine.pixels[:, mine.valid], theirs.pixels[:, theirs.valid])
            np.testing.assert_array_equal(mine.valid, theirs.valid)
        np.testing.assert_array_equal(scene.thumbnail(33), first.thumbnail(33))
        assert scene.may_hold(window) and scene.index("2") == 1 and scene.nbytes == 50 * 70 * 3 * 2


def test_every_kind_says_all_that_a_scene_says():
    """A method that a kind forgets would be found by the first user who calls it."""
    asked = [n for n in vars(Scene) if n in ("files", "parts", "read", "shrunk", "again", "hold")]
    assert len(asked) == 6
    for kind in KINDS:
        assert all(name in vars(kind) for name in asked)


def test_scenes_are_equal_only_to_themselves(scenes):
    assert len(set(scenes)) == 5 and scenes[0] == scenes[0] and scenes[0] != scenes[0].again()


def test_a_scene_prints_on_one_line(tmp_path, scenes):
    facts = "70 x 50, 3 bands (1 2 3), uint16, EPSG:32633, 10 m"
    assert repr(scenes[0]) == f"<Scene scene: {facts}>" == repr(scenes[3])
    assert repr(scenes[1]) == f"<Scene tiles: {facts}>"
    fresh = LazyScene(tmp_path / "missing.tif", name="x", band_names=("red",))
    assert repr(fresh) == "<Scene x: 1 band (red), not opened yet>"
    assert repr(scenes[2]) in (f"<Scene lazy: {facts}>", "<Scene lazy: 3 bands (1 2 3), not opened yet>")
    many = ArrayScene(np.zeros((200, 4, 5), np.float32))
    assert repr(many) == (
        "<ArrayScene scene: 5 x 4, 200 bands (1 2 3 4 5 6 7 8 9 10 11 12 ...), float32, no CRS>"
    )
    odd = CRS.from_wkt(CRS.from_epsg(3035).to_wkt().replace('ID["EPSG",3035]', "").replace("52", "51.5"))
    text = repr(ArrayScene(np.zeros((1, 4, 5), np.uint8), world.NORTH_UP, odd))
    assert "ETRS89" in text and len(text) < 120
    scenes[0].close()
    assert facts in repr(scenes[0])
    assert "EPSG:32633" in scenes[0]._repr_html_() and "<img" not in scenes[0]._repr_html_()


def test_a_closed_scene_in_memory_holds_no_pixels(scenes):
    """Not so with a view of no pixels, whose base is all of them."""
    held = next(scene for scene in scenes if isinstance(scene, HeldScene)).again()
    held.close()
    assert held.pixels.shape == (3, 0, 0) and held.pixels.base is None


def test_notebooks_show_a_table_and_a_picture(tmp_path):
    pixels = np.full((3, 40, 80), 9, np.uint16)
    pixels[0, :, :40] = 900
    scene = ArrayScene(pixels, bands=("red", "green", "<b>"), name="a & b")
    shown = scene._repr_html_()
    assert "a &amp; b" in shown and "&lt;b&gt;" in shown and "80 x 40" in shown
    picture = shown.split("base64,")[1].split("'")[0]
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    np.testing.assert_array_equal(found, scene.thumbnail(160))
    assert found[0, 0, 0] > found[0, -1, 0]


def test_no_picture_of_a_scene_that_would_be_read_for_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr("labelscape.scenes.scene.QUICK_PIXELS", 100)
    made = world.make(tmp_path, 600, 700)
    with Scene(made.scene) as scene:
        assert "<img" not in scene._repr_html_()
    with rasterio.open(made.scene, "r+") as file:
        file.build_overviews([4, 16])
    with Scene(made.scene) as scene:
        assert "<img" in scene._repr_html_()


def test_names_of_bands_and_validity_come_from_one_place(tmp_path):
    pixels = np.full((4, 6, 6), 9, np.uint8)
    for interpretations, fourth, bands, masked in (
        ("gray gray gray gray", 9, (1, 2, 3, 4), False),
        ("red green blue alpha", 255, (1, 2, 3), True),
        ("red green blue alpha", 9, (1, 2, 3, 4), False),
    ):
        pixels[3] = fourth
        path = world.write(tmp_path / "a.tif", pixels, photometric="MINISBLACK", alpha="NO", nodata=None)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in interpretations.split()]
        with rasterio.open(path) as file:
            found = bands_and_validity(file)
            assert (found.bands, bool(found.masks(file)), set(found.nodata)) == (bands, masked, {None})
            everything = bands_and_validity(file, alpha="band")
            assert (everything.bands, everything.masks(file)) == ((1, 2, 3, 4), ())


def test_threads_read_their_own_handles(scenes):
    for scene in scenes:
        expected, failures = scene.read().pixels, []

        def read(scene=scene, expected=expected, failures=failures):
            with scene.for_thread() as own:
                for _ in range(5):
                    if not np.array_equal(own.read().pixels, expected):
                        failures.append(own)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_what_is_no_window_of_the_scene_is_answered(tmp_path):
    w = world.make(tmp_path, 40, 50)
    with Scene(w.scene) as scene, open_scene([w.scene], area=None) as other:
        for one in (scene, other, ArrayScene(w.pixels)):
            with pytest.raises(WrongType, match=r"ls\.Window\(top, left, height, width\).*\(0, 0, 10, 10\)"):
                one.read((0, 0, 10, 10))
            with pytest.raises(BadOption, match="not inside the scene, which is 40 x 50 pixels"):
                one.read(Window(0, 45, 10, 10))
