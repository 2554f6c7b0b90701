"""Mosaics, areas of interest and mended scenes, mapped: the same classes as the plain scene they stand
for.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely
import world
from affine import Affine

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.adjust import fitted
from labelscape.errors import BadInput
from labelscape.maps.plan import check
from labelscape.maps.rerun import rerun
from labelscape.maps.run import map_scene
from labelscape.scenes.raster import Scene

QUICK = {"report": False, "polygons": False, "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return world.ten_metre_fcn()


def classes_of(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_a_folder_of_tiles_maps_like_the_scene(model, tmp_path):
    made = world.make(tmp_path, 150, 210)
    folder = tmp_path / "tiles"
    folder.mkdir()
    for row in range(0, 150, 50):
        for column in range(0, 210, 70):
            place = world.NORTH_UP @ Affine.translation(column, row)
            world.write(
                folder / f"{row}_{column}.tif",
                made.pixels[:, row : row + 50, column : column + 70],
                transform=place,
            )
    whole = map_scene(model, made.scene, tmp_path / "a", **QUICK)
    tiled = map_scene(model, folder, tmp_path / "b", **QUICK)
    assert tiled.paths["class"].name == "tiles_class.tif"
    assert np.array_equal(classes_of(whole.paths["class"]), classes_of(tiled.paths["class"]))
    with rasterio.open(tiled.paths["class"]) as file:
        assert file.transform == world.NORTH_UP and file.crs == world.UTM
    assert [a.hectares for a in tiled.areas] == [a.hectares for a in whole.areas]


def test_only_the_area_is_mapped(model, tmp_path):
    made = world.make(tmp_path, 200, 240)
    ring = shapely.Polygon([world.NORTH_UP @ c for c in ((60.2, 40.2), (180.2, 40.2), (120.2, 160.2))])
    area = tmp_path / "area.gpkg"
    import pyogrio

    pyogrio.raw.write(
        area, np.array([shapely.to_wkb(ring)]), [], [], geometry_type="Polygon", crs="EPSG:32633"
    )
    result = map_scene(model, made.scene, tmp_path / "map", area=area, **QUICK)
    whole = classes_of(map_scene(model, made.scene, tmp_path / "whole", **QUICK).paths["class"])
    cut = classes_of(result.paths["class"])
    assert cut.shape == (121, 121)
    inside = cut != 255
    assert inside.sum() * 100 == pytest.approx(ring.area, rel=0.01)
    # Around the area the network sees nothing, so only pixels farther from its edge than it can see are the
    # same as in the whole map.
    deep = (
        rasterio.features.rasterize(
            [ring.buffer(-250)], out_shape=cut.shape, transform=world.NORTH_UP @ Affine.translation(60, 40)
        )
        > 0
    )
    assert deep.sum() > 200 and (cut[deep] == whole[40:161, 60:181][deep]).mean() > 0.95
    assert json.loads(result.paths["run"].read_text())["options"]["area"] == str(area)


def test_finer_pixels_are_averaged_to_what_the_model_knows(model, tmp_path):
    coarse = world.make(tmp_path, 80, 90)
    fine = world.write(
        tmp_path / "fine.tif",
        np.kron(coarse.pixels, np.ones((1, 4, 4), np.uint16)),
        transform=world.NORTH_UP @ Affine.scale(0.25),
    )
    found = check(model, fine, timing=False)
    assert found.verdict == "FITS AFTER" and [f.kind for f in found.findings] == ["pixel size"]
    assert "2.5 m wide, the model was trained on 10 m: the scene is resampled" in found.findings[0].cause
    result = map_scene(model, fine, tmp_path / "map", **QUICK)
    assert np.array_equal(
        classes_of(result.paths["class"]),
        classes_of(map_scene(model, coarse.scene, tmp_path / "coarse", **QUICK).paths["class"]),
    )
    with pytest.raises(BadInput, match="2 times as wide"):
        map_scene(
            replace(model, contract=replace(model.contract, pixel_size=5.0)),
            coarse.scene,
            tmp_path / "wide",
            **QUICK,
        )


def test_declared_offsets_are_taken_back(model, tmp_path):
    old = world.make(tmp_path, 80, 90)
    new = world.write(tmp_path / "new.tif", old.pixels + 1000)
    with rasterio.open(new, "r+") as file:
        file.scales, file.offsets = [0.0001] * 3, [-0.1] * 3
    trained = replace(model, contract=replace(model.contract, units=((0.0001, 0.0),) * 3))
    with Scene(new) as scene:
        mended, found = fitted(trained.contract, scene)
        with mended:
            assert [f.kind for f in found] == ["units"] and "scale 0.0001 and offset -0.1" in found[0].cause
            assert (
                np.abs(mended.read().pixels - old.pixels).max() < 0.01
                and mended.read(None, ["2"]).pixels.shape[0] == 1
            )
        unknown, found = fitted(model.contract, scene)
        assert unknown is scene and not found
    result = map_scene(trained, new, tmp_path / "map", **QUICK)
    assert (
        classes_of(result.paths["class"])
        == classes_of(map_scene(model, old.scene, tmp_path / "old", **QUICK).paths["class"])
    ).mean() > 0.999


def test_a_map_made_again_has_the_same_bytes(model, tmp_path, run_cli):
    made = world.make(tmp_path, 150, 170)
    checkpoint = save(model, tmp_path / "fcn.safetensors")
    code, _, err = run_cli(
        "map",
        str(checkpoint),
        str(made.scene),
        "--out",
        str(tmp_path / "a"),
        "--tta",
        "mirror",
        "--reject",
        "0.4",
        "--tile-size",
        "128",
        "--overlap",
        "16",
        "--blend",
        "hann",
        "--no-report",
        "--name",
        "mine",
    )
    assert code == 0, err
    run = tmp_path / "a" / "mine_run.json"
    code, _, err = run_cli("map", "--rerun", str(run), "--out", str(tmp_path / "b"))
    assert code == 0, err
    for kind in ("class", "confidence"):
        assert (tmp_path / "a" / f"mine_{kind}.tif").read_bytes() == (
            tmp_path / "b" / f"mine_{kind}.tif"
        ).read_bytes()
    assert not (tmp_path / "b" / "mine_report.html").exists()
    fields = json.loads(run.read_text())
    assert fields["options"]["protocol"] == {"scales": [1.0], "tta": "mirror", "average": "probabilities"}
    assert fields.pop("request")["tta"] == "mirror"
    fields["options"]["protocol"] = {"scales": [1.0], "flips": "mirror", "merge": "probabilities"}
    older = tmp_path / "as_older_versions_wrote_it.json"
    older.write_text(json.dumps(fields))
    code, _, err = run_cli("map", "--rerun", str(older), "--out", str(tmp_path / "o"))
    assert code == 0, err
    assert (tmp_path / "a" / "mine_class.tif").read_bytes() == (tmp_path / "o/mine_class.tif").read_bytes()
    code, _, err = run_cli("map", "--rerun", str(run), "--out", str(tmp_path / "b"))
    assert code == 1 and "pass --overwrite" in err
    save(replace(model, temperature=2.0), checkpoint)
    code, _, err = run_cli("map", "--rerun", str(run), "--out", str(tmp_path / "c"))
    assert code == 1 and "is not the checkpoint that" in err
    code, _, err = run_cli("map", "--rerun", str(made.scene), "--out", str(tmp_path / "c"))
    assert code == 1 and "is not the _run.json of a map" in err
    code, _, err = run_cli("map", str(checkpoint), "--out", str(tmp_path / "c"))
    assert code == 2 and "needs a checkpoint and a scene" in err


def test_a_stac_item_maps_like_its_files(model, tmp_path):
    """Only the model's bands are opened: the file of band 4 is not even there."""
    made = world.make(tmp_path, 80, 90)
    for name, pixels in zip("123", made.pixels):
        world.write(tmp_path / f"{name}.tif", pixels)
    assets = {
        n: {"href": f"{n}.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": [{"name": n}]}
        for n in "3124"
    }
    item = tmp_path / "item.json"
    item.write_text(json.dumps({"type": "Feature", "id": "tile/33UUU", "properties": {}, "assets": assets}))
    result = map_scene(save(model, tmp_path / "model.safetensors"), str(item), tmp_path / "map", **QUICK)
    assert result.paths["class"].name == "tile_33UUU_class.tif" and result.notes == ()
    whole = map_scene(model, made.scene, tmp_path / "whole", **QUICK)
    assert np.array_equal(classes_of(result.paths["class"]), classes_of(whole.paths["class"]))
    assert check(model, str(item), timing=False).verdict == "FITS"
    again = rerun(result.paths["run"], tmp_path / "again")
    assert again.paths["class"].read_bytes() == result.paths["class"].read_bytes()
