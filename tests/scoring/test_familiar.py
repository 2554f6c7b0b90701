"""Unfamiliar input: distances against their equation, in every network, through tiles and blends."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import world

import labelscape as ls
from labelscape.checkpoint import load, save
from labelscape.contract.familiarity import QUANTILE, Familiarity, Moments
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.familiar import measure_familiarity
from labelscape.nets.catalog import NETWORKS, create_model
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.familiar import Distance, feature_layer, features_of


def cloud(channels, *, classes=3, each=400, seed=0):
    """Features of three classes that share a covariance, and their classes."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) / np.sqrt(channels) + np.eye(channels)
    means = rng.normal(size=(classes, channels)) * 3 + 100
    kinds = np.repeat(np.arange(classes), each)
    return means[kinds] + rng.normal(size=(len(kinds), channels)) @ mixing, kinds


def known(features, kinds, *, classes=3, limit=2.0):
    moments = Moments(classes)
    for part in np.array_split(np.arange(len(features)), 7):
        moments.add(features[part], kinds[part])
    return Familiarity(
        "head", **moments.fitted(), limit=limit, quantile=QUANTILE, part="test", pixels=(len(features), 1)
    )


@pytest.mark.parametrize("channels", [1, 5, 80])
def test_distances_are_those_of_the_covariance_written_out(channels):
    features, kinds = cloud(channels)
    f = known(features, kinds)
    means = np.stack([features[kinds == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(f.means + f.centre, means, rtol=1e-10)
    # Pooled within classes, by NumPy on all of them at once.
    left = features - means[kinds]
    within = left.T @ left / (len(left) - 3)
    values, vectors = np.linalg.eigh(within)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept, floor = values[:64], 0.01 * values.mean()
    rest = values[64:].mean() if channels > 64 else 1.0
    covariance = np.zeros((channels, channels))
    for r in range(channels):
        variance = 0.99 * (kept[r] if r < 64 else rest) + floor
        covariance += variance * np.outer(vectors[:, r], vectors[:, r])
    inverse = np.linalg.inv(covariance)
    for x, found in zip(features[::97], f.distances(features[::97])):
        wanted = min(np.sqrt((x - m) @ inverse @ (x - m)) for m in means)
        assert found == pytest.approx(wanted, rel=1e-8)
    cells = torch.from_numpy(features.astype(np.float32)).reshape(4, 30, 10, channels).movedim(-1, 1)
    np.testing.assert_allclose(
        Distance(f).of(cells).numpy().ravel(), f.distances(features.astype(np.float32)), rtol=1e-5
    )


def test_a_class_without_pixels_has_no_mean_and_constant_channels_no_infinity():
    features, kinds = cloud(6)
    features[:, 2] = 7.0
    f = known(features, np.where(kinds == 1, 0, kinds))
    assert len(f.means) == 2
    assert np.isfinite(f.distances(features)).all()
    moved = features.copy()
    moved[:, 2] += 1
    assert (f.distances(moved) > f.distances(features)).all()


SMALL = {
    **{name: {"widths": [4, 4, 8, 8]} for name in ("fcn", "unpooling", "skip")},
    **{name: {"backbone": "resnet18"} for name in ("mswbn", "dgcwnet", "ifbfnet", "deeplabv3plus", "pspnet")},
    **{f"smp/{name}": {"encoder": "resnet18"} for name in ("Unet", "FPN", "Segformer", "PAN")},
    "mlp": {"widths": [4, 4, 8, 8], "hidden": 12},
}


def built(name):
    options = SMALL.get(name, {})
    torch.manual_seed(0)
    # 16 classes: as many as the channels of some layers, which do not tell classes apart.
    return create_model(name, in_channels=3, classes=16, **options).eval(), options


@pytest.mark.parametrize("name", [*NETWORKS, *(name for name in SMALL if name.startswith("smp/"))])
def test_every_network_shows_the_features_its_classes_come_from(name):
    net, options = built(name)
    layer = feature_layer(net, name, options)
    module = net.get_submodule(layer)
    assert module.out_channels == 16
    image = torch.randn(2, 3, 70, 83)
    features, rows, columns = features_of(net, layer, image[:1])
    assert features.shape == (module.in_channels, len(rows), len(columns))
    assert (np.diff(rows) >= 0).all() and rows[-1] <= 69 and columns[-1] <= 82
    f = known(features.reshape(len(features), -1).T, np.zeros(len(rows) * len(columns), int), classes=1)
    plain, beside = TorchEngine(net), TorchEngine(net, distance=Distance(replace(f, layer=layer)))
    with torch.inference_mode():
        without, found = plain.forward(image), beside.forward(image)
    assert found.shape == (2, 18, 70, 83)
    # The classes do not notice, to the last bit.
    assert torch.equal(found[:, :16], without)
    assert (found[:, 16] == 0).all() and torch.isfinite(found).all()
    assert "scores" not in net.__dict__ and not module._forward_pre_hooks
    # Where a cell's centre is a pixel's centre the distance is the cell's own; between cells it is a mean.
    wanted = f.distances(features.reshape(len(features), -1).T).reshape(len(rows), len(columns)) / f.limit
    ratio = found[0, 17].exp().numpy()
    assert ratio.max() <= wanted.max() * 1.0001 and ratio.min() >= wanted.min() * 0.9999
    if len(rows) >= 70:  # a feature for each pixel
        np.testing.assert_allclose(ratio, wanted[:70, :83], rtol=2e-3)


def test_strips_of_a_layer_are_one_map(monkeypatch):
    """The perceptron's hidden layer is computed a few rows at a time."""
    from labelscape.nets.kernels import perceptron

    net, options = built("mlp")
    layer = feature_layer(net, "mlp", options)
    image = torch.randn(3, 3, 96, 64)
    features, _, _ = features_of(net, layer, image[:1])
    f = known(features.reshape(12, -1).T, np.zeros(features[0].size, int), classes=1)
    engine = TorchEngine(net, distance=Distance(replace(f, layer=layer)))
    with torch.inference_mode():
        whole = engine.forward(image)
        monkeypatch.setattr(perceptron, "STRIP_BYTES", 1)
        strips = engine.forward(image)
    torch.testing.assert_close(strips, whole, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------ in a checkpoint


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """A folder with a painted scene and its labels, and settings of a training on them."""
    folder = tmp_path_factory.mktemp("trained")
    own = world.make(folder, 128, 160, seed=1)
    labels = world.label_raster(own, folder / "labels.tif")
    data = {"images": [str(own.scene)], "labels": [str(labels)], "block": 32}
    how = {"base_steps": 0, "steps": 40, "batch": 4, "crop": 32, "optimizer": "adamw", "rate": 0.005}
    return folder, own, {"data": data, "device": "cpu", **how}


@pytest.fixture(scope="module")
def trained(fields):
    """A checkpoint of an `fcn`, and the scene that it was trained on."""
    folder, own, how = fields
    ls.train(ls.make_recipe(network="fcn", options={"widths": [8, 8, 8, 8]}, **how), folder / "run")
    return folder / "run" / "fcn.safetensors", own.scene


def test_a_checkpoint_keeps_its_features(trained, tmp_path):
    path, _ = trained
    one = load(path)
    f = one.familiarity
    assert f.part == "test" and f.pixels[0] > 50 and f.layer == "head.score"
    assert all(a.dtype == np.float64 for a in f.arrays().values())
    assert save(one, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert not any(name.startswith("familiarity") for name in one.weights)
    half = load(save(one, tmp_path / "half.safetensors", half=True)).familiarity
    np.testing.assert_array_equal(half.directions, f.directions)
    # 99 % of held-out pixels lie within the limit, by definition: counted with the data read again.
    with open_dataset(**_data(one)) as dataset:
        again = measure_familiarity(one, dataset, device="cpu")
    assert again.limit == pytest.approx(f.limit, rel=1e-6)


def _data(checkpoint):
    data = checkpoint.recipe["data"]
    return {
        "images": data["images"], "labels": data["labels"], "block": data["block"],
        "shares": {"train": 0.75, "test": 0.25},
    }  # fmt: skip


def test_arrays_that_were_exchanged_are_refused(trained, tmp_path):
    path, _ = trained
    one = load(path)
    bad = replace(one, familiarity=replace(one.familiarity, means=one.familiarity.means + 1))
    described = one.describe()

    class Lying(type(bad)):
        def describe(self):
            return described

    fields = {name: getattr(bad, name) for name in bad.__dataclass_fields__ if name != "stored"}
    save(Lying(**fields), tmp_path / "bad.safetensors")
    with pytest.raises(BadFile, match="familiarity"):
        load(tmp_path / "bad.safetensors")


def test_without_held_out_labels_the_limit_is_that_of_other_training_pixels(trained):
    path, _ = trained
    one = load(path)
    with open_dataset(**{**_data(one), "shares": None}) as dataset:
        f = measure_familiarity(one, dataset, device="cpu")
    assert f.part == "train" and f.limit > 0


# --------------------------------------------------------------------------------------------------- in a map

QUICK = {"device": "cpu", "polygons": False, "report": False}


def test_a_training_that_ended_in_damaged_weights_says_so(fields, tmp_path):
    """The loss of the last step is that of the weights before it, and nothing is held out to be scored."""
    _, _, how = fields
    how = {**how, "data": {**how["data"], "holdout": 0}, "steps": 1, "optimizer": "sgd", "rate": 3e38}
    recipe = ls.make_recipe(network="fcn", options={"widths": [8, 8, 8, 8]}, **how)
    with pytest.raises(BadInput, match="features that are no finite numbers.* a smaller `rate`"):
        ls.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "fcn.safetensors").exists()


def test_a_map_shows_what_is_foreign(fields, tmp_path, run_cli):
    folder, own, how = fields
    options = {"widths": [8, 8, 8, 8], "hidden": 32}
    ls.train(ls.make_recipe(network="mlp", options=options, **how), folder / "mlp")
    path, noise = (
        folder / "mlp" / "mlp.safetensors",
        np.random.default_rng(0).normal(0, 3000, own.pixels.shape),
    )
    shares = {}
    for name, pixels in (("own", own.pixels), ("bright", own.pixels * 1.7), ("rough", own.pixels + noise)):
        world.write(tmp_path / f"{name}.tif", np.clip(pixels, 1, 65000).astype(np.uint16))
        made = ls.map_scene(
            path, tmp_path / f"{name}.tif", tmp_path / "maps", unfamiliar=True, force=True, **QUICK
        )
        shares[name] = made.unfamiliar
        with rasterio.open(made.paths["unfamiliar"]) as file:
            far = file.read(1)
            assert file.descriptions == ("unfamiliar (100 = limit)",) and file.nodata == 255
        assert made.unfamiliar == pytest.approx((far > 100).mean())
    assert shares["own"] < 0.05 < 0.4 < min(shares["bright"], shares["rough"]), shares
    command = ["map", path, own.scene, "--out", tmp_path / "cli", "--device", "cpu"]
    code, out, err = run_cli(*command, "--unfamiliar")
    assert code == 0, err
    assert f"{100 * shares['own']:.1f} % of the map is unfamiliar" in out
    page = (tmp_path / "cli" / "scene_report.html").read_text()
    assert "Unfamiliar input" in page and "_unfamiliar.tif" in page


def test_other_rasters_of_a_map_do_not_notice(trained, tmp_path):
    path, own = trained
    beside = ls.map_scene(path, own, tmp_path / "own", unfamiliar=True, **QUICK)
    plain = ls.map_scene(path, own, tmp_path / "plain", **QUICK)
    for kind in ("class", "confidence"):
        assert plain.paths[kind].read_bytes() == beside.paths[kind].read_bytes()
    assert plain.unfamiliar is None and "unfamiliar" not in plain.paths


def test_values_are_the_distances_of_the_whole_scene(trained, tmp_path):
    """An exact network: tiles of any size give what its features give at once."""
    from labelscape.scoring.scorer import Scorer

    path, own = trained
    one, scorer = load(path), Scorer.of(path, device="cpu", unfamiliar=True)
    with ls.open_scene(own) as scene:
        patch = scene.read(scene.grid.window)
    logits = scorer.logits(scorer.prepare(patch.pixels, patch.valid))
    wanted = np.rint(100 * logits[-1].exp().numpy()).clip(0, 254)
    blended = {"tile_size": 64, "overlap": 16, "blend": "hann"}
    for number, tiles in enumerate(({}, {"tile_size": 208}, blended)):
        made = ls.map_scene(path, own, tmp_path / str(number), unfamiliar=True, **tiles, **QUICK)
        with rasterio.open(made.paths["unfamiliar"]) as file:
            found = file.read(1).astype(float)
        off = np.abs(found - wanted)
        # Blended tiles see less of the scene: alike, not equal.
        assert (off.max() <= 1) if number < 2 else (np.median(off) < 15), off.max()
    # And these are the distances of features to the nearest class, by NumPy.
    net = scorer.members[0].engine.net
    (image,) = scorer.prepare(patch.pixels, patch.valid)
    features, rows, columns = features_of(net, one.familiarity.layer, image)
    far = one.familiarity.distances(features.reshape(len(features), -1).T) / one.familiarity.limit
    far = far.reshape(len(rows), len(columns))
    # Half way between four cells bilinear interpolation is their mean.
    middle = (far[:-1, :-1] + far[1:, :-1] + far[:-1, 1:] + far[1:, 1:]) / 4
    between = logits[-1].exp().numpy()[15:-16:16, 15:-16:16]
    # Pixels lie half a pixel beside the corner of four cells of 16.
    np.testing.assert_allclose(between, middle[: between.shape[0], : between.shape[1]], rtol=0.15, atol=0.1)


def test_augmentation_ensembles_and_rejection_go_with_it(trained, tmp_path):
    path, own = trained
    made = ls.map_scene(
        [path, path], own, tmp_path / "a", unfamiliar=True, tta="flips", scales=(1.0, 1.5), reject=0.5,
        proba=True, **QUICK,
    )  # fmt: skip
    plain = ls.map_scene(
        [path, path], own, tmp_path / "b", tta="flips", scales=(1.0, 1.5), reject=0.5, proba=True, **QUICK
    )
    for kind in ("class", "confidence", "proba"):
        assert made.paths[kind].read_bytes() == plain.paths[kind].read_bytes()
    assert 0 <= made.unfamiliar < 0.2


def test_a_map_with_it_resumes_to_the_same_bytes(trained, tmp_path, monkeypatch):
    from labelscape.maps import rasters

    path, own = trained
    tiles = {"tile_size": 64, "overlap": 16, "blend": "hann", "unfamiliar": True, **QUICK}
    whole = ls.map_scene(path, own, tmp_path / "whole", **tiles)
    real, count = rasters.planes_of, 0

    def failing(*given):
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(rasters, "planes_of", failing)
    with pytest.raises(KeyboardInterrupt):
        ls.map_scene(path, own, tmp_path / "broken", **tiles)
    monkeypatch.undo()
    resumed = ls.map_scene(path, own, tmp_path / "broken", **tiles)
    assert resumed.unfamiliar == whole.unfamiliar
    assert resumed.paths["unfamiliar"].read_bytes() == whole.paths["unfamiliar"].read_bytes()


def test_older_checkpoints_are_told_what_to_do(trained, tmp_path, run_cli):
    path, own = trained
    old = save(replace(load(path), familiarity=None), tmp_path / "old.safetensors")
    assert "familiarity" not in world.description_of(old)
    code, _, err = run_cli("map", old, own, "--out", tmp_path / "m", "--unfamiliar", "--device", "cpu")
    assert code == 1 and "labelscape calibrate" in err and "--unfamiliar" in err
    code, out, err = run_cli("calibrate", old, "--unfamiliar", "--device", "cpu")
    assert code == 0 and "of the part test lie within the limit" in out, err
    assert load(old).familiarity.limit == pytest.approx(load(path).familiarity.limit)
    assert load(old).temperature == load(path).temperature
    code, _, err = run_cli("map", old, own, "--out", tmp_path / "m", "--unfamiliar", "--device", "cpu")
    assert code == 0, err


def test_a_second_task_has_no_distance_of_its_own(tmp_path):
    from labelscape.maps.outputs import all_outputs, rasters_of
    from labelscape.maps.request import MapRequest

    kinds = [o.kind for o in rasters_of(MapRequest(unfamiliar=True), "road")]
    assert kinds.count("unfamiliar") == 1 and "road_unfamiliar" not in kinds
    assert [o.kind for o in all_outputs("road")].count("unfamiliar") == 1
