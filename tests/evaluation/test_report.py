import base64
import copy
import errno
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import Page

from labelscape.errors import BadFile
from labelscape.evaluation.confusion import count
from labelscape.evaluation.figures import curve_figure
from labelscape.evaluation.metrics import DEFINITIONS, summary
from labelscape.evaluation.report import (
    AreaRow,
    ConfusionFigure,
    Curve,
    FileRow,
    ModelScores,
    Report,
    plain,
    render,
    write_report,
)
from labelscape.evaluation.score_tables import overall_table, per_class_tables, score_notes
from labelscape.evaluation.sections import ColourBar, Picture

NAMES = ("water", "built-up")
BAR = ColourBar(((68, 1, 84), (253, 231, 37)), ("0 %", "100 %"))


def scores_of(names=NAMES, *, wrong=0.2, unpredicted=0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(names)), 60).astype(np.uint8)
    predicted = np.where(
        rng.random(truth.size) < wrong, rng.integers(0, len(names), truth.size), truth
    ).astype(np.uint8)
    predicted[:unpredicted] = 255
    return summary(count(truth, predicted, len(names)), names)


def full_report(names=NAMES, models=("random forest", "fcn", "mlp")):
    rng = np.random.default_rng(0)
    scores = tuple(
        ModelScores(model, scores_of(names, wrong=0.5 / (i + 1), seed=i)) for i, model in enumerate(models)
    )
    return Report(
        title="Map of havel",
        subtitle="mlp, 2024-05-01, labelscape 0.1.0",
        lead="Mean confidence 84 %.",
        notes=("Pixels of 20 m.",),
        pictures=(
            Picture("Scene", rng.integers(0, 256, (31, 47, 3)).astype(np.uint8), "47 x 31"),
            Picture("Map", np.zeros((31, 47, 3), np.uint8), legend=(("snow", (1, 2, 3)),)),
            Picture("Confidence", np.zeros((5, 4, 3), np.uint8), bar=BAR),
        ),
        overlay=(0, 1),
        legend=tuple((name, (10, 20, i)) for i, name in enumerate(names)),
        areas=tuple(AreaRow(name, (10, 20, i), 1000 + i, 10.125 + i) for i, name in enumerate(names)),
        nodata_pixels=12,
        area_hint="Most polygons are specks.",
        measured_on="Measured on held-out blocks of centre.tif, not on this scene.",
        scores=scores,
        definitions=tuple(DEFINITIONS.values()),
        confusion=ConfusionFigure(
            tuple(names), np.array(scores[0].metrics["confusion"]["counts"]), "mlp, held-out blocks"
        ),
        curves=(
            Curve("loss", (1, 2), (3.0, 2.0), "fcn"),
            Curve("rate", (1, 2), (0.1, 0.0)),
            Curve("loss", (1, 2), (2.0, 1.0), "mlp"),
        ),
        files=(FileRow("havel_class.tif", "Class map", 98_639), FileRow("havel_run.json", "Settings")),
        provenance={
            "size": [5490, 5490],
            "crs": None,
            "options": {"hidden": 1024},
            "pixel_size_m": 9.99612345,
        },
    )


@pytest.fixture(scope="module")
def html():
    return render(full_report())


@pytest.fixture(scope="module")
def full(html):
    return Page(html)


def test_sections_hold_what_was_given(full):
    for words in (
        "Map of havel",
        "mlp, 2024-05-01, labelscape 0.1.0",
        "Mean confidence 84 %.",
        "Pixels of 20 m.",
        "mlp, held-out blocks",
    ):
        assert words in full.text
    assert all(definition in full.text for definition in DEFINITIONS.values())
    assert "5490, 5490" in full.text
    assert "hidden = 1024" in full.text
    assert "9.99612" in full.text
    pictures = full.pictures()
    assert len(pictures) == 3 + 1 + 2  # given, confusion, loss (two curves in one) and rate
    np.testing.assert_array_equal(pictures[0], full_report().pictures[0].pixels)
    np.testing.assert_array_equal(pictures[1], np.zeros((31, 47, 3)))


def test_legend_and_colour_bar_stand_below_their_picture(html, full):
    scene, land, confidence = html.partition('<div class="pictures">')[2].split("<figure>")[1:4]
    assert "snow" in land and "#010203" in land
    assert "linear-gradient(to right, #440154, #fde725)" in confidence and "100 %" in confidence
    assert "snow" not in scene + confidence.partition('<figure class="overlay"')[0]
    assert "linear-gradient" not in scene + land
    # Pictures without legends of their own: the report's legend follows them.
    bare = Report(
        "x", pictures=(Picture("Map", np.zeros((5, 4, 3), np.uint8)),), legend=(("ice", (9, 9, 9)),)
    )
    assert "ice" in render(bare)


def test_pictures_are_described_to_who_cannot_see_them(html):
    assert 'alt="Scene"' in html
    picture = Picture("Map", np.zeros((5, 4, 3), np.uint8), alt="A map of <b>ice")
    assert 'alt="A map of &lt;b&gt;ice"' in render(Report("x", pictures=(picture,)))
    assert not re.search(r"<img(?![^>]*alt=)", html)


def test_files_are_listed_with_their_sizes(full):
    assert full.tables[-1] == [
        ["file", "contents", "size"],
        ["havel_class.tif", "Class map", "98.6 kB"],
        ["havel_run.json", "Settings", "-"],
    ]


def test_an_overlay_needs_two_pictures_of_one_size():
    same, other = (np.zeros((4, side, 3), np.uint8) for side in (5, 6))
    assert 'id="stack"' not in render(Report("x", pictures=(Picture("a", same),), overlay=(0, 1)))
    with pytest.raises(AssertionError, match="one size"):
        render(Report("x", pictures=(Picture("a", same), Picture("b", other)), overlay=(0, 1)))


def test_numbers_of_the_areas(full):
    assert full.tables[0] == [
        ["class", "pixels", "hectares", "share, %"],
        ["water", "1,000", "10.12", "49.98"],
        ["built-up", "1,001", "11.12", "50.02"],
        ["mapped", "2,001", "21.25", "100.00"],
        ["nodata", "12", "", ""],
    ]


def test_numbers_of_the_scores(full):
    models = full_report().scores
    overall, iou_f1, ua_pa = full.tables[1:-1]
    assert overall[0] == [
        "model",
        "OA",
        "mIoU",
        "mean F1",
        "mean accuracy",
        "fwIoU",
        "kappa x 100",
        "labelled pixels",
    ]
    keys = ("overall_accuracy", "mean_iou", "mean_f1", "mean_accuracy", "frequency_weighted_iou", "kappa")
    assert overall[1:] == [[m.name, *(f"{100 * m.metrics[key]:.2f}" for key in keys), "120"] for m in models]
    assert iou_f1[0] == ["", "IoU", "F1", ""]
    assert ua_pa[0] == ["", "UA", "PA", ""]
    for table, keys in ((iou_f1, ("iou", "f1")), (ua_pa, ("precision", "recall"))):
        assert table[1] == ["class", *(m.name for m in models), *(m.name for m in models), "labelled pixels"]
        for i, name in enumerate(NAMES):
            assert table[2 + i] == [
                name,
                *(f"{100 * m.metrics['classes'][i][key]:.2f}" for key in keys for m in models),
                "60",
            ]


def test_one_model_has_one_table_and_many_models_one_table_per_measure():
    (single,) = per_class_tables(full_report(models=("mlp",)).scores)
    assert single.heads == ("IoU", "F1", "UA", "PA", "labelled pixels")
    many = per_class_tables(full_report(models=tuple("abcdef")).scores)
    assert [table.groups for table in many] == [("IoU",), ("F1",), ("UA",), ("PA",)]
    assert all(table.heads == (*"abcdef", "labelled pixels") for table in many)


def test_the_best_model_is_marked_and_ties_as_printed():
    scores = tuple(
        ModelScores(name, {**scores_of(), "mean_iou": value})
        for name, value in (("a", 0.50001), ("b", 0.5), ("c", 0.1), ("d", None))
    )
    column = [cells[1] for _, cells in overall_table(scores).rows]
    assert [cell.text for cell in column] == ["50.00", "50.00", "10.00", "-"]
    assert [cell.best for cell in column] == [True, True, False, False]
    assert not any(cell.best for _, cells in overall_table(scores[:1]).rows for cell in cells)
    assert Page(render(Report("x", scores=scores))).tables[0][4][2] == "-"


def test_what_hinders_a_comparison_is_said():
    same = (ModelScores("a", scores_of()), ModelScores("b", scores_of(seed=1)))
    assert score_notes(same) == []
    other = ModelScores("c", scores_of(("water", "built-up", "snow")))
    assert "not scored on the same pixels" in score_notes((*same, other))[0]
    # Then no model is the best, in no table.
    assert "best" in render(Report("x", scores=same)).partition("<body>")[2]
    unlike = render(Report("x", scores=(*same, other))).partition("<body>")[2]
    assert "best" not in unlike
    assert unlike.count("not scored on the same pixels") == 1
    noted = (ModelScores("a", scores_of(), "trained on half the labels <b>&"),)
    assert "a: trained on half the labels <b>&" in Page(render(Report("x", scores=noted))).text
    assert score_notes((ModelScores("a", scores_of(unpredicted=7)),)) == [
        "a: 7 labelled pixels have no prediction; they count as wrong."
    ]
    truth = np.zeros(5, np.uint8)
    assert score_notes((ModelScores("a", summary(count(truth, truth, 2), NAMES)),)) == [
        "Not among the labelled pixels: built-up."
    ]


def test_old_scores_without_the_newer_keys_still_show():
    old = copy.deepcopy(scores_of())
    for key in ("frequency_weighted_iou", "unpredicted_pixels", "labelled_pixels", "confusion"):
        del old[key]
    assert Page(render(Report("x", scores=(ModelScores("mlp", old),)))).tables[0][1][5:] == [
        "-",
        f"{100 * old['kappa']:.2f}",
        "-",
    ]


@pytest.mark.parametrize("section", [f for f in Report.__dataclass_fields__ if f != "title"])
def test_every_section_may_be_missing_or_stand_alone(section):
    whole, bare = replace(full_report(), curves=(Curve("rate", (1, 2), (0.1, 0.0)),)), Report("only a title")
    alone = replace(bare, **{section: getattr(whole, section)})
    # Figures are slow to draw: each is left out once, and drawn alone.
    whole = replace(
        whole,
        confusion=None if section != "curves" else whole.confusion,
        curves=whole.curves if section == "confusion" else (),
    )
    Page(render(replace(whole, **{section: getattr(bare, section)})))
    page = Page(render(alone))
    assert "only a title" in page.text
    assert "None" not in page.text


def test_a_bare_report_has_no_empty_section():
    page = Page(render(Report("only a title")))
    assert not {"section", "table", "img", "h2"} & set(page.tags)


def test_fine_pixels_are_measured_in_square_metres():
    page = Page(render(Report("x", areas=(AreaRow("roof", (1, 2, 3), 100, 0.0025),))))
    assert page.tables[0][:2] == [["class", "pixels", "m²", "share, %"], ["roof", "100", "25", "100.00"]]


def test_a_scene_without_coordinates_has_no_hectares():
    page = Page(render(Report("x", areas=(AreaRow("water", (1, 2, 3), 0), AreaRow("land", (1, 2, 3), 0)))))
    assert page.tables[0] == [
        ["class", "pixels", "share, %"],
        ["water", "0", "-"],
        ["land", "0", "-"],
        ["mapped", "0", "-"],
    ]
    assert "no coordinates" in page.text


EVIL = "<script>alert('1')</script>&amp;\"><img src=x onerror=alert(1)>{{ 7 * 7 }} $x^2$ _y"


def test_text_cannot_become_markup(full):
    names = (EVIL, f"{EVIL}2")
    report = full_report(names, models=(EVIL,))
    report = replace(
        report,
        title=EVIL,
        subtitle=EVIL,
        lead=EVIL,
        notes=(EVIL,),
        definitions=(EVIL,),
        pictures=(replace(report.pictures[0], title=EVIL, caption=EVIL),),
        confusion=replace(report.confusion, title=EVIL),
        curves=(Curve(EVIL, (1, 2), (1, 2), EVIL), Curve(EVIL, (1, 2), (1, 2), f"_{EVIL}")),
        provenance={EVIL: {EVIL: [EVIL]}},
    )
    page = Page(render(report))
    assert set(page.tags) <= set(full.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert " ".join(EVIL.split()) in page.text
    assert "49" not in page.text.replace("49.", "")
    # title twice (head, h1), subtitle, lead, note, caption (two), legend (two), ... : none got lost
    assert page.text.count("onerror=alert(1)") >= 18


def test_the_file_needs_no_network(html, full):
    without_pictures = re.sub(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", "", html)
    assert len(without_pictures) < 30_000
    assert not re.search(r"https?:|//|url\(|@import|<link|<iframe|<object|javascript:", without_pictures)
    assert not {"a", "link", "iframe", "object", "form"} & set(full.tags)
    # One script, the page's own: the policy knows its hash and lets no other run.
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert full.tags.count("script") == 1
    assert {name for _, name, _ in full.attributes} & {
        "href",
        "srcset",
        "action",
        "background",
        "poster",
        "data",
    } == set()
    assert (
        "meta",
        "content",
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    ) in full.attributes
    assert "viewport" in [value for _, name, value in full.attributes if name == "name"]


def test_the_same_report_gives_the_same_bytes(html):
    assert render(full_report()) == html


def test_writing(tmp_path):
    path = tmp_path / "new" / "map.html"
    assert write_report(path, Report("x")) == path
    before = path.read_bytes()
    with pytest.raises(BadFile, match="overwrite=True"):
        write_report(path, Report("y"))
    assert path.read_bytes() == before
    # A file name that is no text must not cost the report.
    write_report(str(path), Report("y", provenance={"scene": "b\udcffd.tif"}), overwrite=True)
    assert "b?d.tif" in path.read_text("utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile):
        write_report(tmp_path / "file" / "map.html", Report("x"))
    assert [p.name for p in path.parent.iterdir()] == ["map.html"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, overwrite):
    path = tmp_path / "map.html"
    if overwrite:
        path.write_text("the old report")
    write = Path.write_bytes

    def half(self, data):
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(BadFile, match="No space left"):
        write_report(path, Report("x"), overwrite=overwrite)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == (
        {"map.html": "the old report"} if overwrite else {}
    )


def test_large_photos_are_jpegs_and_maps_stay_exact():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:400, :500]
    photo = np.clip(
        np.stack([x / 3, y / 3, (x + y) / 5], axis=-1) + rng.normal(0, 8, (400, 500, 3)), 0, 255
    ).astype(np.uint8)
    # 256 colours in disorder: as large as a photo, yet every pixel's colour means a class or a per cent.
    flat = rng.integers(0, 256, (256, 3)).astype(np.uint8)[rng.integers(0, 256, (700, 700))]
    page = Page(
        render(
            Report(
                "x",
                pictures=(Picture("Scene", photo), Picture("Map", flat), Picture("Small", photo[:100, :100])),
            )
        )
    )
    assert [source[11:15] for source in page.sources] == ["jpeg", "png;", "png;"]
    assert [len(source) > 400_000 for source in page.sources] == [False, True, False]
    scene, same, small = page.pictures()
    np.testing.assert_array_equal(same, flat)
    np.testing.assert_array_equal(small, photo[:100, :100])
    # JPEG may lose noise, not colours or places: every block of 8 x 8 pixels keeps its mean.
    blocks = [p[:, :496].reshape(50, 8, 62, 8, 3).mean(axis=(1, 3)) for p in (scene, photo)]
    np.testing.assert_allclose(*blocks, atol=3)


def test_a_picture_of_another_shape_is_our_own_mistake():
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))):
        with pytest.raises(AssertionError, match="picture"):
            render(Report("x", pictures=(Picture("x", wrong),)))


def test_plain_values():
    assert [plain(v) for v in (None, [], {}, True, 3, 2.5, 1e-7, "a", ["a", 1])] == [
        "–",
        "–",
        "–",
        "yes",
        "3",
        "2.5",
        "1e-07",
        "a",
        "a, 1",
    ]


def test_sixty_classes_say_how_to_read_the_figure():
    names = tuple(f"class {i}" for i in range(60))
    page = Page(render(Report("x", confusion=ConfusionFigure(names, np.eye(60, dtype=int)))))
    assert "The numbers are pixels" not in page.text
    assert "square root" in page.text
    (picture,) = page.pictures()
    assert max(picture.shape) < 3000


def test_names_that_figures_cannot_draw_get_numbers_with_a_key():
    # Labels of curves are models, not classes; numbers mean nothing without their key.
    lines = [("水", [1], [1]), ("b", [1], [1])]
    assert [t.get_text().strip() for t in curve_figure(lines, "loss").axes[0].get_legend().get_texts()] == [
        "curve 1",
        "curve 2",
    ]
    curves = tuple(Curve("loss", steps, values, label) for label, steps, values in lines)
    text = Page(
        render(Report("x", confusion=ConfusionFigure(("水体", "b"), np.eye(2, dtype=int)), curves=curves))
    ).text
    assert "Classes by number: 1 = 水体, 2 = b." in text
    assert "loss : 1 = 水, 2 = b" in text
    plain_names = Page(
        render(
            Report(
                "x",
                confusion=ConfusionFigure(("a", "b"), np.eye(2, dtype=int)),
                curves=(Curve("loss", (1,), (1,), "b"),),
            )
        )
    ).text
    assert "by number" not in plain_names and "1 =" not in plain_names


def test_scores_and_reports_are_imported_without_torch_or_matplotlib():
    modules = "confusion, figures, metrics, report, text"
    code = (
        f"import sys; from labelscape.evaluation import {modules}; print({{'torch', 'matplotlib', 'jinja2', "
        f"'rich', 'PIL'}} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
