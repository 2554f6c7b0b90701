"""Finished tiles on a real S3 server (moto, on the loopback), shared by workers that share no folder: the
bytes of a single process, whatever dies on the way, and errors that say what to do.
"""

import contextlib
import importlib.util
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import unquote

import boto3
import numpy as np
import pytest
import world
from moto.server import ThreadedMotoServer
from processes import reserved_port, until

import labelscape.maps.rasters as rasters
from labelscape.checkpoint import save
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Window
from labelscape.maps.journal import Journal, is_begun
from labelscape.maps.many import map_scenes
from labelscape.maps.run import map_scene
from labelscape.workers.cluster import connected
from labelscape.workers.store import Bucket, check_journal, store_for

QUICK = {"device": "cpu", "report": False, "polygons": False, "tile_size": 128, "overlap": 16}
PLACE = "s3://tiles/job"


class Requests(logging.Handler):
    """What the server was asked: "PUT /tiles/job/..." by request."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        if found := re.search(r"(GET|PUT|HEAD|POST|DELETE) (\S+) HTTP", record.getMessage()):
            self.lines.append(f"{found[1]} {unquote(found[2])}")

    def of(self, verb, part=""):
        return [line for line in self.lines if line.startswith(f"{verb} ") and part in line]


@pytest.fixture(scope="module")
def server():
    """A server that can be stopped and started again with what it holds, and the environment of its users."""
    with reserved_port() as port:
        asked, log = Requests(), logging.getLogger("werkzeug")
        level, log.propagate = log.level, False
        log.setLevel(logging.INFO)
        log.addHandler(asked)
        running = []

        def start():
            running.append(ThreadedMotoServer("127.0.0.1", port=port, verbose=False))
            running[-1].start()

        def stop():
            running.pop().stop()

        start()
        with pytest.MonkeyPatch.context() as env:
            env.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            env.setenv("AWS_ACCESS_KEY_ID", "key")
            env.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            env.setenv("AWS_DEFAULT_REGION", "us-east-1")
            env.setenv("AWS_EC2_METADATA_DISABLED", "true")
            env.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore would wait some seconds for a server that is gone
            bucket = boto3.resource("s3").create_bucket(Bucket="tiles")
            yield SimpleNamespace(start=start, stop=stop, asked=asked, running=running, bucket=bucket)
        if running:
            stop()
        log.removeHandler(asked)
        log.setLevel(level)
        log.propagate = True


@pytest.fixture
def s3(server):
    """The server with an empty bucket, and an empty list of what it was asked."""
    if not server.running:
        server.start()
    server.bucket.objects.all().delete()
    server.asked.lines.clear()
    return server


@pytest.fixture(scope="module")
def client(server):
    """Two workers that cannot write any file of a map."""

    def forbid():
        import labelscape.files

        def private_folder(beside):
            raise AssertionError(f"a worker writes to {beside}")

        labelscape.files.private_folder = private_folder

    with connected(2) as client:
        client.run(forbid)
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(world.ten_metre_fcn(), tmp_path_factory.mktemp("model") / "model.safetensors")


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


def objects(s3):
    return sorted(one.key for one in s3.bucket.objects.all())


def tiles(s3):
    return {key for key in objects(s3) if key.endswith(".tif")}


def written(s3):
    return {line.removeprefix("PUT /tiles/") for line in s3.asked.of("PUT", ".tif")}


def interrupted(monkeypatch, after, *arguments, **options):
    """Map until so many tiles are kept."""
    real, made = rasters.planes_of, []

    def counted(*given, **more):
        made.append(1)
        if len(made) > after:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(rasters, "planes_of", counted)
        with pytest.raises(KeyboardInterrupt):
            map_scenes(*arguments, **options)


@pytest.mark.parametrize("blend", [None, pytest.param("hann", marks=pytest.mark.long)])
def test_workers_without_a_common_folder_make_the_map_of_a_single_process(s3, client, model, tmp_path, blend):
    w = world.make(tmp_path, 330, 420, nodata=0)
    settings = {**QUICK, "blend": blend, "proba": True}
    result = map_scenes(model, [w.scene], tmp_path / "maps", cluster=client, journal=PLACE, **settings)
    assert [(r.state, r.cause) for r in result.records] == [("done", "")]
    assert result.grain == "block"
    single = map_scene(model, w.scene, tmp_path / "alone", **settings)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert objects(s3) == [] and not list((tmp_path / "maps").glob(".*"))
    # Each tile is written once and read once; what is finished is known from listings, of all or of a row.
    assert 15 < len(s3.asked.of("PUT", ".tif")) == len(s3.asked.of("GET", ".tif")) <= single.tiles
    assert not s3.asked.of("HEAD")
    assert len(s3.asked.of("GET", "list-type")) < single.tiles + 15


def test_what_a_stopped_process_kept_is_not_made_again_by_workers(s3, client, model, tmp_path, monkeypatch):
    w = world.make(tmp_path, 330, 420, name="north [1]? #2 ü", nodata=0)
    how = {"journal": PLACE + "/", **QUICK}
    interrupted(monkeypatch, 4, model, [w.scene], tmp_path / "first", **how)
    kept = tiles(s3)
    assert len(kept) == 4 and not rasters_in(tmp_path / "first")
    s3.asked.lines.clear()
    # Into another folder: the first one was on a machine that is gone.
    result = map_scenes(model, [w.scene], tmp_path / "maps", cluster=client, **how)
    assert [(r.state, r.cause) for r in result.records] == [("done", "")]
    single = map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert len(s3.asked.of("PUT", ".tif")) == len(written(s3)) and not written(s3) & kept
    assert 8 < len(written(s3)) <= single.tiles - 4
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert objects(s3) == []
    assert map_scenes(model, [w.scene], tmp_path / "maps", cluster=client, **how).counts == {"skipped": 1}


def test_a_server_that_goes_is_said_and_the_second_start_makes_only_what_is_missing(
    s3, client, model, tmp_path
):
    w = world.make(tmp_path, 330, 420)

    def slow(seconds):

        import labelscape.maps.blocks as blocks

        real = getattr(blocks, "real", blocks.planes_of)
        blocks.real = real
        blocks.planes_of = lambda *a: time.sleep(seconds) or real(*a)

    # A dozen tiles are left then: seconds, in which the server ends.
    client.run(slow, 0.5)
    how = {"cluster": client, "journal": PLACE, **QUICK}
    with ThreadPoolExecutor(1) as pool:
        mapped = pool.submit(map_scenes, model, [w.scene], tmp_path / "maps", **how)
        until(lambda: len(s3.asked.of("PUT", ".tif")) > 6)
        s3.stop()
        (record,) = mapped.result().records
    client.run(slow, 0)
    assert record.state == "failed"
    assert re.search(r"s3://tiles/job/\.scene\.unfinished: cannot \w+: Could not connect", record.cause)
    assert record.cause.endswith("Is the S3 server running, and AWS_ENDPOINT_URL right?")
    with pytest.raises(BadFile, match="s3://tiles/job: cannot write: Could not connect"):
        map_scenes(model, [w.scene], tmp_path / "maps", **how)
    s3.start()
    kept = tiles(s3)
    assert len(kept) > 6 and not rasters_in(tmp_path / "maps")
    s3.asked.lines.clear()
    assert map_scenes(model, [w.scene], tmp_path / "maps", **how).counts == {"done": 1}
    assert written(s3) and not written(s3) & kept
    map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")
    assert objects(s3) == []


@pytest.mark.long
def test_a_command_that_is_killed_resumes(s3, model, tmp_path, run_cli):
    w = world.make(tmp_path, 500, 600)
    options = ("--device", "cpu", "--no-report", "--no-polygons", "--tile-size", "128", "--overlap", "16")
    command = ("map", model, w.scene, "--out", tmp_path / "maps", "--journal", PLACE, *options)
    program = (
        "import sys, time, labelscape.maps.rasters as r\nfrom labelscape.cli import main\n"
        "real = r.planes_of\n"
        "def slow(*a, **k):\n    time.sleep(0.1)\n    return real(*a, **k)\nr.planes_of = slow\n"
        "main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, command)], env=environment)
    until(lambda: len(s3.asked.of("PUT", ".tif")) > 5 or process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = tiles(s3)
    assert len(kept) >= 5
    s3.asked.lines.clear()
    code, out, _ = run_cli(*command)
    assert code == 0 and out.startswith("done ")
    assert not written(s3) & kept
    map_scene(model, w.scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")


def test_a_tile_that_is_lost_after_it_was_made_is_made_again(s3, client, model, tmp_path, monkeypatch):
    """A hole in the map would not be noticed."""
    w = world.make(tmp_path, 330, 420, nodata=0)
    real, lost = Bucket.get, []

    def losing(self, name):
        if name.endswith(".tif") and len(lost) < 2:
            lost.append(name)
            self.delete([name]) if len(lost) == 1 else self.put(name, b"II*\0 no longer a tile")
        return real(self, name)

    monkeypatch.setattr(Bucket, "get", losing)
    how = {"cluster": client, "journal": PLACE, **QUICK}
    other = world.make(tmp_path, 100, 120, name="other").scene
    result = map_scenes(model, [w.scene, other], tmp_path / "maps", **how)
    # Both by blocks: as whole scenes they would be written by workers, to a folder that these do not have.
    assert (result.grain, result.counts) == ("block", {"done": 2})
    assert len(lost) == 2
    for scene in (w.scene, other):
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert rasters_in(tmp_path / "maps") == rasters_in(tmp_path / "alone")


def test_tiles_of_another_map_are_never_taken_nor_deleted_unasked(s3, tmp_path):
    core, planes = Window(0, 0, 2, 3), np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    store = store_for(tmp_path, "scene", PLACE)
    one, other = {"nodata": None}, {"nodata": 3}
    first = Journal(store, one)
    first.save(core, planes)
    assert is_begun(store, one) and not is_begun(store, other)
    for key in (other, {"nodata": 4}):
        with pytest.raises(BadFile, match=r"s3://tiles/job/\.scene\.unfinished holds 1 .*another `journal`"):
            Journal(store, key)
    second = Journal(store, other, overwrite=True)
    assert "1 finished tile of an interrupted map" in second.deleted and not tiles(s3)
    # A worker of the first map that nobody knew to be alive writes late.
    first.save(core, planes)
    assert not second.lookup()(core) and second.load(core) is None and not Journal(store, other).found
    second.save(core, planes + 1)
    np.testing.assert_array_equal(Journal(store, other).load(core), planes + 1)
    second.close()
    assert objects(s3) == []
    # And after the end: without settings it is a tile of nobody knows which map.
    first.save(core, planes)
    third = Journal(store, one)
    assert (third.found, third.deleted, tiles(s3)) == (0, "", set())
    with contextlib.suppress(KeyboardInterrupt), third:
        raise KeyboardInterrupt
    assert objects(s3) == []


def test_listings_have_all_pages(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    store = store_for(tmp_path, "scene", PLACE)
    names = [f"{top}_{left}.tif" for top in (0, 96, 960) for left in (0, 96)]
    for name in names:
        store.put(name, b"x")
    Bucket(f"{PLACE}/.scene.unfinished2").put("0_0.tif", b"of another map")
    s3.asked.lines.clear()
    assert sorted(store.names()) == sorted(names)
    assert len(s3.asked.of("GET", "list-type")) == 3
    assert sorted(store.names("96_")) == ["96_0.tif", "96_96.tif"]
    looked = store.lookup()
    assert [looked(name) for name in ("96_0.tif", "96_1.tif", "960_0.tif", "9_0.tif")] == [1, 0, 1, 0]
    store.remove()
    assert objects(s3) == ["job/.scene.unfinished2/0_0.tif"]


def test_workers_that_do_not_reach_the_server_are_refused_by_name(s3, client, model, tmp_path):
    w = world.make(tmp_path, 100, 120)
    one = sorted(client.nthreads())[0]
    right = os.environ["AWS_ENDPOINT_URL"]

    def use(address):
        import os

        os.environ["AWS_ENDPOINT_URL"] = address

    client.run(use, "http://127.0.0.1:9", workers=[one])
    try:
        with pytest.raises(BadInput, match="1 of 2 workers cannot do this job") as told:
            map_scenes(model, [w.scene], tmp_path / "maps", cluster=client, journal=PLACE, **QUICK)
    finally:
        client.run(use, right, workers=[one])
    where = f"{one} ({socket.gethostname()})"
    assert f"{where}: s3://tiles/job: cannot read: Could not connect" in str(told.value)
    assert objects(s3) == [] and not (tmp_path / "maps").exists()


def test_a_place_that_cannot_be_used_is_said_before_any_work(s3, model, tmp_path, monkeypatch, run_cli):
    w = world.make(tmp_path, 100, 120)

    def refused(kind, place=PLACE, out=tmp_path / "maps", **options):
        with pytest.raises(kind) as told:
            map_scenes(model, [w.scene], out, journal=place, **options, **QUICK)
        assert not (tmp_path / "maps").exists()
        return str(told.value)

    for place in ("/shared/journal", "gs://tiles/job", "s3://", "s3://tiles//job", "s3://tiles/a*"):
        assert "must be s3://BUCKET/PREFIX" in refused(BadOption, place)
    assert "there is no bucket none. Create it" in refused(BadFile, "s3://none/job")
    assert "`grain='scene'` write whole maps to `out`" in refused(BadOption, grain="scene", workers=2)
    assert "results are written to local files only" in refused(BadFile, out="s3://tiles/maps")
    code, _, said = run_cli("map", model, w.scene, "--out", "s3://tiles/maps", "--journal", PLACE)
    assert code == 1 and "local files only" in said and not (tmp_path / "s3:").exists()
    with monkeypatch.context() as env:
        env.delenv("AWS_ACCESS_KEY_ID")
        env.delenv("AWS_SECRET_ACCESS_KEY")
        env.setenv("HOME", str(tmp_path))  # whoever runs this may have a file of credentials
        assert "Unable to locate credentials. Set AWS_ACCESS_KEY_ID and" in refused(BadFile)
    with monkeypatch.context() as patch:
        real = importlib.util.find_spec
        patch.setattr("importlib.util.find_spec", lambda name: None if name == "s3fs" else real(name))
        code, _, said = run_cli("map", model, w.scene, "--out", tmp_path / "maps", "--journal", PLACE)
        assert code == 2 and "pip install 'labelscape[s3]'" in said
    assert objects(s3) == []


def test_missing_rights_are_said(s3, monkeypatch):
    with monkeypatch.context() as patch:
        # s3fs does not say which of many objects it could not delete.
        patch.setattr(Bucket, "delete", lambda self, names: None)
        with pytest.raises(BadFile, match=r"cannot delete .* the rights to list, read, write and delete"):
            check_journal(PLACE)

    def ask_for_rights(after):
        address = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, after, plain, method="POST")).close()

    ask_for_rights(b"0")
    try:
        with pytest.raises(BadFile, match=r"job: cannot write: .*\. The credentials must have the rights"):
            check_journal(PLACE)
    finally:
        ask_for_rights(b"inf")
    assert check_journal(f"{PLACE}/") == PLACE
