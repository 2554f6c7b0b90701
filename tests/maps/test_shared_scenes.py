"""Several scenes whose tiles are shared among workers, each written by one of them; without a cluster: calls
are made in this process, and end in any order.
"""

import json
import random
from dataclasses import replace

import pytest
import world
from processes import until

from labelscape.checkpoint import StoredAs, load, save
from labelscape.errors import BadFile
from labelscape.grid import Window
from labelscape.maps import shared
from labelscape.maps.arriving import in_order
from labelscape.maps.blocks import BlockTask, Scored, kept_tiles, score_block
from labelscape.maps.job import Job, SceneRecord
from labelscape.maps.layout import blocks_for
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_scene, map_with
from labelscape.maps.shared import Begun, Shared, begin_here
from labelscape.scoring.tiles import TilePlan
from labelscape.workers.pace import Pace
from labelscape.workers.store import Folder

QUICK = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}


def ending_in_any_order(seed, ahead=6, then=lambda call: None):
    """As `cluster.outcomes`, in this process: of the calls that were submitted any one ends next."""
    chance = random.Random(seed)

    def run(calls, took):
        running = []
        while True:
            while len(running) < ahead and (call := next(calls, None)) is not None:
                running.append(call)
            if not running:
                return
            call = running.pop(chance.randrange(len(running)))
            then(call)
            try:
                found = call.function(*call.args)
                took("one", 1.0, found)
            except Exception as error:
                found = error
            yield call, found

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(world.ten_metre_fcn(), tmp_path_factory.mktemp("model") / "model.safetensors")


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


def shared_scenes(model, folder, sizes, workers=2):
    folder.mkdir(exist_ok=True)
    scenes = [world.make(folder, *s, seed=n, name=f"s{n}", nodata=0).scene for n, s in enumerate(sizes)]
    job = Job((StoredAs.now(model),), str(folder / "maps"), False)
    request = MapRequest(**QUICK)
    return Shared(job, scenes, [request.replace(scene=str(s)) for s in scenes], workers), scenes


def mapped(one, run):
    return dict(one.records(run, Pace(), still))


def still(done=1, **facts):
    """No progress bar."""


SIZES = [(200, 260), (90, 90), (150, 300)]


def test_scenes_have_the_bytes_of_a_single_process_in_whatever_order_their_blocks_end(model, tmp_path):
    one, scenes = shared_scenes(model, tmp_path, SIZES)
    submitted = []
    records = mapped(one, ending_in_any_order(0, then=lambda call: submitted.append(call.name)))
    assert [records[n].state for n in range(3)] == ["done"] * 3, records
    for scene in scenes:
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert not list((tmp_path / "maps").glob(".*"))
    assert submitted.count("begin-scene") == submitted.count("write-scene") == 3
    for n, scene in enumerate(scenes):
        here, alone = (
            json.loads((tmp_path / out / f"{scene.stem}_run.json").read_text()) for out in ("maps", "alone")
        )
        assert here["areas"] == alone["areas"] and here["seam_score"] == alone["seam_score"]
        # No resumed map: its tiles were made by this job, and their time is in that of the scene.
        assert here["speed"] is not None and records[n].seconds >= here["seconds"] - 0.01
    again = Shared(one.job, one.scenes, one.requests, one.workers)
    assert {r.state for r in mapped(again, ending_in_any_order(0)).values()} == {"skipped"}


def test_tiles_that_are_removed_before_the_map_is_written_are_scored_again(model, tmp_path):
    one, _ = shared_scenes(model, tmp_path, SIZES[:2])
    removed = []

    def remove(call):
        if call.name == "write-scene" and not removed:
            removed.extend((tmp_path / "maps").glob(".s*.unfinished/[!.]*.tif"))
            for tile in removed[::2]:
                tile.unlink()

    assert {r.state for r in mapped(one, ending_in_any_order(1, then=remove)).values()} == {"done"}
    assert removed
    for n in range(2):
        map_scene(model, tmp_path / f"s{n}.tif", tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")


@pytest.mark.parametrize("alone", [False, True])
def test_tiles_on_a_server_are_read_ahead_and_written_in_their_order(model, tmp_path, monkeypatch, alone):
    one, (scene,) = shared_scenes(model, tmp_path, [(200, 260)])
    begun = begin_here(one.job, str(scene), one.requests[0], 1, 1)
    count = sum(score_block(begun.task, number).made for number in begun.missing)
    real, asked = Folder.get, []

    def late(self, name):
        """None is answered before the next one is asked for."""
        asked.append(name)
        number = len(asked)
        until(lambda: len(asked) > min(number, count - 1))
        return real(self, name)

    def tiles(work, tick):
        monkeypatch.setattr(Folder, "remote", True)
        monkeypatch.setattr(Folder, "get", late)
        yield from (in_order if alone else kept_tiles(count))(work, tick)

    request = one.requests[0].replace(scene=str(scene))
    map_with([load(model)], scene, tmp_path / "maps", request, tiles=tiles)
    monkeypatch.undo()
    assert count == len(set(asked)) > 10
    map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")


def plain(monkeypatch, tmp_path, blocks=5, bad=None):
    """Calls that do nothing, as a job into a folder; of scene `bad` a block raises."""

    def begin(job, source, request, workers, scenes):
        task = BlockTask((), source, request, f"/nowhere/{source}", (), 1, 1, 1)
        return Begun(task, dict.fromkeys(range(blocks), 1), 0, source)

    def score(task, number):
        if task.source == bad and number == 2:
            raise BadFile("damaged at rows 2-3")
        return Scored(1, ((0, number),))

    def write(job, source, request, least, spent):
        assert least == blocks and spent >= 0
        return SceneRecord(source, "done")

    for name, function in (("begin_here", begin), ("score_block", score), ("write_here", write)):
        monkeypatch.setattr(shared, name, function)
    monkeypatch.setattr(shared, "for_workers", lambda source: source)
    return Job((), str(tmp_path), False)


@pytest.mark.parametrize("seed", range(20))
def test_no_scene_is_lost_or_doubled_and_few_are_open_at_a_time(monkeypatch, tmp_path, seed):
    job = plain(monkeypatch, tmp_path, bad="s7")
    scenes, workers = [f"s{n}" for n in range(40)], 4
    one = Shared(job, scenes, [MapRequest(scene="s")] * 40, workers)
    most, calls = 0, []

    def watch(call):
        nonlocal most
        calls.append(call)
        begun = sum(c.name == "begin-scene" for c in calls)
        most = max(most, begun - sum(c.name == "write-scene" for c in calls))

    found = list(one.records(ending_in_any_order(seed, 2 * workers, watch), Pace(), still))
    assert sorted(number for number, _ in found) == list(range(40))
    records = dict(found)
    assert records[7].state == "failed" and records[7].cause == "damaged at rows 2-3"
    assert all(records[n].state == "done" for n in range(40) if n != 7)
    blocks = [(c.args[0].source, c.args[1]) for c in calls if c.name == "score-block"]
    assert len(set(blocks)) == len(blocks) and len(blocks) >= 39 * 5
    # Journals take up the disk: those of a few scenes a worker, whatever the number of scenes.
    assert most <= 3 * workers
    assert not one._open and not one._blocks and not one._of


def test_of_two_jobs_and_a_single_map_one_has_a_scene_until_it_is_written(model, tmp_path, monkeypatch):
    """Also between its begin and its end, when no worker holds the lock of its files."""
    monkeypatch.setattr(shared, "PATIENCE", 0)
    one, (scene, other) = shared_scenes(model, tmp_path, SIZES[:2])
    said = []

    def meanwhile(call):
        if call.name == "score-block" and not said:
            for overwrite in (False, True):
                job = replace(one.job, overwrite=overwrite)
                second = Shared(job, [scene], one.requests[:1], 1)
                said.extend(record.cause for record in mapped(second, ending_in_any_order(0)).values())
                with pytest.raises(BadFile) as refused:
                    map_scene(model, scene, tmp_path / "maps", overwrite=overwrite, **QUICK)
                said.append(str(refused.value))

    assert {r.state for r in mapped(one, ending_in_any_order(0, ahead=1, then=meanwhile)).values()} == {
        "done"
    }
    assert len(said) == 4 and all("s0 is being written by another run" in line for line in said), said
    for each in (scene, other):
        map_scene(model, each, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert not list((tmp_path / "maps").glob(".*"))


def test_a_worker_that_died_with_a_scene_is_its_cause(monkeypatch, tmp_path):
    one = Shared(plain(monkeypatch, tmp_path), ["a", "b"], [MapRequest(scene="s")] * 2, 1)

    def run(calls, took):
        for call, found in ending_in_any_order(0)(calls, took):
            dies = call.name == "begin-scene" and call.args[1] == "a"
            yield call, BadFile("The workers died") if dies else found

    records = dict(one.records(run, Pace(), still))
    assert (records[0].state, records[0].cause) == ("failed", "The workers died")
    assert records[1].state == "done"


def test_blocks_of_many_scenes_are_larger_than_those_of_one(tmp_path):
    plan = TilePlan(Window(0, 0, 20_000, 20_000), 1088, 32)
    sizes = [len(blocks_for(plan, 512, scenes)) for scenes in (1, 50, 400)]
    assert sizes[0] == len(plan) == 361
    assert sizes[0] > sizes[1] > sizes[2] >= 4


@pytest.mark.parametrize(
    ("side", "core", "workers"), [(9216, 1536, 2), (10_980, 512, 8), (20_000, 1024, 16), (5000, 512, 3)]
)
def test_workers_end_together(side, core, workers):
    """Whoever is free takes the next block, and a tile takes as long as its pixels are many."""
    plan = TilePlan(Window(0, 0, side, side), core, 32)
    blocks = blocks_for(plan, workers)
    pixels = [0] * len(blocks)
    for tile in plan:
        pixels[blocks.of(tile.answers)] += tile.core.pixels
    free = [0] * workers
    for number in pixels:
        free[free.index(min(free))] += number
    assert max(free) < 1.03 * side**2 / workers
