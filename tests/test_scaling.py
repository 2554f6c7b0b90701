"""Benchmarks of many workers, at a tiny size: what they print is for people, what they do is held here."""

import sys
from pathlib import Path

import numpy as np
import pytest

from labelscape.grid import Window
from labelscape.maps import crew
from labelscape.maps.job import Job
from labelscape.maps.journal import Journal
from labelscape.maps.request import MapRequest
from labelscape.maps.shared import Shared
from labelscape.workers.pace import Pace
from labelscape.workers.store import Folder

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import mapping
import scaling
import sleeping
import workers as two_workers

SIDE = 64


@pytest.fixture
def folder(tmp_path):
    """What `--record` leaves, of blocks that take no time."""
    journal = Journal(Folder(tmp_path / "journal"), {}, ("class",))
    journal.save(Window(0, 0, SIDE, SIDE), np.ones((1, SIDE, SIDE), np.uint8))
    (tmp_path / "journal" / "0_0.tif").rename(tmp_path / sleeping.TILE)
    about = sleeping.Recorded("fcn", SIDE, 0, ("class",), 0.0, 0.01, 0.0, 0.0, 0.0, 20.0, 0.5, 0.4)
    about.save(tmp_path)
    assert sleeping.Recorded.load(tmp_path) == about
    return tmp_path


def at_once(calls, took):
    """As `cluster.outcomes`, in this process."""
    for call in calls:
        if call is None:
            return
        yield call, call.function(*call.args)


@pytest.mark.parametrize("way", [scaling.ONE, scaling.MANY])
def test_a_simulated_job_goes_through_every_block_of_every_scene(folder, way):
    out, scenes = folder / "maps", [str(folder / f"scene{n}.tif") for n in range(3)]
    out.mkdir()
    for name in (sleeping.RECORDED, sleeping.TILE):
        (out / name).write_bytes((folder / name).read_bytes())
    written = []
    real = sleeping.score

    def score(task, number):
        written.append((task.journal, number))
        return real(task, number)

    with scaling.swapped(None):
        for module in (scaling.shared, scaling.blocks):
            module.score_block = score
        job, requests = Job((), str(out), False), [MapRequest(scene=s) for s in scenes]
        work = crew.Work([], scenes, requests, out, False, "block", None)
        if way == scaling.ONE:
            found = list(crew.one_after_another(at_once, work, job, 2, Pace()))
        else:
            found = list(Shared(job, scenes, requests, 2).records(at_once, Pace(), scaling.unseen))
    assert sorted(number for number, _ in found) == [0, 1, 2]
    assert {record.pixels for _, record in found} == {(3 * SIDE) ** 2}
    assert len(set(written)) == len(written) >= 3 * 2
    assert not list(out.glob(".scene*"))
    assert crew.map_one is not sleeping.write_in_command  # put back


def test_the_arithmetic_of_a_country_is_that_of_its_parts():
    about = sleeping.Recorded("fcn", 1000, 32, (), 2.0, 3.0, 0.25, 0.5, 0.1, 20.0, 0.5, 0.4, side=10)
    # 100 tiles of a megapixel. One writer: 2 s + 100 tiles x 3 s / 4 workers + 100 Mpx x 0.5 s, 7 times.
    assert scaling.hours(about, 7, 4, scaling.ONE) == pytest.approx(7 * (2 + 75 + 50) / 3600)
    # So many workers that adding tiles takes longer than scoring them.
    assert scaling.hours(about, 7, 1000, scaling.ONE) == pytest.approx(7 * (2 + 25 + 50) / 3600)
    # All of it is shared, with a scene opened twice; the last map is waited for.
    each = 2 + 25 + 50
    assert scaling.hours(about, 7, 4, scaling.MANY) == pytest.approx((7 * (2 + 300 + each) / 4 + each) / 3600)


@pytest.mark.long
def test_a_small_job_is_simulated_on_real_workers(folder):
    with sleeping.light_workers(3, each=2) as client:
        one, many = (scaling.simulate(client, folder, 4, way) for way in (scaling.ONE, scaling.MANY))
    assert (one.workers, many.workers) == (3, 3)
    assert 0 < one.busy < 1 and 0 < many.busy < 1


@pytest.mark.long
@pytest.mark.parametrize(("count", "ways"), [(1, two_workers.LARGE), (3, two_workers.SMALL)])
def test_two_workers_are_measured_beside_one_and_all_write_the_same_bytes(tmp_path, count, ways):
    scenes = [mapping.paint(tmp_path / f"scene{n}.tif", 512) for n in range(count)]
    kept = two_workers.Kept(tmp_path / "kept.json", [])
    found = two_workers.times(tmp_path / "maps", scenes, "fcn", 1, ways, kept)
    assert list(found) == list(ways)
    assert all(one["wall"] > 0 and one["cpu"] > 0 for one in found.values())
    assert (found["1 worker"]["blocks"] > 0) and found["one process"]["blocks"] == 0


def test_what_was_measured_is_not_measured_again(tmp_path):
    path, about = tmp_path / "kept.json", ["mlp", 2]
    assert two_workers.Kept(path, about).get("one", lambda: 1) == 1
    again = two_workers.Kept(path, about)
    assert again.get("one", pytest.fail) == 1 and again.get("two", lambda: 2) == 2
    # Of another network or version nothing is taken.
    assert two_workers.Kept(path, ["fcn", 2]).get("one", lambda: 3) == 3
