import json
import xml.etree.ElementTree as xml

import numpy as np
import pyogrio
import pytest
import world

from labelscape.grid import Grid, Window
from labelscape.rasters.class_names import legend_of
from labelscape.rasters.write import MapWriter


@pytest.fixture
def named(tmp_path):
    """A class raster as `map` writes it, with names and colours."""
    grid = Grid(world.UTM, world.NORTH_UP, 64, 80)
    with MapWriter(tmp_path / "m_class.tif", grid, 1, 255, legend=world.LEGEND) as writer:
        writer.write(Window(0, 0, 64, 80), world.paint(64, 80))
    return tmp_path / "m_class.tif"


def test_a_map_becomes_polygons_with_its_own_names(named, tmp_path, run_cli):
    code, out, _ = run_cli(
        "polygonize", named, tmp_path / "m.fgb", "--simplify", 20, "--min-area", 1, "--json"
    )
    assert code == 0
    done = json.loads(out)
    _, _, _, columns = pyogrio.raw.read(tmp_path / "m.fgb")
    assert done["written"] == len(columns[0]) and set(columns[1]) == set(world.LEGEND.names)
    assert columns[2].sum() == 64 * 80 and done["left_out"] == 0
    assert legend_of(named)[0] == world.LEGEND


def test_any_class_raster_will_do(tmp_path, run_cli):
    values = np.full((20, 30), 7, np.uint8)
    values[5:9, 4:20], values[:2] = 9, 0
    raster = world.write(tmp_path / "plain.tif", values, nodata=0)
    code, out, _ = run_cli("polygonize", raster, tmp_path / "p.gpkg")
    assert (code, out) == (0, f"2 polygons\npolygons   {tmp_path / 'p.gpkg'}\n")
    _, _, _, (found, names, pixels, _) = pyogrio.raw.read(tmp_path / "p.gpkg", layer="land_cover")
    assert sorted(zip(found.tolist(), names.tolist(), pixels.tolist())) == [
        (7, "class 7", 18 * 30 - 64),
        (9, "class 9", 64),
    ]
    code, _, err = run_cli("polygonize", raster, tmp_path / "p.gpkg")
    assert code == 1 and "exists; pass --overwrite" in err
    code, _, err = run_cli("polygonize", raster, tmp_path / "p.dxf")
    assert code == 2 and "written as .gpkg" in err


def test_category_names_are_read_too(tmp_path):
    raster = world.write(tmp_path / "c.tif", world.paint(16, 16), nodata=255)
    root = xml.Element("PAMDataset")
    names = xml.SubElement(xml.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in ("sea", "", "wood", "wood"):
        xml.SubElement(names, "Category").text = name
    (tmp_path / "c.tif.aux.xml").write_bytes(xml.tostring(root))
    assert [(c.value, c.name) for c in legend_of(raster)[0].classes] == [
        (0, "sea"),
        (2, "wood (2)"),
        (3, "wood (3)"),
    ]


def test_a_map_writes_the_format_asked_for_and_a_stac_item(tmp_path, run_cli):
    from labelscape.checkpoint import save
    from labelscape.contract.contract import Contract
    from labelscape.nets.catalog import create_model
    from labelscape.scoring.engines import state_arrays

    w = world.make(tmp_path, 64, 80)
    net = create_model("fcn", in_channels=3, classes=3, widths=(8, 8, 8, 8))
    from labelscape.checkpoint import Checkpoint

    save(
        Checkpoint(
            network="fcn",
            options={"widths": [8, 8, 8, 8]},
            weights=state_arrays(net),
            legend=world.LEGEND,
            contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
        ),
        tmp_path / "m.safetensors",
    )
    common = (
        "map",
        tmp_path / "m.safetensors",
        w.scene,
        "--out",
        tmp_path / "map",
        "--no-report",
        "--device",
        "cpu",
    )
    assert run_cli(*common, "--polygons-as", "dxf")[0] == 2
    code, _, err = run_cli(*common, "--polygons-as", "geojson", "--simplify", 20)
    assert code == 0, err
    item = json.loads((tmp_path / "map" / "scene_stac.json").read_text())
    assert {kind: asset["href"] for kind, asset in item["assets"].items()} == {
        "class": "./scene_class.tif",
        "confidence": "./scene_confidence.tif",
        "polygons": "./scene_polygons.geojson",
        "run": "./scene_run.json",
    }
    plain = world.make(tmp_path, 64, 80, crs=None, name="plain")
    code, _, err = run_cli(
        "map",
        tmp_path / "m.safetensors",
        plain.scene,
        "--out",
        tmp_path / "flat",
        "--no-report",
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert not list((tmp_path / "flat").glob("*_stac.json")) and list(
        (tmp_path / "flat").glob("*_polygons.gpkg")
    )


def test_specks_bring_a_hint_at_the_minimum_mapping_unit(tmp_path, run_cli):
    specks = np.random.default_rng(0).integers(0, 3, (30, 30)).astype(np.uint8)
    raster = world.write(tmp_path / "specks.tif", specks)
    _, _, err = run_cli("polygonize", raster, tmp_path / "p.gpkg")
    assert "of them are smaller than 8 pixels: a minimum mapping unit (--sieve)" in err
    _, _, err = run_cli("polygonize", raster, tmp_path / "q.gpkg", "--sieve", 0.2)
    assert "smaller than" not in err


def test_paths_written_are_printed(tmp_path, run_cli):
    raster = np.zeros((40, 40), np.uint8)
    raster[:, 20:] = 1
    path = world.write(tmp_path / "classes.tif", raster)
    for verb, out, more in (
        ("polygonize", tmp_path / "p.gpkg", ()),
        ("sieve", tmp_path / "s.tif", ("--min-area", "0.01")),
    ):
        code, printed, err = run_cli(verb, str(path), str(out), *more)
        assert code == 0, err
        assert printed.splitlines()[-1].split(maxsplit=1)[1] == str(out)


def test_a_shapefile_is_refused_with_what_to_use(tmp_path, run_cli):
    path = world.write(tmp_path / "classes.tif", np.zeros((40, 40), np.uint8))
    code, _, err = run_cli("polygonize", str(path), str(tmp_path / "p.shp"))
    assert code == 2 and "10 characters" in err and "use p.gpkg" in err
