"""Maps made by workers of a real Dask cluster: the bytes of a single process, whatever dies on the way."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import world
from distributed import Client
from processes import PATIENCE, group_exists, held, until, wait_until_idle

import labelscape
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Window
from labelscape.maps import crew
from labelscape.maps.crew import Work, grain_for
from labelscape.maps.layout import Blocks, blocks_for, in_words
from labelscape.maps.many import map_scenes
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_scene
from labelscape.progress import heard_by
from labelscape.scoring.stitch import _contributing
from labelscape.scoring.tiles import TilePlan
from labelscape.version import build
from labelscape.workers import cluster
from labelscape.workers.calls import Call, ClusterLost
from labelscape.workers.cluster import connected, outcomes
from labelscape.workers.pace import Pace

QUICK = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}


@pytest.fixture(scope="module")
def client():
    with connected(2) as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(world.ten_metre_fcn(), tmp_path_factory.mktemp("model") / "model.safetensors")


def scenes_of(folder, count=3, height=96, width=128):
    folder.mkdir(parents=True, exist_ok=True)
    return [world.make(folder, height, width, seed=n, name=f"s{n}", nodata=0).scene for n in range(count)]


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


@dataclass(frozen=True)
class OnCpu:
    device: str = "cpu"


def test_workers_that_will_have_nothing_to_do_are_counted_in_the_plan(client, model, tmp_path, capfd):
    scenes = scenes_of(tmp_path / "in", 1)
    map_scenes(model, scenes, tmp_path / "maps", cluster=client, grain="scene", **QUICK)
    plan = "1 scene, 2 workers of 1 thread on cpu: each maps whole scenes; 1 worker will have nothing to do "
    assert plan + "(more workers than scenes)" in capfd.readouterr().err
    plan = TilePlan(Window(0, 0, 90, 90), 96, 16)
    assert in_words(blocks_for(plan, 3), 3) == (
        "1 block of up to 1 x 1 tile for 3 workers; 2 workers will have nothing to do (few tiles; a smaller "
        "`tile_size` makes more)"
    )
    plan = TilePlan(Window(0, 0, 960, 960), 96, 16)
    assert "nothing" not in in_words(blocks_for(plan, 3), 3)


def test_few_scenes_are_cut_into_blocks_where_one_of_them_is_larger_than_a_tile(model, tmp_path, monkeypatch):
    small = scenes_of(tmp_path / "small", 2)

    def grain(scenes, asked="auto"):
        models, requests = [load(model)], [MapRequest(device="cpu")] * len(scenes)
        return grain_for(Work(models, scenes, requests, tmp_path, False, asked, None), 4, OnCpu())

    assert grain(small) == "scene"
    assert grain([*small, tmp_path / "none.tif"]) == "scene"  # told when it is its turn
    assert grain(small, "block") == "block"
    monkeypatch.setattr(crew, "EXACT_TILE", 100)  # 96 x 128 pixels are more than 100 x 100
    assert grain(small) == "block"
    assert grain(small * 4) == "scene"


def test_whole_scenes_are_mapped_by_workers_and_one_that_fails_does_not_stop_the_others(
    client, model, tmp_path, monkeypatch
):
    good = scenes_of(tmp_path / "in", 5)
    bad = tmp_path / "in" / "bad.tif"
    bad.write_bytes(good[0].read_bytes()[:2000])
    monkeypatch.chdir(tmp_path)  # workers have another working folder
    scenes = [Path("in") / scene.name for scene in [*good[:2], bad, *good[2:]]]
    result = map_scenes(model, scenes, "maps", cluster=client, **QUICK)
    assert (result.grain, result.workers) == ("scene", 2)
    states = ["done", "done", "failed", "done", "done", "done"]
    assert [r.state for r in result.records] == states, [r.cause for r in result.records]
    assert [r.scene for r in result.records] == [str(s) for s in scenes]
    assert "truncated or damaged" in result.records[2].cause
    for scene in good:
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    report = json.loads(Path("maps/job.json").read_text())
    assert report["finished"] and report["counts"] == {"failed": 1, "done": 5}
    again = map_scenes(model, scenes, "maps", cluster=client, **QUICK)
    assert again.counts == {"skipped": 5, "failed": 1}
    # What was mapped by the first run keeps its time.
    now = {one["scene"]: one for one in json.loads(Path("maps/job.json").read_text())["scenes"]}
    assert all(now[one["scene"]] == one for one in report["scenes"] if one["state"] == "done")
    assert not list((tmp_path / "maps").glob(".*"))


BLENDED = {"network": "skip", "blend": "hann", "tile_size": 64, "overlap": 16}
EXACT = {"network": "fcn", "tile_size": 256, "overlap": None}


@pytest.mark.parametrize(
    ("how", "more"),
    [
        (EXACT, {"proba": True, "entropy": True}),
        (BLENDED, {"proba": True, "tta": "flips", "reject": 0.4}),
        (
            BLENDED,
            {
                "also": True,
                "area": True,
                "sieve": 2.0,
                "polygons": True,
                "creation_options": ("BLOCKSIZE=128",),
            },
        ),
    ],
    ids=["exact", "blended with augmentation", "two models in an area"],
)
def test_blocks_of_a_scene_give_the_bytes_of_a_single_process(client, tmp_path, how, more):
    w = world.make(tmp_path, 330, 420, nodata=0)
    settings = {**QUICK, **how, **more}
    network, also = settings.pop("network"), settings.pop("also", False)
    options = {"widths": (8, 8, 8, 8)}
    models = [
        save(world.tiny_checkpoint(network, seed=n, **options), tmp_path / f"m{n}.safetensors")
        for n in range(1 + also)
    ]
    if settings.get("area"):
        settings["area"] = world.rectangle(w, tmp_path / "area.geojson", 40, 30, 250, 300)
    result = map_scenes(models, [w.scene], tmp_path / "maps", cluster=client, grain="block", **settings)
    assert [(r.state, r.cause) for r in result.records] == [("done", "")]
    assert result.grain == "block"
    single = map_scene(models, w.scene, tmp_path / "alone", **settings)
    assert single.tiles > 15
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    (record,) = result.records
    assert record.pixels == sum(area.pixels for area in single.areas)
    assert record.seam == single.seam
    assert not list((tmp_path / "maps").glob(".*"))


def test_progress_counts_blocks_and_names_a_slow_worker(client, model, tmp_path, monkeypatch, capfd):
    scene = world.make(tmp_path, 300, 300).scene
    one, other = sorted(client.nthreads())
    monkeypatch.setattr("labelscape.maps.blocks.blocks_for", lambda plan, workers: Blocks(plan, 1, 1))
    took, start = Pace.took, time.monotonic()
    # As if they took turns, and one of the two took three times as long: on a busy machine the other may make
    # all of them.
    turns = itertools.cycle([(one, 3.0), (other, 1.0)])
    monkeypatch.setattr(Pace, "took", lambda self, w, seconds, n: took(self, *next(turns), n))
    facts = []
    with heard_by(lambda done=1, **known: facts.append(known)):
        options = {**QUICK, "cluster": client, "grain": "block"}
        assert map_scenes(model, [scene], tmp_path / "maps", **options).counts == {"done": 1}
    seconds = time.monotonic() - start
    told = [known for known in facts if "blocks" in known]
    assert [known["blocks"] for known in told] == [f"{n}/25" for n in range(1, 26)]
    assert told[-1]["slow workers"] == 1 and "failed" not in told[-1]
    assert told[-1]["Mpx/s"] > 300 * 300 / 1e6 / seconds  # of the time in which blocks were made
    assert capfd.readouterr().err.count(f"worker {one} is slow: it takes 3.0 times as long") == 1


def test_a_block_that_cannot_be_read_is_the_cause_and_another_scene_is_mapped(client, model, tmp_path):
    bad = world.make(tmp_path, 300, 400, name="bad").scene
    bad.write_bytes(bad.read_bytes()[:200_000])
    (good,) = scenes_of(tmp_path, 1)
    one, other = map_scenes(
        model, [bad, good], tmp_path / "maps", cluster=client, grain="block", **QUICK
    ).records
    assert one.state == "failed" and one.cause.startswith(f"{bad} cannot be read at rows "), one.cause
    assert "truncated or damaged" in one.cause
    assert other.state == "done"


def test_a_full_disk_is_said_and_the_map_goes_on_once_there_is_room(client, model, tmp_path, small_disk):
    sized, folder = small_disk
    sized(150 * 1024)
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 300, 400)).astype(np.uint16)
    scene = world.write(tmp_path / "scene.tif", pixels)
    options = {"cluster": client, "grain": "block", "proba": True, **QUICK}
    # With force: else a map that may need more than is free is not begun.
    (record,) = map_scenes(model, [scene], folder / "maps", force=True, **options).records
    assert record.state == "failed" and "cannot be written" in record.cause
    assert "full" in record.cause or "space" in record.cause
    kept = tiles_in(folder / "maps" / ".scene.unfinished")
    assert kept and not list((folder / "maps").glob("[!.]*.tif"))
    sized(20 * 2**20)
    assert map_scenes(model, [scene], folder / "maps", **options).counts == {"done": 1}
    map_scene(model, scene, tmp_path / "alone", proba=True, **QUICK)
    assert rasters_in(folder / "maps") == rasters_in(tmp_path / "alone")


def test_local_workers_do_little_beside_the_work(client):
    def intervals(dask_worker):
        return {name: pc.callback_time for name, pc in dask_worker.periodic_callbacks.items()}

    for found in client.run(intervals).values():
        assert "profile" not in found
        assert found["monitor"] >= 2000
        assert found["tick"] >= 500


def test_local_workers_have_one_heap_for_all_threads(client):
    assert set(client.run(os.getenv, "MALLOC_ARENA_MAX").values()) == {"1"}


def test_workers_that_end_leave_no_folder_and_no_lock_of_it(tmp_path):
    with dask.config.set({"temporary-directory": str(tmp_path)}), connected(2):
        assert len(list(tmp_path.glob("dask-scratch-space/worker-*.dirlock"))) == 2
    until(lambda: not list(tmp_path.glob("dask-scratch-space/worker-*")))


def test_calls_are_submitted_as_workers_come_free(client):
    taken = []

    def calls():
        for number in range(40):
            taken.append(number)
            yield Call(number, "double", pow, (number, 2))

    most = 0
    for call, value in outcomes(client, calls()):
        assert value == call.number**2
        time.sleep(0.02)  # slower than the workers: the cluster holds no more for it
        most = max(most, len(client.futures))
    assert sorted(taken) == list(range(40))
    assert most < 20  # two for each worker, and those that end just now
    (first, value), *_ = [*outcomes(client, [Call(0, "divide", divmod, (1, 0))])]
    assert first.number == 0 and isinstance(value, ZeroDivisionError)

    def broken():
        for number in range(6):
            yield Call(number, "double", pow, (number, 2))
        raise BadOption("a scene in memory")

    with pytest.raises(BadOption, match="a scene in memory"):
        list(outcomes(client, broken()))


def test_work_that_nobody_waits_for_ends_at_its_next_sign_of_progress(client, tmp_path):
    def ticking(file, times):
        import time
        from pathlib import Path

        from labelscape.progress import bar

        try:
            with bar("ticks", times) as tick:
                for number in range(times):
                    Path(file).write_text(str(number))
                    time.sleep(0.05)
                    tick()
        finally:
            Path(f"{file}-ended").touch()

    file, ended = tmp_path / "ticks", tmp_path / "ticks-ended"
    calls = [Call(0, "short", pow, (2, 2)), Call(1, "long", ticking, (str(file), 100_000))]
    waiting = outcomes(client, calls)
    assert next(waiting)[0].number == 0
    until(lambda: file.exists() and int(file.read_text() or 0) > 2)
    waiting.close()
    until(ended.exists)  # the whole of it would take more than an hour
    wait_until_idle(client)


@pytest.mark.parametrize(("height", "width", "fade", "batch"), [(7, 9, 0, 1), (7, 9, 8, 1), (5, 31, 8, 4)])
@pytest.mark.parametrize("workers", [1, 3, 40])
def test_every_tile_is_in_one_block_and_what_is_predicted_twice_is_counted(
    height, width, fade, batch, workers
):
    plan = TilePlan(Window(0, 0, height * 32 - 5, width * 32), 32, 16, fade, 1, 0, batch)
    assert plan.along == (height, width)
    chosen = blocks_for(plan, workers)
    for blocks in (chosen, Blocks(plan, 2, 4)):
        members = {}
        for tile in plan:
            members.setdefault(blocks.of(tile.answers), []).append(tile)
        assert sorted(members) == list(range(len(blocks)))
        predicted = 0
        for tiles in members.values():
            needed = set(tiles)
            if fade:
                needed = _contributing(plan, {tile.answers for tile in tiles})
            order = {tile: n // batch for n, tile in enumerate(plan)}
            predicted += batch * len({order[tile] for tile in needed})
        assert len(list(plan)) <= predicted <= blocks.predicted
        if batch == 1:
            assert predicted == blocks.predicted
    if not fade and batch == 1:
        assert chosen.predicted == len(plan)


def test_check_says_how_workers_share_a_scene(model, tmp_path, run_cli):
    w = world.make(tmp_path, 300, 400)
    options = ("--no-timing", "--device", "cpu", "--tile-size", "96", "--overlap", "16", "--blend", "hann")
    code, out, _ = run_cli("check", model, w.scene, *options, "--workers", "4")
    (line,) = [line for line in out.splitlines() if line.startswith("workers")]
    assert code == 0 and " blocks of up to " in line and "for 4 workers" in line
    assert "% of the tiles predicted twice" in line
    each, together = map(float, re.findall(r"([\d.]+) GiB", line))
    assert together == pytest.approx(4 * each, abs=0.25)
    assert run_cli("check", model, w.scene, *options, "--workers", "0")[0] == 2


def test_many_scenes_are_checked_by_workers_as_by_one_process(client, model, tmp_path, run_cli):
    scenes = scenes_of(tmp_path / "in", 2)
    other = world.write(tmp_path / "other.tif", np.ones((1, 64, 64), np.uint16))
    (tmp_path / "empty.tif").touch()
    words = ("check", model, scenes[0], other, tmp_path / "empty.tif", scenes[1], "--device", "cpu")
    shared = ("--cluster", client.scheduler.address)
    alone = run_cli(*words, "--no-timing")
    code, out, err = run_cli(*words, "--no-timing", *shared)
    assert (code, out) == alone[:2] and code == 1
    assert "4 scenes, 2 workers of 1 thread on cpu: each takes whole scenes" in err
    assert "UNREADABLE  empty" in out and "1 REFUSED" in out
    code, _, err = run_cli(*words, "--tta", "turns", *shared)
    assert code == 2 and "turns" in err
    code, _, err = run_cli("check", model, scenes[0], *shared)
    assert code == 2 and "--cluster checks several scenes at once" in err


def test_no_dask_and_wrong_options_are_said(model, tmp_path, monkeypatch):
    scene = scenes_of(tmp_path, 1)[0]
    for options, said in (
        ({"workers": 0}, "`workers=0` must be"),
        ({"workers": 0, "cluster": "tcp://localhost:1"}, "`workers=0` must be"),
        ({"workers": 2, "grain": "tile"}, "No `grain` is called 'tile'"),
        ({"workers": 2, "block_timeout": 0}, "must be above 0"),
    ):
        with pytest.raises(BadOption, match=said):
            map_scenes(model, [scene], tmp_path / "maps", **options, **QUICK)
    with pytest.raises(BadFile, match="nowhere.json does not exist"):
        map_scenes(model, [scene], tmp_path / "maps", cluster=str(tmp_path / "nowhere.json"), **QUICK)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadOption, match=r"pip install 'labelscape\[cluster\]'"):
        map_scenes(model, [scene], tmp_path / "maps", workers=2, **QUICK)
    assert not (tmp_path / "maps").exists()


def test_workers_of_a_cluster_are_waited_for_and_a_few_are_enough(client, monkeypatch, capfd):
    """How scenes are cut depends on their number: a job that begins with the first worker of many would be
    cut for that one.
    """
    monkeypatch.setattr(cluster, "JOIN_WITHIN", 0.2)
    with connected(2, client):
        pass
    assert "waiting" not in capfd.readouterr().err
    begun = time.monotonic()
    with connected(3, client) as same:
        assert same is client
    assert time.monotonic() - begun >= 0.2
    said = capfd.readouterr().err
    assert "waiting for 3 workers of tcp://" in said
    assert "only 2 of 3 workers have joined; the work begins" in said


@pytest.mark.parametrize(
    ("package", "other", "here"),
    [
        ("labelscape", "0.0.1", build()),
        # A copy from between two releases: its version is the same, its code is not.
        ("labelscape", f"{labelscape.__version__} (code 0123456789)", build()),
        ("torch", "0.0.1", torch.__version__),
    ],
)
def test_a_worker_with_another_version_is_refused_by_name_before_the_work(
    client, model, tmp_path, package, other, here
):
    (scene,) = scenes_of(tmp_path / "in", 1)
    one = sorted(client.nthreads())[0]

    def version(number):
        import importlib

        if package == "labelscape":
            importlib.import_module("labelscape.version").build = lambda: number
        else:
            importlib.import_module(package).__version__ = number

    client.run(version, other, workers=[one])
    try:
        with pytest.raises(BadInput, match="1 of 2 workers cannot do this job") as told:
            map_scenes(model, [scene], tmp_path / "maps", cluster=client, **QUICK)
    finally:
        client.run(version, here, workers=[one])
    said = f"{one} ({socket.gethostname()}): it has {package} {other}, here is {here}"
    assert said in str(told.value) and str(told.value).count("  - ") == 1
    assert not (tmp_path / "maps").exists()


def test_a_copy_of_the_package_with_other_code_is_another_build(tmp_path):
    """Two checkouts of one version, of which one was changed: a map of both would be mixed."""
    package = Path(labelscape.__file__).parent
    copy = tmp_path / "labelscape"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def built():
        code = f"import runpy; print(runpy.run_path({str(copy / 'version.py')!r})['build']())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert built().strip() == build() and build().startswith(f"{labelscape.__version__} (code ")
    file = copy / "maps" / "plan.py"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert built().strip() == build()
    file.write_bytes(file.read_bytes() + b"\n# changed\n")
    assert built().strip() != build()


def test_a_worker_that_joins_later_with_another_version_does_no_work(client):
    def version(number):
        import torch

        torch.__version__ = number

    client.run(version, "0.0.1")
    try:
        calls = [Call(0, "network", pow, (2, 3)), Call(1, "areas", pow, (2, 3), network=False)]
        found = {call.number: value for call, value in outcomes(client, calls)}
    finally:
        client.run(version, torch.__version__)
    assert isinstance(found[0], BadInput) and found[1] == 8  # work without a network needs no torch
    assert f"has torch 0.0.1; {torch.__version__} was expected" in str(found[0])


def test_workers_with_another_checkpoint_are_refused(client, model, tmp_path):
    (scene,) = scenes_of(tmp_path / "in", 1)

    def map_it(checkpoint):
        return map_scenes(checkpoint, [scene], tmp_path / "maps", cluster=client, **QUICK)

    loaded = load(model)
    changed = save(replace(loaded, temperature=3.0), tmp_path / "changed.safetensors")
    once = load(changed)
    save(loaded, changed)
    with pytest.raises(BadInput, match=r"2 of 2 workers .*(\n.*)*is another checkpoint"):
        map_it(once)
    with pytest.raises(BadOption, match="save it"):
        map_it(replace(loaded, temperature=3.0))
    assert not (tmp_path / "maps").exists()


def slowed(client, seconds, hang=None):
    """Let workers take their time over each tile; the first to make the file `hang` takes for ever."""

    def slow(seconds, hang):
        import os
        import time

        import labelscape.maps.blocks as blocks

        real = blocks.planes_of

        def planes_of(*arguments):
            time.sleep(seconds)
            if hang:
                try:
                    os.close(os.open(hang, os.O_CREAT | os.O_EXCL))
                    time.sleep(1000)
                except FileExistsError:
                    pass
            return real(*arguments)

        blocks.planes_of = planes_of

    client.run(slow, seconds, hang and str(hang))


@contextlib.contextmanager
def in_a_thread(function, *arguments, **options):
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(function, *arguments, **options)


def tiles_in(journal):
    return {p.name: p.stat().st_mtime_ns for p in journal.glob("[!.]*.tif")}


def test_the_work_of_workers_that_die_one_after_the_other_is_done_by_others(model, tmp_path, capfd):
    w = world.make(tmp_path, 300, 400)
    journal = tmp_path / "maps" / ".scene.unfinished"
    # Of each worker's tiles the first is kept.
    where = "labelscape.maps.blocks", "planes_of", tmp_path / "held"
    with connected(2) as client, ThreadPoolExecutor(1) as pool:
        with held(client, *where, free=1) as waiting:
            options = {"cluster": client, "grain": "block", **QUICK}
            mapped = pool.submit(map_scenes, model, [w.scene], tmp_path / "maps", **options)
            until(lambda: len(waiting()) == 2 or mapped.done())
            first, second = waiting()
            before = len(tiles_in(journal))
            os.kill(first, signal.SIGKILL)
            until(lambda: len(tiles_in(journal)) > before or mapped.done())
            os.kill(second, signal.SIGKILL)
        assert mapped.result().counts == {"done": 1}
    map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert capfd.readouterr().err.count("was lost; its work is given to another one") == 2


@pytest.mark.long  # the limit has to be longer than a start on a busy machine
def test_a_worker_that_hangs_is_ended_and_its_work_given_to_another_one(model, tmp_path, capfd):
    w = world.make(tmp_path, 300, 400)
    with connected(2) as client:
        slowed(client, 0, tmp_path / "hangs")
        options = {"cluster": client, "grain": "block", "block_timeout": 30.0, **QUICK}
        assert map_scenes(model, [w.scene], tmp_path / "maps", **options).counts == {"done": 1}
    assert (tmp_path / "hangs").exists()
    map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    said = capfd.readouterr().err
    assert "a worker without progress for 30 s is ended" in said
    assert "hung: no progress for 30 s" in said
    assert "was lost; its work is given to another one" in said


@pytest.fixture
def own_cluster(tmp_path):
    """Functions that start a scheduler, and a worker by an own command, as people do on a cluster."""
    started = []
    file = tmp_path / "scheduler.json"

    def start(*command):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [*command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        started.append(process)
        return process

    def scheduler():
        file.unlink(missing_ok=True)
        made = start(
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)),
            *("--port", "0", "--no-dashboard", "--host", "127.0.0.1"),
        )
        until(file.exists)
        return made

    def worker(*before):
        return start(
            *(*before, sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)),
            *("--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path / "dask"), "--no-nanny"),
        )

    yield file, scheduler, worker
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_scheduler_that_dies_loses_no_tile(model, tmp_path, own_cluster, capfd):
    file, scheduler, worker = own_cluster
    w = world.make(tmp_path, 500, 600)
    journal = tmp_path / "maps" / ".scene.unfinished"
    options = {"cluster": str(file), "grain": "block", **QUICK}
    first = scheduler()
    workers = [worker(), worker()]
    with Client(scheduler_file=str(file)) as other:
        other.wait_for_workers(2)
        slowed(other, 0.1)
    with in_a_thread(map_scenes, model, [w.scene], tmp_path / "maps", **options) as mapped:
        until(lambda: len(tiles_in(journal)) > 4)
        first.kill()
        with pytest.raises(ClusterLost):
            mapped.result()
    assert "0 of 1 scenes are finished; repeat the command" in capfd.readouterr().err
    for one in workers:
        one.kill()
        one.wait()
    kept = tiles_in(journal)
    assert len(kept) > 4
    scheduler()
    worker()
    with Client(scheduler_file=str(file)) as other:
        other.wait_for_workers(1)
        slowed(other, 0.1)
    with in_a_thread(map_scenes, model, [w.scene], tmp_path / "maps", **options) as mapped:
        until(lambda: len(tiles_in(journal)) > len(kept) + 2)
        assert {name: tiles_in(journal)[name] for name in kept} == kept
        assert mapped.result().counts == {"done": 1}
    map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")


@pytest.mark.long
def test_workers_that_see_other_folders_are_refused_by_name(tmp_path, own_cluster):
    file, scheduler, worker = own_cluster
    models, out = tmp_path / "models", tmp_path / "maps"
    models.mkdir()
    model = save(world.ten_metre_fcn(), models / "m.safetensors")
    (scene,) = scenes_of(tmp_path / "in", 1)
    out.mkdir()
    hidden = 'mount -t tmpfs tmpfs {} && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", hidden.format(out), "sh", "true"]).returncode:
        pytest.skip("hiding a folder from a process takes rights that this user lacks")
    for folder, said in (
        (models, f"it lacks the checkpoint {model}"),
        (out, f"cannot read the folder {out}"),
        # It would fail at once, each time, and take most of a job's scenes before the others take one.
        (scene.parent, f"it lacks {scene.name}"),
    ):
        started = [scheduler(), worker(), worker("unshare", "-m", "sh", "-c", hidden.format(folder), "sh")]
        with Client(scheduler_file=str(file)) as other:
            other.wait_for_workers(2)
        with pytest.raises(BadInput, match="1 of 2 workers cannot do this job") as told:
            map_scenes(model, [scene], out, cluster=str(file), **QUICK)
        assert said in str(told.value)
        for one in started:
            one.kill()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_workers_and_the_command_says_how_to_resume(model, tmp_path, number):
    w = world.make(tmp_path, 1000, 1000)
    journal = tmp_path / "maps" / ".scene.unfinished"
    program = "import sys; from labelscape.cli import main; main(sys.argv[1:])"
    command = [
        *(sys.executable, "-c", program, "map", str(model), str(w.scene), "--out", str(tmp_path / "maps")),
        *("--workers", "2", "--device", "cpu", "--no-report", "--no-polygons", "--grain", "block"),
        *("--tile-size", "96", "--overlap", "16"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    until(lambda: len(tiles_in(journal)) > 2)
    os.killpg(process.pid, number)  # as a terminal or `timeout` does: to all processes
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "0 of 1 scenes are finished; repeat the command to map what is missing" in said
    assert f"kept in {tmp_path}/maps/.scene.unfinished; the same command resumes the map" in said
    assert "Traceback" not in said and "was lost" not in said
    assert said.rstrip().endswith("labelscape: stopped.")
    until(lambda: not group_exists(process.pid))  # no worker is left
    assert tiles_in(journal)


@pytest.mark.parametrize("grain", ["scene", "block"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_worker_that_sees_another_scene_of_that_name_maps_nothing_of_it(
    model, tmp_path, client, grain, count, monkeypatch
):
    """As where each machine has a disk of its own under one path: the last scene is another there."""
    scenes = scenes_of(tmp_path / "in", count)
    other = world.make(tmp_path, 96, 128, seed=9, name="other", nodata=0).scene
    real = crew.Seen.here.__func__

    def elsewhere(cls, *sources):
        # What the process that hands out the work has under that path.
        found = real(cls, *(str(other) if one == str(scenes[-1]) else one for one in sources))
        named = tuple((Path(sources[0]).name, *facts) for _, *facts in found.files)
        return replace(found, paths=sources, files=named)

    monkeypatch.setattr(crew.Seen, "here", classmethod(elsewhere))

    def mapped():
        return map_scenes(model, scenes, tmp_path / "maps", cluster=client, grain=grain, **QUICK)

    if count == 1:
        with pytest.raises(
            BadInput, match=r"2 of 2 workers .*(\n.*)*its s0.tif .*is not what the command sees"
        ):
            mapped()
        assert not (tmp_path / "maps").exists()
        return
    result = mapped()
    assert [one.state for one in result.records] == ["done", "done", "failed"]
    assert "its s2.tif (under " in result.records[-1].cause
    assert sorted(p.name for p in (tmp_path / "maps").glob("*_class.tif")) == ["s0_class.tif", "s1_class.tif"]
    for scene in scenes[:2]:
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
