"""What workers have to find under the paths that they are sent."""

import os
import shutil

import numpy as np
import world

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
    for path in (str(tmp_path / "none.tif"), "s3://bucket/scene.tif", f"{w.scene}|layername=a", None):
        assert Seen.here(path) == Seen() and Seen.here(path, str(w.scene)) == Seen.here(str(w.scene))
    assert Seen().unlike() == ""
