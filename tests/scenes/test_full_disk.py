"""Vector files on a disk that fills up: whole, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import world

import labelscape as ls
from labelscape.errors import BadFile

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
