"""GeoTIFFs whose directory or keys are damaged: a scene or a sentence, never a library's own error."""

import random
import struct

import pytest
import world

from labelscape.errors import BadFile, LabelscapeError
from labelscape.scenes.files import open_raster
from labelscape.scenes.mosaic import open_scene

PLACING = (34735, 34736, 34737, 33550, 33922, 34264)
"""Tags of the keys, the pixel size and the place."""
SIZES = {2: 1, 3: 2, 12: 8}


def regions(content: bytes) -> list[tuple[int, int]]:
    """The first directory of a little-endian TIFF, and the values of its geographic tags."""
    (start,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[start : start + 2])
    found = [(start, start + 2 + 12 * count + 4)]
    for number in range(count):
        entry = start + 2 + 12 * number
        tag, kind, values, place = struct.unpack("<HHII", content[entry : entry + 12])
        if tag in PLACING:
            found.append((place, place + values * SIZES[kind]))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_damaged_directories_and_keys(tmp_path, seed):
    whole = world.make(tmp_path, 24, 32).scene.read_bytes()
    rng, said = random.Random(seed), 0
    for _ in range(100):
        content = bytearray(whole)
        first, last = rng.choice(regions(whole))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(first, last)] = rng.choice([0, 255, rng.randrange(256)])
        (tmp_path / "odd.tif").write_bytes(content)
        try:
            with open_scene(tmp_path / "odd.tif") as scene:
                if scene.grid.window.pixels < 10**6:
                    scene.read()
                assert repr(scene)
        except LabelscapeError:
            said += 1
    assert said > 5


def test_an_error_that_comes_late_is_a_sentence_too(tmp_path, monkeypatch):
    from rasterio._err import CPLE_AppDefinedError

    def late(path):
        dataset = open_raster(path)
        raise CPLE_AppDefinedError(1, 1, f"Failed to read directory of {dataset.name}")

    scene = world.make(tmp_path, 24, 32).scene
    monkeypatch.setattr("labelscape.scenes.raster.open_raster", late)
    with pytest.raises(BadFile, match=r"scene.tif cannot be read: .*Failed to read directory"):
        open_scene(scene)
