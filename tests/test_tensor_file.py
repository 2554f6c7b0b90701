"""A byte of a safetensors file that a disk or a transfer changed is found, wherever it is read."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from world import LEGEND

import labelscape as ls
from labelscape.checkpoint import description, load, save
from labelscape.errors import BadFile
from labelscape.explanation.over_training import saved_weights
from labelscape.nets.catalog import create_model
from labelscape.scoring.engines import state_arrays
from labelscape.training.state import Progress, load_state, save_state

FCN = {"widths": (4, 6, 8, 10)}


@pytest.fixture
def stored(tmp_path):
    torch.manual_seed(0)
    net = create_model("fcn", in_channels=3, classes=len(LEGEND), **FCN)
    contract = ls.Contract(bands=("rot", "grün", "蓝"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3)
    return save(ls.Checkpoint("fcn", FCN, state_arrays(net), LEGEND, contract), tmp_path / "a.safetensors")


def flipped(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def tensors_at(path):
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def test_what_is_written_is_a_safetensors_file_of_the_same_tensors(stored):
    kept = load(stored)
    found = load_file(stored)
    assert found.keys() == kept.weights.keys()
    assert all(np.array_equal(found[name], kept.weights[name]) for name in found)
    assert kept.bands == ("rot", "grün", "蓝")
    assert tensors_at(stored) % 8 == 0
    again = save(kept, stored.with_name("b.safetensors"))
    assert again.read_bytes() == stored.read_bytes()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_changed_bit_of_the_weights_is_refused(stored, part, bit):
    start = tensors_at(stored)
    flipped(stored, start + int(part * (stored.stat().st_size - start)), bit)
    description(stored)  # of which nothing changed
    with pytest.raises(BadFile, match="a.safetensors is damaged: its weights changed after .* checksum"):
        load(stored)


def test_a_changed_digit_of_the_description_is_refused(stored):
    flipped(stored, stored.read_bytes().index(b"4500.0") + 1)
    for read in (description, load):
        with pytest.raises(BadFile, match="damaged: its description changed"):
            read(stored)


def test_no_bit_of_a_file_changes_without_a_word(stored):
    """Whatever bit it is: refused, or the same checkpoint."""
    whole, rng = stored.read_bytes(), np.random.default_rng(0)
    kept = load(stored)
    for place in {*rng.integers(0, tensors_at(stored), 150), *rng.integers(0, len(whole), 50)}:
        stored.write_bytes(whole)
        flipped(stored, int(place), int(rng.integers(8)))
        try:
            found = load(stored)
        except BadFile:
            continue
        assert found.describe() == kept.describe()
        assert found.weights.keys() == kept.weights.keys()
        assert all(np.array_equal(found.weights[name], kept.weights[name]) for name in kept.weights)


def test_files_without_a_checksum_are_read(stored):
    with safe_open(stored, framework="numpy") as file:
        about = file.metadata()
    older = stored.with_name("older.safetensors")
    save_file(load_file(stored), older, metadata={"labelscape": about["labelscape"]})
    assert load(older).describe() == load(stored).describe()


@pytest.fixture
def state(tmp_path):
    net = create_model("fcn", in_channels=3, classes=4, **FCN)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    path = tmp_path / "fcn.state.safetensors"
    save_state(path, {"network": "fcn"}, Progress(step=3), net, optimizer)
    return path, net, optimizer


def test_a_training_is_not_resumed_from_changed_weights(state):
    path, net, optimizer = state
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert load_state(path, {"network": "fcn"}, net, optimizer).step == 3
    flipped(path, path.stat().st_size - 5)
    with pytest.raises(BadFile, match="damaged: its weights changed"):
        load_state(path, {"network": "fcn"}, net, optimizer)
    with pytest.raises(BadFile, match="damaged: its weights changed"):
        saved_weights(path.parent, "fcn")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_progress_of_a_training_is_checked(state):
    path, net, optimizer = state
    place = path.read_bytes().index(b'step\\": 3') + len(b'step\\": ')
    flipped(path, place)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["labelscape-state"])["progress"]["step"] == 2
    with pytest.raises(BadFile, match="damaged: its description changed"):
        load_state(path, {"network": "fcn"}, net, optimizer)
