"""What takes the time of a map: every second once, and a trace that other programs open."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import world

from labelscape.checkpoint import save
from labelscape.stages import MAIN, Profile, Span, profiled, stage


def test_time_within_a_stage_is_counted_once():
    with profiled() as profile:
        with stage("outer"):
            time.sleep(0.02)
            with stage("inner"):
                time.sleep(0.05)
    rows = {name: (thread, times, seconds) for name, thread, times, seconds in profile.rows()}
    assert rows["inner"][:2] == (MAIN, 1) and rows["inner"][2] >= 0.05
    outer = next(span for span in profile.spans if span.stage == "outer")
    assert rows["outer"][2] == pytest.approx(outer.seconds - rows["inner"][2])
    # With what lies beside all stages the main thread's rows are the whole time.
    assert sum(seconds for _, _, seconds in rows.values()) == pytest.approx(profile.seconds, abs=1e-6)


def test_a_stage_that_fails_is_timed_and_none_is_kept_without_a_profile():
    @stage("decorated")
    def works():
        return 1

    with profiled() as profile, pytest.raises(ValueError):
        with stage("fails"):
            raise ValueError
    assert works() == 1
    assert [span.stage for span in profile.spans] == ["fails"]
    with profiled() as profile:
        works(), works()
    assert [span.stage for span in profile.spans] == ["decorated"] * 2


def test_threads_are_told_apart():
    with profiled() as profile, stage("wait"):
        with ThreadPoolExecutor(2, thread_name_prefix="read") as pool:

            def work(_):
                with stage("read"):
                    time.sleep(0.01)

            list(pool.map(work, range(4)))
    rows = {(name, thread): times for name, thread, times, _ in profile.rows()}
    assert rows == {("read", "read"): 4, ("wait", MAIN): 1, ("other", MAIN): 1}
    # Another thread's stage is not within the one that waits for it.
    assert next(span for span in profile.spans if span.stage == "wait").inner == 0


def test_table_and_trace_of_known_spans():
    profile = Profile()
    profile.spans = [
        Span("inner", MAIN, 0.5, 0.25, 0.0),
        Span("outer", MAIN, 0.25, 1.0, 0.25),
        Span("r", "read", 0, 2, 0),
    ]
    profile.seconds = 2.0
    assert profile.table().splitlines() == [
        "stage                           thread      times   seconds   share",
        "r                               read            1      2.00 100.0 %",
        "outer                           main            1      0.75  37.5 %",
        "inner                           main            1      0.25  12.5 %",
        "other                           main            1      1.00  50.0 %",
        "all                                                    2.00",
        "(threads work at the same time: the shares of main alone add up to 100 %)",
    ]
    events = profile.trace()["traceEvents"]
    assert [(e["ph"], e["tid"], e["args"]["name"]) for e in events[:2]] == [
        ("M", 0, "main"),
        ("M", 1, "read"),
    ]
    # Microseconds; in the order of their start, so that viewers nest them.
    assert [(e["ph"], e["name"], e["tid"], e["ts"], e["dur"]) for e in events[2:]] == [
        ("X", "r", 1, 0.0, 2_000_000.0),
        ("X", "outer", 0, 250_000.0, 1_000_000.0),
        ("X", "inner", 0, 500_000.0, 250_000.0),
    ]


def test_a_map_is_profiled_and_the_same(tmp_path, run_cli):
    model = save(world.ten_metre_fcn(), tmp_path / "model.safetensors")
    scene = world.make(tmp_path, 150, 150).scene
    tiles = ("--tile-size", 112, "--overlap", 16, "--device", "cpu", "--no-report")
    asked = ("map", model, scene, "--force", *tiles)
    code, _, talk = run_cli(*asked, "--out", tmp_path / "one", "--profile")
    assert code == 0, talk
    code, _, plain = run_cli(*asked, "--out", tmp_path / "two")
    assert code == 0 and "seconds   share" in talk and "share" not in plain
    trace = json.loads((tmp_path / "one" / "map_trace.json").read_text())
    found = {(e["name"]) for e in trace["traceEvents"] if e["ph"] == "X"}
    assert found >= {
        *(
            "load the checkpoint",
            "check the scene",
            "load the network",
            "choose the engine",
            "read",
            "normalise",
        ),
        *("network", "softmax, classes, confidence", "journal", "write blocks", "count areas and seams"),
        *("compress", "overviews", "COG", "read back", "polygons", "STAC item"),
    }
    assert "(threads work at the same time: the shares of main alone add up to 100 %)" in talk
    code, about, _ = run_cli("info", tmp_path / "one")
    assert code == 0 and "what takes the time of a map" in about and "not of this map" not in about
    code, about, _ = run_cli("info", tmp_path / "one" / "map_trace.json")
    assert code == 0 and "ui.perfetto.dev" in about
    one, two = (tmp_path / folder / "scene_class.tif" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    code, _, talk = run_cli(*asked, "--out", tmp_path / "three", "--profile", "--workers", 2)
    assert code == 2 and "--profile times this process" in talk
    # A place where the trace cannot be written is told before the map is made.
    (tmp_path / "four" / "map_trace.json").mkdir(parents=True)
    code, _, talk = run_cli(*asked, "--out", tmp_path / "four", "--profile")
    assert code and "there is a folder of this name" in talk
    assert not (tmp_path / "four" / "scene_class.tif").exists()


def test_what_runs_at_the_same_time_has_a_track_of_its_own():
    """Perfetto drops a span that overlaps another one of its track and is not within it."""
    profile = Profile()
    profile.spans = [
        Span("a", "finish", 0.0, 2.0, 0.0, 11),
        Span("b", "finish", 1.0, 2.0, 0.0, 12),
        Span("within", "finish", 2.9, 0.1, 0.0, 12),
        # A pool after the first.
        Span("c", "finish", 2.5, 3.0, 0.0, 13),
        Span("r", "read", 0.0, 1.0, 0.0, 14),
    ]
    events = profile.trace()["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    tracks = {e["name"]: names[e["tid"]] for e in events if e["ph"] == "X"}
    assert tracks == {"a": "finish", "b": "finish 2", "within": "finish 2", "c": "finish", "r": "read"}


def test_all_spans_of_real_threads_are_nested_or_apart():
    barrier = threading.Barrier(3)

    def work(_):
        barrier.wait()
        for _ in range(20):
            with stage("outer"), stage("middle"), stage("inner"):
                pass

    with profiled() as profile:
        for _ in range(2):
            with ThreadPoolExecutor(3, thread_name_prefix="work") as pool:
                list(pool.map(work, range(3)))
    events = profile.trace()["traceEvents"]
    assert [e["args"]["name"] for e in events if e["ph"] == "M"] == ["main", "work", "work 2", "work 3"]
    spans = [e for e in events if e["ph"] == "X"]
    assert len(spans) == 2 * 3 * 20 * 3
    for track in {e["tid"] for e in spans}:
        open_until: list[int] = []
        for e in (e for e in spans if e["tid"] == track):
            start, end = round(1000 * e["ts"]), round(1000 * e["ts"]) + round(1000 * e["dur"])
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
