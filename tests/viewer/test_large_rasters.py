"""Rasters of any size, with and without overviews: what is read of them before the page shows something."""

import socket

import numpy as np
import pytest
import rasterio
import viewed
from processes import PATIENCE
from viewed import client

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from labelscape.grid import Window
from labelscape.viewer import layers, shown, tiles
from labelscape.viewer.serve import listening_at
from labelscape.viewer.shown import find


@pytest.fixture
def small_limits(monkeypatch):
    """What is small counts as large: 300 x 520 pixels are 156,000."""
    for module in (layers, tiles):
        monkeypatch.setattr(module, "LARGEST_READ", 100_000)
    monkeypatch.setattr(layers, "SPREAD", 4)
    monkeypatch.setattr(layers, "SPREAD_SIDE", 32)
    monkeypatch.setattr(shown, "COUNTED", 100_000)
    monkeypatch.setattr(shown, "LOOKED", 130)


@pytest.fixture
def reads(monkeypatch):
    """Pixels of the largest read of every layer."""
    largest: list[int] = []
    read = layers.Layer.read
    monkeypatch.setattr(
        layers.Layer,
        "read",
        lambda self, bands, window, shape: largest.append(window.pixels) or read(self, bands, window, shape),
    )
    return largest


def test_windows_are_spread_to_the_edges():
    found = layers.spread(Window(10, 20, 1000, 2000))
    assert len(found) == layers.SPREAD**2 and found[0] == Window(10, 20, 64, 64)
    assert (found[-1].bottom, found[-1].right) == (1010, 2020)
    assert set(layers.spread(Window(0, 0, 9, 5))) == {Window(0, 0, 9, 5)}


def test_a_scene_without_overviews_is_stretched_by_samples(tmp_path, small_limits, reads):
    found = find(viewed.made(tmp_path))
    page = client(found)
    (note,) = page.get("/api/map").json()["notes"]
    assert "Scene place has no overviews" in note and "gdaladdo" in note
    with rasterio.open(tmp_path / "place.tif") as file:
        pixels = file.read()
    low, high = page.get("/api/stretch?bands=3").json()[0]
    assert np.allclose((low, high), np.percentile(pixels[3], (2, 98)), rtol=0.1)
    assert max(reads) == 32 * 32
    # The whole of it is not read for a coarse tile, which stays empty; a fine one is there.
    address = "/tiles/scene/{}/0/0.png?bands=0,1,2&stretch=0,9000"
    coarse, fine = (page.get(address.format(level)).content for level in (0, 2))
    assert coarse == tiles.empty_tile() != fine and max(reads) <= 256 * 256
    found.close()


def test_a_large_map_without_names_is_known_by_samples_and_colours(tmp_path, small_limits, monkeypatch):
    path = tmp_path / "other.tif"
    classes = np.full((300, 520), 3, np.uint8)
    classes[:150], classes[50, 80] = 8, 77
    with rasterio.open(path, "w", driver="GTiff", width=520, height=300, count=1, dtype="uint8") as file:
        file.write(classes[None])
        file.write_colormap(1, {3: (10, 20, 30), 8: (0, 0, 0), 20: (9, 9, 9)})
    monkeypatch.setattr("labelscape.rasters.class_names.values_in", lambda found: pytest.fail("all was read"))
    found = find(path)
    (layer,) = found.layers
    # 20 has a colour and no pixel, 77 one pixel and no colour, between the samples.
    assert [one.value for one in layer.legend.classes] == [3, 8, 20] and not layer.quick and not layer.exact
    assert [round(area[0] / classes.size, 1) for area in layer.areas] == [0.5, 0.5, 0.0]
    assert "Classes has no overviews" in found.notes[0]
    found.close()


def test_an_address_is_told_when_it_can_be_asked():
    with listening_at("127.0.0.1", 0) as listening:
        # Before the server has started: a browser that comes now waits for it.
        with socket.create_connection(listening.getsockname(), timeout=PATIENCE):
            pass
