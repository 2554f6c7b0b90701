import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from labelscape.checkpoint import Checkpoint, StoredAs, load, load_all, save
from labelscape.contract.bands import QUANTILES, BandStatistics
from labelscape.contract.contract import Contract
from labelscape.contract.tile_sizes import TileSizes
from labelscape.errors import BadFile, WrongType
from labelscape.legend import Legend


@pytest.fixture
def checkpoint():
    rng = np.random.default_rng(0)
    statistics = tuple(
        BandStatistics(b, 1.5, 0.5, 0.0, 3.0, tuple(float(q) for q in QUANTILES)) for b in ("nir", "red")
    )
    return Checkpoint(
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        weights={"a.weight": rng.normal(size=(3, 2)).astype(np.float32), "b": np.array(7)},
        legend=Legend.of_names(["land", "water"], values=[1, 9]),
        recipe={"steps": 5, "data": {"images": ["a.tif"]}},
        scores={"fcn": {"mIoU": 0.5}},
        history=({"step": 1, "loss": 2.0},),
        contract=Contract(
            bands=("nir", "red"),
            dtype="uint16",
            normalisation=((1.5, 0.5), (2.0, 0.25)),
            statistics=statistics,
            pixel_size=10.0,
            nodata=0,
            crs_kind="projected",
        ),
    )


def test_all_that_is_saved_comes_back(checkpoint, tmp_path):
    back = load(save(checkpoint, tmp_path / "new" / "model.safetensors"))
    assert back.describe() == checkpoint.describe()
    assert back.legend == checkpoint.legend
    assert back.contract.statistics == checkpoint.contract.statistics
    for key, value in checkpoint.weights.items():
        np.testing.assert_array_equal(back.weights[key], value, strict=True)
    assert (
        save(back, tmp_path / "again.safetensors").read_bytes()
        == (tmp_path / "new" / "model.safetensors").read_bytes()
    )


def test_the_file_is_remembered_beside_what_is_stored(checkpoint, tmp_path):
    path = save(checkpoint, tmp_path / "model.safetensors")
    back = load(path)
    assert checkpoint.stored is None and replace(back).stored is None
    assert back.stored == StoredAs(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    assert back.describe() == checkpoint.describe()


def test_half_keeps_three_digits(checkpoint, tmp_path):
    back = load(save(checkpoint, tmp_path / "half.safetensors", half=True))
    assert back.weights["a.weight"].dtype == np.float32
    np.testing.assert_allclose(back.weights["a.weight"], checkpoint.weights["a.weight"], rtol=1e-3)


def test_what_is_no_checkpoint_is_said_to_be_none(checkpoint, tmp_path):
    with pytest.raises(BadFile, match="does not exist"):
        load(tmp_path / "no.safetensors")
    with pytest.raises(BadFile, match="folder"):
        load(tmp_path)
    (tmp_path / "text.safetensors").write_text("not weights at all, just words that go on for a while")
    with pytest.raises(BadFile, match="not a Labelscape checkpoint or is damaged"):
        load(tmp_path / "text.safetensors")
    whole = save(checkpoint, tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) - 5])
    with pytest.raises(BadFile, match="damaged"):
        load(tmp_path / "cut.safetensors")
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BadFile, match="without Labelscape's description"):
        load(tmp_path / "foreign.safetensors")
    save_file(
        {"x": np.zeros(3, np.float32)},
        tmp_path / "odd.safetensors",
        metadata={"labelscape": json.dumps({"format": "labelscape-99"})},
    )
    with pytest.raises(BadFile, match="another version"):
        load(tmp_path / "odd.safetensors")
    described = {**checkpoint.describe(), "bands": ["red"]}
    save_file(
        {"x": np.zeros(3)}, tmp_path / "few.safetensors", metadata={"labelscape": json.dumps(described)}
    )
    with pytest.raises(BadFile, match=r"damaged description \(1 bands, \d pairs"):
        load(tmp_path / "few.safetensors")


def test_a_place_that_cannot_be_written_leaves_nothing(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="cannot be written"):
        save(checkpoint, tmp_path / "file" / "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_checkpoint_prints_on_one_line_and_equals_itself_only(checkpoint):
    scored = replace(checkpoint, scores={"fcn": {"mean_iou": 0.51234}})
    assert repr(scored) == "<Checkpoint fcn: 2 bands, 2 classes, 10 m, mIoU 51.23 %>"
    without = replace(checkpoint, contract=replace(checkpoint.contract, pixel_size=None), scores={})
    assert repr(without) == "<Checkpoint fcn: 2 bands, 2 classes, no pixel size>"
    assert checkpoint == checkpoint
    assert checkpoint != replace(checkpoint)
    assert {checkpoint: 1, replace(checkpoint): 2}[checkpoint] == 1


def test_a_notebook_shows_a_table_in_which_names_stay_text(checkpoint):
    legend = Legend.of_names(["<b>land", "water"], colors=[(1, 2, 255), (0, 0, 0)])
    html = replace(checkpoint, legend=legend)._repr_html_()
    assert "&lt;b&gt;land" in html and "<b>land" not in html
    assert "background:#0102ff" in html
    assert "nir, red" in html
    assert len(html) < 3000


@pytest.mark.parametrize("wrong", [None, np.zeros((2, 3)), 7])
def test_what_is_no_path_gets_a_sentence(wrong):
    found = {"NoneType": "nothing (None)", "ndarray": "a numpy.ndarray", "int": "a int"}
    for read in (load, load_all):
        with pytest.raises(WrongType) as said:
            read(wrong)
        assert str(said.value) == (
            f"A checkpoint must be given as a path; found {found[type(wrong).__name__]}."
        )


def test_tile_sizes_are_stored_where_there_are_some(checkpoint, tmp_path):
    assert "tile_sizes" not in checkpoint.describe()  # files of before stay the same
    sizes = TileSizes(64, (64, 96), (0.5, 0.4), (0.6, 0.5), (0.0, 0.1), (0.0, 0.01))
    path = save(replace(checkpoint, tile_sizes=sizes), tmp_path / "m.safetensors")
    assert load(path).tile_sizes == sizes
    weights = {"a": np.zeros(1, np.float32)}
    wrong = {**checkpoint.describe(), "tile_sizes": {**sizes.to_dict(), "sides": [96, 64]}}
    save_file(weights, path, metadata={"labelscape": json.dumps(wrong)})
    with pytest.raises(BadFile, match="sides"):
        load(path)
