"""The command line with streams that are closed, full, or end early, and with signals; real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import world
from processes import PATIENCE, until

from labelscape.checkpoint import save

SRC = Path(__file__).parent.parent.parent / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return world.write(folder / "m.tif", world.paint(64, 80), nodata=255)


def shell(command, *arguments):
    """Run a shell command in which `ls` is the command line."""
    program = f'ls() {{ "{sys.executable}" -m labelscape "$@"; }}; {command}'
    done = subprocess.run(
        ["bash", "-c", program, "bash", *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    return done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error_with_a_sentence(raster, tmp_path):
    for verb in ("ls models > /dev/full", 'ls polygonize "$1" "$2" > /dev/full'):
        done = shell(verb, raster, tmp_path / "a.gpkg")
        assert done.returncode == 1
        assert "labelscape: The results cannot be printed: No space left on device." in done.stderr
    done = shell('ls polygonize "$1" "$2" --json 2> /dev/full', raster, tmp_path / "b.gpkg")
    assert done.returncode == 0 and '"written"' in done.stdout


def test_a_closed_stream_never_ends_in_a_file(raster, tmp_path):
    expected = shell('ls polygonize "$1" "$2" --json', raster, tmp_path / "a.gpkg")
    for closed in ("2>&-", "0<&- 2>&-"):
        out = tmp_path / f"b{len(closed)}.gpkg"
        done = shell(f'ls polygonize "$1" "$2" --json {closed}', raster, out)
        assert done.returncode == 0
        assert done.stdout.replace(out.name, "a.gpkg") == expected.stdout
        assert out.read_bytes() == (tmp_path / "a.gpkg").read_bytes()
    done = shell('ls polygonize "$1" "$2" 0<&- 1>&- 2>&-', raster, tmp_path / "c.gpkg")
    assert done.returncode == 0
    assert (tmp_path / "c.gpkg").read_bytes() == (tmp_path / "a.gpkg").read_bytes()
    done = shell('ls sieve "$1" "$1.no" --min-area 1 2>&-', raster)
    assert done.returncode == 2 and done.stdout == ""


def test_a_reader_that_has_enough_is_no_error():
    done = shell('(sleep 1; ls --version; echo "${PIPESTATUS[0]}" >&2) | true')
    assert done.stderr.strip() == "141"


def test_names_of_others_do_not_reach_the_terminal_as_commands(tmp_path):
    odd = tmp_path / "a\x1b[2J\x1b]0;owned\x07.tif"
    world.write(odd, np.zeros((8, 8), np.uint8), nodata=255)
    for command in ('ls info "$1"', 'ls sieve "$1" "$1" --min-area 1', 'ls polygonize "$1" "$2"'):
        done = shell(command, odd, tmp_path / "b.gpkg")
        assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_map_that_is_told_to_stop_leaves_its_tiles_and_nothing_else(tmp_path, number):
    scene = world.make(tmp_path, 1500, 1500).scene
    model = save(world.tiny_checkpoint(scaling=(4500.0, 2000.0)), tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "labelscape", "map", str(model), str(scene), "--out"]
    options = ["--tile-size", "64", "--overlap", "8", "--device", "cpu", "--no-report", "--proba"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "map"), *options],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores it, and so would all that the tests start.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    until(lambda: list(tmp_path.glob("map/.scene.unfinished/[!.]*.tif")) or process.poll() is not None)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "labelscape: stopped." in said and "Traceback" not in said
    assert f"kept in {tmp_path}/map/.scene.unfinished; the same command resumes the map" in said
    assert [path.name for path in (tmp_path / "map").iterdir()] == [".scene.unfinished"]


ENDED = """
import atexit, gc
atexit.register(lambda: print("left alone:", gc.get_freeze_count() > 1000))  # the first registered runs last
from labelscape.cli import main
main(["--version"])
"""


def test_no_garbage_is_sought_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "left alone: True"
