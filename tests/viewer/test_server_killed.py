"""A server that is killed while answers, polygons and colours are written: what it said was stored is there,
and every file opens again.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyogrio
import pytest
import rasterio
import viewed

pytest.importorskip("fastapi", reason="needs the extra `viewer`")
from labelscape.assessment.review import review
from labelscape.errors import BadFile
from labelscape.labels.corrections import read_corrections
from labelscape.viewer.corrections import Corrections
from labelscape.viewer.geopackage import opened, recover
from labelscape.viewer.judge import Judged
from labelscape.viewer.shown import find

NAMES = ("water", "field", "forest")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = viewed.made(tmp_path_factory.mktemp("map"))
    review(folder / "place_class.tif", folder / "review.gpkg", top=20, below=70)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "map"))


def half_written(path: Path, layer: str) -> None:
    """Leave a GeoPackage as a program does that is killed in the middle of a change: with pages of the change
    in the file, and the journal that undoes them beside it.
    """
    journal, copy = path.with_name(f"{path.name}-journal"), path.with_suffix(".copy")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.execute("PRAGMA cache_size = 2")
        base.execute("BEGIN IMMEDIATE")
        base.execute("UPDATE gpkg_contents SET description = ?", ("x" * 900_000,))
        base.execute(f"CREATE TABLE more AS SELECT randomblob(5000) FROM {layer}")
        shutil.copy(path, copy)
        shutil.copy(journal, f"{copy}-journal")
        base.execute("ROLLBACK")
    copy.replace(path)
    Path(f"{copy}-journal").replace(journal)


def test_what_a_killed_writer_left_is_undone_where_the_page_may_write(folder):
    path, shown = folder / "review.gpkg", find(folder)
    legend = shown.layers[0].legend
    before = Judged.of(path, shown.grid, legend).items()
    half_written(path, "review")
    # A reader may not, and says what to do.
    with pytest.raises(BadFile, match="ended while it wrote there. Open it once"), opened(path) as base:
        base.execute("SELECT * FROM review").fetchall()
    with pytest.raises(BadFile, match="ended while it wrote there. Open it once"):
        read_corrections(path, shown.grid, legend)
    assert path.with_name("review.gpkg-journal").exists()
    recover(path)
    assert not path.with_name("review.gpkg-journal").exists()
    assert Judged.of(path, shown.grid, legend).items() == before
    # Another server's may be killed while this one is asked.
    page = viewed.client(find(folder, judge=path), own=True, edit=True)
    half_written(path, "review")
    assert page.get("/api/places").json()[0]["title"] == before[0]["title"]


def test_corrections_that_a_killed_writer_left_open_again(folder):
    shown = find(folder)
    legend = shown.layers[0].legend
    found = Corrections.beside(folder, shown.grid, legend)
    found.add("water", [(10, 20), (60, 20), (60, 70)])
    half_written(found.path, "corrections")
    assert [one["class"] for one in Corrections.beside(folder, shown.grid, legend).items()] == ["water"]
    assert pyogrio.read_info(found.path, layer="corrections")["features"] == 1


class Client(threading.Thread):
    """Sends requests one after the other until the server is gone. `stored` are those that were answered,
    with the answers; `last` is the one that was sent last.
    """

    def __init__(self, address: str, bodies: Iterator[tuple[str, dict]]) -> None:
        super().__init__()
        self.place, self.bodies = urlsplit(address), bodies
        self.stored: list[tuple[dict, dict]] = []
        self.last: dict = {}

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.place.netloc, timeout=30)
        headers = {"content-type": "application/json", "origin": f"http://{self.place.netloc}"}
        with contextlib.suppress(OSError, http.client.HTTPException):
            for path, body in self.bodies:
                self.last = body
                connection.request("POST", path, json.dumps(body), headers)
                answer = connection.getresponse()
                told = json.loads(answer.read())
                assert answer.status == 200, told
                self.stored.append((body, told))


def answers(now: dict[int, str | None]) -> Iterator[tuple[str, dict]]:
    """Answers to the same places over and over; `now` follows those that were stored."""
    for n in range(1_000_000):
        number, name = [*now][n % len(now)], NAMES[(n // len(now) + n) % 3]
        said = {"class": name, "word": None}
        yield f"/api/places/{number}", {"new": said, "before": {"class": now[number], "word": None}}
        now[number] = name


def polygons() -> Iterator[tuple[str, dict]]:
    for n in range(1_000_000):
        left, top = n * 7 % 500, n * 11 % 280
        ring = [[left, top], [left + 9, top], [left + 9, top + 9]]
        yield "/api/corrections", {"class": NAMES[n % 3], "ring": ring}


def colours(old: list[int]) -> Iterator[tuple[str, dict]]:
    for n in range(1_000_000):
        new = [n % 256, n // 256 % 256, 7]
        yield "/api/colors/class", {"colors": [{"value": 9, "color": new, "before": old}]}
        old = new


def colour_of(folder: Path) -> list[int]:
    with rasterio.open(folder / "place_class.tif") as file:
        return list(file.colormap(1)[9][:3])


def kill_while_all_write(folder: Path, clients: Callable[[str], list[Client]], after: float) -> list[Client]:
    """Kill a server some seconds after each of the clients was told that something is stored."""
    command = [sys.executable, "-m", "labelscape", "serve", str(folder), "--edit", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--judge", str(folder / "review.gpkg")], stdout=subprocess.PIPE, text=True
    )
    made = clients(server.stdout.readline().strip())
    for one in made:
        one.start()
    while not all(one.stored for one in made):
        assert server.poll() is None
        time.sleep(0.01)
    time.sleep(after)
    os.kill(server.pid, signal.SIGKILL)
    server.communicate()
    for one in made:
        one.join()
    return made


@pytest.mark.long
def test_a_killed_server_has_lost_nothing_that_it_said_is_stored(folder):
    shown = find(folder, judge=folder / "review.gpkg")
    legend = shown.layers[0].legend
    now: dict[int, str | None] = {one["id"]: None for one in shown.judged.items()}
    drawn: dict[int, str] = {}
    pixels = rasterio.open(folder / "place_class.tif").read()
    rng = random.Random(0)
    for _ in range(6):
        color = colour_of(folder)
        draw, paint, _ = kill_while_all_write(
            folder,
            lambda home: [
                Client(home, polygons()),
                Client(home, colours(color)),  # noqa: B023
                Client(home, answers(now)),
            ],
            rng.uniform(0, 0.3),
        )
        recover(folder / "review.gpkg")
        found = {one["id"]: one["class"] for one in shown.judged.items()}
        # What was under way may be stored, too: one answer, one polygon, one colour.
        assert sum(found[number] != name for number, name in now.items()) <= 1
        now.update(found)
        drawn |= {told["id"]: body["class"] for body, told in draw.stored}
        items = Corrections.beside(folder, shown.grid, legend).items()
        found = {one["id"]: one["class"] for one in items}
        assert drawn.items() <= found.items() and len(found) <= len(drawn) + 1
        drawn = found
        known = [body["colors"][0]["color"] for body in (paint.stored[-1][0], paint.last)]
        assert colour_of(folder) in known
        assert (rasterio.open(folder / "place_class.tif").read() == pixels).all()
        for name in ("review", "corrections"):
            with contextlib.closing(sqlite3.connect(folder / f"{name}.gpkg")) as base:
                assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # What training reads.
    assert len(read_corrections(folder / "corrections.gpkg", shown.grid, legend).indices) == len(drawn)
