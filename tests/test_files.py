import subprocess
import sys

import pytest
import world

import labelscape as ls
from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.errors import BadFile, BadOption
from labelscape.files import (
    ADDED,
    HIDDEN,
    LONGEST_NAME,
    check_path,
    check_written,
    name_fault,
    stem_of,
    written_whole,
)
from labelscape.maps.request import MapRequest
from labelscape.scenes.mosaic import open_scene

HALF, NOT_UTF8 = chr(0xD800), chr(0xDCFF)  # what Python makes of JSON's "\\ud800" and of the byte FF
IMPOSSIBLE = [
    ("a\0b", "U[+]0000"),
    (f"a{HALF}b", "U[+]D800"),
    (f"a{NOT_UTF8}b", "U[+]DCFF"),
    ("a" * 300, "3[01][0-9] bytes"),
]


@pytest.mark.parametrize(("name", "said"), IMPOSSIBLE, ids=["NUL", "half", "not UTF-8", "long"])
def test_names_that_no_file_can_have_are_refused_wherever_a_path_is_given(tmp_path, name, said):
    w = world.make(tmp_path, 40, 40)
    for ask in (
        lambda: check_path(f"{name}/scene.tif", "A scene"),
        lambda: open_scene(tmp_path / f"{name}.tif"),
        lambda: open_scene([w.scene, f"{name}.tif"]),
        lambda: ls.info(f"{name}.tif"),
        lambda: ls.load(f"{name}.safetensors"),
        lambda: sieve(w.scene, tmp_path / f"{name}.tif", world.LEGEND, min_area=1),
        lambda: polygonize(w.scene, tmp_path / f"{name}.gpkg", world.LEGEND),
        lambda: ls.map_scene(world.tiny_checkpoint(warmed=False), w.scene, tmp_path / name, force=True),
    ):
        # The message can be printed: it holds no half characters.
        with pytest.raises(BadFile, match=said) as refused:
            ask()
        str(refused.value).encode("utf-8")
    with pytest.raises(BadOption, match="name"):
        MapRequest(name=name)


def test_writers_keep_room_for_what_is_added_to_a_name(tmp_path):
    longest = "a" * (LONGEST_NAME - HIDDEN - len(".txt"))
    with written_whole(tmp_path / f"{longest}.txt") as part:
        # What GDAL and SQLite put beside it fits too.
        part.with_name(f"{part.name}-journal").touch()
        part.write_text("1")
    assert (tmp_path / f"{longest}.txt").read_text() == "1"
    with pytest.raises(BadFile, match="226 bytes, at most 217 are possible; give a shorter one"):
        check_written(tmp_path / f"{longest}b.txt")
    # Bytes, not characters, but not on Windows.
    assert "240 bytes" in name_fault("é" * 120, free=ADDED, system="linux")
    assert name_fault("é" * 120, free=ADDED, system="win32") is None
    with pytest.raises(BadFile, match="U[+]000A"):
        check_written(tmp_path / "a\nb.txt")
    check_path("a\nb.txt", "A scene")  # it may exist, and can be read
    check_path("https://host/" + "a" * 300, "A scene")


def test_a_long_name_of_a_scene_is_refused_before_the_first_tile(tmp_path):
    w = world.make(tmp_path, 40, 40)
    scene = w.scene.rename(tmp_path / f"{'a' * 240}.tif")
    model = world.tiny_checkpoint(warmed=False)
    with pytest.raises(BadFile, match="at most 217 are possible"):
        ls.map_scene(model, scene, tmp_path / "map", force=True)
    assert not (tmp_path / "map").exists()
    # The longest one that is not refused can be written, with everything beside it.
    longest = "a" * (LONGEST_NAME - ADDED - len("_polygons.geojson"))
    made = ls.map_scene(model, scene, tmp_path / "map", force=True, name=longest, polygons_as="geojson")
    assert all(path.exists() for path in made.paths.values())


def test_a_stem_has_no_characters_that_cannot_be_written():
    assert stem_of(f"a{HALF}b\x7fc", "linux") == stem_of(f"a{HALF}b\x7fc", "win32") == "a_b_c"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name themselves")
def test_a_file_name_that_is_not_utf8_is_one_line_on_the_command_line(tmp_path):
    name = bytes(tmp_path) + b"/scene\xff.tif"
    world.make(tmp_path, 40, 40).scene.rename(name.decode("utf-8", "surrogateescape"))
    code = "import sys; from labelscape.cli import main; main(['info', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
    assert done.returncode == 1 and "U+DCFF" in done.stderr and "Traceback" not in done.stderr
