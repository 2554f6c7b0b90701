"""Scenes that change while they are mapped, or before an interrupted map is resumed: refused, never a mix of
two scenes. And maps that would be overwritten, or could not be written at their end.
"""

import json
import os
import shutil

import numpy as np
import pytest
import rasterio
import torch
import world

import labelscape.maps.rasters as rasters
from labelscape.errors import BadFile, BadOption
from labelscape.files import locked
from labelscape.maps.run import map_scene

QUICK = {"device": "cpu", "tile_size": 128, "overlap": 16, "report": False}


@pytest.fixture(scope="module")
def model():
    return world.tiny_checkpoint(scaling=(4500.0, 2000.0))


@pytest.fixture
def stop(monkeypatch):
    """A function that lets the next maps call `then` after so many tiles; by default they are interrupted."""

    def after(tiles, then=None):
        real, made = rasters.planes_of, []

        def counted(tile, *given, **options):
            made.append(tile)
            if len(made) == tiles + 1:
                if then is None:
                    raise KeyboardInterrupt
                then()
            return real(tile, *given, **options)

        monkeypatch.setattr(rasters, "planes_of", counted)
        return made

    return after


def interrupted(stop, monkeypatch, model, scene, out, **options):
    with monkeypatch.context():
        stop(3)
        with pytest.raises(KeyboardInterrupt):
            map_scene(model, scene, out, **{**QUICK, **options})
    monkeypatch.undo()


def pixels_of(seed):
    return world.spectra(world.paint(300, 410, seed=seed), 3, "uint16", seed=seed)


def sources(folder):
    """A virtual raster of a virtual raster of two files, and a function that replaces one of them."""
    world.write(folder / "one.tif", pixels_of(0))
    world.virtual(folder / "inner.vrt", "one.tif", 300, 410)
    return world.virtual(folder / "outer.vrt", "inner.vrt", 300, 410)


@pytest.mark.parametrize("name", ["one.tif", "one.tif.msk", "one.tif.aux.xml", "inner.vrt"])
def test_a_source_replaced_before_resuming_is_refused(tmp_path, model, stop, monkeypatch, name):
    scene = sources(tmp_path)
    interrupted(stop, monkeypatch, model, scene, tmp_path / "map")
    kept = sorted((tmp_path / "map" / ".outer.unfinished").iterdir())
    if name == "one.tif":
        world.write(tmp_path / name, pixels_of(1))
    elif name == "inner.vrt":
        world.write(tmp_path / "two.tif", pixels_of(1))
        world.virtual(tmp_path / name, "two.tif", 300, 410)
    elif name.endswith(".msk"):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "one.tif", "r+") as file:
            file.write_mask(np.arange(300 * 410).reshape(300, 410) % 7 > 2)
    else:
        (tmp_path / name).write_text(
            '<PAMDataset><PAMRasterBand band="1"><NoDataValue>3</NoDataValue></PAMRasterBand></PAMDataset>'
        )
    with pytest.raises(BadFile, match=rf"3 finished tiles .*{name} has changed.*overwrite=True"):
        map_scene(model, scene, tmp_path / "map", **QUICK)
    assert sorted((tmp_path / "map" / ".outer.unfinished").iterdir()) == kept
    result = map_scene(model, scene, tmp_path / "map", overwrite=True, **QUICK)
    assert any("3 finished tiles" in note and "deleted" in note for note in result.notes)
    whole = map_scene(model, scene, tmp_path / "whole", **QUICK)
    for kind in ("class", "confidence"):
        assert result.paths[kind].read_bytes() == whole.paths[kind].read_bytes()


@pytest.mark.parametrize("how", ["in place", "replaced", "a source of it", "a mask is added"])
def test_a_scene_changed_while_it_is_mapped_leaves_no_map(tmp_path, model, stop, how):
    scene = sources(tmp_path) if how == "a source of it" else world.write(tmp_path / "one.tif", pixels_of(0))
    if how == "replaced":
        world.write(tmp_path / "new.tif", pixels_of(1))

    def change():
        if how == "replaced":
            (tmp_path / "new.tif").replace(tmp_path / "one.tif")
        elif how == "a mask is added":
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as file:
                file.write_mask(True)
        else:
            with rasterio.open(tmp_path / "one.tif", "r+") as file:
                file.write(pixels_of(1)[:, :100], window=rasterio.windows.Window(0, 0, 410, 100))

    stop(4, change)
    with pytest.raises(BadFile, match=r"one\.tif(\.msk)? was (changed|added) while .* was mapped"):
        map_scene(model, scene, tmp_path / "map", **QUICK)
    assert list((tmp_path / "map").iterdir()) == []


def test_the_same_scene_elsewhere_and_another_plane_keep_the_tiles(tmp_path, model, stop, monkeypatch):
    (tmp_path / "data").mkdir()
    scene = world.write(tmp_path / "data" / "one.tif", pixels_of(0))
    interrupted(stop, monkeypatch, model, scene, tmp_path / "map")
    (tmp_path / "link").symlink_to("data")
    for place in ("link", "moved"):
        if place == "moved":
            os.rename(tmp_path / "data", tmp_path / "moved")
        stop_now = stop(0)
        with pytest.raises(KeyboardInterrupt):
            map_scene(model, tmp_path / place / "one.tif", tmp_path / "map", **QUICK)
        assert len(list((tmp_path / "map" / ".one.unfinished").glob("[!.]*.tif"))) == 3
        assert stop_now[0].window.left + stop_now[0].window.top > 0  # the first tile was there
        monkeypatch.undo()
    # The entropy of the tiles that are there is not known: they are made again, and nothing is thrown away.
    made = stop(10**6)
    result = map_scene(model, tmp_path / "moved" / "one.tif", tmp_path / "map", entropy=True, **QUICK)
    assert len(made) == result.tiles
    whole = map_scene(model, tmp_path / "moved" / "one.tif", tmp_path / "whole", entropy=True, **QUICK)
    for kind in ("class", "confidence", "entropy"):
        assert result.paths[kind].read_bytes() == whole.paths[kind].read_bytes()


def test_tiles_of_another_version_are_not_deleted_unasked(tmp_path, model, stop, monkeypatch):
    scene = world.write(tmp_path / "one.tif", pixels_of(0))
    interrupted(stop, monkeypatch, model, scene, tmp_path / "map")
    settings = tmp_path / "map" / ".one.unfinished" / "settings.json"
    for stored, said in (
        ({"key": {**json.loads(settings.read_text())["key"], "version": "0.0.1"}}, "Labelscape 0.0.1, now"),
        ({"version": "0.0.1"}, "another version of Labelscape"),
    ):
        settings.write_text(json.dumps(stored))
        with pytest.raises(BadFile, match=rf"3 finished tiles .*{said}.*overwrite=True"):
            map_scene(model, scene, tmp_path / "map", **QUICK)
        assert len(list(settings.parent.glob("[!.]*.tif"))) == 3


def test_a_map_is_resumed_with_as_many_threads_as_it_was_begun_with(tmp_path, model, stop, monkeypatch):
    scene = world.write(tmp_path / "one.tif", pixels_of(0))
    interrupted(stop, monkeypatch, model, scene, tmp_path / "map")
    before, seen, real = torch.get_num_threads(), [], rasters.planes_of

    def noted(*given):
        seen.append(torch.get_num_threads())
        return real(*given)

    monkeypatch.setattr(rasters, "planes_of", noted)
    torch.set_num_threads(before + 1)
    try:
        result = map_scene(model, scene, tmp_path / "map", **QUICK)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {before} == {json.loads(result.paths["run"].read_text())["machine"]["threads"]}


def test_two_maps_in_one_folder_at_once(tmp_path, model):
    scene = world.write(tmp_path / "one.tif", pixels_of(0))
    with locked(tmp_path / "map" / "one"):
        with pytest.raises(BadFile, match="one is being written by another run"):
            map_scene(model, scene, tmp_path / "map", **QUICK)
        map_scene(model, scene, tmp_path / "map", name="two", polygons=False, **QUICK)


def test_what_cannot_be_written_is_refused_before_the_first_tile(tmp_path, model, stop):
    scene = world.write(tmp_path / "one.tif", pixels_of(0), crs=None)
    made = stop(0)
    with pytest.raises(BadOption, match="no coordinate reference system, and GeoJSON is in degrees"):
        map_scene(model, scene, tmp_path / "map", polygons_as="geojson", **QUICK)
    assert made == [] and not (tmp_path / "map").exists()
    scene = world.write(tmp_path / "two.tif", pixels_of(0))
    (tmp_path / "map" / "two_polygons.gpkg").mkdir(parents=True)
    with pytest.raises(BadFile, match="two_polygons.gpkg cannot be written: there is a folder of this name"):
        map_scene(model, scene, tmp_path / "map", overwrite=True, **QUICK)
    assert made == []


def test_a_folder_removed_while_a_map_is_made_is_said(tmp_path, model, stop):
    scene = world.write(tmp_path / "one.tif", pixels_of(0))
    stop(3, lambda: shutil.rmtree(tmp_path / "map"))
    with pytest.raises(BadFile, match="removed or renamed") as told:
        map_scene(model, scene, tmp_path / "map", **QUICK)
    assert "full" not in str(told.value)


def test_a_journal_is_not_written_through_a_link(tmp_path, model):
    scene = world.write(tmp_path / "one.tif", pixels_of(0))
    (tmp_path / "map").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a.txt").write_text("mine")
    (tmp_path / "map" / ".one.unfinished").symlink_to(tmp_path / "precious")
    with pytest.raises(BadFile, match="symbolic link"):
        map_scene(model, scene, tmp_path / "map", **QUICK)
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["a.txt"]
