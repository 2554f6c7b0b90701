"""Label files in codes of their own, pictures from several files, and scenes that hold no file open."""

import numpy as np
import pytest
import world
from affine import Affine

from labelscape.errors import BadFile, BadInput
from labelscape.grid import Grid, Window
from labelscape.labels.coded import Code, CodedLabels, NoLabels
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.lazy import LazyScene
from labelscape.scenes.raster import Scene

AB = Legend.of_names(["a", "b"])


def labels_of(file, code, shape, **options):
    return CodedLabels(AB, file, code, lambda: Grid(None, Affine.identity(), *shape), **options)


def test_values_by_table_and_strangers_refused_or_ignored(tmp_path):
    raw = np.array([[7, 33, 0], [33, 200, 7]], np.uint8)
    np.testing.assert_array_equal(
        Code({7: 1, 33: 0, 0: IGNORE}, refuse=False).encode(raw), [[1, 0, IGNORE], [0, IGNORE, 1]]
    )
    with pytest.raises(
        BadInput,
        match=r"scene has values without a class: 200 \(1 different ones, 1 pixels; known: 7, 33, 0\)",
    ):
        Code({7: 1, 33: 0, 0: IGNORE}).encode(raw, "scene")
    np.testing.assert_array_equal(
        Code({-1: IGNORE, 400: 1}).encode(np.array([[-1, 400]], np.int32)), [[IGNORE, 1]]
    )


def test_colours_by_table_with_and_without_threshold():
    colors = np.array([[(255, 0, 0), (0, 0, 255)], [(250, 9, 3), (0, 0, 0)]], np.uint8).transpose(2, 0, 1)
    code = {(255, 0, 0): 0, (0, 0, 255): 1, (0, 0, 0): IGNORE}
    np.testing.assert_array_equal(Code(code, threshold=128).encode(colors), [[0, 1], [0, IGNORE]])
    np.testing.assert_array_equal(Code(code, refuse=False).encode(colors), [[0, 1], [IGNORE, IGNORE]])
    with pytest.raises(BadInput, match=r"colours without a class: \(250, 9, 3\)"):
        Code(code).encode(colors)


def test_the_threshold_is_128():
    ramp = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(Code({0: 0, 255: 1}, threshold=128).encode(ramp)[0], np.arange(256) >= 128)


def test_windows_are_those_of_the_file_and_palettes_are_colours(tmp_path):
    import rasterio

    drawn = world.draw(2, 20, 30, seed=1)
    with rasterio.open(
        tmp_path / "p.png", "w", driver="PNG", width=30, height=20, count=1, dtype="uint8"
    ) as file:
        file.write_colormap(1, {0: (255, 0, 0), 1: (0, 0, 255)})
        file.write(drawn, 1)
    labels = labels_of(tmp_path / "p.png", Code({(255, 0, 0): 1, (0, 0, 255): 0}), (20, 30))
    np.testing.assert_array_equal(labels.read(), 1 - drawn)
    np.testing.assert_array_equal(labels.read(Window(3, 5, 7, 11)), 1 - drawn[3:10, 5:16])
    np.testing.assert_array_equal(labels.hold().read(Window(3, 5, 7, 11)), 1 - drawn[3:10, 5:16])


def test_what_is_no_pair_or_no_label_is_refused(tmp_path):
    world.codes(tmp_path / "v.png", world.draw(2, 20, 30, seed=1))
    world.picture(tmp_path / "rgb.png", 20, 30)
    with pytest.raises(BadInput, match=r"v.png is 30 x 20 pixels, but its image is 30 x 21: .* same size"):
        labels_of(tmp_path / "v.png", Code({0: 0, 1: 1}), (21, 30)).read()
    with pytest.raises(BadInput, match="rgb.png has 3 bands; one band of class values was expected"):
        labels_of(tmp_path / "rgb.png", Code({0: 0, 1: 1}), (20, 30)).read()
    with pytest.raises(BadInput, match="v.png has 1 band; classes encoded as colours"):
        labels_of(tmp_path / "v.png", Code({(0, 0, 0): 0}), (20, 30)).read()
    world.codes(tmp_path / "whole.tif", world.draw(2, 20, 30, seed=1))
    (tmp_path / "broken.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:-300])
    with pytest.raises(BadFile, match=r"broken.tif cannot be read: the file is truncated or damaged"):
        CodedLabels(
            AB, tmp_path / "broken.tif", Code({0: 0, 1: 1}), lambda: Grid(None, Affine.identity(), 20, 30)
        ).read()


def test_a_truncated_png_is_an_error_and_no_chance_values(tmp_path):
    world.codes(tmp_path / "v.png", world.draw(250, 200, 300, seed=1))
    (tmp_path / "v.png").write_bytes((tmp_path / "v.png").read_bytes()[:30_000])
    with pytest.raises(BadFile, match="truncated"):
        labels_of(tmp_path / "v.png", Code({v: 0 for v in range(256)}), (200, 300)).read()
    with Scene(tmp_path / "v.png") as scene, pytest.raises(BadFile, match="truncated"):
        scene.read()


def test_a_padded_file_is_unlabelled_where_it_ends(tmp_path):
    drawn = world.draw(2, 20, 29, seed=1)
    world.codes(tmp_path / "v.png", drawn)
    labels = labels_of(tmp_path / "v.png", Code({0: 0, 1: 1}), (20, 30), padded=True)
    np.testing.assert_array_equal(labels.read(), np.pad(drawn, [(0, 0), (0, 1)], constant_values=IGNORE))
    np.testing.assert_array_equal(labels.read(Window(4, 28, 2, 2))[:, 1], [IGNORE, IGNORE])
    np.testing.assert_array_equal(
        NoLabels(AB, lambda: labels.grid).read(Window(0, 0, 2, 3)), np.full((2, 3), IGNORE)
    )


def test_a_list_of_named_files_is_stacked_pixel_on_pixel_and_padded(tmp_path):
    photo = world.write(
        tmp_path / "photo.tif", np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8), photometric="RGB"
    )
    short = np.random.default_rng(0).integers(1, 99, (1, 6, 7)).astype(np.uint8)
    world.write(tmp_path / "height.png", short, crs=None, driver="PNG")
    names = ("red", "green", "blue", "nir", "height")
    with Scene([photo, tmp_path / "height.png"], band_names=names, bands=("nir", "height", "red")) as scene:
        assert scene.bands == ("nir", "height", "red")
        assert scene.grid.crs == world.UTM
        whole = scene.read()
        np.testing.assert_array_equal(whole.pixels[0], np.arange(4 * 6 * 8).reshape(4, 6, 8)[3])
        np.testing.assert_array_equal(whole.pixels[1], np.pad(short[0], [(0, 0), (0, 1)], mode="edge"))
        np.testing.assert_array_equal(whole.valid, np.arange(8) < np.full((6, 1), 7))  # not what is repeated
        np.testing.assert_array_equal(scene.read(Window(1, 6, 3, 2)).pixels, whole.pixels[:, 1:4, 6:8])
        np.testing.assert_array_equal(
            scene.read(Window(1, 7, 3, 1), ("height",)).pixels[0], whole.pixels[1, 1:4, 7:8]
        )
    with pytest.raises(BadInput, match="single-band files"):
        Scene([photo, tmp_path / "height.png"])
    with pytest.raises(BadInput, match="4 were expected: a, b, c, d"):
        Scene([photo, tmp_path / "height.png"], band_names=tuple("abcd"))
    world.write(tmp_path / "other.png", short[:, :3], crs=None, driver="PNG")
    with pytest.raises(BadInput, match="not a band stack"):
        Scene([photo, tmp_path / "other.png"], band_names=names)


def test_a_grey_picture_serves_as_three_colours(tmp_path):
    grey = world.picture(tmp_path / "g.png", 5, 6, 1)
    with Scene(tmp_path / "g.png", band_names=("red", "green", "blue")) as scene:
        np.testing.assert_array_equal(scene.read().pixels, np.repeat(grey, 3, axis=0))


def test_lazy_scenes_hold_no_file_open(tmp_path):
    pixels = world.picture(tmp_path / "a.tif", 30, 40, 4, dtype="uint16")
    pixels[:, :5, :5] = 999
    world.write(tmp_path / "a.tif", pixels, crs=None, nodata=999)
    scenes = [
        LazyScene(tmp_path / "a.tif", name=f"s{i}", band_names=("b", "g", "r", "n"), bands=("r", "n"))
        for i in range(1500)
    ]
    for scene in scenes:  # more than the 1024 handles a process usually may have
        scene.read(Window(0, 0, 1, 1))
    scene = scenes[0]
    assert (scene.grid.shape, scene.dtype, scene.bands, scene.name, scene.nodata) == (
        (30, 40),
        np.uint16,
        ("r", "n"),
        "s0",
        999,
    )
    np.testing.assert_array_equal(scene.read(Window(2, 3, 4, 5)).pixels, pixels[2:4, 2:6, 3:8])
    with scene.for_thread() as opened:
        np.testing.assert_array_equal(opened.read(Window(2, 3, 4, 5), ("n",)).pixels, pixels[3:4, 2:6, 3:8])
    picture = scene.thumbnail(20)
    held = scene.hold()
    np.testing.assert_array_equal(held.thumbnail(20), picture)
    assert held.read().valid.sum() == 30 * 40 - 25
    (tmp_path / "a.tif").unlink()
    np.testing.assert_array_equal(held.read(Window(2, 3, 4, 5)).pixels, pixels[2:4, 2:6, 3:8])
    with pytest.raises(BadFile, match="does not exist"):
        scenes[1].read()
