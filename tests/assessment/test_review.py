"""Review files: the areas of a map that deserve a look, ranked; bounded memory; a form for QGIS."""

import numpy as np
import pyogrio
import pytest
import samples
import shapely
import world
from scipy import ndimage

from labelscape.areas.trace import Areas
from labelscape.assessment.review import Best, review, usual_limit
from labelscape.errors import BadFile, BadInput, BadOption
from labelscape.grid import Grid
from labelscape.rasters.write import MapWriter
from labelscape.scenes.vectors import read_features


def confidence(path, values, *, crs=world.UTM, transform=world.NORTH_UP):
    with MapWriter(path, Grid(crs, transform, *values.shape), 1, 255, overwrite=True) as writer:
        writer.write(Grid(crs, transform, *values.shape).window, values.astype(np.uint8))
    return path


def made(folder, *, seed=0, height=70, width=90, **place):
    """A map of fields and a speckled confidence, with a corner of nodata in both."""
    rng = np.random.default_rng(seed)
    classes, sure = world.paint(height, width, seed=seed, patch=7), rng.integers(30, 101, (height, width))
    classes[:5, :9] = sure[:5, :9] = 255
    samples.class_map(folder / "m_class.tif", classes, **place)
    confidence(folder / "m_confidence.tif", sure, **place)
    return classes, sure


def by_scipy(classes, sure, limit):
    """(priority in pixels, pixels, mean confidence, class) of every area, by another library's labelling."""
    found = []
    for value in range(3):
        labels, count = ndimage.label((classes == value) & (sure < limit))
        for k in range(1, count + 1):
            mine = sure[labels == k]
            found.append(((100 - mine).sum() / 100, len(mine), mine.mean(), value))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("strip", [None, 1, 13])
@pytest.mark.parametrize("limit", [60, 100])
def test_areas_are_those_of_another_library_ranked_by_doubt(tmp_path, strip, limit):
    classes, sure = made(tmp_path)
    done = review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", top=25, below=limit, strip_rows=strip)
    wanted = by_scipy(classes, sure, limit)
    assert (done.written, done.found, done.below) == (25, len(wanted), limit)
    assert done.share == pytest.approx(sum(w[0] for w in wanted[:25]) / sum(w[0] for w in wanted))
    found = read_features(tmp_path / "r.gpkg").columns
    assert found["rank"].tolist() == list(range(1, 26))
    # Pixels of 100 m2 on the map; on the ellipsoid UTM's are 0.4 per mille off.
    np.testing.assert_allclose(found["priority"], [w[0] / 100 for w in wanted[:25]], rtol=2e-3)
    assert found["pixels"].tolist() == [w[1] for w in wanted[:25]]
    np.testing.assert_allclose(found["confidence"], [w[2] for w in wanted[:25]], atol=0.051)
    assert found["class"].tolist() == [world.LEGEND.names[w[3]] for w in wanted[:25]]
    np.testing.assert_allclose(found["area_m2"], found["pixels"] * 100, rtol=2e-3)
    np.testing.assert_allclose(found["area_ha"], found["area_m2"] / 10_000, atol=1e-6)


def test_polygons_are_valid_and_lie_where_the_pixels_do(tmp_path):
    classes, sure = made(tmp_path, transform=world.ROTATED)
    review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", top=30, below=70)
    info = pyogrio.read_info(tmp_path / "r.gpkg", layer="review")
    assert info["crs"] == "EPSG:32633"
    features = read_features(tmp_path / "r.gpkg")
    assert shapely.is_valid(features.geometries).all()
    rows, columns = np.mgrid[:70, :90]
    x, y = world.ROTATED @ (columns + 0.5, rows + 0.5)
    names = np.array([*world.LEGEND.names, ""])[np.minimum(classes, 3)]
    for polygon, name, pixels in zip(
        features.geometries, features.columns["class"], features.columns["pixels"]
    ):
        inside = shapely.contains_xy(polygon, x, y)
        assert inside.sum() == pixels
        assert set(names[inside]) == {name} and (sure[inside] < 70).all()


def test_answers_are_null_and_qgis_offers_the_classes(tmp_path):
    import sqlite3

    made(tmp_path)
    review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", top=3)
    with sqlite3.connect(tmp_path / "r.gpkg") as base:
        rows = base.execute("SELECT class_right, answer, notes FROM review").fetchall()
        (qml,) = base.execute("SELECT styleQML FROM layer_styles WHERE useAsDefault = 1").fetchone()
    assert rows == [(None, None, None)] * 3
    import xml.etree.ElementTree as xml

    root = xml.fromstring(qml.split("\n", 1)[1])
    widget = root.find("fieldConfiguration/field[@name='class_right']/editWidget")
    assert widget.get("type") == "ValueMap"
    options = widget.findall("config/Option/Option[@name='map']/Option/Option")
    assert [(o.get("name"), o.get("value")) for o in options] == [(n, n) for n in world.LEGEND.names]
    assert root.find("editable/field[@name='class']").get("editable") == "0"
    assert root.find("editable/field[@name='class_right']") is None
    assert "class_right" in root.find("renderer-v2").get("attr")


def test_a_limit_stands_half_way_between_chance_and_certainty():
    assert [usual_limit(k) for k in (1, 2, 3, 5, 20)] == [75, 75, 65, 60, 50]


def test_small_areas_are_left_out(tmp_path):
    classes, sure = made(tmp_path)
    done = review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", below=100, min_area=0.05)
    # Five pixels of 100 m2 are 500.4 m2 on the ellipsoid here.
    wanted = [w for w in by_scipy(classes, sure, 100) if w[1] >= 5]
    assert done.found == len(wanted)


def test_without_coordinates_sizes_are_pixels(tmp_path):
    classes, sure = made(tmp_path, crs=None)
    review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", top=5, below=100)
    columns = read_features(tmp_path / "r.gpkg").columns
    wanted = by_scipy(classes, sure, 100)[:5]
    np.testing.assert_allclose(columns["priority"], [w[0] for w in wanted])
    assert np.isnan(np.ma.filled(columns["area_m2"].astype(float), np.nan)).all()


def test_no_more_than_the_top_areas_are_kept():
    rng = np.random.default_rng(0)
    best, sums = Best(10, 0.0, on_earth=False), []
    for _ in range(20):
        pixels = rng.integers(1, 50, 100).astype(float)
        doubt = np.round(pixels * rng.random(100) * 100)
        best.add(Areas(np.zeros(100, np.uint8), pixels, pixels, doubt, np.full(100, None)))
        assert len(best.kept) <= 10
        sums += (doubt / 100).tolist()
    assert [a.doubt for a in best.ranked()] == sorted(sums, reverse=True)[:10]
    assert best.found == 2000


def test_equal_areas_stand_in_the_maps_order_however_it_is_cut(tmp_path):
    classes = np.zeros((30, 30), int)
    classes[::2] = 1
    samples.class_map(tmp_path / "m_class.tif", classes)
    confidence(tmp_path / "m_confidence.tif", np.full((30, 30), 50))
    places = []
    for strip in (None, 1, 7):
        review(tmp_path / "m_class.tif", tmp_path / "r.gpkg", top=4, strip_rows=strip, overwrite=True)
        places.append(shapely.bounds(read_features(tmp_path / "r.gpkg").geometries).tolist())
    assert places[0] == places[1] == places[2]


def test_what_cannot_be_reviewed_gets_a_sentence(tmp_path):
    made(tmp_path)
    raster, out = tmp_path / "m_class.tif", tmp_path / "r.gpkg"
    with pytest.raises(BadOption, match="GeoPackage"):
        review(raster, tmp_path / "r.shp")
    with pytest.raises(BadOption, match="top=0"):
        review(raster, out, top=0)
    with pytest.raises(BadOption, match="below=101"):
        review(raster, out, below=101)
    with pytest.raises(BadInput, match="nothing to review"):
        review(raster, out, below=10)
    confidence(tmp_path / "small.tif", np.full((20, 20), 50))
    with pytest.raises(BadInput, match="not on the grid"):
        review(raster, out, confidence=tmp_path / "small.tif")
    with pytest.raises(BadInput, match="band of uint8"):
        review(raster, out, confidence=world.write(tmp_path / "f.tif", np.ones((70, 90), np.float32)))
    (tmp_path / "m_confidence.tif").unlink()
    with pytest.raises(BadFile, match="m_confidence.tif does not exist.*`confidence`"):
        review(raster, out)
    assert not out.exists()


def test_a_file_with_answers_is_not_replaced_unasked(tmp_path):
    made(tmp_path)
    review(tmp_path / "m_class.tif", tmp_path / "r.gpkg")
    with pytest.raises(BadFile, match="answers"):
        review(tmp_path / "m_class.tif", tmp_path / "r.gpkg")


def test_the_command_line_says_what_to_do_next(tmp_path, run_cli):
    made(tmp_path)
    code, out, err = run_cli("review", tmp_path / "m_class.tif", tmp_path / "r.gpkg", "--top", 7)
    assert code == 0, err
    assert "7 of" in out and "--corrections" in out
    code, _, err = run_cli("review", tmp_path / "m_class.tif", tmp_path / "r.gpkg")
    assert code == 1 and "--overwrite" in err
