"""What workers have to find under the paths that they are sent."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import world
from range_server import serving

from labelscape.workers.seen import Seen


def test_a_copy_is_the_same_file_whatever_its_time(tmp_path):
    w = world.make(tmp_path)
    seen = Seen.here(str(w.scene))
    assert [name for name, *_ in seen.files] == ["scene.tif"] and seen.unlike() == ""
    os.utime(w.scene, (1, 1))
    assert seen.unlike() == ""
    # Of one size, with other pixels.
    world.write(w.scene, w.pixels[:, ::-1].copy())
    assert "its scene.tif (under " in seen.unlike() and "size or content differ" in seen.unlike()
    w.scene.unlink()
    assert seen.unlike() == f"it lacks scene.tif (a file of {w.scene})"


def test_side_files_sources_of_virtual_rasters_and_folders_are_compared(tmp_path):
    w = world.make(tmp_path)
    virtual = world.virtual(tmp_path / "v.vrt", "scene.tif")
    seen = Seen.here((str(virtual), str(w.scene)))
    assert {name for name, *_ in seen.files} == {"v.vrt", "scene.tif"}
    (tmp_path / "scene.tif.msk").write_bytes(
        world.write(tmp_path / "m.tif", np.ones((96, 128), np.uint8)).read_bytes()
    )
    assert "scene.tif.msk" in seen.unlike()
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(w.scene, folder / "a.tif")
    seen = Seen.here(str(folder))
    os.utime(folder / "a.tif", (1, 1))
    assert seen.unlike() == ""
    shutil.copy(w.scene, folder / "b.tif")
    assert "folder" in seen.unlike()


def test_what_this_process_does_not_see_itself_is_not_compared(tmp_path):
    w = world.make(tmp_path)
    for path in (
        str(tmp_path / "none.tif"),
        "s3://bucket/scene.tif",
        "https://[bad/a.tif",
        "http://h/item.json",
        f"{w.scene}|layername=a",
        None,
    ):
        assert Seen.here(path) == Seen() and Seen.here(path, str(w.scene)) == Seen.here(str(w.scene))
    assert Seen().unlike() == ""


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path) as address:
        yield address


def elsewhere(expression):
    """In another process, as on another worker or day: GDAL keeps what it has read from a server."""
    script = (
        "from labelscape.workers.seen import Seen; from labelscape.scenes.stamps import Watched\n"
        f"print({expression})"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("form", "overviews"), [("{}/scene.tif", False), ("/vsicurl/{}/scene.tif", True)])
def test_rasters_on_servers_are_compared(tmp_path, served, overviews, form):
    w = world.make(tmp_path, 96, 128)
    address = form.format(served)

    def write(pixels):
        world.write(w.scene, pixels, tiled=True, blockxsize=16, blockysize=16)
        if overviews:
            with rasterio.open(w.scene, "r+") as file:
                file.build_overviews([2, 4])

    write(w.pixels)
    seen = Seen.here(address)
    assert seen.paths == (address,) and [name for name, *_ in seen.files] == ["scene.tif"]
    assert elsewhere(f"{seen!r}.unlike()") == "\n"
    named = elsewhere(f"Watched.of([{address!r}]).named()")
    assert named.startswith("[['scene.tif', 36864, 0, ") and "127.0.0.1" not in named
    # A signed address is another one every hour.
    assert elsewhere(f"Watched.of(['{address}?key=secret']).named()") == named
    write(w.pixels[:, ::-1].copy())
    said = elsewhere(f"{seen!r}.unlike()")
    assert f"its scene.tif (under {address}) is not what the command sees there" in said
    assert elsewhere(f"Watched.of([{address!r}]).named()") != named
    w.scene.unlink()
    assert elsewhere(f"{seen!r}.unlike()").startswith("it lacks scene.tif")
    # Nor is it compared where the command itself cannot reach it.
    assert elsewhere(f"Seen.here({address!r})") == "Seen(paths=(), files=())\n"
