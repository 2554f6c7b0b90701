"""Gradients of MSWBN's paper on a model, and its weights over saved states."""

import json

import numpy as np
import pytest
import torch
import world
from inside import checkpoint_of, close, look_at
from safetensors.torch import save_file

from labelscape.checkpoint import save
from labelscape.errors import BadFile, BadInput
from labelscape.explanation import mswbn_gradients, over_training
from labelscape.explanation.choosing import Wanted
from labelscape.nets.blocks import pad_to_multiple


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("gradients")).scene


@pytest.mark.parametrize(
    "options",
    [{}, {"gate_hwm": False, "gate_lbm": False}, {"lbm": False}, {"branch": "linear", "mlp_input": "gated"}],
)
def test_the_identities_hold(scene, options):
    found = mswbn_gradients.check(
        look_at(checkpoint_of("mswbn", scene, **options), scene, Wanted(number=2, side=48))
    )
    assert found.numbers["largest_error"] < 1e-12
    assert found.numbers["largest_gradient_through_closed_gates"] == 0
    assert len(found.numbers["errors"]) == (4 if options == {"lbm": False} else 6)
    gates = options.get("gate_hwm", True)
    assert (found.numbers["closed_gates"] > 0) == gates


def test_the_pass_that_is_checked_is_the_networks_own(scene):
    look = look_at(checkpoint_of("mswbn", scene), scene, Wanted(number=1, side=48))
    image = pad_to_multiple(next(iter(look.windows)).image.double(), look.net.stride)
    net = look.net.double()
    labels = torch.zeros(1, *image.shape[-2:], dtype=torch.long)
    one = mswbn_gradients.passed(net, image, labels)
    with torch.no_grad():
        softmax = net(image).softmax(1)
    # p - y of the pass is that of the network: the pass is the same function.
    assert close(one.error[:, 1:], softmax[:, 1:], 1e-12) and close(one.error[:, 0], softmax[:, 0] - 1, 1e-12)


def test_a_wrong_gradient_is_seen(scene, monkeypatch):
    look = look_at(checkpoint_of("mswbn", scene), scene, Wanted(number=1, side=48))
    monkeypatch.setattr(mswbn_gradients, "_opening", lambda weight, theta: torch.ones_like(weight))
    assert mswbn_gradients.check(look).numbers["largest_error"] > 1e-3


def state_file(path, checkpoint, step):
    tensors = {f"net.{name}": torch.from_numpy(value) for name, value in checkpoint.weights.items()}
    tensors["optimizer.step"] = torch.zeros(1)
    facts = {"recipe": {"network": "mswbn"}, "progress": {"step": step}}
    save_file(tensors, path, metadata={"labelscape-state": json.dumps(facts)})


def leaning(value):
    def set_weights(net):
        for hierarchy in net.hwm.hierarchies:
            hierarchy.generator.weight.zero_()
            hierarchy.generator.bias.zero_()
            hierarchy.generator.bias[0] = value

    return set_weights


def test_weights_over_saved_states(scene, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for step, value in ((20, 2.0), (10, 1.0)):
        state_file(
            run / f"at{step}.state.safetensors", checkpoint_of("mswbn", scene, change=leaning(value)), step
        )
    save(checkpoint_of("skip", scene), run / "skip.safetensors")  # of another network: passed over
    look = look_at(checkpoint_of("mswbn", scene), scene, Wanted(number=2, side=48), over=run)
    before = {name: value.clone() for name, value in look.net.state_dict().items()}
    found = over_training.run(look)
    assert found.numbers["steps"] == [10, 20]
    expected = [np.exp(v) / (np.exp(v) + 4) for v in (1.0, 2.0)]
    assert close(found.arrays["weights"][:, :, 0], np.array(expected)[:, None])
    assert all(torch.equal(value, before[name]) for name, value in look.net.state_dict().items())
    assert over_training.why_not(look) == ""


def test_a_folder_without_states_and_a_state_of_other_options(scene, tmp_path):
    look = look_at(checkpoint_of("mswbn", scene), scene, Wanted(number=1, side=48), over=tmp_path)
    with pytest.raises(BadFile, match="no saved state"):
        over_training.run(look)
    state_file(tmp_path / "a.state.safetensors", checkpoint_of("mswbn", scene, width=5), 3)
    with pytest.raises(BadInput, match="step 3"):
        over_training.run(look)
