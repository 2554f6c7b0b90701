"""Maps and scores made on a GPU are those of the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import world
from interrupted import stopped_after_a_tile

from labelscape.benchmark.run import bench
from labelscape.checkpoint import Checkpoint, save
from labelscape.datasets.own import open_dataset
from labelscape.evaluation.measure import evaluate
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE
from labelscape.maps.many import map_scenes
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import list_models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

QUICK = {"report": False, "polygons": False, "name": "map"}


def classes(folder: Path) -> np.ndarray:
    with rasterio.open(folder / "map_class.tif") as file:
        return file.read(1)


def mapped(model: Checkpoint, scene: Path, out: Path, device: str, **how: object) -> np.ndarray:
    map_scene(model, scene, out, device=device, **QUICK, **how)
    return classes(out)


@pytest.mark.parametrize("network", ["fcn", "skip", "mlp", "unpooling"])
@pytest.mark.parametrize("how", [{}, {"tta": "flips"}, {"tile_size": 320}])
def test_a_map_has_the_classes_of_the_processors(tmp_path: Path, network: str, how: dict) -> None:
    w = world.make(tmp_path, 700, 900, nodata=0)
    model = world.tiny_checkpoint(network, like=w.scene, **({"hidden": 16} if network == "mlp" else {}))
    one, other = (mapped(model, w.scene, tmp_path / str(n), d, **how) for n, d in enumerate(("cpu", "cuda")))
    assert len(np.unique(one)) > 2
    assert ((one == IGNORE) == (other == IGNORE)).all()
    # Where two classes are equally probable the last digit decides.
    assert (one != other).mean() <= 1e-4


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_a_map_in_half_precision_is_nearly_that_of_full_precision(tmp_path: Path, precision: str) -> None:
    w = world.make(tmp_path, 300, 400)
    model = world.tiny_checkpoint("skip", like=w.scene)
    one = mapped(model, w.scene, tmp_path / "full", "cuda")
    other = mapped(model, w.scene, tmp_path / "half", "cuda", precision=precision)
    assert (one == other).mean() >= 0.97


def test_a_stopped_map_goes_on_and_is_the_same(tmp_path: Path, monkeypatch) -> None:
    w = world.make(tmp_path, 700, 900, nodata=0)
    model = world.tiny_checkpoint("skip", like=w.scene)
    how = {"device": "cuda", "tile_size": 320, **QUICK}
    whole = map_scene(model, w.scene, tmp_path / "whole", **how)
    stopped_after_a_tile(monkeypatch, model, w.scene, tmp_path / "stopped", **how)
    map_scene(model, w.scene, tmp_path / "stopped", **how)
    assert whole is not None
    assert (classes(tmp_path / "whole") == classes(tmp_path / "stopped")).all()


def test_workers_on_a_gpu_make_the_map_of_one(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    w = world.make(tmp_path, 700, 900, nodata=0)
    path = tmp_path / "model.safetensors"
    save(world.tiny_checkpoint("skip", like=w.scene), path)
    how = {"device": "cuda", "tile_size": 320, "report": False, "polygons": False}
    found = [
        map_scenes(path, [w.scene], tmp_path / name, **how, **more)
        for name, more in (("one", {}), ("two", {"workers": 2, "grain": "block"}))
    ]
    assert [job.counts for job in found] == [{"done": 1}] * 2
    one, other = (next((tmp_path / name).rglob("*_class.tif")) for name in ("one", "two"))
    with rasterio.open(one) as first, rasterio.open(other) as second:
        assert (first.read(1) == second.read(1)).all()


def test_a_score_is_the_processors(tmp_path: Path) -> None:
    w = world.make(tmp_path, 300, 400)
    model = world.tiny_checkpoint("skip", like=w.scene)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    dataset = open_dataset(w.scene, labels, spec=LabelRules(legend=world.LEGEND))
    one, other = (evaluate(model, dataset, device=device).confusion.counts for device in ("cpu", "cuda"))
    assert one.sum() == other.sum() == 300 * 400
    assert np.abs(one - other).sum() <= 2e-4 * one.sum()


def test_every_network_is_measured_on_a_gpu() -> None:
    found = bench(quick=True, device="cuda", rounds=1)
    assert {one.network for one in found.measured} >= set(list_models())
    assert not [one for one in found.measured if one.failure]
    # The memory is the GPU's: no network takes none.
    assert all(one.peak_bytes for one in found.measured)
