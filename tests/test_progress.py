"""What long work says of itself in a log, and what short lists say whole."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import typer

from labelscape import progress
from labelscape.cli import app
from labelscape.cli.data_check import report
from labelscape.cli.train_ahead import lasting
from labelscape.datasets.doctor.findings import Finding
from labelscape.labels.polygons import polygon_report
from labelscape.legend import Legend
from labelscape.progress import bar, still_at, told_where_lost
from labelscape.qgis_plugin.command import share_of


def test_a_line_says_the_latest_facts_and_one_is_no_plural(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.bar("train", 3, "steps") as tick:
        tick(loss=0.5)
        tick()
    with progress.bar("map", 1, "tiles") as tick:
        tick()
    lines = capsys.readouterr().err.splitlines()
    # The first step ended after 40 s, the second after 60.
    assert lines[0] == "train: 1 of 3 steps: loss 0.5, 80 s left"
    assert lines[1] == "train: 2 of 3 steps, at 1: loss 0.5, 30 s left"
    assert lines[2].startswith("train: 2 steps in ") and lines[-1].startswith("map: 1 tile in ")


@pytest.mark.parametrize(
    ("seconds", "short", "long"),
    [
        (95, "95 s", "95 s"),
        (740, "12 min", "12 minutes"),
        (18_720, "5 h", "5.2 hours"),
        (4.1e4 * 3600, "1,708 days", "1,708 days"),
    ],
)
def test_no_duration_needs_dividing_in_the_head(seconds, short, long):
    assert (progress.in_words(seconds), lasting(seconds)) == (short, long)


def test_the_plug_in_for_qgis_reads_the_lines_of_any_number_of_tiles(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for total in (20, 4_000):
        with progress.bar("map scene", total, "tiles") as tick:
            tick(total // 4)
            tick(total // 4, scaled="1/7")
    lines = capsys.readouterr().err.splitlines()
    assert [share_of(line) for line in lines] == [25, 50, None, 25, 50, None], lines
    assert share_of("note: , of , is no number") is None


def test_large_numbers_are_written_as_in_tables(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.bar("score", 110_043, "labelled pixels") as tick:
        tick(4_000)
        tick(106_043)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("score: 4,000 of 110,043 labelled pixels")
    assert lines[-1].startswith("score: 110,043 labelled pixels in ")


def test_counts_of_polygons_are_written_as_those_of_pixels():
    names = np.array(["hut"] * 1466 + ["pond"], object)
    lines = polygon_report(names, {"hut": 0}, np.ones(1467, bool), Legend.of_names(["hut", "other"]))
    assert lines[0] == "hut: 1,466 polygons read, 1,466 in the scene, 0 outside -> hut"
    assert lines[1] == "pond: 1 polygon read, 1 in the scene, 0 outside not used"


def test_the_first_of_many_units_says_nothing_of_the_rest(capsys, monkeypatch):
    """It opens the files: 100 units after a first one of 20 s would be 33 minutes, and take one."""
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.bar("evaluate", 300, "tiles") as tick:
        for _ in range(11):
            tick()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:9] == [f"evaluate: {n} of 300 tiles" for n in range(1, 10)]
    assert lines[9] == "evaluate: 10 of 300 tiles, 106 min left"


def test_the_list_of_verbs_is_not_cut():
    root = typer.main.get_command(app)
    for command in (*root.commands.values(), *root.commands["data"].commands.values()):
        assert not command.get_short_help_str(64).endswith("..."), command.name


def test_the_folder_that_all_files_lie_in_is_left_out():
    found = [
        Finding("a", "error", "/far/away/images/x.tif", "is bad"),
        Finding("b", "info", "/far/away/x.gpkg", "is good"),
        Finding("c", "info", "all files", "are files"),
    ]
    lines = report(found, 1).splitlines()
    assert lines[:3] == ["ERROR images/x.tif: is bad", "      x.gpkg: is good", "      all files: are files"]
    assert report([*found, Finding("d", "info", "here/y.tif", "")], 1).startswith(
        "ERROR /far/away/images/x.tif"
    )


def test_what_was_found_is_told_where_its_file_fails(capsys):
    with pytest.raises(ZeroDivisionError), told_where_lost(lambda: ["mIoU 71 %", "OA 80 %"]):
        print(1 / 0)
    assert capsys.readouterr().err == "mIoU 71 %\nOA 80 %\n"
    # Nor does the telling hide the failure.
    with pytest.raises(ZeroDivisionError), told_where_lost(lambda: [][0]):
        print(1 / 0)
    with told_where_lost(lambda: ["lost"]):
        pass
    assert capsys.readouterr().err == ""


def test_a_unit_that_takes_long_is_said_in_the_innermost_bar(capsys, monkeypatch):
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    still_at(tiles="1/9")  # no bar: nothing is said
    with bar("map", 2, "blocks") as tick:
        with bar("hidden", 1, shown=False):
            still_at(tiles="2/9")
        still_at(tiles="3/9")
        tick()
    still_at(tiles="4/9")
    first, _, last = capsys.readouterr().err.splitlines()
    assert first == "map: 0 of 2 blocks: tiles 3/9" and last.startswith("map: 1 block in")
