"""The check on photographs: bytes, lossy compression, colours that are alike; and mistakes undone by the
very cure that the check names.
"""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from scipy import ndimage

from labelscape.checkpoint import save
from labelscape.contract.bands import QUANTILES
from labelscape.contract.compare import compare
from labelscape.contract.difference import verdict
from labelscape.contract.likeness import Likeness, explain
from labelscape.contract.sample import MOST_BLOCKS, sample_scene
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.scenes.raster import FileScene
from labelscape.scenes.scene import Scene

COLOURS = ("red", "green", "blue")
GROUND = np.array([[70, 90, 60], [140, 120, 100], [200, 190, 180], [45, 55, 50]])
"""Red, green and blue of fields, bare soil, roofs and shadow."""
SIZE = 256
PLACE = Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)


def photograph(seed, *, size=SIZE, gain=1.0):
    """(3, size, size) float: patches of ground with soft borders, hills and noise."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(4, size, size)), (0, 6, 6))
    share = np.exp(3 * fields / fields.std())
    pixels = np.einsum("kc,khw->chw", GROUND, share / share.sum(axis=0))
    light = ndimage.gaussian_filter(rng.normal(size=(size, size)), 20)
    return np.clip(
        pixels * np.exp(0.15 * light / light.std()) * gain + rng.normal(0, 4, pixels.shape), 1, 254
    )


def write(path, pixels, *, dtype="uint8", transform=PLACE, names=COLOURS, **options):
    world.write(path, pixels.astype(dtype), transform=transform, **options)
    if names and options.get("photometric") != "ycbcr":
        with rasterio.open(path, "r+") as file:
            file.descriptions = names
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network with the contract of a photograph."""
    trained = write(tmp_path_factory.mktemp("trained") / "trained.tif", photograph(0))
    made = world.tiny_checkpoint("fcn", like=trained, warmed=False)
    return replace(made, contract=replace(made.contract, colours=None))  # those are test_colours' business


def findings(model, path, **options):
    with Scene(path, **options) as scene:
        return compare(model.contract, scene)


def refusals(model, path, **options):
    return {f.kind: f.cause for f in findings(model, path, **options) if f.level == "REFUSED"}


def mended(pixels, cause):
    """The pixels after the gdal_translate that a cause advises: bands chosen, values scaled."""
    order = [int(n) - 1 for n in re.findall(r"-b (\d+)", cause)] or list(range(len(pixels)))
    pixels = pixels[order].astype(np.float64)
    ends = re.search(r"-scale (\S+) (\S+) (\S+) (\S+)", cause)
    if ends:
        low, high, to_low, to_high = (float(n) for n in ends.groups())
        pixels = to_low + (pixels - low) * (to_high - to_low) / (high - low)
    return pixels


# --------------------------------------------------------------------------------------------- no false alarm


@pytest.mark.parametrize("gain", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_photographs_of_the_same_country_fit_in_any_light(model, tmp_path, seed, gain):
    path = write(tmp_path / "a.tif", photograph(seed, gain=gain))
    assert verdict(findings(model, path)) == "FITS"
    assert not refusals(model, path)


def test_any_part_of_a_photograph_fits(model):
    known = np.array([s.quantiles for s in model.contract.statistics])
    rng, wrong = np.random.default_rng(0), []
    for seed in range(40):
        whole = photograph(100 + seed, gain=rng.uniform(0.8, 1.25))
        for side in (48, 128):
            top, left = rng.integers(0, SIZE - side, 2)
            part = whole[:, top : top + side, left : left + side].reshape(3, -1)
            found = explain(np.quantile(part, QUANTILES, axis=1).T, known)
            if found != Likeness():
                wrong.append((seed, side, found))
    assert not wrong


def test_a_lake_is_dark_and_no_scaled_photograph(model, tmp_path):
    lake = np.clip(np.random.default_rng(0).normal(8, 2, (3, SIZE, SIZE)), 1, 30)
    assert not refusals(model, write(tmp_path / "lake.tif", lake))
    assert {f.kind for f in findings(model, tmp_path / "lake.tif")} == {"values"}


def test_colours_that_are_alike_are_not_said_to_be_swapped(model, tmp_path):
    """Roofs are as blue as they are red: values cannot tell, so nothing is claimed. (Names can: a file
    that has them is read by them.)
    """
    for order in itertools.permutations(range(3)):
        assert not refusals(
            model, write(tmp_path / "b.tif", photograph(3, gain=1.1)[list(order)] * 0.3 + 90, names=None)
        )


# ----------------------------------------------------------------------------------- mistakes and their cures


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize(
    ("factor", "dtype", "says"),
    [
        (1 / 255, "float32", "values look divided by 255"),
        (257, "uint16", "values look multiplied by 257"),
        (1 / 100, "float32", "values look divided by"),
    ],
)
def test_scaled_bytes_are_named_and_the_cure_cures(model, tmp_path, seed, factor, dtype, says):
    pixels = (photograph(seed, gain=0.9) * factor).astype(dtype)
    causes = refusals(model, write(tmp_path / "c.tif", pixels, dtype=dtype))
    assert list(causes) == ["factor"]
    assert causes["factor"].startswith(says)
    assert "-ot Byte" in causes["factor"]
    assert not refusals(model, write(tmp_path / "d.tif", mended(pixels, causes["factor"])))


@pytest.mark.parametrize("resolution", [0.25, 1.0])
def test_a_photograph_from_another_height(model, tmp_path, resolution):
    place = Affine(resolution, 0, 400_000, 0, -resolution, 5_800_000)
    [found] = findings(model, write(tmp_path / "e.tif", photograph(6), transform=place))
    assert found.kind == "pixel size"
    assert found.level != "FITS"
    assert f"the scene's pixels are {resolution:g} m wide, the model was trained on 0.5 m" in found.cause


# ---------------------------------------------------------------------------------------------------- borders


def collared(value, *, seed=7):
    pixels = photograph(seed, size=512)
    rows, columns = np.indices((512, 512))
    pixels[:, rows + 2 * columns < 300] = value
    return pixels


JPEG = {
    "compress": "jpeg",
    "photometric": "ycbcr",
    "tiled": True,
    "blockxsize": 256,
    "blockysize": 256,
    "JPEG_QUALITY": 70,
}


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("options", [{}, JPEG], ids=["exact", "jpeg"])
def test_a_border_is_named_even_where_compression_smears_it(model, tmp_path, value, options):
    path = write(tmp_path / "f.tif", collared(value), **options)
    with rasterio.open(path) as file:
        value = file.read(1)[0, 0]  # compression may make a 1 of a 0 everywhere
    causes = refusals(model, path)
    assert list(causes) == ["border"]
    assert causes["border"].startswith(f"all bands are {value} along the scene's edge")
    assert causes["border"].endswith(f"Pass `nodata={value}`")
    assert "border" not in refusals(model, path, nodata=value)


def test_a_declared_border_is_none(model, tmp_path):
    assert not refusals(model, write(tmp_path / "g.tif", collared(0), nodata=0))
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(write(tmp_path / "h.tif", collared(255)), "r+") as file,
    ):
        file.write_mask(~(file.read() == 255).all(axis=0))
    assert not refusals(model, tmp_path / "h.tif")


@pytest.mark.parametrize("top", [0, 100, 200])
@pytest.mark.parametrize("value", [0, 254, 255])
def test_a_roof_or_a_shadow_at_the_edge_is_no_border(model, tmp_path, value, top):
    pixels = photograph(12)
    pixels[:, top : top + 40, :30] = value
    assert "border" not in refusals(model, write(tmp_path / "k.tif", pixels))


@pytest.mark.parametrize("fade", [12, 30, 60])
def test_a_saturated_cloud_is_no_border(model, tmp_path, fade):
    rows, columns = np.indices((512, 512))
    cloud = np.clip(255 + (150 - np.hypot(rows, columns)) * 200 / fade, 0, 255)
    pixels = np.maximum(photograph(8, size=512), cloud)
    assert (pixels == 255).all(axis=0).mean() > 0.05
    assert "border" not in refusals(model, write(tmp_path / "i.tif", pixels))
    assert not refusals(model, write(tmp_path / "j.tif", pixels, **JPEG))


# --------------------------------------------------------------------------------------------------- any size


@pytest.mark.parametrize(
    "layout", [{"tiled": True, "blockxsize": 512, "blockysize": 512}, {}], ids=["tiled", "striped"]
)
def test_a_huge_scene_costs_a_bounded_number_of_blocks(model, tmp_path, monkeypatch, layout):
    profile = {
        "driver": "GTiff",
        "width": 100_000,
        "height": 100_000,
        "count": 3,
        "dtype": "uint8",
        "crs": world.UTM,
        "transform": PLACE,
        "sparse_ok": True,
        "bigtiff": "yes",
        "nodata": 0,
    }
    with rasterio.open(tmp_path / "huge.tif", "w", **profile, **layout) as file:
        file.descriptions = COLOURS
    read = []
    real = FileScene.read
    monkeypatch.setattr(
        FileScene, "read", lambda self, window=None, *rest: read.append(window) or real(self, window, *rest)
    )
    with Scene(tmp_path / "huge.tif") as scene:
        assert sample_scene(scene, COLOURS).blocks == len(read) <= MOST_BLOCKS == 64
    assert max(window.pixels for window in read) <= 512 * 512
    read.clear()
    result = check(model, tmp_path / "huge.tif", device="cpu", timing=False)
    assert result.verdict == "FITS"
    assert len(read) <= 64
    assert result.plan.tiles == len(range(0, 100_000, result.plan.core)) ** 2


# --------------------------------------------------------------------------------------------------- the verb


def test_a_refused_scene_ends_in_one_message_and_a_forced_one_remembers(model, tmp_path, run_cli):
    checkpoint = save(model, tmp_path / "model.safetensors")
    bad = write(tmp_path / "bad.tif", photograph(9) / 255, dtype="float32")
    code, out, err = run_cli(
        "map", checkpoint, bad, "--out", tmp_path / "map", "--no-report", "--no-polygons"
    )
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert err.count("bad does not fit this model: values look divided by 255") == 1
    assert "--force" in err
    assert not (tmp_path / "map").exists()
    code, out, err = run_cli(
        "map", checkpoint, bad, "--out", tmp_path / "map", "--no-report", "--no-polygons", "--force", "--json"
    )
    assert code == 0, err
    assert any("divided by 255" in note for note in json.loads(out)["notes"])
    with rasterio.open(tmp_path / "map" / "bad_class.tif") as file:
        assert file.tags()["labelscape_forced"].startswith("values look divided by 255")


def test_bands_that_are_not_there_cannot_be_forced(model, tmp_path, run_cli):
    checkpoint = save(model, tmp_path / "model.safetensors")
    grey = write(tmp_path / "grey.tif", photograph(10)[:1], names=("grey",))
    code, out, err = run_cli("check", checkpoint, grey, "--json")
    assert code == 1
    told = json.loads(out)
    assert told["plan"] is None
    assert [(f["kind"], f["level"]) for f in told["findings"]] == [("band count", "REFUSED")]
    for force in ([], ["--force"]):
        code, out, err = run_cli("map", checkpoint, grey, "--out", tmp_path / "map", *force)
        assert code == 1
        assert err.count("grey has 1 band (grey); this model reads 3 (red green blue)") == 1


def test_check_ends_with_what_the_map_costs(model, tmp_path, run_cli):
    checkpoint, scene = (
        save(model, tmp_path / "model.safetensors"),
        write(tmp_path / "fine.tif", photograph(11)),
    )
    code, out, _ = run_cli("check", checkpoint, scene)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["FITS", "tiles", "memory", "disk", "time"]
    code, out, _ = run_cli("check", checkpoint, scene, "--json", "--no-timing")
    plan = json.loads(out)["plan"]
    assert plan["tiles"] == 1
    assert plan["minutes"] is None
    assert plan["ram"] > plan["gpu"] == 0
    result = map_scene(model, scene, tmp_path / "map", device="cpu", report=False, polygons=False)
    assert sum(path.stat().st_size for path in result.paths.values()) < plan["disk"] + 20_000
