"""Results print on one line, in words; notebooks show the notes of a map."""

from dataclasses import replace
from pathlib import Path

import world

import labelscape as ls
from labelscape.areas.polygonize import PolygonSummary
from labelscape.areas.sieve import SieveSummary
from labelscape.contract.difference import Difference
from labelscape.datasets.doctor.findings import Finding
from labelscape.maps.plan import CheckResult, Plan
from labelscape.maps.result import MapResult
from labelscape.training.rehearse import Rehearsal


def test_results_print_on_one_line():
    plan = Plan(1, 512, 64, 1.2, 3 * 2**30, 0, 9, 2.5, "cpu")
    border = Difference("border", "REFUSED", "all bands are 0")
    shown = {
        "<Plan: 1 tile on cpu, memory 3.0 GiB, about 2 min>": plan,
        "<Plan: 1 tile on cpu, memory 3.0 GiB, about 1 s>": replace(plan, minutes=0.0142),
        "<Plan: 1 tile on cpu, memory 3.0 GiB, about 3 h>": replace(plan, minutes=150.4),
        "<Plan: 1,200 tiles on cuda, memory 1.0 GiB and 2.0 on it>": Plan(
            1200, 512, 64, 1.2, 2**30, 2 * 2**30, 9, None, "cuda"
        ),
        "<Difference REFUSED, border: all bands are 0>": border,
        f"<CheckResult REFUSED (border): {plan}>": CheckResult("REFUSED", (border,), plan),
        f"<CheckResult FITS: 1 warning, {plan}>": CheckResult("FITS", (), plan, ("large tiles",)),
        "<CheckResult REFUSED: no plan>": CheckResult("REFUSED", (), None),
        "<Finding error, mask: a.tif: Only 0 and 255.>": Finding(
            "mask", "error", str(Path("x", "a.tif")), "Only 0 and 255.", "Cure."
        ),
        "<SieveSummary: 1,200 areas merged, 3 left, 45,000 pixels changed, 0 classes>": SieveSummary(
            1200, 3, 45_000, ()
        ),
        "<PolygonSummary: 20,000 polygons, 7 dropped, 5 below 8 pixels>": PolygonSummary(20_000, 7, 5),
        "<PolygonSummary: 3 polygons>": PolygonSummary(3),
        "<Rehearsal: 400 steps in about 4 min, 2.0 GiB of memory>": Rehearsal(
            400, 0, 10, 20, 30, 2 * 2**30, 10.0, 0.5, 0.0
        ),
    }
    assert {repr(value): value for value in shown.values()} == shown


def test_data_print_on_one_line(tmp_path):
    w = world.make(tmp_path)
    labels = world.label_raster(w, tmp_path / "l.tif")
    with ls.open_dataset([w.scene], [labels]) as whole:
        assert repr(whole) == "<Dataset: 1 scene (scene), 3 bands, 3 classes>"
        assert repr(whole.scenes[0]) == "<LabelledScene scene: 3 classes>"
    shares = {"train": 0.5, "test": 0.5}
    with ls.open_dataset([w.scene] * 4, [labels], shares=shares, block=32) as split:
        assert repr(split) == "<Dataset: 4 scenes (scene, scene, scene ...), 3 bands, 3 classes>"
        assert repr(split.scenes[0]) == "<LabelledScene scene: 3 classes, split into blocks of 32 pixels>"


def test_a_map_counts_and_shows_its_notes(tmp_path):
    def result(*notes):
        return MapResult({"class": tmp_path / "a_class.tif"}, (), 0, notes, 1.0, 1, 1.0)

    head = f"<MapResult a_class.tif: 0 classes, 1 file in {tmp_path}"
    assert [repr(result(*notes)) for notes in ((), ("x",), ("x", "y"))] == [
        f"{head}>",
        f"{head}, 1 note>",
        f"{head}, 2 notes>",
    ]
    assert "<p>Notes</p><ul><li>x &lt; y</li></ul>" in result("x < y")._repr_html_()
    assert "Notes" not in result()._repr_html_()
