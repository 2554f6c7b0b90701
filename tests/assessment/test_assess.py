"""From answers to estimates, and what is refused."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import browser
import numpy as np
import pyogrio
import pytest
import rasterio
import samples
import world
from pages import Page

from labelscape.assessment.agreement import agreement
from labelscape.assessment.assess import assess
from labelscape.assessment.points import read_design
from labelscape.assessment.sample import sample
from labelscape.cli import main
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.evaluation.accuracy import estimate_areas
from labelscape.legend import Legend

SHAPE = 120, 150


def ground_of(values, seed=0, wrong=0.15):
    """The true classes: the map's, but for some pixels."""
    rng = np.random.default_rng(seed)
    other = rng.integers(3, size=values.shape)
    return np.where(rng.random(values.shape) < wrong, other, values)


@pytest.fixture(scope="module")
def larder(tmp_path_factory):
    """A map, and a sample of it with all answers."""
    folder = tmp_path_factory.mktemp("larder")
    values = world.paint(*SHAPE)
    raster = samples.class_map(folder / "m_class.tif", values)
    sample(raster, folder / "s.gpkg", size=300, floor=20, second=True)
    samples.answer(folder / "s.gpkg", ground_of(values))
    return folder


@pytest.fixture
def made(larder, tmp_path):
    """The larder's map and sample in a folder of one's own, and the true classes."""
    shutil.copytree(larder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "m_class.tif", tmp_path / "s.gpkg", ground_of(world.paint(*SHAPE))


def refused(said, *arguments, error=BadInput, **options):
    with pytest.raises(error, match=said):
        assess(*arguments, **options)


def test_estimates_are_those_of_the_counts(made):
    raster, points, ground = made
    found = assess(raster, points)
    design, values = read_design(points), world.paint(*SHAPE)
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (values[design.rows, design.columns], ground[design.rows, design.columns]), 1)
    areas = np.array(design.facts["mapped_area"])
    expected = estimate_areas(counts, areas)
    assert found.estimates.counts.tolist() == counts.tolist()
    assert found.estimates.mapped_area == pytest.approx(areas)
    assert found.estimates.area == pytest.approx(expected.area, rel=1e-3)  # pixels of UTM are nearly equal
    # What is left is the finite population: 300 of 18,000 pixels are known.
    assert found.estimates.area_se == pytest.approx(expected.area_se * np.sqrt(1 - 1 / 60), rel=5e-3)
    assert found.estimator == "Olofsson et al. (2014)" and found.unanswered == 0
    truth = np.bincount(ground.ravel()) / ground.size * areas.sum()
    assert (np.abs(found.estimates.area - truth) < 4 * found.estimates.area_se).all()


def test_a_map_that_is_right_everywhere_has_its_own_areas(tmp_path):
    """In degrees, where pixels shrink towards the pole: by pixel counts the areas would be 10 % off."""
    from affine import Affine

    values = np.repeat([[0], [1]], [30, 30], axis=0) * np.ones((1, 40), int)
    place = {"crs": "EPSG:4326", "transform": Affine(0.5, 0, 0, 0, -0.5, 70)}
    raster = samples.class_map(tmp_path / "d.tif", values, **place)
    sample(raster, tmp_path / "d.gpkg", size=60, floor=5)
    found = assess(raster, samples.answer(tmp_path / "d.gpkg", values)).estimates
    assert found.area[:2] == pytest.approx(found.mapped_area[:2], rel=1e-9)
    assert found.area[1] > 1.25 * found.area[0]  # as many pixels


def test_unequal_pixels_are_weighted_by_area(tmp_path):
    """Of one stratum the northern half is class 0: its share is that of its area, not of its pixels."""
    from affine import Affine

    ground = np.repeat([[0], [1]], [40, 40], axis=0) * np.ones((1, 40), int)
    place = {"crs": "EPSG:4326", "transform": Affine(1, 0, 0, 0, -1, 80)}
    raster = samples.class_map(tmp_path / "d.tif", 0 * ground, **place)
    sample(raster, tmp_path / "d.gpkg", size=1500, floor=5)
    found = assess(raster, samples.answer(tmp_path / "d.gpkg", ground)).estimates
    sine = np.sin(np.radians([80, 40, 0]))
    assert found.oa == pytest.approx((sine[0] - sine[1]) / (sine[0] - sine[2]), abs=0.01)  # 0.347, not 0.5


def test_blocks_and_other_strata_have_their_estimators(made, tmp_path):
    raster, _, ground = made
    sample(raster, tmp_path / "b.gpkg", size=200, block=10, per_block=5, floor=10)
    found = assess(raster, samples.answer(tmp_path / "b.gpkg", ground))
    assert "cluster" in found.estimator and found.estimates.critical > 1.96
    assert found.estimates.total_area == pytest.approx(
        sum(read_design(tmp_path / "b.gpkg").facts["mapped_area"])
    )
    halves = samples.class_map(tmp_path / "h.tif", (np.arange(150) > 70) * np.ones((120, 1), int))
    sample(raster, tmp_path / "o.gpkg", size=200, floor=10, strata=halves)
    found = assess(raster, samples.answer(tmp_path / "o.gpkg", ground))
    assert found.estimator == "Stehman (2014)"


def test_what_is_written(made, tmp_path):
    raster, points, ground = made
    second = samples.answer(tmp_path / "s_second.gpkg", ground_of(ground, 1, 0.1))
    found = assess(raster, points, second=second, out=tmp_path / "out" / "acc", bootstrap=200)
    facts = json.loads((tmp_path / "out" / "acc.json").read_text())
    hectares = found.estimates.area / 1e4
    assert [c["area"] for c in facts["classes"]] == pytest.approx(hectares.tolist())
    assert facts["classes"][0]["ua_interval"] == pytest.approx(found.estimates.ua_interval[0].tolist())
    assert facts["unit"] == "hectares" and facts["agreement"]["points"] == 300
    assert len(facts["bootstrap"]["area"]) == 3
    meta, _, _, fields = pyogrio.raw.read(tmp_path / "out" / "acc.gpkg")
    table = dict(zip(meta["fields"], fields))
    assert (table["agrees"] == (table["map_class"] == table["reference"])).all()
    assert table["agrees"].mean() == pytest.approx(np.trace(found.estimates.counts) / 300)
    assert (table["second"] != table["reference"]).sum() == len(found.agreement.differ)
    assert f"{100 * found.estimates.oa:.1f} %" in found.sentence and "300 pixels" in found.sentence
    assert "<table>" in found._repr_html_() and repr(found).startswith("<Assessment: overall accuracy")
    refused("exists", raster, points, out=tmp_path / "out" / "acc", error=BadFile)
    refused("`seed=-1` must be", raster, points, seed=-1, bootstrap=10, error=BadOption)


@pytest.mark.parametrize("overwrite", [False, True])
def test_results_do_not_replace_the_answers(made, tmp_path, overwrite):
    """OUT.gpkg is written beside OUT.json: with the name of the sample it would be the sample's own file."""
    raster, points, _ = made
    answered = Path(shutil.copy(points, tmp_path / "points.gpkg"))
    before = answered.read_bytes()
    for given in ({"points": answered}, {"points": points, "second": answered}):
        with pytest.raises(BadOption, match="points.gpkg is an input itself"):
            assess(raster, **given, out=tmp_path / "points", overwrite=overwrite)
    assert answered.read_bytes() == before and not (tmp_path / "points.json").exists()


def test_a_full_disk_leaves_no_part_of_the_results(made, tmp_path, monkeypatch):
    raster, points, _ = made

    def full(*_, **__):
        raise BadFile("acc.html cannot be written: no space left on device.")

    monkeypatch.setattr("labelscape.assessment.assess.write_page", full)
    refused("no space left", raster, points, out=tmp_path / "out" / "acc", error=BadFile)
    assert not list((tmp_path / "out").iterdir())


def test_kappa_by_hand():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.7, by chance 0.5, kappa 0.4."""
    first = np.repeat([0, 0, 1, 1, -1], [20, 5, 10, 15, 3])
    second = np.repeat([0, 1, 0, 1, 0], [20, 5, 10, 15, 3])
    found = agreement(first, second, 2)
    assert (found.points, found.agreement, found.kappa) == (50, 0.7, pytest.approx(0.4))
    assert found.differ == tuple(range(21, 36))
    assert np.isnan(agreement(np.zeros(3, int), np.zeros(3, int), 2).kappa)


def test_unanswered_points_are_counted_and_left_out(made):
    raster, points, ground = made
    design = read_design(points)
    some = {(int(r), int(c)) for r, c in zip(design.rows[:30], design.columns[:30])}
    samples.answer(points, lambda r, c: None if (r, c) in some else int(ground[r, c]))
    found = assess(raster, points)
    assert (found.unanswered, found.estimates.points) == (30, 270)
    assert "30 of 300 points have no answer" in found.notes[0] and "biased" in found.notes[0]


def test_classes_that_are_called_by_numbers(tmp_path):
    """Of a column of crop codes 1, 2 and 5 the classes are called so, and have the values 0, 1 and 2: the
    form stores these, and none of them is a name.
    """
    values = world.paint(*SHAPE)
    raster = samples.class_map(tmp_path / "m.tif", values, legend=Legend.of_names(["1", "2", "5"]))
    sample(raster, tmp_path / "s.gpkg", size=150, floor=10)
    points = samples.answer(tmp_path / "s.gpkg", values)
    found = assess(raster, points)
    assert found.estimates.oa == 1
    assert "0 is the class 1, 1 is the class 2, 2 is the class 5" in found.notes[0]
    # Text does not say which of both it is.
    samples.edit(points, "ALTER TABLE points ADD COLUMN words TEXT")
    samples.edit(points, "UPDATE points SET words = reference")
    refused("may be the names of classes, or the values of others", raster, points, column="words")


def test_names_that_differ_in_case_alone_are_two_classes(tmp_path):
    values = world.paint(*SHAPE)
    raster = samples.class_map(tmp_path / "m.tif", values, legend=Legend.of_names(["Forest", "forest", "c"]))
    sample(raster, tmp_path / "s.gpkg", size=150, floor=10)
    points = samples.answer(tmp_path / "s.gpkg", values)
    samples.edit(points, "ALTER TABLE points ADD COLUMN name TEXT")
    names = [(name, value) for value, name in enumerate(("Forest", "forest", "C"))]
    samples.edit(points, "UPDATE points SET name = ? WHERE reference = ?", names)
    assert assess(raster, points, column="name").estimates.oa == 1
    samples.edit(points, "UPDATE points SET name = 'FOREST' WHERE reference = 1")
    refused("the answers FOREST .*are no class", raster, points, column="name")


def test_answers_may_be_names(made, tmp_path):
    raster, points, _ = made
    expected = assess(raster, points).estimates.counts
    samples.edit(points, "ALTER TABLE points ADD COLUMN name TEXT")
    names = [(name.upper(), value) for value, name in enumerate(world.LEGEND.names)]
    samples.edit(points, "UPDATE points SET name = ? WHERE reference = ?", names)
    assert assess(raster, points, column="name").estimates.counts.tolist() == expected.tolist()
    refused("column", raster, points, column="nam", error=UnknownName)


def test_an_export_needs_the_design(made, tmp_path):
    raster, points, _ = made
    meta, _, places, fields = pyogrio.raw.read(points, layer="points")
    export = tmp_path / "export.geojson"
    pyogrio.raw.write(
        export, places, fields, meta["fields"], geometry_type="Point", crs=meta["crs"], driver="GeoJSON"
    )
    refused("holds no sampling design", raster, export)
    found, expected = assess(raster, export, design=points), assess(raster, points)
    assert found.estimates.area.tolist() == expected.estimates.area.tolist()


# ------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("crs", ["EPSG:32634", "EPSG:4326"])
def test_points_whose_crs_is_wrong_are_refused_and_it_is_named(made, tmp_path, crs):
    raster, points, _ = made
    meta, _, places, fields = pyogrio.raw.read(points, layer="points")
    wrong = tmp_path / "wrong.gpkg"
    pyogrio.raw.write(
        wrong, places, fields, meta["fields"], geometry_type="Point", crs=crs, driver="GPKG", layer="points"
    )
    name = {"EPSG:32634": "UTM zone 34N", "EPSG:4326": "WGS 84"}[crs]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of places that have none in the map's CRS
        with pytest.raises(BadInput, match=rf"all of them, so that their CRS \(.*{name}\) may be wrong"):
            assess(raster, wrong, design=points)


def test_chosen_points_are_no_sample(made, tmp_path):
    import shapely

    raster, _, _ = made
    place = shapely.to_wkb(shapely.points([[400_100.0, 5_799_900.0]]))
    chosen = tmp_path / "chosen.gpkg"
    pyogrio.raw.write(
        chosen, place, [np.array([1])], ["class"], geometry_type="Point", crs="EPSG:32633", driver="GPKG"
    )
    refused("only be estimated from a probability sample, not from points that somebody", raster, chosen)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM points WHERE point IN (3, 7)", r"2 of the 300 points .*\(3, 7\).*without an answer"),
        ("UPDATE points SET point = 5 WHERE point = 6", r"occur twice \(5\)"),
        ("UPDATE points SET point = 999 WHERE point = 6", r"were not drawn \(999\)"),
        ("UPDATE points SET geom = (SELECT geom FROM points WHERE point = 2)", "do not lie .* and 294 more"),
        ("UPDATE points SET reference = 17 WHERE point = 4", "answers 17 .* no class .*0 water, 1 field"),
        ("UPDATE points SET reference = NULL", "No point of"),
        ("UPDATE labelscape_sample SET design = replace(design, 'seed', 'Seed')", "was changed"),
        ("DROP TABLE labelscape_sample", "no sampling design"),
    ],
)  # fmt: skip
def test_changed_samples_are_refused(made, statement, said):
    raster, points, _ = made
    samples.edit(points, statement)
    refused(said, raster, points)


def test_a_stratum_with_one_answer_has_no_variance(made):
    raster, points, ground = made
    design = read_design(points)
    first = int(np.flatnonzero(design.stratum == 1)[0])
    keep = {
        (int(design.rows[i]), int(design.columns[i]))
        for i in range(300)
        if design.stratum[i] != 1 or i == first
    }
    samples.answer(points, lambda r, c: int(ground[r, c]) if (r, c) in keep else None)
    refused(r"fewer than 2 points with an answer: field \(1\)", raster, points)


def test_a_map_that_changed_is_refused_and_another_one_may_be_assessed(made, tmp_path):
    raster, points, ground = made
    values = world.paint(*SHAPE)
    values[50, 60] = (values[50, 60] + 1) % 3
    changed = samples.class_map(tmp_path / "changed.tif", values)
    refused(r"is not the map that was sampled: its pixels have changed", changed, points)
    found = assess(changed, points, other_map=True)
    assert found.estimator == "Stehman (2014)" and "(strata: classes of m_class.tif;" in found.sentence
    # Its own classes are counted; every pixel of this grid has an area of its own.
    assert found.estimates.mapped_area.sum() == pytest.approx(sum(read_design(points).facts["mapped_area"]))
    with rasterio.open(changed) as file:
        pixels = np.bincount(file.read(1).ravel(), minlength=256)[:3]
    shares = found.estimates.mapped_area / found.estimates.mapped_area.sum()
    assert shares == pytest.approx(pixels / pixels.sum(), rel=1e-4) and found.notes == ()
    assert found.estimates.area == pytest.approx(
        assess(raster, points).estimates.area
    )  # the ground is the same
    better = samples.class_map(tmp_path / "better.tif", ground)
    assert assess(better, points, other_map=True).estimates.oa == pytest.approx(1)
    values[:60] = 255
    half = samples.class_map(tmp_path / "half.tif", values)
    refused("points lie where .* has no data", half, points, other_map=True)
    # Nodata where no point lies: the areas are of two regions, which a note says.
    bare = next(r for r in range(SHAPE[0]) if r not in set(read_design(points).rows))
    values = world.paint(*SHAPE)
    values[bare] = 255
    (note,) = assess(samples.class_map(tmp_path / "bare.tif", values), points, other_map=True).notes
    assert note.startswith("This map covers 99.")
    cut = samples.class_map(tmp_path / "cut.tif", values[:100])
    refused("has another grid than the map that was sampled", cut, points)
    renamed = samples.class_map(
        tmp_path / "names.tif", world.paint(*SHAPE), legend=type(world.LEGEND).of_names(["a", "b", "c"])
    )
    refused("has the classes a, b, c", renamed, points)


def test_colours_and_compression_may_change(made, tmp_path):
    raster, points, _ = made
    colour = tuple(replace(c, color=(1, 2, 3 + c.value)) for c in world.LEGEND.classes)
    other = samples.class_map(tmp_path / "x.tif", world.paint(*SHAPE), legend=type(world.LEGEND)(colour))
    assert assess(other, points).estimates.oa == assess(raster, points).estimates.oa


def test_two_interpreters_answer_one_sample(made, tmp_path):
    raster, points, ground = made
    sample(raster, tmp_path / "t.gpkg", size=300, floor=20, seed=9)
    refused("different samples", raster, points, second=samples.answer(tmp_path / "t.gpkg", ground))
    refused("first interpreter's own file", raster, points, second=points)
    refused("No point of .*s_second.gpkg has an answer", raster, points, second=tmp_path / "s_second.gpkg")
    # Just drawn, both are empty: the first interpreter's is named.
    empty = shutil.copy(points, tmp_path / "empty.gpkg")
    samples.edit(empty, "UPDATE points SET reference = NULL")
    refused("No point of .*empty.gpkg has an answer", raster, empty, second=tmp_path / "s_second.gpkg")
    copied = shutil.copy(points, tmp_path / "copied.gpkg")
    found = assess(raster, points, second=copied)
    assert any("gave the same answer at all 300 points" in note for note in found.notes)


def test_words_in_a_column_of_numbers_are_no_class(made, tmp_path):
    """SQLite keeps them, and GDAL reads them as 0."""
    raster, points, _ = made
    samples.edit(points, "UPDATE points SET reference = 'field' WHERE point < 4")
    refused(r"column reference is of numbers and holds text \('field' in 3 features\)", raster, points)


# ------------------------------------------------------------------------------------------- command line


def run(capsys, *words):
    code = 0
    try:
        main([str(w) for w in words])
    except SystemExit as ended:
        code = ended.code or 0
    out, err = capsys.readouterr()
    return code, out, err


def test_the_verbs_print_tables_and_json(tmp_path, capsys):
    values = world.paint(*SHAPE)
    raster = samples.class_map(tmp_path / "m_class.tif", values)
    code, out, err = run(capsys, "sample", raster, tmp_path / "s.gpkg", "--expect", "0.9,water=1")
    assert code == 2 and "--expect" in err
    code, out, err = run(
        capsys, "sample", raster, tmp_path / "s.gpkg", "--size", 200, "--expect", "water=0.9", "--second"
    )
    assert code == 0 and "200 points; expected standard error of the overall accuracy" in out
    assert "field" in out and "s_second.gpkg" in out
    code, _, err = run(capsys, "sample", raster, tmp_path / "s.gpkg")
    assert code == 1 and "pass --overwrite" in err
    shutil.copy(tmp_path / "s.gpkg", tmp_path / "empty.gpkg")
    points = samples.answer(tmp_path / "s.gpkg", ground_of(values))
    code, out, err = run(capsys, "assess", raster, points, "--bootstrap", 50, "--out", tmp_path / "acc")
    assert code == 0 and "200 points, Olofsson et al. (2014)" in out
    assert "bootstrap: area of water" in out and (tmp_path / "acc.json").exists()
    code, out, _ = run(capsys, "assess", raster, points, "--json")
    assert json.loads(out)["points"] == 200
    code, out, err = run(capsys, "assess", raster, tmp_path / "empty.gpkg")
    assert code == 1 and out == "" and "No point of" in err
    code, _, err = run(capsys, "assess", samples.class_map(tmp_path / "o.tif", 0 * values), points)
    assert code == 1 and "pass --other-map" in err


def test_samples_and_assessments_are_known_to_info(made, tmp_path):
    import labelscape as ls

    raster, points, _ = made
    found = assess(raster, points, out=tmp_path / "acc")
    about = ls.info(points)
    assert about.kind == "sample" and about.facts["answered"] == about.facts["points"] == 300
    assert about.facts["map"] == "m_class.tif" and "labelscape assess m_class.tif" in about.text
    assert "train" not in about.text, "points are no labels for training"
    samples.edit(points, "UPDATE points SET reference = NULL WHERE point < 11")
    about = ls.info(points)
    assert about.facts["answered"] == 290 and "choose a class for each point" in about.text
    assert [row["name"] for row in about.facts["strata"]] == ["water", "field", "forest"]
    assert sum(row["points"] for row in about.facts["strata"]) == 300
    about = ls.info(tmp_path / "acc.json")
    assert about.kind == "assessment" and found.sentence in about.text
    assert f"{100 * found.estimates.oa:.2f} %" in about.text and "forest" in about.text
    # Of fine pixels the table has the unit of the report, which is not the file's.
    facts = json.loads((tmp_path / "acc.json").read_text())
    facts["design"]["mapped_area"] = [n / 100 for n in facts["design"]["mapped_pixels"]]
    (tmp_path / "fine.json").write_text(json.dumps(facts))
    shown = ls.info(tmp_path / "fine.json").text
    assert "m²" in shown and f"{1e4 * facts['classes'][0]['area']:,.0f} " in shown
    assert "hectares" not in shown.split(facts["sentence"])[0]
    about = ls.info(tmp_path / "acc.gpkg")
    assert about.kind == "assessed points" and "train" not in about.text
    samples.edit(points, "DELETE FROM points WHERE point = 3")
    assert ls.info(points).facts["answered"] is None
    (tmp_path / "acc.json").write_text(json.dumps({**found.to_dict(), "oa_interval": None}))
    with pytest.raises(BadFile, match="not an assessment, or is damaged"):
        ls.info(tmp_path / "acc.json")


def test_the_report_holds_the_estimates_and_the_sentence(made, tmp_path):
    raster, points, ground = made
    samples.edit(points, "UPDATE points SET reference = NULL WHERE point < 4")
    second = samples.answer(tmp_path / "s_second.gpkg", ground_of(ground, 1, 0.1))
    found = assess(raster, points, second=second, out=tmp_path / "acc", bootstrap=200)
    page = Page((tmp_path / "acc.html").read_text())
    for row in found.table():
        for cell in row:
            assert cell in page.text
    assert found.sentence in page.text and f"kappa {found.agreement.kappa:.3f}" in page.text
    counts = found.estimates.counts
    assert ["water", *map(str, counts[0])] in [row for table in page.tables for row in table]
    differ = int(counts.sum() - np.trace(counts))
    assert f"{np.trace(counts):,} points agree, {differ:,} differ, 3 without answer" in page.text
    (picture,) = page.pictures()
    design = read_design(points)
    assert picture.shape[:2] == SHAPE
    mapped = world.paint(*SHAPE)[design.rows, design.columns]
    wrong = np.flatnonzero(mapped != ground[design.rows, design.columns])
    last = wrong[wrong >= 3][-1]  # the first three have no answer
    assert picture[design.rows[last], design.columns[last]].tolist() == [200, 30, 30]
    with pytest.raises(BadFile, match="acc.html exists"):
        (tmp_path / "acc.json").unlink()
        (tmp_path / "acc.gpkg").unlink()
        assess(raster, points, out=tmp_path / "acc")


@pytest.mark.parametrize(("kind", "nodata"), [("int16", -9999), ("float32", np.nan), ("uint16", 65535)])
def test_the_report_shows_class_maps_of_any_type(made, tmp_path, kind, nodata):
    raster, _, ground = made
    values = world.paint(*SHAPE).astype(kind)
    values[:40] = nodata
    with rasterio.open(raster) as of_bytes:
        place = {"crs": of_bytes.crs, "transform": of_bytes.transform, "height": SHAPE[0], "width": SHAPE[1]}
    with rasterio.open(tmp_path / "t_class.tif", "w", dtype=kind, nodata=nodata, count=1, **place) as file:
        file.write(values, 1)
    shutil.copy(f"{raster}.aux.xml", tmp_path / "t_class.tif.aux.xml")
    sample(tmp_path / "t_class.tif", tmp_path / "t.gpkg", size=60, floor=20)
    samples.answer(tmp_path / "t.gpkg", ground)
    assess(tmp_path / "t_class.tif", tmp_path / "t.gpkg", out=tmp_path / "acc")
    (picture,) = Page((tmp_path / "acc.html").read_text()).pictures()
    assert (picture[:30] == 255).all() and not (picture[45:] == 255).all(axis=2).all()


@pytest.mark.parametrize("width", [400, 1600])
def test_the_report_is_readable_in_a_browser(made, tmp_path, width):
    assess(*made[:2], out=tmp_path / "acc")
    assert browser.faults(tmp_path / "acc.html", width) == []
