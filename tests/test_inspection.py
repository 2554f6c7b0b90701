import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
import world
from safetensors.numpy import save as to_bytes

from labelscape.areas.polygon_files import SUFFIXES
from labelscape.areas.polygonize import polygonize
from labelscape.areas.style import polygon_style
from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.contract import Contract
from labelscape.demo import demo_checkpoint
from labelscape.errors import BadFile, WrongType
from labelscape.inspection import info
from labelscape.inspection.beside import ENDINGS
from labelscape.maps.outputs import all_outputs
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.rasters.style import write_styles
from labelscape.scenes.vectors import write_layer
from labelscape.scoring.engines import state_arrays


def rows(found):
    """Label -> text of what is printed."""
    pairs = (line.split("  ", 1) for line in found.text.partition("\n\n")[0].splitlines())
    return {label: text.strip() for label, text in pairs}


def test_a_checkpoint_without_its_weights():
    found = info(demo_checkpoint())
    assert found.kind == "checkpoint"
    assert "weights" not in found.facts
    assert found.facts["network"] == "mlp" and found.facts["bands"][0] == "B02"
    assert rows(found)["measured on"] == "held-out blocks of IMG_DATA"
    assert rows(found)["file size"] == f"{demo_checkpoint().stat().st_size / 1e6:.2f} MB"
    assert repr(found) == found.text


def test_commands_to_copy_hold_in_a_shell(tmp_path):
    for name in ("mlp.safetensors", "with space.safetensors", "it's $HOME.safetensors"):
        model = tmp_path / name
        shutil.copyfile(demo_checkpoint(), model)
        words = shlex.split(rows(info(model))["use"])
        assert words == ["labelscape", "map", str(model), "SCENE", "--out", "FOLDER"]


def test_torch_is_not_loaded():
    code = (
        "import sys; from labelscape.inspection import info; from labelscape.demo import demo_checkpoint; "
        "info(demo_checkpoint()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_scene_with_and_without_coordinates(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=4, nodata=0)
    with rasterio.open(w.scene, "r+") as file:
        file.scales, file.offsets = [0.0001] * 4, [-0.1] * 4
        file.descriptions = ("red", "green", "blue", "nir")
    found = info(w.scene)
    assert found.kind == "scene"
    assert rows(found) == {
        "scene": str(w.scene),
        "size": "128 x 96 pixels",
        "CRS": "EPSG:32633",
        "pixel size": "10 m (10 m on the ground)",
        "bounds": "400000, 5799040, 401280, 5800000 (left, bottom, right, top)",
        "bands": "4: red, green, blue, nir",
        "data type": "uint16",
        "nodata": "0",
        "units": "declared: value x 0.0001 - 0.1",
        "in memory": "98.3 kB",
        "use": "labelscape train SCENE --labels FILE; labelscape map MODEL SCENE --out FOLDER",
    }
    facts = json.loads(json.dumps(found.to_dict()))
    assert (facts["width"], facts["nodata"], facts["units"][3]) == (128, 0, [0.0001, -0.1])
    plain = info(world.write(tmp_path / "plain.tif", w.pixels, crs=None))
    assert rows(plain)["CRS"] == "none: an image without coordinates"
    assert "pixel size" not in rows(plain)
    assert rows(plain)["nodata"] == "none declared"
    degrees = info(world.write(tmp_path / "d.tif", w.pixels, crs="EPSG:4326", transform=world.DEGREES))
    assert rows(degrees)["pixel size"] == "0.0001 degrees (8.742 m on the ground)"


def test_several_files_of_one_scene(tmp_path, run_cli):
    w = world.make(tmp_path, bands=2)
    files = [world.write(tmp_path / f"B0{i}.tif", band) for i, band in enumerate(w.pixels)]
    assert info(files).facts["bands"] == ["B00", "B01"]
    code, out, _ = run_cli("info", ",".join(map(str, files)), "--json")
    assert code == 0 and json.loads(out)["bands"] == ["B00", "B01"]


def test_statistics_of_a_scene_are_those_of_its_pixels(tmp_path):
    w = world.make(tmp_path, 96, 128, bands=2, dtype="float32")
    found = info(w.scene, statistics=True)
    for band, values in zip(found.facts["statistics"], w.pixels, strict=True):
        assert band["mean"] == pytest.approx(values.mean(), rel=1e-4)
        assert (band["min"], band["max"]) == pytest.approx((values.min(), values.max()), rel=1e-6)
    holed = info(world.write(tmp_path / "nan.tif", w.pixels, nodata=np.nan))
    assert (holed.facts["nodata"], rows(holed)["nodata"]) == ("nan", "nan")
    assert "band (sampled)" in found.text and "statistics" not in info(w.scene).facts


@pytest.fixture
def result(tmp_path):
    net = create_model("fcn", in_channels=3, classes=3, widths=[4, 4, 4, 4])
    contract = Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3)
    options = {"widths": [4, 4, 4, 4]}
    model = Checkpoint("fcn", options, state_arrays(net), world.LEGEND, contract)
    scene = world.make(tmp_path, 96, 128, nodata=0).scene
    return map_scene(model, scene, tmp_path / "map", device="cpu", report=False, sieve=0.5)


def test_a_map_by_its_folder_its_settings_and_its_raster(result, run_cli):
    folder = result.paths["run"].parent
    found = info(folder)
    assert found.kind == "map" and found.text == info(result.paths["run"]).text
    assert rows(found)["Network"] == "fcn" and rows(found)["Minimum mapping unit"].startswith("0.5 ha")
    assert "Missing files" not in rows(found)
    printed = {line[:20].strip(): line.split() for line in found.text.partition("\n\n")[2].splitlines()}
    assert [printed[a.name][-3] for a in result.areas] == [f"{a.pixels:,}" for a in result.areas]
    result.paths["polygons"].unlink()
    assert rows(info(folder))["Missing files"] == "scene_polygons.gpkg"
    code, out, _ = run_cli("info", folder, "--json")
    assert code == 0
    assert json.loads(out)["missing_files"] == ["scene_polygons.gpkg"]

    raster = info(result.paths["class"])
    assert raster.kind == "class map"
    assert rows(raster)["classes"] == "0 water, 1 field, 2 forest"
    assert rows(raster)["settings"] == f"labelscape info {result.paths['run']}"
    assert "areas" not in raster.facts
    counted = info(result.paths["class"], statistics=True).facts["areas"]
    assert [a["pixels"] for a in counted] == [a.pixels for a in result.areas]
    assert [a["hectares"] for a in counted] == pytest.approx([a.hectares for a in result.areas], rel=1e-6)
    assert rows(info(result.paths["sieved"]))["made by"].endswith("fcn, sieved to 0.5 ha")


def test_a_class_map_of_another_program(tmp_path):
    values = np.array([[3, 3], [7, 255]], np.uint8)
    path = world.write(tmp_path / "other.tif", values, nodata=255)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {3: (1, 2, 3), 7: (4, 5, 6)})
    found = info(path)
    assert found.kind == "class map" and "made by" not in rows(found)
    counted = info(path, statistics=True).facts["areas"]
    assert [(a["name"], a["pixels"]) for a in counted] == [("class 3", 2), ("class 7", 1)]


def test_a_folder_of_several_checkpoints_lists_them(tmp_path, run_cli):
    for name in ("a", "b"):
        save(load(demo_checkpoint()), tmp_path / "run" / f"{name}.safetensors")
    (tmp_path / "run" / "a.csv").write_text("step,loss,rate\n1,2.5,0.1\n2,0.5,0.1\n")
    (tmp_path / "run" / "mine.xyz").write_text("?")
    (tmp_path / "run" / ".hidden").write_text("?")
    found = info(tmp_path / "run")
    assert found.kind == "folder" and rows(found)["holds"] == "checkpoint (2), table, unknown"
    assert [e["name"] for e in found.facts["entries"]] == [
        "a.csv",
        "a.safetensors",
        "b.safetensors",
        "mine.xyz",
    ]
    log = info(tmp_path / "run" / "a.csv")
    assert (log.facts["rows"], log.facts["last"]["loss"]) == (2, "0.5")
    assert rows(log)["last row"] == "step 2, loss 0.5, rate 0.1"
    code, out, _ = run_cli("info", tmp_path / "run", "--json")
    assert code == 0 and json.loads(out)["entries"][1]["kind"] == "checkpoint"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadFile, match="is not a folder of a map, a data set or a scene: "):
        info(tmp_path / "empty")


def test_every_file_of_a_map_says_what_it_is_and_what_to_do_with_it(result, run_cli):
    for kind, path in result.paths.items():
        found = info(path)
        assert "use" in rows(found), kind
        code, out, _ = run_cli("info", path, "--json")
        assert code == 0 and json.loads(out)["kind"] == found.kind
    kinds = {kind: info(path).kind for kind, path in result.paths.items()}
    assert kinds == {
        "class": "class map",
        "confidence": "map raster",
        "sieved": "class map",
        "polygons": "polygons",
        "stac": "STAC item",
        "run": "map",
    }
    # The folder lists them all, and prints no dictionary of Python.
    whole = info(result.paths["run"].parent)
    assert {e["name"] for e in whole.facts["entries"]} == {
        f.name for f in result.paths["run"].parent.iterdir()
    }
    assert not [e for e in whole.facts["entries"] if "not of this map" in e["use"]]
    write_styles(result.paths["confidence"])
    assert "scene_confidence.qml" in info(result.paths["run"]).text
    assert "not of this map" not in info(result.paths["run"]).text
    (result.paths["run"].parent / "other.gpkg").write_bytes(b"?")
    assert "other.gpkg" in info(result.paths["run"]).text.partition("not of this map")[0]
    assert "{" not in whole.text and "scene_polygons.gpkg" in whole.text
    side = info(f"{result.paths['class']}.aux.xml")
    assert rows(side)["classes"] == "0 water, 1 field, 2 forest" and "missing" not in rows(side)["raster"]


def test_every_output_of_a_map_has_a_meaning():
    endings = {o.ending.format(s) for o in all_outputs() for s in (SUFFIXES if "{}" in o.ending else ("",))}
    assert endings <= ENDINGS.keys()
    # A longer ending before a shorter one, which would hide it.
    seen: list[str] = []
    for ending in ENDINGS:
        assert not [one for one in seen if ending.endswith(one)], ending
        seen.append(ending)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_polygons_of_a_map_have_its_classes_and_areas(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    values = np.full((40, 40), 1, np.uint8)
    values[:10, :10], values[20:, 20:] = 0, 255
    raster = world.write(tmp_path / "m.tif", values, nodata=255)
    polygonize(raster, tmp_path / f"m{suffix}", world.LEGEND)
    found = info(tmp_path / f"m{suffix}")
    (layer,) = found.facts["layers"]
    assert layer["features"] == 2 and set(layer["columns"]) == {"value", "class", "pixels", "area_ha"}
    assert [(c["name"], c["polygons"], c["pixels"]) for c in layer["classes"]] == [
        ("water", 1, 100),
        ("field", 1, 1100),
    ]
    assert layer["classes"][0]["hectares"] == pytest.approx(1.0, rel=0.01)
    # GeoJSON is in degrees by its standard.
    assert layer["crs"] == ("EPSG:4326" if suffix == ".geojson" else "EPSG:32633")
    json.dumps(found.to_dict(), allow_nan=False)
    assert "water" in found.text


def test_a_review_file_says_how_many_areas_are_answered_and_what_to_do(tmp_path):
    columns = {"class": "water", "class_right": None, "answer": None}
    path = tmp_path / "review.gpkg"
    answers = [("field", None), (None, "right"), (None, None), ("", "")]
    given = [columns | {"class_right": right, "answer": answer} for right, answer in answers]
    write_layer(
        str(path),
        shapely.to_wkb([shapely.box(i, 0, i + 1, 1) for i in range(4)]),
        {name: np.array([row[name] for row in given], object) for name in columns},
        layer="review",
        geometry="Polygon",
        crs="EPSG:32633",
    )
    found = info(path)
    assert found.facts["answered"] == 2 and rows(found)["answered"] == "2 of 4 areas"
    assert f"--corrections {path}" in rows(found)["use"] and "COLUMN" not in rows(found)["use"]


def test_polygons_name_only_options_that_they_need(tmp_path):
    w = world.make(tmp_path, 40, 40)
    use = rows(info(world.rectangle(w, tmp_path / "area.geojson", 0, 0, 8, 8)))["use"]
    # Without a column there is no class to choose, and with one layer no layer.
    assert "--area FILE" in use and "--background" in use and "COLUMN" not in use
    use = rows(info(world.label_polygons(w, tmp_path / "fields.gpkg")))["use"]
    assert "--class-column COLUMN" in use and "--layer" not in use


def test_polygons_of_others_and_lost_files_of_a_shapefile(tmp_path):
    w = world.make(tmp_path, 40, 40)
    path = world.label_polygons(w, tmp_path / "fields.shp")
    found = info(path)
    assert found.facts["layers"][0]["classes"] == [] and found.facts["missing_files"] == []
    path.with_suffix(".prj").unlink()
    assert rows(info(path))["Missing files"] == "fields.prj (its CRS)"
    assert info(path).facts["layers"][0]["crs"] is None
    assert info(path.with_suffix(".dbf")).kind == "side file"


@pytest.mark.parametrize("suffix", [".shp", ".gpkg"])
def test_zipped_polygons_are_those_that_are_zipped(tmp_path, suffix):
    w = world.make(tmp_path, 40, 40)
    path = world.label_polygons(w, tmp_path / f"fields{suffix}")
    with zipfile.ZipFile(tmp_path / "fields.zip", "w") as archive:
        for file in tmp_path.glob("fields.*"):
            if file.suffix != ".zip":
                archive.write(file, f"inner/{file.name}")
    plain, found = info(path), info(tmp_path / "fields.zip")
    assert found.kind == plain.kind and found.facts["layers"] == plain.facts["layers"]
    # Of a zipped scene the member is named, which can be given instead.
    with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
        archive.write(w.scene, w.scene.name)
    with pytest.raises(BadFile, match="is an archive: unpack it, or name a file in it .*/vsizip/"):
        info(tmp_path / "scene.zip")


def test_a_geopackage_of_a_raster_is_a_scene(tmp_path):
    w = world.make(tmp_path, 64, 64, bands=3)
    pixels = (w.pixels % 251).astype(np.uint8)
    profile = {"count": 3, "height": 64, "width": 64, "crs": w.crs, "transform": w.transform}
    with rasterio.open(tmp_path / "r.gpkg", "w", driver="GPKG", dtype="uint8", **profile) as file:
        file.write(pixels)
    assert info(tmp_path / "r.gpkg").kind == "scene"
    (tmp_path / "bad.gpkg").write_bytes(b"words")
    with pytest.raises(BadFile, match="cannot be read as a vector file"):
        info(tmp_path / "bad.gpkg")


def test_a_raster_of_few_values_is_taken_for_labels(tmp_path):
    w = world.make(tmp_path, 64, 64)
    labels = world.write(tmp_path / "truth.tif", w.classes)
    found = info(labels)
    assert found.kind == "label raster"
    assert {v["value"] for v in found.facts["values"]} == set(np.unique(w.classes).tolist())
    assert sum(v["share"] for v in found.facts["values"]) == pytest.approx(1)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    assert info(world.write(tmp_path / "grey.tif", noise)).kind == "scene"
    assert info(world.write(tmp_path / "float.tif", w.classes.astype("float32"))).kind == "scene"


def test_a_folder_of_pairs_is_a_data_set(tmp_path):
    w = world.make(tmp_path, 32, 32)
    for side in ("images", "labels"):
        (tmp_path / "set" / side).mkdir(parents=True)
    for part, names in (("train", "ab"), ("val", "c")):
        for name in names:
            for side, pixels in (("images", w.pixels), ("labels", w.classes)):
                world.write(tmp_path / "set" / side / f"{name}.tif", pixels)
        (tmp_path / "set" / f"{part}.txt").write_text("\n".join(names))
    (tmp_path / "set" / "classes.json").write_text(world.LEGEND.to_json())
    found = info(tmp_path / "set")
    assert (found.kind, found.facts["pairs"], found.facts["parts"]) == ("data set", 3, {"train": 2, "val": 1})
    assert rows(found)["classes"] == "0 water, 1 field, 2 forest"
    assert info(tmp_path / "set" / "classes.json").kind == "legend"
    assert rows(info(tmp_path / "set" / "train.txt"))["names"] == "2"
    # Three pictures of one place are no scene, and the folder says why.
    alone = info(tmp_path / "set" / "images")
    assert alone.kind == "folder" and "not one scene" in rows(alone)


def test_what_export_writes_is_named(tmp_path):
    for name in ("u.xml", "u.bin", "u_card.md", "u.onnx", "w.bin", "v.xml"):
        (tmp_path / name).write_text("?")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("?")
    (tmp_path / "card").mkdir()
    listed = {e["name"]: e for e in info(tmp_path).facts["entries"]}
    assert {name: e["kind"] for name, e in listed.items()} == {
        "card": "folder",
        "model": "exported model",
        "u.bin": "side file",
        "u.onnx": "exported model",
        "u.xml": "exported model",
        "u_card.md": "model card",
        "v.xml": "unknown",
        "w.bin": "unknown",
    }
    assert "u.xml" in listed["u.bin"]["use"] and "--start" in listed["model"]["use"]
    assert info(tmp_path / "u_card.md").kind == "model card"


def test_styles_and_pages(tmp_path):
    (tmp_path / "a.qml").write_text(polygon_style(world.LEGEND))
    assert rows(info(tmp_path / "a.qml"))["categories"] == "water, field, forest"
    (tmp_path / "a_report.html").write_text("<html><title>Map of \x1b[31mA</title>")
    assert rows(info(tmp_path / "a_report.html"))["report"].endswith("a_report.html")
    assert info(tmp_path / "a_report.html").facts["title"] == "Map of  [31mA"  # no commands to the terminal
    (tmp_path / "a.qml").write_text("<qgis")
    with pytest.raises(BadFile, match="is damaged, or not the style that its name says"):
        info(tmp_path / "a.qml")


@pytest.mark.parametrize("name", ["notes.txt", "polygons.geojson", "empty.tif"])
def test_what_is_nothing_of_all_this_gets_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("" if name == "empty.tif" else "words")
    with pytest.raises(
        BadFile, match="is not a checkpoint, a map, a scene or polygons: |cannot be read as JSON|is empty"
    ) as said:
        info(tmp_path / name)
    assert len(str(said.value)) < 400 and str(said.value).endswith(".")
    with pytest.raises(BadFile, match=r"none\.tif does not exist\.$"):
        info(tmp_path / "none.tif")
    with pytest.raises(WrongType, match="must be given as a path"):
        info(None)


@pytest.mark.parametrize(
    "fields",
    [
        {"network": None},
        {"options": 5},
        {"legend": [[1]]},
        {"bands": [["1"]]},
        {"recipe": []},
        {"scores": None},
        {"temperature": "warm"},
        {"nodata": [0]},
    ],
)
def test_a_damaged_description_gets_one_sentence(tmp_path, fields):
    path = tmp_path / "m.safetensors"
    described = {**load(demo_checkpoint()).describe(), **fields}
    path.write_bytes(to_bytes({"a": np.zeros(1)}, metadata={"labelscape": json.dumps(described)}))
    with pytest.raises(BadFile, match=r"m\.safetensors has a damaged description \("):
        info(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"files": 1, "areas": [], "software": ""}',
        '{"files": {"class": 5}, "areas": [], "software": ""}',
        '{"files": {}, "areas": [{}], "software": ""}',
        '{"files": {}, "areas": [], "software": "", "seam_score": "low"}',
    ],
)
def test_a_damaged_run_file_gets_one_sentence(tmp_path, text):
    (tmp_path / "a_run.json").write_text(text)
    with pytest.raises(BadFile, match=r"a_run\.json is not the _run\.json of a map, or is damaged \("):
        info(tmp_path / "a_run.json")
    (tmp_path / "a_run.json").write_text("{}")
    with pytest.raises(BadFile, match=r"a_run\.json is not the _run\.json of a map"):
        info(tmp_path)
    (tmp_path / "a_run.json").write_text("[" * 100_000)
    with pytest.raises(BadFile, match=r"cannot be read as JSON"):
        info(tmp_path)


def test_nan_as_nodata_of_a_checkpoint_is_json(tmp_path):
    made = load(demo_checkpoint())
    path = save(
        replace(made, contract=replace(made.contract, nodata=float("nan"))), tmp_path / "m.safetensors"
    )
    facts = json.loads(json.dumps(info(path).to_dict(), allow_nan=False))
    assert facts["nodata"] == "nan" and load(path).contract.nodata != load(path).contract.nodata
