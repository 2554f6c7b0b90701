"""A frozen encoder stays as it is, to the bit; learning rates fall with depth; in every network."""

import numpy as np
import pytest
import torch
import world
from small_networks import HEADS, SMALL
from test_start import RGB, Data

import labelscape.training.start as starting
from labelscape.checkpoint import Checkpoint, SecondTask, load, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadInput, BadOption
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.nets.depth import encoder_names, encoder_stages
from labelscape.training.freeze import freeze_encoder, train_mode
from labelscape.training.loop import set_rate, set_up, update
from labelscape.training.optimizers import make_optimizer
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.setup import Task
from labelscape.training.start import take_over
from labelscape.training.team import gather

DATA = {"images": ["a"]}
FCN = {"widths": (4, 6, 8, 10)}


def network(name, **sizes):
    torch.manual_seed(0)
    return create_model(name, **{"in_channels": 3, "classes": 3, **sizes}, **SMALL[name])


@pytest.fixture
def fields(tmp_path):
    """Settings of a short run that changes all it can: momentum, weight decay, an average, a map size."""
    w = world.make(tmp_path, 96, 96, bands=3)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    data = {"images": [str(w.scene)], "labels": [str(labels)], "holdout": 0}
    return {"data": data, "steps": 2, "crop": 64, "batch": 2, "device": "cpu", "weight_decay": 0.1}


def checkpoint(name, path, bands, classes, mate=None, seed=1):
    """A checkpoint of random weights, whose statistics are not those of a fresh network either."""
    more = {"mate_classes": len(mate)} if mate else {}
    net = create_model(name, in_channels=len(bands), classes=len(classes), **SMALL[name], **more)
    draw = np.random.default_rng(seed).random
    weights = {k: np.asarray(draw(v.shape) * 0.1 + 0.01, np.float32) for k, v in net.state_dict().items()}
    contract = Contract(bands=tuple(bands), dtype="uint16", normalisation=((0.0, 1.0),) * len(bands))
    second = SecondTask("road", Legend.of_names(list(mate)), contract) if mate else None
    made = Checkpoint(
        name, {**SMALL[name], **more}, weights, Legend.of_names(list(classes)), contract, mate=second
    )
    return made if path is None else load(save(made, path))


def stepped(name, **settings):
    """The state of a network before and after an update on noise, as the loop makes them."""
    recipe = make_recipe(data=DATA, network=name, start="a", batch=2, weight_decay=0.1, rate=0.01, **settings)
    net = network(name, **({"mate_classes": 0} if "mate" in HEADS.get(name, ()) else {}))
    if recipe.freeze == "encoder":
        freeze_encoder(net, None)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fabric = gather("cpu", "32")
    wrapped, optimizer = set_up(net, recipe, fabric)
    labels = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
    set_rate(optimizer, recipe, 0)
    train_mode(wrapped, recipe)
    update(wrapped, optimizer, fabric, [[(torch.randn(2, 3, 32, 32), labels)]], recipe, [Task(None, None)])
    return net, before, {key: value.clone() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("name", SMALL)
def test_a_frozen_encoder_stays_to_the_bit_while_the_rest_learns(name):
    net, before, after = stepped(name, freeze="encoder")
    encoder = encoder_names(net)
    assert encoder and encoder < after.keys()
    for key in encoder:
        assert torch.equal(before[key], after[key]), key
    rest = {key for key in after if key not in encoder}
    assert any(not torch.equal(before[key], after[key]) for key in rest)


def test_the_same_steps_without_freezing_move_weights_and_statistics():
    net, before, after = stepped("fcn")
    moved = {key for key in encoder_names(net) if not torch.equal(before[key], after[key])}
    assert {"encoder.level1.conv1_1.weight", "encoder.level1.norm1_1.running_mean"} <= moved


def test_a_whole_run_leaves_the_encoder_alone(fields, tmp_path):
    """Momentum, weight decay, the moving average and statistics at the map size all pass it by."""
    # Bands of the test's scene are called 1, 2, 3.
    old = checkpoint("fcn", tmp_path / "old.safetensors", ("1", "2", "3"), ("water", "field", "forest"))
    lines = []
    recipe = make_recipe(
        **fields,
        network="fcn",
        options=FCN,
        start=str(tmp_path / "old.safetensors"),
        freeze="encoder",
        ema=0.9,
        map_size=96,
        map_steps=0,
        map_tiles=2,
        measure_unfamiliar=False,
    )
    new = train(recipe, tmp_path / "new", score=False, say=lines.append)
    encoder = encoder_names(network("fcn"))
    for key in encoder:
        # Counts of batches are whole numbers in the network.
        wanted = old.weights[key].astype(new.weights[key].dtype)
        np.testing.assert_array_equal(new.weights[key], wanted, err_msg=key)
    rest = {key for key in new.weights if key not in encoder and new.weights[key].ndim > 1}
    assert any(not np.array_equal(new.weights[key], old.weights[key]) for key in rest)
    assert any(line.startswith("the encoder is frozen: ") for line in lines)


def test_a_frozen_encoder_works_as_in_a_map(fields, tmp_path, monkeypatch):
    import labelscape.training.loop as loop

    seen, real = [], loop.update

    def watched(net, *arguments):
        seen.append((net.module.training, {m.training for m in net.module.encoder.modules()}))
        return real(net, *arguments)

    monkeypatch.setattr(loop, "update", watched)
    checkpoint("fcn", tmp_path / "old.safetensors", ("1", "2", "3"), ("water", "field", "forest"))
    start = {"network": "fcn", "options": FCN, "start": str(tmp_path / "old.safetensors")}
    train(make_recipe(**fields, **start, freeze="encoder"), tmp_path / "a", score=False)
    assert seen == [(True, {False})] * 2


def test_what_would_stay_random_is_not_frozen():
    net = network("fcn", in_channels=4)
    old = checkpoint("fcn", None, RGB, ("a", "b", "c"))
    data = Data((*RGB, "nir"), Legend.of_names(["a", "b", "c"]))
    taken = take_over(net, "fcn", SMALL["fcn"], data, old)
    with pytest.raises(BadInput, match=r"1 of 40 weights .* such as encoder.level1.conv1_1.weight"):
        freeze_encoder(net, taken)


def test_bands_in_another_order_are_all_known_and_can_be_frozen():
    net, old = network("fcn"), checkpoint("fcn", None, RGB, ("a", "b", "c"))
    data = Data(RGB[::-1], Legend.of_names(["a", "b", "c"]))
    freeze_encoder(net, take_over(net, "fcn", SMALL["fcn"], data, old))
    (line,) = starting.fit_of("fcn", SMALL["fcn"], data, old).told(old, "old.safetensors")
    assert line.startswith("43 of 43 weights") and "new" not in line
    assert "by the names of classes and bands: encoder.level1.conv1_1 (other bands: red green blue;" in line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"freeze": "encoder", "base_steps": 0},
            "`freeze=encoder` would freeze random weights: give `start`",
        ),
        ({"freeze": "encoder", "start": "a", "layer_decay": 0.8}, "`layer_decay=0.8` has no effect"),
        ({"freeze": "all"}, "freeze"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"encoder_factor": 0}, "encoder_factor"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(more, said):
    with pytest.raises(BadOption, match=said):
        make_recipe(data=DATA, **more)


def test_a_recipe_without_them_is_stored_as_before():
    stored = make_recipe(data=DATA).model_dump(mode="json")
    assert not {"freeze", "encoder_factor", "layer_decay"} & stored.keys()


@pytest.mark.parametrize("name", [*SMALL, "smp/Segformer"])
def test_rates_fall_by_the_stage_from_the_last_to_the_stem(name):
    options = {"encoder": "mit_b0"} if name == "smp/Segformer" else SMALL[name]
    net = create_model(name, in_channels=3, classes=3, **options)
    stages = encoder_stages(net)
    # Each weight of the encoder is in one stage, and in the stem's first.
    keys = [{f"{part}.{k}" for part, m in stage for k in m.state_dict()} for stage in stages]
    assert len(keys) >= 4 and sum(map(len, keys)) == len(encoder_names(net))
    assert set.union(*keys) == encoder_names(net)
    recipe = make_recipe(data=DATA, network=name, encoder_factor=0.5, layer_decay=0.5)
    factor_of = {
        id(p): group["factor"] for group in make_optimizer(net, recipe).param_groups for p in group["params"]
    }
    for key, parameter in net.named_parameters():
        at = next((number for number, stage in enumerate(keys) if key in stage), None)
        wanted = 1.0 if at is None else 0.5 * 0.5 ** (len(stages) - at)
        assert factor_of[id(parameter)] == wanted, key


def test_the_stages_of_a_resnet_are_its_stem_and_layers():
    body = "trunk.body."
    assert [[name for name, _ in stage] for stage in encoder_stages(network("mswbn"))] == [
        [f"{body}conv1", f"{body}bn1"],
        *([f"{body}layer{n}"] for n in (1, 2, 3, 4)),
    ]


def test_both_factors_multiply_those_of_names_and_are_told():
    from labelscape.training.optimizers import told_of_rates

    net = network("mswbn")
    recipe = make_recipe(
        data=DATA, network="mswbn", rate=0.01, layer_decay=0.5, rate_factors={"trunk.body.layer4": 0.1}
    )
    groups = make_optimizer(net, recipe).param_groups
    (last,) = [g for g in groups if any(p is net.trunk.body.layer4[0].conv1.weight for p in g["params"])]
    assert last["factor"] == pytest.approx(0.05)
    (line,) = told_of_rates(net, recipe.replace(rate_factors={}))
    assert line.startswith("learning rates by depth: trunk.body.conv1 to bn1 0.000313, trunk.body.layer1 ")
    assert line.endswith("trunk.body.layer4 0.005; the rest 0.01")


def test_the_base_networks_encoder_learns():
    from labelscape.training.run import base_recipe

    base = base_recipe(make_recipe(data=DATA, network="mlp", freeze="encoder"))
    assert (base.freeze, base.encoder_factor, base.layer_decay) == ("none", 1, 1)


@pytest.mark.parametrize("now", [("pavement", "road", "path"), ("road", "pavement"), ("lane", "kerb")])
def test_rows_of_a_second_head_are_matched_by_name_too(now):
    old, options = ("road", "pavement"), {**SMALL["dfcnet"], "mate_classes": len(now)}
    start = checkpoint("dfcnet", None, RGB, ("a", "b"), mate=old)
    net = create_model("dfcnet", in_channels=3, classes=2, **options)
    fresh = {key: value.clone().numpy() for key, value in net.state_dict().items()}
    data, mate = Data(RGB, Legend.of_names(["a", "b"])), Data(RGB, Legend.of_names(list(now)))
    take_over(net, "dfcnet", options, data, start, mate)
    heads = [k for k in fresh if k.startswith("road_head") and fresh[k].shape[:1] == (len(now),)]
    assert heads
    for key in heads:
        for row, name in enumerate(now):
            wanted = start.weights[key][old.index(name)] if name in old else fresh[key][row]
            np.testing.assert_array_equal(net.state_dict()[key].numpy()[row], wanted, err_msg=key)


def test_a_papers_start_refuses_as_many_bands_in_another_order():
    start = checkpoint("fcn", None, RGB, ("a", "b"))
    net = network("mlp", classes=2)
    with pytest.raises(BadInput, match="learned the bands red green blue, and the scenes have blue"):
        take_over(net, "mlp", SMALL["mlp"], Data(RGB[::-1], Legend.of_names(["a", "b"])), start)


def test_names_count_where_shapes_cannot_be_had_without_numbers(monkeypatch):
    monkeypatch.setattr(starting, "shapes_of", lambda *arguments: None)
    start = checkpoint("fcn", None, RGB, ("a", "b"))
    net = network("fcn", classes=2)
    take_over(net, "fcn", SMALL["fcn"], Data(RGB, Legend.of_names(["b", "a"])), start)
    np.testing.assert_array_equal(net.head.score.weight.detach()[0], start.weights["head.score.weight"][1])
