"""The report of a job: what was mapped where, at any moment, for people, programs and QGIS."""

import html.parser
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
import world

from labelscape.checkpoint import save
from labelscape.errors import BadFile
from labelscape.files import locked
from labelscape.grid import Grid
from labelscape.maps import job_report
from labelscape.maps.job import SceneRecord
from labelscape.maps.job_page import MOST_ROWS, job_page
from labelscape.maps.job_report import JobReport
from labelscape.maps.many import map_scenes
from labelscape.maps.stac import footprint
from labelscape.scenes.scene_list import find_scenes


def done(scene, out, *, seconds=2.0, seam=1.25):
    """A record of a finished map, whose class raster is there."""
    with_place = scene.with_name(f"{scene.stem}_class.tif")
    target = out / with_place.name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(scene.read_bytes())
    return SceneRecord(str(scene), "done", seconds, 96 * 128, seam, files={"class": str(target)})


def layer(out):
    """Columns and footprints of job.gpkg."""
    meta, _, wkb, fields = pyogrio.raw.read(out / "job.gpkg", layer="scenes")
    return dict(zip(meta["fields"], fields)), [None if w is None else shapely.from_wkb(w) for w in wkb], meta


@pytest.fixture
def scenes(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return [world.make(folder, name=name, seed=n).scene for n, name in enumerate(("a", "b", "ü<&>'"))]


def test_what_became_of_each_scene(scenes, tmp_path):
    out = tmp_path / "maps"
    with JobReport(out, 4) as report:
        report.add(done(scenes[0], out))
        report.add(SceneRecord(str(scenes[1]), "refused", 0.5, cause="b lacks the band nir."))
        report.add(SceneRecord(str(scenes[2]), "failed", 1.0, cause="<script>alert(1)</script> & \x1b[2J"))
    found = json.loads((out / "job.json").read_text())
    assert found["counts"] == {"failed": 1, "refused": 1, "done": 1, "waiting": 1}
    assert (found["pixels"], found["seconds"], found["finished"]) == (96 * 128, 3.5, False)
    assert [one["scene"] for one in found["scenes"]] == [str(scene) for scene in scenes]
    assert found["scenes"][0]["files"] == {"class": "a_class.tif"}
    columns, shapes, meta = layer(out)
    assert meta["crs"] == "EPSG:4326" and list(columns["state"]) == ["done", "refused", "failed"]
    assert list(columns["location"]) == ["a_class.tif", None, None]
    assert columns["seam_score"][0] == 1.25 and np.isnan(columns["seam_score"][1:]).all()
    assert columns["cause"][1] == "b lacks the band nir."
    # Also of scenes without a map: there a user wants to see what is missing.
    grid = Grid(world.UTM, world.NORTH_UP, 96, 128)
    expected = shapely.geometry.shape(footprint(grid)[0])
    assert all(shapely.equals_exact(shape.geoms[0], expected, 1e-6) for shape in shapes)


def test_it_opens_in_qgis_coloured_by_state(scenes, tmp_path):
    with JobReport(tmp_path / "maps", 1) as report:
        report.add(done(scenes[0], tmp_path / "maps"))
    with sqlite3.connect(tmp_path / "maps" / "job.gpkg") as base:
        rows = base.execute("SELECT f_table_name, useAsDefault, styleQML FROM layer_styles").fetchall()
    ((table, default, qml),) = rows
    root = xml.fromstring(qml.partition("\n")[2])
    renderer = root.find("renderer-v2")
    assert (table, default, renderer.get("attr")) == ("scenes", 1, "state")
    categories = {c.get("value"): c.get("symbol") for c in renderer.iter("category")}
    assert set(categories) == {"done", "skipped", "refused", "failed"}
    colors = {
        s.get("name"): next(o.get("value") for o in s.iter("Option") if o.get("name") == "color")
        for s in renderer.iter("symbol")
    }
    assert len({colors[symbol] for symbol in categories.values()}) == 4


def test_the_layer_is_a_tile_index_of_the_maps(scenes, tmp_path):
    out = tmp_path / "maps"
    with JobReport(out, 2) as report:
        report.add(done(scenes[0], out))
        report.add(SceneRecord(str(scenes[1]), "failed", cause="No."))
    (tmp_path / "moved").mkdir()
    out.rename(tmp_path / "moved" / "maps")
    listed = find_scenes(tmp_path / "moved" / "maps" / "job.gpkg")
    assert [s.source for s in listed] == [str(tmp_path / "moved" / "maps" / "a_class.tif")]


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_runs_nothing(scenes, tmp_path):
    out = tmp_path / "maps"
    with JobReport(out, 2) as report:
        record = done(scenes[0], out)
        report.add(replace(record, files={**record.files, "report": str(out / "a b_report.html")}))
        report.add(SceneRecord(str(scenes[2]), "failed", 1.0, cause="<script>alert(1)</script>"))
    text = (out / "job.html").read_text()
    page = _Page(text)
    assert page.open == [] and not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert "&lt;script&gt;alert(1)" in text and "default-src 'none'" in text
    links = [about["href"] for tag, about in page.tags if tag == "a"]
    assert links == ["a%20b_report.html"]
    polygons = [about for tag, about in page.tags if tag == "polygon"]
    assert len(polygons) == 2 and len({about["fill"] for about in polygons}) == 2
    numbers = [float(n) for about in polygons for n in re.findall(r"[-\d.]+", about["points"])]
    width, height = (float(n) for n in next(a["viewbox"] for t, a in page.tags if t == "svg").split()[2:])
    assert min(numbers) >= 0 and max(numbers) <= max(width, height)
    assert "1 of 2 scenes are mapped" in text and "1 failed" in text


def test_a_job_that_goes_on_keeps_what_earlier_runs_knew(scenes, tmp_path):
    out = tmp_path / "maps"
    with JobReport(out, 3) as report:
        report.add(done(scenes[0], out, seconds=7.5, seam=1.5))
        report.add(SceneRecord(str(scenes[1]), "failed", 1.0, cause="The disk is full."))
    first = json.loads((out / "job.json").read_text())["scenes"][0]
    with JobReport(out, 3) as report:
        report.add(SceneRecord(str(scenes[0]), "skipped", pixels=96 * 128, seam=1.5, files=first["files"]))
        report.add(done(scenes[1], out, seconds=3.0))
        report.add(done(scenes[2], out, seconds=4.0))
    found = json.loads((out / "job.json").read_text())
    assert found["counts"] == {"done": 3} and found["finished"] and found["seconds"] == 14.5
    kept = found["scenes"][0]
    assert (kept["seconds"], kept["seam"], kept["when"]) == (7.5, 1.5, first["when"])
    assert kept["geometry"] == first["geometry"] is not None
    assert found["scenes"][1]["cause"] == ""
    # Another list into the same folder: what it maps is added.
    other = world.make(tmp_path, name="other").scene
    with JobReport(out, 1) as report:
        report.add(done(other, out))
    assert len(json.loads((out / "job.json").read_text())["scenes"]) == len(layer(out)[1]) == 4


def test_two_jobs_in_one_folder_at_a_time_have_one_report(scenes, tmp_path, monkeypatch):
    out, now = tmp_path / "maps", [0]
    monkeypatch.setattr(job_report, "_now", lambda: f"2026-01-01T00:00:{now[0]:02}+00:00")

    def add(report, record):
        now[0] += 1
        report.add(record)
        report.write()

    with JobReport(out, 2) as one, JobReport(out, 2) as other:
        add(one, done(scenes[0], out))
        # Both have this scene: the job that was held off says so, before the one that maps it ends.
        add(other, SceneRecord(str(scenes[1]), "failed", 1.0, cause="It is being written by another run."))
        add(other, done(scenes[2], out))
        assert {s["scene"] for s in json.loads((out / "job.json").read_text())["scenes"]} == {
            *map(str, scenes)
        }
        add(one, done(scenes[1], out))
    found = json.loads((out / "job.json").read_text())
    assert found["counts"] == {"done": 3} and found["finished"]
    assert list(layer(out)[0]["state"]) == ["done"] * 3


def test_a_report_is_not_written_while_another_job_writes_it(scenes, tmp_path, monkeypatch, capsys):
    out = tmp_path / "maps"
    monkeypatch.setattr(job_report, "PATIENCE", 0)
    with JobReport(out, 2) as report:
        with locked(out / "job.json", of="report", tidy=False):
            report.add(done(scenes[0], out))
            assert not (out / "job.json").exists()
        assert "being written by another run" in capsys.readouterr().err
        report.write()
        assert (out / "job.json").exists()


def test_files_of_others_are_not_replaced(scenes, tmp_path):
    out = tmp_path / "maps"
    out.mkdir()
    for name, text in (("job.json", '{"scenes": 3}'), ("job.gpkg", "mine"), ("job.html", "mine")):
        (out / name).write_text(text)
        with pytest.raises(BadFile, match=rf"{name} exists and is not the report of a job"):
            JobReport(out, 1)
        assert (out / name).read_text() == text
        (out / name).unlink()
    (out / "job.json").write_text("{}")
    with JobReport(out, 1, overwrite=True, page=False) as report:
        report.add(done(scenes[0], out))
    assert json.loads((out / "job.json").read_text())["finished"] and not (out / "job.html").exists()


def test_records_changed_by_hand_are_left_out(tmp_path):
    """They ended the job of all other scenes."""
    with JobReport(tmp_path, 1) as report:
        report.add(SceneRecord("kept.tif", "done", 1.0, 4))
    path = tmp_path / "job.json"
    whole = json.loads(path.read_text("utf-8"))
    strange = {
        "scene": ["a"],
        "state": ["done"],
        "seconds": None,
        "pixels": "x",
        "seam": "x",
        "files": None,
        "when": 5,
    }
    for number, (name, value) in enumerate(strange.items()):
        whole["scenes"].append(whole["scenes"][0] | {"scene": f"{number}.tif", name: value})
    path.write_text(json.dumps(whole), "utf-8")
    with JobReport(tmp_path, 1) as report:
        report.add(SceneRecord("next.tif", "failed", cause="no disk"))
    written = json.loads(path.read_text("utf-8"))
    assert [one["scene"] for one in written["scenes"]] == ["kept.tif", "next.tif"]


def test_a_report_that_cannot_be_written_does_not_stop_the_job(scenes, tmp_path, capsys):
    out = tmp_path / "maps"
    with JobReport(out, 2) as report:
        report.add(done(scenes[0], out))
        (out / "job.gpkg").unlink()
        (out / "job.gpkg").mkdir()
        report._cost = 0
        report.add(done(scenes[1], out))
    assert capsys.readouterr().err.count("the report of the job cannot be written") == 1
    assert len(json.loads((out / "job.json").read_text())["scenes"]) == 2


def test_large_jobs_write_their_report_rarely(scenes, tmp_path, monkeypatch):
    out, times = tmp_path / "maps", []
    report = JobReport(out, 100)
    monkeypatch.setattr(
        report, "write", lambda: times.append(report._last) or setattr(report, "_last", time.monotonic())
    )
    report._cost = 1000.0
    for n in range(100):
        report.add(SceneRecord(f"{n}.tif", "failed", cause="x"))
    assert len(times) == 1  # the first; the next one after 1000 s / SHARE


def test_ten_thousand_scenes_are_one_page_of_bounded_size():
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    one = {
        "scene": "s.tif",
        "state": "done",
        "seconds": 1.0,
        "pixels": 10,
        "seam": None,
        "cause": "",
        "files": {},
    }
    scenes = [{**one, "scene": f"s{n}.tif", "geometry": square} for n in range(3000)]
    scenes += [{**one, "scene": "bad.tif", "state": "failed", "geometry": None, "cause": "why"}]
    report = {
        "software": "x",
        "written": "2026-01-01T00:00:00+00:00",
        "finished": True,
        "pixels": 1,
        "seconds": 0,
    }
    text = job_page({**report, "counts": {"done": 3000, "failed": 1}, "scenes": scenes})
    assert text.count("<tr>") == MOST_ROWS + 1 and "1,001 more scenes are in job.json" in text
    # Those that need somebody come first.
    assert text.index("bad.tif") < text.index("s0.tif", text.index("<tbody>"))


KILLED = """
import sys
from pathlib import Path
from labelscape.maps import job_report
from labelscape.maps.job import SceneRecord
from labelscape.maps.many import map_scenes
from labelscape.maps.job_report import JobReport
report = JobReport(sys.argv[1], 100000)
for n in range(100000):
    report._cost = 0
    report.add(SceneRecord(f"s{n}.tif", "failed", 1.0, cause="x" * 2000))
    if n == 3:
        print("begun", flush=True)
"""


def test_a_killed_job_leaves_whole_files(tmp_path):
    out = tmp_path / "maps"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "-c", KILLED, out], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = json.loads((out / "job.json").read_text())
    assert len(found["scenes"]) >= 3 and not found["finished"]
    columns, _, _ = layer(out)
    assert set(columns["state"]) == {"failed"}
    _Page((out / "job.html").read_text())
    # And the next job goes on with it.
    with JobReport(out, 1) as report:
        report.add(SceneRecord("new.tif", "failed"))
    assert len(json.loads((out / "job.json").read_text())["scenes"]) == len(found["scenes"]) + 1
    assert not [p for p in Path(out).iterdir() if p.name.startswith(".") and p.is_file()]


def test_a_job_writes_it(tmp_path):
    """By the loop in one process: two maps, and a scene that cannot be read; again when it can."""
    model = save(world.ten_metre_fcn(), tmp_path / "model.safetensors")
    folder, out = tmp_path / "in", tmp_path / "maps"
    folder.mkdir()
    one, bad, two = (world.make(folder, seed=n, name=name).scene for n, name in enumerate(("a", "bad", "b")))
    right = bad.read_bytes()
    bad.write_bytes(b"no raster")
    quick = {"device": "cpu", "report": False, "polygons": False, "tile_size": 96, "overlap": 16}
    result = map_scenes(model, [one, bad, two], out, **quick)
    found = json.loads((out / "job.json").read_text())
    assert (
        found["finished"] and found["counts"] == {"failed": 1, "done": 2} and not (out / "job.html").exists()
    )
    assert [record["scene"] for record in found["scenes"]] == [record.scene for record in result.records]
    columns, shapes, _ = layer(out)
    assert [shape is None for shape in shapes] == [False, True, False]
    assert list(columns["location"]) == ["a_class.tif", None, "b_class.tif"]
    bad.write_bytes(right)
    map_scenes(model, [one, bad, two], out, **quick)
    again = json.loads((out / "job.json").read_text())
    assert again["counts"] == {"done": 3}
    for number in (0, 2):  # skipped, and known as before
        assert again["scenes"][number] == found["scenes"][number]
    assert again["scenes"][1]["cause"] == "" and layer(out)[1][1] is not None
    # Of one scene the map's own report says all.
    map_scenes(model, [one], tmp_path / "alone", **quick)
    assert not list((tmp_path / "alone").glob("job.*"))
