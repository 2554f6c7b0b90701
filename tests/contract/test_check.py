"""Each way in which a scene can be wrong is named with its cause; scenes that are only different are not
refused.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import world
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from scipy import ndimage

from labelscape import demo
from labelscape.checkpoint import load, save
from labelscape.contract.alike import seen_in_pieces, unlike
from labelscape.contract.bands import QUANTILES
from labelscape.contract.compare import compare
from labelscape.contract.difference import verdict
from labelscape.contract.likeness import Likeness, explain
from labelscape.contract.sample import sampled_windows
from labelscape.contract.values import undeclared_nodata
from labelscape.errors import BadFile, BadInput
from labelscape.inspection import info
from labelscape.maps import duration
from labelscape.maps.plan import check
from labelscape.maps.run import map_scene
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.raster import Scene

NAMES = ("blue", "green", "red", "nir", "swir")
LEVELS = np.array([[800, 900], [1000, 1200], [900, 1700], [3200, 2600], [1700, 3000]])
"""Reflectance x 10,000 of vegetation and of bare ground, per band."""
SIZE = 240


def landscape(seed: int, *, bare: float = 0.0, water: float = 0.0, size: int = SIZE) -> np.ndarray:
    """(5, size, size) float: vegetation that runs smoothly into bare ground, hills and noise; `water` is
    the share of dark lakes, `bare` from -1 to 1.
    """
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, size, size)), (0, 12, 12))
    mix, hills, lakes = smooth / smooth.std(axis=(1, 2), keepdims=True)
    share = 1 / (1 + np.exp(-1.5 * mix - 2 * bare))
    pixels = LEVELS[:, :1, None] * (1 - share) + LEVELS[:, 1:, None] * share
    pixels = pixels * np.exp(0.1 * hills + rng.normal(0, 0.05, (5, size, size)))
    if water:
        pixels[:, lakes > np.quantile(lakes, 1 - water)] = np.array([500, 450, 300, 150, 60])[:, None]
    return pixels


def clouded(pixels: np.ndarray, share: float, seed: int) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=pixels.shape[1:]), 15)
    thick = np.clip((field - np.quantile(field, 1 - share)) / (field.std() + 1e-9) * 2, 0, 1)
    return pixels * (1 - thick) + np.array([6500, 6300, 6200, 6400, 4000])[:, None, None] * thick


def write(path, pixels, *, names=NAMES, dtype="uint16", **options):
    world.write(path, np.clip(pixels, 0, None).astype(dtype), **options)
    with rasterio.open(path, "r+") as file:
        file.descriptions = names
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained network with the contract of a painted scene."""
    trained = write(tmp_path_factory.mktemp("trained") / "trained.tif", landscape(0))
    return world.tiny_checkpoint("fcn", like=trained, warmed=False)


def findings(model, path, **options):
    with Scene(path, **options) as scene:
        return compare(model.contract, scene)


def refusals(model, path, **options):
    return {f.kind: f.cause for f in findings(model, path, **options) if f.level == "REFUSED"}


# --------------------------------------------------------------------------------------------- no false alarm


@pytest.mark.parametrize("seed", range(3))
def test_the_training_scene_and_its_like_fit(model, tmp_path, seed):
    assert findings(model, write(tmp_path / "a.tif", landscape(seed))) == ()


def test_other_places_seasons_and_clouds_are_not_refused(model):
    known = np.array([s.quantiles for s in model.contract.statistics])
    rng = np.random.default_rng(5)
    wrong = []
    for seed in range(150):
        pixels = landscape(100 + seed, bare=rng.uniform(-1, 1), water=rng.choice([0, 0.1, 0.4, 0.8]), size=96)
        pixels = pixels * rng.uniform(0.8, 1.25) * rng.uniform(0.88, 1.12, (5, 1, 1)) + rng.uniform(-100, 150)
        if seed % 3 == 0:
            pixels = clouded(pixels, rng.uniform(0.05, 0.9), seed)
        found = explain(np.quantile(pixels.reshape(5, -1), QUANTILES, axis=1).T, known)
        if found != Likeness():
            wrong.append((seed, found))
    assert not wrong


@pytest.mark.parametrize("change", ["gain 0.8", "gain 1.25", "cloud", "water", "bare"])
def test_mild_differences_pass_through_the_file(model, tmp_path, change):
    pixels = {
        "gain 0.8": lambda: landscape(7) * 0.8,
        "gain 1.25": lambda: landscape(7) * 1.25,
        "cloud": lambda: clouded(landscape(7), 0.6, 1),
        "water": lambda: landscape(7, water=0.7),
        "bare": lambda: landscape(7, bare=1),
    }[change]()
    assert not refusals(model, write(tmp_path / "b.tif", pixels))


def test_a_band_far_from_the_training_is_a_note(model, tmp_path):
    pixels = landscape(3)
    pixels[4] *= 3
    [note] = findings(model, write(tmp_path / "c.tif", pixels))
    assert (note.kind, note.level) == ("values", "FITS")
    assert note.cause.startswith("band swir")


# ------------------------------------------------------------------------------------- each cause by its name


@pytest.mark.parametrize(("one", "two"), [(0, 3), (2, 3), (0, 2), (1, 4)])
@pytest.mark.parametrize("named", [True, False])
def test_swapped_bands(model, tmp_path, one, two, named):
    pixels = landscape(21) * 1.1
    pixels[[one, two]] = pixels[[two, one]]
    path = write(tmp_path / "d.tif", pixels, names=NAMES if named else (None,) * 5)
    causes = refusals(model, path)
    assert set(causes) == {"swapped bands"}
    shown = [NAMES[i] if named else str(i + 1) for i in (one, two)]
    assert f"bands {shown[0]} and {shown[1]} look swapped" in causes["swapped bands"]
    order = [1, 2, 3, 4, 5]
    order[one], order[two] = order[two], order[one]
    assert " ".join(f"-b {n}" for n in order) in causes["swapped bands"]


def test_rotated_bands_are_brought_back_by_the_cure(model, tmp_path):
    pixels = landscape(22)
    path = write(tmp_path / "e.tif", pixels[[3, 0, 1, 4, 2]], names=(None,) * 5)
    cause = refusals(model, path)["swapped bands"]
    order = [int(n) - 1 for n in cause.split("gdal_translate -b ")[1].split(" scene")[0].split(" -b ")]
    mended = pixels[[3, 0, 1, 4, 2]][order]
    assert set(refusals(model, write(tmp_path / "mended.tif", mended, names=(None,) * 5))) == set()


@pytest.mark.parametrize(
    ("factor", "dtype", "says"),
    [(1 / 10_000, "float32", "exactly"), (1 / 100, "float32", "exactly"), (255 / 10_000, "uint8", "about")],
)
def test_a_factor(model, tmp_path, factor, dtype, says):
    causes = refusals(model, write(tmp_path / "f.tif", landscape(31) * factor, dtype=dtype))
    assert set(causes) == {"factor"}
    found = re.match(r"values look divided by (about )?([\d.]+): the band medians", causes["factor"])
    assert bool(found[1]) == (says == "about")  # a power of ten is known; any other factor is an estimate
    assert float(found[2]) == pytest.approx(1 / factor, rel=0.05 if says == "about" else 1e-9)


def test_a_factor_the_other_way(model, tmp_path):
    statistics = tuple(
        replace(s, quantiles=tuple(q / 10_000 for q in s.quantiles)) for s in model.contract.statistics
    )
    causes = refusals(
        replace(model, contract=replace(model.contract, statistics=statistics, dtype="float32")),
        write(tmp_path / "g.tif", landscape(31)),
    )
    assert "multiplied by 10000" in causes["factor"]


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("seed", [41, 42])
def test_an_offset(model, tmp_path, gain, seed):
    causes = refusals(model, write(tmp_path / "h.tif", landscape(seed) * gain + 1000))
    assert set(causes) == {"offset"}
    assert "shifted by +1000" in causes["offset"]
    assert "-scale 1000 11000 0 10000" in causes["offset"]


def test_an_offset_that_training_had(model, tmp_path):
    shifted = tuple(
        replace(s, quantiles=tuple(q + 1000 for q in s.quantiles)) for s in model.contract.statistics
    )
    causes = refusals(
        replace(model, contract=replace(model.contract, statistics=shifted)),
        write(tmp_path / "i.tif", landscape(43)),
    )
    assert "shifted by -1000" in causes["offset"]


@pytest.mark.parametrize(
    ("size", "says"), [(5, "1/2 as wide"), (20, "2 times as wide"), (60, "6 times as wide")]
)
def test_another_resolution(model, tmp_path, size, says):
    path = write(tmp_path / "j.tif", landscape(51), transform=Affine(size, 0, 400_000, 0, -size, 5_800_000))
    causes = refusals(model, path)
    assert set(causes) == {"pixel size"}
    assert says in causes["pixel size"]
    if size == 60:  # nobody makes fine pixels of coarse ones
        assert (
            "gdalwarp" not in causes["pixel size"]
            and "a model that was trained at about 60 m" in causes["pixel size"]
        )
        return
    tr = float(causes["pixel size"].split("gdalwarp -tr ")[1].split()[0])
    assert tr == pytest.approx(10, rel=1e-3)
    like = write(tmp_path / "k.tif", landscape(51), transform=Affine(11, 0, 400_000, 0, -11, 5_800_000))
    assert not refusals(model, like)


@pytest.mark.parametrize("value", [0, 65535, 1])
@pytest.mark.parametrize("shape", ["frame", "wedge"])
def test_an_undeclared_border(model, tmp_path, value, shape):
    pixels = landscape(61)
    rows, columns = np.indices((SIZE, SIZE))
    border = (
        (rows + 2 * columns < 100)
        if shape == "wedge"
        else (np.minimum(rows, columns) < 6) | (np.maximum(rows, columns) > SIZE - 7)
    )
    pixels[:, border] = value
    path = write(tmp_path / "l.tif", pixels)
    causes = refusals(model, path)
    assert set(causes) == {"border"}
    assert causes["border"].startswith(f"all bands are {value}")
    assert f"`nodata={value}`" in causes["border"]
    assert refusals(model, path, nodata=value) == {}


def test_a_white_border_of_bytes_is_named_and_saturated_clouds_are_not(model, tmp_path):
    squeeze = 1 / 40
    statistics = tuple(
        replace(s, quantiles=tuple(q * squeeze for q in s.quantiles)) for s in model.contract.statistics
    )
    bytes_model = replace(model, contract=replace(model.contract, statistics=statistics, dtype="uint8"))
    pixels = landscape(62) * squeeze
    rows, columns = np.indices((SIZE, SIZE))
    cloud = np.clip(
        255 * (2.2 - np.hypot(rows, columns) / 40), 0, 255
    )  # saturated in the corner, thinning out over 50 pixels
    clouds = np.maximum(pixels, cloud)
    assert "border" not in refusals(bytes_model, write(tmp_path / "m.tif", clouds, dtype="uint8"))
    pixels[:, :20] = 255
    assert "`nodata=255`" in refusals(bytes_model, write(tmp_path / "n.tif", pixels, dtype="uint8"))["border"]


def test_black_pixels_here_and_there_are_no_border(model, tmp_path):
    pixels = landscape(63)
    pixels[:, np.random.default_rng(0).random((SIZE, SIZE)) < 0.02] = 0
    pixels[:, 100:140, 100:140] = 0
    assert refusals(model, write(tmp_path / "o.tif", pixels)) == {}


def test_holes_that_are_nodata_to_the_training_scenes_alone_are_told(model, tmp_path):
    """Masked clouds whose nodata value was lost, or is another one now: they would be mapped as ground."""
    pixels = landscape(64)
    pixels[:, 100:140, 100:140] = 0
    trained = replace(model, contract=replace(model.contract, nodata=0.0))

    def told(of, path, **how):
        return [f for f in findings(of, path, **how) if f.kind == "holes"]

    for name, declared in (("a", None), ("b", 65535)):
        path = write(tmp_path / f"{name}.tif", pixels, nodata=declared)
        (note,) = told(trained, path)
        assert note.level == "FITS"
        assert f"all bands of {name} are 0 in" in note.cause
        assert "pass `nodata=0`" in note.cause
        # A scene has one nodata value: the other gaps would be mapped as ground instead.
        assert ("it replaces 65535" in note.cause) == (declared is not None)
        assert not told(model, path)  # nobody knows that 0 was no measurement
        assert not told(trained, path, nodata=0)
    assert not told(trained, write(tmp_path / "c.tif", pixels, nodata=0))
    # Dark in one band alone is a measurement.
    pixels[1:, 100:140, 100:140] = 300
    assert not told(trained, write(tmp_path / "d.tif", pixels))


@pytest.mark.parametrize(("dtype", "full"), [("uint16", 65535), ("int16", 32767), ("uint8", 255)])
def test_holes_of_the_largest_value_are_told(model, tmp_path, dtype, full):
    """Gaps that software filled with the type's end, in a scene that declares 0 or nothing."""
    squeeze = 1 / 60 if dtype == "uint8" else 1
    statistics = tuple(
        replace(s, quantiles=tuple(q * squeeze for q in s.quantiles)) for s in model.contract.statistics
    )
    trained = replace(model, contract=replace(model.contract, statistics=statistics, dtype=dtype))
    pixels = landscape(65) * squeeze
    pixels[:, 100:140, 100:140] = full

    def told(path, of=trained, **how):
        found = findings(of, path, **how)
        assert not [f for f in found if f.kind == "values"]  # the rest is as in training
        return [f for f in found if f.kind == "holes"]

    for name, declared in (("a", None), ("b", 0)):
        path = write(tmp_path / f"{name}.tif", pixels, dtype=dtype, nodata=declared)
        (note,) = told(path)
        assert note.level == "FITS" and f"all bands of {name} are {full} in 2.8 %" in note.cause
        assert f"pass `nodata={full}`" in note.cause and ("it replaces 0" in note.cause) == (name == "b")
        assert not told(path, nodata=full)
        with Scene(path) as opened:
            assert undeclared_nodata(opened).cause == note.cause  # before there is a model too
    # Where training has such values, they are measurements; where values come near, it is saturation.
    bright = tuple(replace(s, quantiles=(*s.quantiles[:-1], full)) for s in statistics)
    assert not told(path, replace(trained, contract=replace(trained.contract, statistics=bright)))
    pixels[:, 60:100, 100:140] = np.linspace(0.4, 1, 40)[:, None] * full
    assert not told(write(tmp_path / "c.tif", pixels, dtype=dtype))
    one = landscape(65) * squeeze
    one[1, 100:140, 100:140] = full
    assert not told(write(tmp_path / "d.tif", one, dtype=dtype))


def test_degrees_instead_of_metres(model, tmp_path):
    degrees = CRS.from_epsg(4326)
    causes = refusals(
        model,
        write(
            tmp_path / "p.tif",
            landscape(71),
            crs=degrees,
            transform=Affine(0.0001, 0, 14.0, 0, -0.0001, 52.0),
        ),
    )
    assert set(causes) == {"crs"}
    assert "degrees" in causes["crs"]
    assert "EPSG:32633 -tr 10" in causes["crs"]
    equator = write(
        tmp_path / "q.tif", landscape(71), crs=degrees, transform=Affine(9e-5, 0, -60.0, 0, -9e-5, 0.01)
    )
    [note] = findings(model, equator)
    assert (note.kind, note.level) == ("crs", "FITS")


def test_counts_names_and_order_of_bands(model, tmp_path):
    pixels = landscape(81)
    few = refusals(model, write(tmp_path / "r.tif", pixels[:4], names=NAMES[:4]))
    assert "has 4 bands (blue green red nir); this model reads 5" in few["band count"]
    assert "no band is called swir. Add the missing bands" in few["band count"]
    masked = pixels.copy()
    masked[4] = 255
    path = write(tmp_path / "m.tif", masked, names=NAMES)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:4], ColorInterp.alpha]
    assert "4: blue, green, red, nir, and 1 marked as alpha, read as a mask" in info(path).text
    taken = refusals(model, path)["band count"]
    assert "marked as alpha and read as a mask; if it is the missing one, name all bands" in taken
    with Scene(path, band_names=NAMES) as scene:  # the cure
        assert "band count" not in {f.kind for f in compare(model.contract, scene)}
    other = refusals(
        model, write(tmp_path / "s.tif", pixels, names=("blue", "green", "red", "rededge", "swir"))
    )
    assert "has rededge where the model reads nir" in other["band names"]
    [note] = findings(model, write(tmp_path / "t.tif", pixels, names=("B2", "B3", "B4", "B8", "B11")))
    assert (note.kind, note.level) == ("band names", "FITS")
    assert "B8 as nir" in note.cause
    [mended] = findings(model, write(tmp_path / "u.tif", pixels[::-1], names=NAMES[::-1]))
    assert (mended.kind, mended.level) == ("band order", "FITS AFTER")
    extra = write(tmp_path / "v.tif", np.concatenate([pixels[:1], pixels]), names=("coast", *NAMES))
    assert findings(model, extra) == ()


def test_another_type_and_imported_checkpoints(model, tmp_path):
    path = write(tmp_path / "w.tif", landscape(91), dtype="float32")
    [note] = findings(model, path)
    assert (note.kind, note.level) == ("type", "FITS")
    assert "float32" in note.cause
    assert "uint16" in note.cause
    imported = replace(model, contract=replace(model.contract, statistics=()))
    wrong = write(
        tmp_path / "x.tif",
        landscape(91)[::-1] / 10_000,
        dtype="float32",
        transform=Affine(20, 0, 4e5, 0, -20, 5.8e6),
    )
    assert {f.kind for f in findings(imported, wrong)} == {"type", "pixel size"}


def test_two_mistakes_at_once(model, tmp_path):
    pixels = landscape(95)[[3, 1, 2, 0, 4]] / 10_000
    causes = refusals(model, write(tmp_path / "y.tif", pixels, dtype="float32"))
    assert set(causes) == {"factor", "swapped bands"}
    assert "blue and nir" in causes["swapped bands"]


# --------------------------------------------------------------------------------------------------- any size


def test_a_huge_sparse_scene_takes_seconds(model, tmp_path):
    path = tmp_path / "huge.tif"
    profile = {
        "driver": "GTiff",
        "width": 200_000,
        "height": 200_000,
        "count": 5,
        "dtype": "uint16",
        "nodata": 0,
        "crs": world.UTM,
        "transform": world.NORTH_UP,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "sparse_ok": True,
        "bigtiff": "yes",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = NAMES
    edge, inner = sampled_windows(Scene(path).grid.window)
    assert len({*edge, *inner}) == 64
    assert findings(model, path)[0].kind == "values"
    with rasterio.open(path, "r+") as file:
        for window in inner[:5]:
            file.write(
                np.tile(landscape(1, size=256)[[0, 1, 3, 2, 4]], (1, 2, 2)).astype("uint16"),
                window=window.rio,
            )
    assert "red and nir" in refusals(model, path)["swapped bands"]
    result = check(model, path, device="cpu", timing=False, proba=True)
    assert result.verdict == "REFUSED"
    assert result.plan.tiles > 1000
    assert result.plan.ram < 4e9
    assert result.plan.disk > 5 * 4e10


# -------------------------------------------------------------------------------------- the verb, and mapping


def test_the_plan_grows_with_the_work(model, tmp_path, monkeypatch):
    # What a clock says of scenes as small as these is chance.
    block = duration._timed_tile
    monkeypatch.setattr(duration, "_timed_tile", lambda *args: (1e-8, 1e-6, block(*args)[2]))
    monkeypatch.setattr(duration, "_timed_writing", lambda *_: (0.1, 1e-7))
    small, large = (write(tmp_path / f"{n}.tif", landscape(1, size=n)) for n in (128, 900))
    a, b = (
        check(model, small, device="cpu", tile_size=448),
        check(model, large, device="cpu", tile_size=448, overlap=32),
    )
    assert a.verdict == b.verdict == "FITS"
    assert a.plan.tiles == 1 < b.plan.tiles
    assert a.plan.ram < b.plan.ram
    assert a.plan.disk < b.plan.disk
    assert 0 < a.plan.minutes < b.plan.minutes
    assert check(model, small, device="cpu", timing=False).plan.minutes is None


def test_mapping_refuses_unless_forced_and_the_map_remembers(model, tmp_path):
    pixels = landscape(21)
    pixels[[0, 3]] = pixels[[3, 0]]
    path = write(tmp_path / "scene.tif", pixels)
    quick = {"report": False, "polygons": False, "device": "cpu"}
    with pytest.raises(BadInput, match=r"blue and nir look swapped.*force=True"):
        map_scene(model, path, tmp_path / "map", **quick)
    assert not (tmp_path / "map").exists()
    result = map_scene(model, path, tmp_path / "map", force=True, **quick)
    assert any("look swapped" in note for note in json.loads(result.paths["run"].read_text())["notes"])
    with rasterio.open(result.paths["class"]) as file:
        assert "look swapped" in file.tags()["labelscape_forced"]
        assert file.colormap(1)
    fine = map_scene(model, write(tmp_path / "fine.tif", landscape(4)), tmp_path / "map", **quick)
    assert fine.notes == ()
    with rasterio.open(fine.paths["class"]) as file:
        assert "labelscape_forced" not in file.tags()


def test_the_verb(model, tmp_path, run_cli):
    checkpoint = save(model, tmp_path / "model.safetensors")
    good, bad = write(tmp_path / "good.tif", landscape(2)), write(tmp_path / "bad.tif", landscape(2) + 1000)
    code, out, err = run_cli("check", checkpoint, good)
    assert code == 0, err
    assert out.startswith("FITS\n")
    assert " s on cpu" in out or "minutes on cpu" in out
    # One tile has no grid and no overlap.
    assert "tiles    1: all of it at once (1.00 pixels predicted for each mapped)\n" in out
    tiled = run_cli("check", checkpoint, good, "--tile-size", 64, "--overlap", 16, "--no-timing")
    assert " pixels wide and seeing " in tiled[1], tiled
    code, out, err = run_cli("check", checkpoint, bad, "--no-timing", "--json")
    assert code == 1
    told = json.loads(out)
    assert told["verdict"] == "REFUSED"
    assert [f["kind"] for f in told["findings"]] == ["offset"]
    code, out, err = run_cli("map", checkpoint, bad, "--out", tmp_path / "map")
    assert code == 1
    assert "--force" in err
    code, out, err = run_cli(
        "map", checkpoint, bad, "--out", tmp_path / "map", "--force", "--no-report", "--no-polygons"
    )
    assert code == 0, err
    assert "shifted by +1000" in err


# ----------------------------------------------------------------------------------------------- a real scene


@pytest.fixture(scope="module")
def havel():
    """The demo's checkpoint, its bands (10, 768, 512) of a real Sentinel-2 scene, and where they lie."""
    try:
        source = demo.demo_data()["images"][0]
    except BadFile:
        pytest.skip("the demo's data is not installed")
    checkpoint = load(demo.demo_checkpoint())
    with Scene(source) as scene:
        window = replace(scene.grid.window, left=512, width=512)
        return checkpoint, scene.read(window, checkpoint.bands).pixels, scene.grid.crop(window)


def real(havel, path, change, *, crs=None, transform=None, dtype="uint16"):
    checkpoint, pixels, grid = havel
    changed = change(pixels.astype(np.float32))
    return refusals(
        checkpoint,
        write(
            path,
            changed,
            names=checkpoint.bands,
            dtype=dtype,
            crs=crs or grid.crs,
            transform=transform or grid.transform,
        ),
    )


@pytest.mark.parametrize("gain", [0.8, 1.0, 1.25])
def test_the_real_scene_fits(havel, tmp_path, gain):
    assert real(havel, tmp_path / "a.tif", lambda x: x * gain) == {}


def test_real_parts_of_it_fit_in_any_light(havel):
    checkpoint, pixels, _ = havel
    known = np.array([s.quantiles for s in checkpoint.contract.statistics])
    for top in range(0, 768, 128):
        for left in range(0, 512, 128):
            part = pixels[:, top : top + 128, left : left + 128].reshape(10, -1)[:, ::5]
            for gain in (0.8, 1, 1.25):
                assert explain(np.quantile(part * gain, QUANTILES, axis=1).T, known) == Likeness(), (
                    top,
                    left,
                    gain,
                )


@pytest.mark.parametrize(("one", "two"), [("B02", "B08"), ("B02", "B04"), ("B04", "B11"), ("B03", "B8A")])
def test_swapped_real_bands(havel, tmp_path, one, two):
    order = list(range(10))
    i, j = (havel[0].bands.index(b) for b in (one, two))
    order[i], order[j] = j, i
    causes = real(havel, tmp_path / "b.tif", lambda x: x[order])
    assert f"{one} and {two} look swapped" in causes.pop("swapped bands")
    assert not causes


def test_other_mistakes_on_the_real_scene(havel, tmp_path):
    assert (
        "divided by 10000" in real(havel, tmp_path / "c.tif", lambda x: x / 10_000, dtype="float32")["factor"]
    )
    assert "shifted by +1000" in real(havel, tmp_path / "d.tif", lambda x: x + 1000)["offset"]
    wide = havel[2].transform @ Affine.scale(2)
    assert set(real(havel, tmp_path / "e.tif", lambda x: x[:, ::2, ::2], transform=wide)) == {"pixel size"}

    def collar(x):
        x[:, :, :60] = 0
        return x

    assert "`nodata=0`" in real(havel, tmp_path / "f.tif", collar)["border"]
    degrees = real(
        havel,
        tmp_path / "g.tif",
        lambda x: x,
        crs=CRS.from_epsg(4326),
        transform=Affine(1e-4, 0, 12.5, 0, -1e-4, 52.5),
    )
    assert set(degrees) == {"crs"}


def test_verdicts():
    assert verdict(()) == "FITS"


def tiles(folder, change, *, seed=3, count=3):
    """A landscape cut into tiles beside each other; `change` is made to the pixels of one."""
    folder.mkdir(parents=True)
    whole, files = landscape(seed, size=SIZE), []
    for number in range(count):
        part = whole[:, :, 80 * number : 80 * number + 80]
        place = world.NORTH_UP @ Affine.translation(80 * number, 0)
        pixels = change(part) if number == 1 else part
        files.append(write(folder / f"t{number}.tif", pixels, transform=place))
    return files


def virtual_raster(path, files):
    """What gdalbuildvrt makes of tiles beside each other."""
    bands = []
    for band, name in enumerate(NAMES, start=1):
        sources = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{file.parent.name}/{file.name}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="80" ySize="{SIZE}"/>'
            f'<DstRect xOff="{80 * n}" yOff="0" xSize="80" ySize="{SIZE}"/></SimpleSource>'
            for n, file in enumerate(files)
        )
        bands.append(
            f'<VRTRasterBand dataType="UInt16" band="{band}"><Description>{name}</Description>{sources}'
            "</VRTRasterBand>"
        )
    with rasterio.open(files[0]) as first:
        place = ", ".join(map(str, first.transform.to_gdal()))
        srs = f"<SRS>{first.crs.to_wkt()}</SRS>"
    path.write_text(
        f'<VRTDataset rasterXSize="{80 * len(files)}" rasterYSize="{SIZE}">{srs}'
        f"<GeoTransform>{place}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels + 1000, r"t1\.tif look shifted by \+1000 in all bands .* \(1 of 3 files"),
        (lambda pixels: pixels * 10, r"t1\.tif look multiplied by about 10, compared"),
    ],
)
def test_one_file_of_a_mosaic_that_is_of_another_kind_is_named(model, tmp_path, change, said):
    files = tiles(tmp_path / "tiles", change)
    alike = tiles(tmp_path / "alike", lambda pixels: pixels * 1.15)  # a brighter day
    virtual = virtual_raster(tmp_path / "tiles.vrt", files)
    for scene in (files[0].parent, [str(file) for file in files], virtual):
        with open_scene(scene) as opened:
            (found,) = [f for f in compare(model.contract, opened) if f.level == "REFUSED"]
        assert found.kind == "pieces" and re.search(said, found.cause)
    assert "virtual raster" in found.cause
    for scene in (alike[0].parent, virtual_raster(tmp_path / "alike.vrt", alike)):
        with open_scene(scene) as opened:
            assert verdict(compare(model.contract, opened)) == "FITS"
    # Where the area leaves that file out, there is nothing wrong.
    with Scene(files[2]) as other:
        beside = world.rectangle(other.grid, tmp_path / "area.geojson", 0, 4, SIZE, 70)
    for scene in (files[0].parent, virtual):
        with open_scene(scene, area=beside) as opened:
            assert "pieces" not in {f.kind for f in compare(model.contract, opened)}


def test_files_of_a_training_mosaic_are_compared_too(tmp_path):
    files = tiles(tmp_path / "tiles", lambda pixels: pixels + 1000)
    for scene, count in ((files[0].parent, 1), (virtual_raster(tmp_path / "a.vrt", files), 1), (files[0], 0)):
        with open_scene(scene) as opened:
            lines = unlike(seen_in_pieces(opened, opened.name))
        assert len(lines) == count and all(re.search(r"t1\.tif look shifted by \+1000", one) for one in lines)


def test_numbered_bands_that_a_model_leaves_out_are_told(tmp_path):
    """The first four of eight need not be those that a model of four learned from."""
    pixels = landscape(0)
    trained = write(tmp_path / "trained.tif", pixels[:4], names=(None,) * 4)
    model = world.tiny_checkpoint("fcn", like=trained, warmed=False)
    more = write(tmp_path / "more.tif", np.concatenate([pixels[:4], pixels]), names=(None,) * 9)
    (found,) = findings(model, more)
    assert (found.kind, found.level) == ("band names", "FITS")
    assert "has 9 bands and the model's are only numbered: it reads 1 2 3 4 of them" in found.cause
    assert findings(model, trained) == ()


def test_scales_that_differ_from_band_to_band_are_told_where_one_side_declares_none(model, tmp_path):
    path = write(tmp_path / "scaled.tif", landscape(0))

    def told(*scales):
        with rasterio.open(path, "r+") as file:
            file.scales = scales
        with Scene(path) as scene:
            return [f.cause for f in compare(silent, scene) if f.kind == "units"]

    silent = replace(model.contract, units=((1.0, 0.0),) * 5)
    (one,) = told(1e-4, 1e-4, 1e-4, 2e-4, 1e-4)
    assert "scene declare different scales" in one and "scale 0.0001 and offset 0, scale 0.0002" in one
    # One scale for all is that of the stored numbers, and says nothing of them.
    assert told(*[1e-4] * 5) == [] and told(*[1.0] * 5) == []
    mixed = replace(model.contract, units=((1e-4, 0.0),) * 4 + ((1.0, 0.0),))
    with Scene(path) as scene:
        (other,) = [f for f in compare(mixed, scene) if f.kind == "units"]
    assert other.level == "FITS" and "bands of the training scenes declare different" in other.cause
