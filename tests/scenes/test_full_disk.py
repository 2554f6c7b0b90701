"""Vector files, patches and copies of scenes on a disk that fills up: whole, or not there."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import world
from affine import Affine

import labelscape as ls
from labelscape.datasets.published.catalog import find_published
from labelscape.datasets.published.prepare import write_patches
from labelscape.errors import BadFile
from labelscape.scenes.array import ArrayScene

WRITERS = {
    "polygons.gpkg": lambda raster, path: ls.polygonize(raster, path),
    "sample.gpkg": lambda raster, path: ls.sample(raster, path, size=150, floor=50),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_vector_file_is_whole_or_not_there(tmp_path, small_disk, name):
    """For each room on the disk: the file that a large disk has, to the byte (its spatial index too, which
    GDAL leaves out without a word), or a message, and nothing.
    """
    w = world.make(tmp_path, 256, 256)
    raster = world.write(tmp_path / "map.tif", w.classes)
    WRITERS[name](raster, tmp_path / name)
    wanted = (tmp_path / name).read_bytes()
    sized, folder = small_disk
    full = Path(folder, "out")
    refused = written = 0
    for kilobytes in range(len(wanted) // 2048, 2 * len(wanted) // 1024, 8):
        sized(kilobytes * 1024)
        full.mkdir()
        said = None
        try:
            WRITERS[name](raster, full / name)
        except BadFile as error:
            said = str(error)
        if said is None:
            assert (full / name).read_bytes() == wanted, f"{kilobytes} KiB"
            written += 1
        else:
            assert "cannot be written" in said
            assert not list(full.iterdir())
            refused += 1
        for left in full.iterdir():
            left.unlink()
        full.rmdir()
    assert min(refused, written) > 3


def _prepared(kind):
    def write(given, out):
        found = find_published({"tif": "gid-5", "png": "camvid"}[kind], given)
        write_patches(found, out, size=16)

    return write


def _given(folder, kind):
    if kind == "tif":
        world.gid_scenes(folder, 3, bands=4, dtype="uint16", folder="image_NirRGB_16bit")
    else:
        sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
        world.pairs(folder, sides, {"train": ["a"], "val": ["b"], "test": ["c"]}, 11)
    return folder


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_patches_are_whole_or_not_there(tmp_path, small_disk, kind):
    """Images and labels of a data set that is cut: those that are there are those of a large disk, and the
    lists, which make it a data set, come with all of them.
    """
    given = _given(tmp_path / "in", kind)
    _prepared(kind)(given, tmp_path / "out")
    wanted = {f.relative_to(tmp_path / "out"): f.read_bytes() for f in (tmp_path / "out").rglob("*.*")}
    sized, folder = small_disk
    full, states = Path(folder, "out"), set()
    for kilobytes in range(8, 8 + 5 * 4 * len(wanted), 12):
        sized(kilobytes * 1024)
        said = None
        try:
            _prepared(kind)(given, full)
        except BadFile as error:
            said = str(error)
        found = {f.relative_to(full): f.read_bytes() for f in full.rglob("*.*")}
        assert all(wanted[name] == content for name, content in found.items())
        if said is None:
            assert found == wanted, f"{kilobytes} KiB"
        else:
            assert "cannot be written" in said and "Free some space" in said
            assert not {"classes.json", "train.txt", "val.txt", "test.txt"} <= {str(name) for name in found}
        states.add(said is None)
        shutil.rmtree(full)
    assert states == {True, False}


def test_patches_over_earlier_ones_are_no_data_set_before_they_are_whole(tmp_path, monkeypatch):
    given = _given(tmp_path / "in", "png")
    _prepared("png")(given, tmp_path / "out")

    def fails(*arguments, **options):
        raise BadFile("disk full")

    monkeypatch.setattr("labelscape.datasets.published.prepare.write_raster", fails)
    with pytest.raises(BadFile, match="disk full"):
        write_patches(find_published("camvid", given), tmp_path / "out", size=8, overwrite=True)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["images", "labels"]


@pytest.mark.parametrize("masked", [False, True])
def test_the_copy_of_an_array_on_a_full_disk_is_refused(tmp_path, small_disk, monkeypatch, masked):
    """GDAL resamples a file: one that lost its last blocks would be mapped with zeros."""
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 600, 600)).astype(np.uint16)
    if masked:
        pixels = np.ma.masked_array(pixels, np.zeros_like(pixels, bool))
        pixels[:, :40] = np.ma.masked
    sized, folder = small_disk
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    states = set()
    for kilobytes in (64, 1024, 2048, 4000, 6100, 6300, 8000, 12000):
        sized(kilobytes * 1024)
        with ArrayScene(pixels, transform=world.NORTH_UP, crs=world.UTM) as scene:
            half = replace(
                scene.grid, transform=scene.grid.transform @ Affine.scale(2), height=300, width=300
            )
            said = []
            for _ in range(2):  # what the first left is no copy for the second
                try:
                    with scene._on_grid(half) as resampled:
                        patch = resampled.read()
                except BadFile as error:
                    said.append(str(error))
        states.add(not said)
        if said:
            assert len(said) == 2
            assert all("scene.tif cannot be written" in one and "Free some space" in one for one in said)
        else:
            assert patch.valid[20:].all() and (patch.pixels[:, patch.valid] > 0).all()
            del scene, resampled  # with which the copy goes
            gc.collect()
        assert not list(folder.iterdir())
    assert states == {True, False}
