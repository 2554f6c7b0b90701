"""Temporary files, locks and what killed processes leave: links planted by others, two writers, kill -9."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from labelscape import files
from labelscape.errors import BadFile, BadOption
from labelscape.files import (
    _hold,
    check_folder,
    check_new,
    check_not_read,
    check_replaceable,
    check_written,
    locked,
    new_files,
    private_folder,
    remove_abandoned,
    try_to_write,
    written_whole,
)
from labelscape.maps.many import map_scenes
from labelscape.maps.run import map_scene
from labelscape.rasters.creation import of_folder
from labelscape.rasters.style import write_styles
from labelscape.training.run import train

SRC = Path(__file__).parent.parent / "src"


def started(code: str, *arguments: object) -> subprocess.Popen:
    """A process that runs `code` and is known to have come to its first printed line."""
    program = "import os, sys, time\nfrom pathlib import Path\nfrom labelscape.files import *\n" + code
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    process.stdout.readline()
    return process


def test_temporary_files_are_closed_to_others_and_follow_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    # All names that a process could have guessed of earlier versions.
    for name in (".map_class.tiles.tif", ".map_class.part.tif", f".map_class.part{os.getpid()}.tif"):
        (shared / name).symlink_to(victim)
    names = set()
    for _ in range(20):
        with written_whole(shared / "map_class.tif", overwrite=True) as part:
            part.write_text("new")
            names.add(part.parent.name)
            assert stat.S_IMODE(part.parent.stat().st_mode) == 0o700
    assert len(names) == 20
    assert victim.read_text() == "mine"
    (shared / "link.tif").symlink_to(victim)
    with written_whole(shared / "link.tif", overwrite=True) as part:
        part.write_text("new")
    assert victim.read_text() == "mine" and not (shared / "link.tif").is_symlink()


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    with locked(tmp_path / "a.tif"):
        (lock,) = tmp_path.glob(".labelscape-*.lock")
    (tmp_path / "victim").write_text("mine")
    lock.symlink_to(tmp_path / "victim")
    with pytest.raises(BadFile, match="cannot be written"), locked(tmp_path / "a.tif"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_two_writers_of_one_target_get_a_sentence_and_of_two_targets_do_not(tmp_path):
    other = started(
        "with locked(Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(600)", tmp_path / "a.tif"
    )
    with pytest.raises(BadFile, match=r"a\.tif is being written by another run of Labelscape\. Wait"):
        with locked(tmp_path / "a.tif"):
            pass
    with locked(tmp_path / "b.tif"), pytest.raises(BadFile, match="b.tif is being written by another"):
        with locked(tmp_path / "b.tif"):  # a second thread of one process, too
            pass
    other.kill()
    other.wait()
    with locked(tmp_path / "a.tif"):  # the system released the lock
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_writes_at_a_time(tmp_path):
    """A counter that is read and written under the lock loses no step, also while lock files come and go."""
    (tmp_path / "count").write_text("0")
    code = (
        "print(flush=True)\ndone, end = 0, time.monotonic() + 600\n"
        "while done < 60 and time.monotonic() < end:\n"
        "    try:\n"
        "        with locked(Path(sys.argv[1])):\n"
        "            n = int(Path(sys.argv[2]).read_text())\n"
        "            Path(sys.argv[2]).write_text(str(n + 1))\n"
        "            done += 1\n"
        "    except BadFile:\n        pass\n"
    )
    many = [started(code, tmp_path / "a.tif", tmp_path / "count") for _ in range(3)]
    assert [process.wait() for process in many] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "180"


def test_who_tidies_up_slowly_is_waited_for_and_another_run_is_not(tmp_path, monkeypatch):
    """Between making a lock file and locking it another process may tidy up: on a busy machine the map then
    seemed to be written by another run.
    """
    seconds, now = [], time.time()
    clock = SimpleNamespace(sleep=seconds.append, monotonic=lambda: sum(seconds), time=lambda: now)
    monkeypatch.setattr(files, "time", clock)
    for age, least, most in ((0, 4, 6), (60, 0.4, 1)):
        with locked(tmp_path / "a.tif"):
            (lock,) = tmp_path.glob(".labelscape-*.lock")
            os.utime(lock, (now - age,) * 2)
            seconds.clear()
            with pytest.raises(BadFile, match="another run"), locked(tmp_path / "a.tif"):
                pass
        assert least < sum(seconds) < most


def test_what_a_killed_process_left_goes_and_what_a_living_one_uses_stays(tmp_path):
    code = (
        "with locked(Path(sys.argv[1])), private_folder(Path(sys.argv[1]).parent) as folder:\n"
        "    (folder / 'big.tif').touch()\n    print(flush=True)\n    time.sleep(600)\n"
    )
    dead, alive = started(code, tmp_path / "a.tif"), started(code, tmp_path / "b.tif")
    dead.kill()
    dead.wait()
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / ".labelscape-notes").write_text("a user's own")
    remove_abandoned(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3 and ".labelscape-notes" in left
    assert list(tmp_path.glob(".labelscape-*/big.tif"))
    alive.kill()
    alive.wait()
    with locked(tmp_path / "a.tif"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".labelscape-notes"]


def test_what_another_process_tidies_up_in_the_same_moment_is_made_again(tmp_path, monkeypatch):
    """A folder that is not locked yet looks abandoned."""
    real, made = tempfile.mkdtemp, []

    def mkdtemp(**options):
        made.append(real(**options))
        if len(made) == 1:
            remove_abandoned(tmp_path)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with written_whole(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and len(made) == 2


def test_a_lock_that_is_held_for_a_moment_to_tidy_up_is_waited_for(tmp_path, monkeypatch):
    with locked(tmp_path / "a.tif"):
        (lock,) = tmp_path.glob(".labelscape-*.lock")
    other = _hold(lock)

    def later(seconds):
        lock.unlink()
        os.close(other)

    clock = SimpleNamespace(sleep=later, monotonic=time.monotonic, time=time.time)
    monkeypatch.setattr(files, "time", clock)
    with locked(tmp_path / "a.tif"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_is_the_last_chance_to_remove_what_its_killed_run_left(tmp_path):
    """Killed after the file had its name: the same command is refused, and there may be no other run."""
    code = (
        "with locked(Path(sys.argv[1])), private_folder(Path(sys.argv[1]).parent):\n"
        "    Path(sys.argv[1]).touch()\n    print(flush=True)\n    time.sleep(600)\n"
    )
    dead = started(code, tmp_path / "a.tif")
    dead.kill()
    dead.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(BadFile, match="a.tif exists; pass `overwrite=True`"):
        check_new(tmp_path / "a.tif", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_writer_without_a_lock_removes_what_a_killed_one_left(tmp_path):
    """`calibrate` replaces a checkpoint and locks nothing."""
    code = (
        "with written_whole(Path(sys.argv[1])) as part:\n"
        "    part.touch()\n    print(flush=True)\n    time.sleep(600)\n"
    )
    dead = started(code, tmp_path / "a.safetensors")
    dead.kill()
    dead.wait()
    assert [path.name[:12] for path in tmp_path.iterdir()] == [".labelscape-"]
    with written_whole(tmp_path / "b.json") as part:
        part.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_file_that_is_read_is_not_written(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "hard.tif").hardlink_to(tmp_path / "a.tif")
    (tmp_path / "soft.tif").symlink_to("a.tif")
    for name in ("a.tif", "hard.tif", "soft.tif"):
        with pytest.raises(BadOption, match="is an input itself"):
            check_not_read(tmp_path / name, [None, "https://example.org/a.tif", str(tmp_path / "a.tif")])
    check_not_read(tmp_path / "b.tif", [tmp_path / "a.tif", tmp_path / "missing.tif", object()])


def test_a_folder_is_no_file_that_overwrite_replaces(tmp_path):
    (tmp_path / "a.tif").mkdir()
    for overwrite in (False, True):
        with pytest.raises(BadFile, match="there is a folder of this name"):
            check_new(tmp_path / "a.tif", overwrite=overwrite)


def test_without_locks_only_what_is_old_counts_as_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr("labelscape.files._lock", lambda handle: None)
    folders = [tmp_path / ".labelscape-new", tmp_path / ".labelscape-old"]
    for folder in folders:
        folder.mkdir()
    os.utime(folders[1], (time.time() - 3 * 24 * 3600,) * 2)
    remove_abandoned(tmp_path)
    assert folders[0].exists() and not folders[1].exists()
    with locked(tmp_path / "a"), private_folder(tmp_path):
        pass


def test_what_cannot_be_replaced_is_known_beforehand(tmp_path):
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(BadFile, match="there is a folder of this name"):
        check_replaceable(tmp_path / "folder.tif")
    with pytest.raises(BadFile, match="there is a folder of this name"):
        with written_whole(tmp_path / "folder.tif", overwrite=True) as part:
            part.touch()
    (tmp_path / "read-only.tif").touch(mode=0o444)
    check_replaceable(tmp_path / "read-only.tif")  # its folder decides
    with pytest.raises(BadFile, match="cannot be written: "):
        try_to_write(tmp_path / "no such folder" / "a.tif")


def test_a_folder_removed_meanwhile_is_named_as_the_cause(tmp_path):
    folder = tmp_path / "map"
    with pytest.raises(BadFile, match="Its folder was removed or renamed meanwhile") as told:
        with written_whole(folder / "a.tif") as part:
            folder.rename(tmp_path / "elsewhere")
            part.write_text("")
    assert "full" not in str(told.value)


@pytest.mark.parametrize(
    "address", ["s3://bucket/map", "gs://bucket/map", "https://host/a", "/vsis3/bucket/map"]
)
def test_no_folder_is_made_of_an_address(tmp_path, monkeypatch, address):
    """pathlib makes `s3:/bucket` of `s3://bucket`, and a folder `s3:` would be created here."""
    monkeypatch.chdir(tmp_path)
    for path in (address, Path(address)):
        with pytest.raises(BadFile, match="is an address .*written to local files only"):
            check_written(path)
        with pytest.raises(BadFile, match="is an address"), written_whole(path):
            pass
    with pytest.raises(BadFile, match="is an address"):
        train({"data": {"images": ["a.tif"], "labels": ["b.tif"]}, "network": "fcn"}, address)
    assert list(tmp_path.iterdir()) == []
    check_written("C:/map/a.tif")
    check_written("x:y/a.tif")


def test_no_new_folder_gets_the_name_of_a_file(tmp_path):
    made = tmp_path / "made.tif"
    made.mkdir()
    # What is there already is a folder, and dots are common in names of folders.
    for place in (made, tmp_path / "run.2024", tmp_path / "v1.2", tmp_path / "plain"):
        check_folder(place, "The folder (out)")
    asked = {
        "map.tif": lambda out: map_scene("none.safetensors", "none.tif", out),
        "maps.TIF": lambda out: map_scenes("none.safetensors", ["none.tif"], out),
        "mlp.safetensors": lambda out: train({"data": {"images": ["a"], "labels": ["b"]}}, out),
        "scores.json": lambda out: of_folder(None, out, "error maps"),
        "style.qml": lambda out: write_styles("none.tif", out=out),
    }
    for name, call in asked.items():
        with pytest.raises(BadOption, match=f"has the name of a file, {name}. Give a folder, such as"):
            call(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_files_of_a_run_that_fails_are_removed_and_those_of_others_stay(tmp_path):
    old, new = tmp_path / "old.tif", tmp_path / "new.tif"
    old.write_text("before")
    with pytest.raises(KeyboardInterrupt), new_files([old, new, tmp_path / "never.tif"]):
        for path in (old, new, tmp_path / "new.tif.aux.xml", tmp_path / "another.tif"):
            path.write_text("now")
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another.tif", "old.tif"]
    with new_files([new]):
        new.write_text("now")
    assert new.exists()


def test_a_full_disk_is_said_with_what_to_do(small_disk):
    sized, folder = small_disk
    sized(64 * 1024)
    with pytest.raises(BadFile) as told, written_whole(folder / "a.bin") as part:
        part.write_bytes(bytes(2**20))
    assert str(told.value).endswith("No space left on device. Free some space there, and try again.")
    # Libraries have words of their own for it.
    with pytest.raises(BadFile, match=r"odd words. The disk is full. Free some space there"):
        with written_whole(folder / "a.bin"):
            raise OSError("odd words")
    assert not list(folder.iterdir())
