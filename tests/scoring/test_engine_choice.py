"""Another engine predicts what torch predicts, or torch does; chosen before the first tile, from facts."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import world
from interrupted import stopped_after_a_tile
from small_networks import SMALL

from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.bands import BandStatistics
from labelscape.contract.contract import Contract
from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.grid import Window
from labelscape.legend import LandClass, Legend
from labelscape.maps.rerun import rerun
from labelscape.maps.run import map_scene
from labelscape.nets.blocks import pad_to_multiple
from labelscape.nets.catalog import create_model
from labelscape.scenes.array import ArrayScene
from labelscape.scoring import engine_cache, engine_choice, onnxruntime_engine, openvino_engine
from labelscape.scoring.arrays import softmax
from labelscape.scoring.engine_choice import with_engine
from labelscape.scoring.engines import TorchEngine, state_arrays
from labelscape.scoring.openvino_engine import Converted
from labelscape.scoring.proof import Proof, compared, proof_images, scores_apart
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.runtimes import RUNTIMES, installed, padded
from labelscape.scoring.scorer import Scorer
from labelscape.scoring.stitch import image_shapes, plan_for, score_tiles
from labelscape.scoring.tiles import TilePlan, plan_tiles

openvino_version = openvino_engine.installed_version
needs_openvino = pytest.mark.skipif("openvino" not in installed(), reason="OpenVINO is not installed")
needs_onnx = pytest.mark.skipif("onnxruntime" not in installed(), reason="onnxruntime is not installed")
RUNS = [pytest.param("openvino", marks=needs_openvino), pytest.param("onnxruntime", marks=needs_onnx)]
FCN = {"widths": (4, 6, 8, 10)}
LEGEND = Legend(tuple(LandClass(n, f"c{n}", (n, 0, 0)) for n in range(3)))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELSCAPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(network="fcn", options=FCN, bands=3, legend=LEGEND, seed=0, **fields):
    torch.manual_seed(seed)
    net = create_model(network, in_channels=bands, classes=len(legend), **options)
    # Statistics that batch normalisation would have after training: at 0 and 1 it does nothing.
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    names = tuple(f"b{n}" for n in range(bands))
    contract = Contract(bands=names, dtype="uint16", normalisation=((4500.0, 2000.0),) * bands)
    return Checkpoint(network, dict(options), state_arrays(net), legend, contract, **fields)


def one_tile(height, width):
    return TilePlan(Window(0, 0, height, width), max(height, width), 0)


@pytest.fixture
def world_map(tmp_path):
    """A checkpoint and a scene of three tiles."""
    checkpoint = replace(made(legend=world.LEGEND), contract=replace(made().contract, bands=("1", "2", "3")))
    model = save(checkpoint, tmp_path / "model.safetensors")
    how = {"tile_size": 112, "overlap": 16, "blend": "crop", "device": "cpu", "polygons": False}
    return model, world.make(tmp_path, 80, 240, name="one").scene, {**how, "report": False, "force": True}


NETWORKS = [
    ("fcn", FCN),
    ("mlp", {"widths": (4, 6, 8, 10), "hidden": 16}),
    ("skip", {"widths": (4, 6, 8, 10)}),
    ("smp/Unet", {"encoder": "resnet18"}),
]


ODD = [(1, 67, 91), (2, 48, 33)]
CASES = [pytest.param("openvino", *one, shape, marks=needs_openvino) for one in NETWORKS for shape in ODD] + [
    pytest.param("onnxruntime", *NETWORKS[0], ODD[1], marks=needs_onnx),
    # torch's exporter is slow.
    *(pytest.param("onnxruntime", *one, ODD[0], marks=(needs_onnx, pytest.mark.long)) for one in NETWORKS),
]


@pytest.mark.parametrize(("engine", "network", "options", "shape"), CASES)
def test_another_engine_gives_what_torch_gives_at_odd_sizes(engine, network, options, shape):
    count, *size = shape
    checkpoint = made(network, options)
    scorer = Scorer.of(checkpoint, device="cpu")
    plan = replace(one_tile(*size), batch=1)
    plans = [plan]
    if count == 2:
        # Two tiles side by side, in one batch.
        plans = [TilePlan(Window(0, 0, size[0], 2 * size[1]), size[1], 0, batch=2)]
        assert set(image_shapes(plans[0])) == {(2, 33, 33), (2, 15, 33)}
    found = with_engine(scorer, plans, engine)
    assert found.note == ""
    assert found.scorer.engine == f"{engine} {RUNTIMES[engine].installed_version()}"
    for images, height, width in image_shapes(plans[0]):
        pixels = torch.randn(images, 3, height, width)
        one = found.scorer.members[0].engine
        assert padded(pixels.shape, one.step) in one.converted
        wanted, answer = (s.batch_logits([pixels]).softmax(1) for s in (scorer, found.scorer))
        torch.testing.assert_close(answer, wanted, atol=2e-5, rtol=0)
        assert answer.std() > 0.01


@needs_onnx
def test_auto_takes_onnxruntime_where_openvino_is_missing_and_a_map_goes_on_with_it(
    worth, world_map, tmp_path, monkeypatch
):
    model, scene, how = world_map
    plain = map_scene(model, scene, tmp_path / "plain", engine="torch", **how)
    monkeypatch.setattr(openvino_engine, "installed_version", lambda: None)
    whole = map_scene(model, scene, tmp_path / "whole", **how)
    assert whole.facts["engine"] == f"onnxruntime {onnxruntime_engine.installed_version()}"
    one, two = (rasterio.open(r.paths["class"]).read(1) for r in (plain, whole))
    np.testing.assert_array_equal(one, two)
    stopped_after_a_tile(monkeypatch, model, scene, tmp_path / "out", **how)
    # From the cache.
    monkeypatch.setattr(onnxruntime_engine, "traced", lambda *_: pytest.fail("recorded again"))
    resumed = map_scene(model, scene, tmp_path / "out", **how)
    again = rerun(whole.paths["run"], tmp_path / "again")
    for made_by in (resumed, again):
        assert made_by.facts["engine"] == whole.facts["engine"]
        assert made_by.paths["confidence"].read_bytes() == whole.paths["confidence"].read_bytes()
    assert resumed.resumed


@needs_openvino
def test_shapes_that_were_not_converted_are_predicted_by_torch_to_the_bit():
    scorer = Scorer.of(made(), device="cpu")
    settled = with_engine(scorer, [one_tile(64, 64)], "openvino").scorer
    other = torch.randn(1, 3, 80, 72)
    assert torch.equal(settled.batch_logits([other]), scorer.batch_logits([other]))


FOUR = [TilePlan(Window(0, 0, 160, 160), 96, 0)]
"""Tiles of four shapes."""


def networks_of(settled):
    """The converted networks, and the shapes that they predict."""
    engine = settled.scorer.members[0].engine
    return set(map(id, engine.converted.values())), set(engine.converted)


@needs_openvino
@pytest.mark.parametrize(("network", "options"), NETWORKS)
def test_where_a_network_for_each_shape_takes_much_memory_one_predicts_them_all(
    network, options, monkeypatch
):
    scorer = Scorer.of(made(network, options), device="cpu")
    shapes = {(1, 3, height, width) for height in (96, 64) for width in (96, 64)}
    monkeypatch.setattr(engine_choice, "SHARED_BYTES", 2 * 2**30)
    several, found = networks_of(with_engine(scorer, FOUR, "openvino"))
    assert len(several) == 4 and found == shapes
    needed = engine_choice.extra_bytes(scorer, FOUR[0], "openvino")
    monkeypatch.setattr(engine_choice, "SHARED_BYTES", 1)
    settled = with_engine(scorer, FOUR, "openvino")
    one, found = networks_of(settled)
    assert len(one) == 1 and found == shapes
    assert 0 < engine_choice.extra_bytes(scorer, FOUR[0], "openvino") < needed
    for shape in shapes:
        pixels = torch.randn(shape)
        wanted, answer = (s.batch_logits([pixels]).softmax(1) for s in (scorer, settled.scorer))
        torch.testing.assert_close(answer, wanted, atol=2e-5, rtol=0)
    # From the cache, and by another process that is told the choice.
    monkeypatch.setattr(openvino_engine, "traced", lambda *_: pytest.fail("converted again"))
    again = engine_choice.Chosen.of(settled.scorer).on(Scorer.of(made(network, options), device="cpu"))
    assert networks_of(engine_choice.Settled(again))[1] == shapes
    assert torch.equal(again.batch_logits([pixels]), settled.scorer.batch_logits([pixels]))


@needs_openvino
@pytest.mark.parametrize("how", ["raises", "differs"])
def test_a_network_that_holds_its_sizes_is_converted_for_each_where_memory_allows(how, monkeypatch, worth):
    def of_any_size(model):
        if how == "raises":
            raise RuntimeError("a size is a number in this graph")
        return wrong

    scorer = Scorer.of(made(), device="cpu")
    torch.manual_seed(1)
    wrong = openvino_engine.traced(
        Scorer.of(made(seed=5), device="cpu").members[0].engine, torch.randn(1, 3, 80, 80)
    )[0]
    monkeypatch.setattr(openvino_engine, "of_any_size", of_any_size)
    monkeypatch.setattr(engine_choice, "SHARED_BYTES", 200 * 2**20)  # OpenVINO itself takes 110 a network
    several, _ = networks_of(with_engine(scorer, FOUR, "openvino"))
    assert len(several) == 4
    monkeypatch.setattr(engine_choice, "MOST_BYTES", 300 * 2**20)
    with pytest.raises(BadInput, match=r"tiles of 96 x 96, .* pixels it would need 0\.4 GiB; smaller tiles"):
        with_engine(scorer, FOUR, "openvino")
    told = with_engine(scorer, FOUR, "auto")
    assert told.scorer is scorer and "it would need 0.4 GiB" in told.note


@needs_openvino
def test_an_ensemble_with_turned_and_scaled_images_is_averaged_the_same():
    protocol = Protocol((1.0, 1.5), "dihedral", "probabilities")
    models = [made(seed=0), made("mlp", NETWORKS[1][1], seed=1, temperature=0.5)]
    scorer = Scorer.of(models, device="cpu", protocol=protocol)
    scene = ArrayScene(np.random.default_rng(0).normal(size=(3, 48, 48)).astype(np.float32))
    plan = plan_for(scorer, scene)
    settled = with_engine(scorer, [plan], "openvino").scorer
    assert {shape[2:] for m in settled.members for shape in m.engine.converted} == {(48, 48), (80, 80)}
    ((wanted,), (found,)) = (list(score_tiles(s, scene, plan)) for s in (scorer, settled))
    torch.testing.assert_close(found.probabilities, wanted.probabilities, atol=2e-5, rtol=0)


@needs_openvino
def test_every_turn_of_a_tile_that_is_not_square_is_converted(monkeypatch):
    scorer = Scorer.of(made(), device="cpu", protocol=Protocol(tta="dihedral"))
    settled = with_engine(scorer, [one_tile(48, 80)], "openvino").scorer
    assert networks_of(engine_choice.Settled(settled))[1] == {(1, 3, 48, 80), (1, 3, 80, 48)}
    monkeypatch.setattr(TorchEngine, "forward", lambda *_: pytest.fail("predicted by torch"))
    settled.batch_logits([torch.randn(1, 3, 48, 80)])


@pytest.mark.parametrize("network", SMALL)
def test_an_image_gets_the_logits_that_it_gets_when_it_is_padded(network):
    torch.manual_seed(0)
    net = create_model(network, in_channels=3, classes=3, **SMALL[network]).eval()
    image = torch.randn(2, 3, 75, 109)
    with torch.inference_mode():
        found = net(pad_to_multiple(image, net.pads_to))[..., :75, :109]
        torch.testing.assert_close(found, net(image), atol=0, rtol=0)


@needs_openvino
@pytest.mark.parametrize(("network", "options"), NETWORKS[1::2])
def test_one_network_predicts_all_tiles_that_are_cut_by_less_than_a_stride(network, options, monkeypatch):
    """As those at the border of a scene are where their size is fixed."""
    scorer = Scorer.of(made(network, options), device="cpu")
    stride = scorer.stride
    plan = plan_tiles(Window(0, 0, 200, 215), tile_size=128, overlap=stride, stride=stride)
    plan = replace(plan, side=128)
    shapes = [(images, 3, height, width) for images, height, width in image_shapes(plan)]
    assert len(shapes) > 2 and any(side % stride for shape in shapes for side in shape[2:])
    settled = with_engine(scorer, [plan], "openvino").scorer
    assert networks_of(engine_choice.Settled(settled))[1] == {(1, 3, 128, 128)}
    given = [torch.randn(shape) for shape in shapes]
    wanted = [scorer.batch_logits([images]).softmax(1) for images in given]
    monkeypatch.setattr(TorchEngine, "forward", lambda *_: pytest.fail("predicted by torch"))
    for images, answer in zip(given, wanted, strict=True):
        torch.testing.assert_close(settled.batch_logits([images]).softmax(1), answer, atol=2e-5, rtol=0)


def drifting(monkeypatch, by):
    """OpenVINO whose logits of the first class are wrong by so much."""
    right = Converted.__call__

    def wrong(self, images):
        logits = right(self, images).clone()
        logits[:, 0] += by
        return logits

    monkeypatch.setattr(Converted, "__call__", wrong)


@needs_openvino
def test_an_engine_that_differs_is_refused_where_it_is_named_and_told_of_where_it_is_not(monkeypatch, worth):
    drifting(monkeypatch, 0.01)
    scorer, plan = Scorer.of(made(), device="cpu"), one_tile(64, 64)
    with pytest.raises(BadInput, match="probabilities differ from torch's by up to"):
        with_engine(scorer, [plan], "openvino")
    found = with_engine(scorer, [plan], "auto")
    assert found.scorer is scorer
    assert found.note.startswith("predicted by torch, not by OpenVINO: its probabilities differ")
    # Kept: the next map says the same without converting again.
    monkeypatch.setattr(openvino_engine, "traced", lambda *_: pytest.fail("converted again"))
    assert with_engine(scorer, [plan], "auto") == found


@needs_openvino
def test_an_engine_that_differs_is_refused_where_the_images_of_the_proof_get_one_class_with_certainty(
    monkeypatch,
):
    checkpoint = made()
    (bias,) = (name for name, value in checkpoint.weights.items() if value.shape == (3,))
    certain = checkpoint.weights[bias] + np.array([0, 1000, 0], np.float32)
    scorer = Scorer.of(replace(checkpoint, weights={**checkpoint.weights, bias: certain}), device="cpu")
    assert scorer.batch_logits([proof_images(checkpoint, (1, 3, 64, 64))]).softmax(1)[:, 1].min() == 1
    with_engine(scorer, [one_tile(64, 64)], "openvino")
    drifting(monkeypatch, 0.5)
    with pytest.raises(BadInput, match="its scores differ from torch's by up to"):
        with_engine(scorer, [one_tile(64, 80)], "openvino")


@needs_openvino
def test_an_operation_that_cannot_be_converted_leaves_torch(monkeypatch, worth):
    def fails(*_):
        raise RuntimeError("no such operation\nand a page of C++")

    monkeypatch.setattr(openvino_engine, "traced", fails)
    found = with_engine(Scorer.of(made(), device="cpu"), [one_tile(64, 64)], "auto")
    assert found.scorer.engine == "torch"
    assert found.note.endswith("the network fcn cannot be converted (no such operation)")


@needs_openvino
@pytest.mark.parametrize(
    "error",
    [
        ImportError("libtbb.so.12: cannot open shared object file"),
        BadOption("OpenVINO models need OpenVINO"),
        OSError(28, "No space left on device"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["library", "core", "disk", "memory"],
)
def test_what_was_missing_at_one_time_is_tried_again_at_the_next(error, monkeypatch, worth):
    scorer, plan = Scorer.of(made(), device="cpu"), [one_tile(64, 64)]

    def fails(*_):
        raise error

    with monkeypatch.context() as now:
        now.setattr(openvino_engine, "traced", fails)
        assert "cannot be converted" in with_engine(scorer, plan, "auto").note
    assert with_engine(scorer, plan, "auto").scorer.engine.startswith("openvino")


@needs_openvino
def test_a_library_that_cannot_be_loaded_any_more_leaves_torch(monkeypatch, worth):
    plain, half = (Scorer.of(made(), device="cpu", precision=precision) for precision in ("32", "bf16"))
    plan = [one_tile(64, 64)]
    assert with_engine(plain, plan, "auto").scorer.engine.startswith("openvino")

    def missing():
        try:
            raise ImportError("libtbb.so.12: cannot open shared object file")
        except ImportError as error:
            raise BadOption("OpenVINO models need OpenVINO: pip install it.") from error

    openvino_engine.has_bfloat16.cache_clear()
    monkeypatch.setattr(openvino_engine, "core", missing)
    for scorer in (plain, half):
        assert with_engine(scorer, plan, "auto").scorer is scorer
    with pytest.raises(BadOption, match=r"what this processor can do \(libtbb.so.12: cannot open"):
        with_engine(half, plan, "openvino")


@pytest.fixture
def worth(monkeypatch):
    """Any job is long enough to convert for, and any engine fast enough."""
    monkeypatch.setattr(engine_choice, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(engine_choice, "WORTH_FORWARDS", 1)
    monkeypatch.setattr(engine_choice, "FASTER", 1e9)


def test_where_the_package_is_absent_auto_is_torch_and_its_name_is_refused(monkeypatch, worth):
    for module in RUNTIMES.values():
        monkeypatch.setattr(module, "installed_version", lambda: None)
    scorer, plan = Scorer.of(made(), device="cpu"), one_tile(64, 64)
    assert with_engine(scorer, [plan], "auto") == engine_choice.Settled(scorer)
    with pytest.raises(BadOption, match=r"not installed \(pip install labelscape\[openvino\]\)"):
        with_engine(scorer, [plan], "openvino")
    with pytest.raises(BadOption, match=r"not installed \(pip install labelscape\[onnx\]\)"):
        with_engine(scorer, [plan], "onnxruntime")
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        with_engine(scorer, [plan], "openvin")


@needs_openvino
def test_float16_and_features_are_left_to_torch(worth):
    plan = [one_tile(64, 64)]
    half = Scorer.of(made(), device="cpu", precision="16")
    assert with_engine(half, plan).scorer is half
    with pytest.raises(BadOption, match="float32 or bfloat16"):
        with_engine(half, plan, "openvino")
    watched = replace(Scorer.of(made(), device="cpu"), unfamiliar=True)
    assert with_engine(watched, plan).scorer is watched


@needs_openvino
def test_bfloat16_is_left_to_torch_where_the_processor_has_none(worth, monkeypatch):
    monkeypatch.setattr(openvino_engine, "has_bfloat16", lambda: False)
    half = Scorer.of(made(), device="cpu", precision="bf16")
    assert with_engine(half, [one_tile(64, 64)]).scorer is half
    with pytest.raises(BadOption, match="has no bfloat16"):
        with_engine(half, [one_tile(64, 64)], "openvino")


@needs_openvino
@pytest.mark.skipif(
    openvino_version() is not None and not openvino_engine.has_bfloat16(), reason="no bfloat16"
)
def test_openvino_computes_in_bfloat16_where_asked(monkeypatch):
    checkpoint, plan = made("smp/Unet", {"encoder": "resnet18"}), [one_tile(64, 64)]
    images = [proof_images(checkpoint, (1, 3, 64, 64))]
    full, half = (Scorer.of(checkpoint, device="cpu", precision=p) for p in ("32", "bf16"))
    for again in (False, True):
        settled = with_engine(half, plan, "openvino").scorer
        assert settled.engine == f"openvino {openvino_version()}" and settled.dtype == torch.bfloat16
        apart = (settled.batch_logits(images).float() - full.batch_logits(images)).abs().mean()
        # Coarser than rounding in float32, finer than another network.
        assert 1e-3 < apart / full.batch_logits(images).std() < 0.1
        if not again:
            # The second time from the cache, under a name of its own: speed was measured in this precision.
            monkeypatch.setattr(openvino_engine, "traced", lambda *_: pytest.fail("converted again"))
    with pytest.raises(pytest.fail.Exception, match="converted again"):
        with_engine(full, plan, "openvino")


def test_a_small_job_stays_with_torch_without_a_clock(monkeypatch):
    monkeypatch.setattr(engine_choice, "why_not", lambda *_: "")
    monkeypatch.setattr(engine_choice, "seconds_of", lambda *_: pytest.fail("timed"))
    scorer = Scorer.of(made(), device="cpu")
    few = plan_tiles(Window(0, 0, 400, 400), tile_size=96, overlap=0, stride=16)
    assert max(image_shapes(few).values()) < engine_choice.WORTH_FORWARDS
    assert with_engine(scorer, [few]).scorer is scorer


@pytest.mark.parametrize(("seconds", "converts"), [(0.9, False), (1.1, True)])
def test_auto_converts_where_torch_would_take_a_minute_for_a_shape(monkeypatch, seconds, converts):
    monkeypatch.setattr(engine_choice, "why_not", lambda *_: "")
    # 100 tiles of one shape; torch takes this share of a minute for all of them.
    plan = plan_tiles(Window(0, 0, 960, 960), tile_size=96, overlap=0, stride=16)
    assert image_shapes(plan) == {(1, 96, 96): 100}
    assert image_shapes(plan) is image_shapes(replace(plan))  # counted once for memory and engine
    one = seconds * engine_choice.WORTH_SECONDS / 100
    monkeypatch.setattr(engine_choice, "seconds_of", lambda *_: one)
    asked = []
    monkeypatch.setattr(engine_choice, "_converted", lambda member, *_: asked.append(member) or member)
    with_engine(Scorer.of(made(), device="cpu"), [plan])
    assert bool(asked) == converts


@pytest.mark.parametrize(("ratio", "engine"), [(0.95, "torch"), (0.85, "openvino")])
@needs_openvino
def test_auto_takes_what_is_clearly_faster(monkeypatch, worth, ratio, engine, capsys):
    monkeypatch.setattr(engine_choice, "FASTER", 0.9)
    times = iter([0.1, 0.1, 1.0, ratio])  # two to decide whether it is worth it, then torch's and its own
    monkeypatch.setattr(engine_choice, "seconds_of", lambda *_: next(times))
    found = with_engine(Scorer.of(made(), device="cpu"), [one_tile(64, 64)])
    assert found.scorer.engine.split()[0] == engine
    assert found.note == ""
    assert f"64 x 64 pixels: {ratio:.3f} s, torch 1.00 s" in capsys.readouterr().err


def test_comparison_finds_what_differs():
    same = torch.tensor([[0.6, 0.4], [0.5, 0.5]]).T.reshape(1, 2, 2, 1)
    assert compared(same, same.clone()) == ("", 0.0)
    assert compared(same, same + 2e-4)[0].startswith("its probabilities differ from torch's by up to 0.0002")
    assert "no finite numbers" in compared(same, same * np.nan)[0]
    assert "shape" in compared(same, same[:, :1])[0]
    # A tie may fall either way.
    other = same.clone()
    other[0, 1, 1, 0] += 5e-5
    assert (other.argmax(1) != same.argmax(1)).any() and compared(same, other)[0] == ""


@pytest.mark.parametrize("groups", [(), (2, 2)])
def test_scores_are_compared_where_probabilities_say_nothing(groups):
    torch.manual_seed(0)
    wanted = torch.randn(1, 4 if groups else 2, 8, 8)
    wanted[:, ::2] += 60
    found = wanted + 1e-6 * torch.randn_like(wanted)
    assert scores_apart(wanted, found, groups) == ""
    found[:, -1, 3, 3] += 0.1
    assert compared(*(softmax(one, 1, groups) for one in (wanted, found))) == ("", pytest.approx(0))
    assert scores_apart(wanted, found, groups).startswith("its scores differ from torch's by up to 0.1")
    assert scores_apart(wanted, found * np.nan, groups)
    # One class everywhere, to the last digit of float32.
    flat = torch.full((1, 2, 1, 1), 1e4)
    assert scores_apart(flat, flat + 1e-2) == ""


def test_a_clear_class_that_changes_is_found_within_the_tolerance():
    wanted = torch.tensor([0.50006, 0.49994]).reshape(1, 2, 1, 1)
    # 0.00012 apart, and each moved by less than the tolerance.
    moved = wanted + torch.tensor([-7e-5, 7e-5]).reshape(1, 2, 1, 1)
    assert compared(wanted, moved)[0] == "1 pixels get another class"


def test_images_of_the_proof_have_the_statistics_of_the_bands():
    images = proof_images(made(), (2, 3, 256, 192))
    assert torch.equal(images, proof_images(made(), (2, 3, 256, 192)))
    plain = images[..., :224, 96:160]
    assert abs(float(plain.mean())) < 0.2 and 0.8 < float(plain.std()) < 1.2
    assert float(images[..., 224:, 168:].abs().max()) == 0
    # A network that reads raw values sees them as the scenes have them.
    band = BandStatistics("b", 4500.0, 2000.0, 0.0, 9000.0, ())
    contract = replace(made().contract, normalisation=((0.0, 1.0),) * 3, statistics=(band,) * 3)
    raw = proof_images(replace(made(), contract=contract), (2, 3, 256, 192))[..., :224, 96:160]
    torch.testing.assert_close(raw, plain * 2000 + 4500)


@needs_openvino
@pytest.mark.parametrize("damage", ["bin", "json", "gone"])
def test_a_damaged_cache_is_made_again(cache, damage, monkeypatch):
    scorer, plan = Scorer.of(made(), device="cpu"), [one_tile(64, 64)]
    with_engine(scorer, plan, "openvino")
    (file,) = (cache / "openvino").glob("*.json")
    if damage == "gone":
        file.with_suffix(".bin").unlink()
    else:
        content = bytearray(file.with_suffix(f".{damage}").read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.with_suffix(f".{damage}").write_bytes(content)
    before, calls = openvino_engine.traced, []
    monkeypatch.setattr(openvino_engine, "traced", lambda *a: calls.append(a) or before(*a))
    image = torch.randn(1, 3, 64, 64)
    for expected in (1, 1):  # made again, and then read
        settled = with_engine(scorer, plan, "openvino").scorer
        wanted, found = (s.batch_logits([image]).softmax(1) for s in (scorer, settled))
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
        assert len(calls) == expected


def test_the_cache_keeps_apart_what_differs(monkeypatch):
    base = engine_cache.key_of("openvino", made(), "logits", (1, 3, 64, 64))
    assert base == engine_cache.key_of("openvino", made(), "logits", (1, 3, 64, 64))
    others = {
        engine_cache.key_of("openvino", made(seed=1), "logits", (1, 3, 64, 64)),
        engine_cache.key_of("openvino", made(), "mate", (1, 3, 64, 64)),
        engine_cache.key_of("openvino", made(), "logits", (1, 3, 64, 80)),
    }
    others.add(engine_cache.key_of("onnxruntime", made(), "logits", (1, 3, 64, 64)))
    monkeypatch.setattr(openvino_engine, "installed_version", lambda: "2030.1")
    others.add(engine_cache.key_of("openvino", made(), "logits", (1, 3, 64, 64)))
    monkeypatch.undo()
    # Code of one version, a commit later: what is converted may be another graph.
    monkeypatch.setattr(engine_cache, "build", lambda: "0.1.0 (code 0123456789)")
    others.add(engine_cache.key_of("openvino", made(), "logits", (1, 3, 64, 64)))
    assert base not in others and len(others) == 6


def test_the_oldest_leave_a_full_cache_and_one_that_cannot_be_written_is_done_without(cache, monkeypatch):
    monkeypatch.setattr(engine_cache, "MOST_BYTES", 250)
    for age, key in ((3, "old"), (2, "newer"), (1, "newest")):
        engine_cache.write("openvino", key, Proof("no" * 20, 0.5, (1.0, 2.0)), None)
        os.utime(cache / "openvino" / f"{key}.json", (1000 - age,) * 2)
    engine_cache.write("openvino", "last", Proof("no" * 20, 0.5, (1.0, 2.0)), None)
    assert not (cache / "openvino" / "old.json").exists() and (cache / "openvino" / "last.json").exists()
    assert engine_cache.read("openvino", "last") == (Proof("no" * 20, 0.5, (1.0, 2.0)), None)
    monkeypatch.setenv("LABELSCAPE_CACHE", "/proc/nowhere")
    engine_cache.write("openvino", "last", Proof("", 0.0, (1.0, 2.0)), None)
    assert engine_cache.read("openvino", "last") is None


@needs_openvino
def test_a_map_records_its_engine_and_is_repeated_with_it(world_map, tmp_path):
    model, scene, how = world_map
    plain = map_scene(model, scene, tmp_path / "plain", **how)
    made_by = map_scene(model, scene, tmp_path / "fast", engine="openvino", **how)
    assert (plain.facts["engine"], made_by.facts["engine"]) == ("torch", f"openvino {openvino_version()}")
    one, two = (rasterio.open(r.paths["class"]).read(1) for r in (plain, made_by))
    np.testing.assert_array_equal(one, two)
    again = rerun(made_by.paths["run"], tmp_path / "again")
    assert again.facts["engine"] == made_by.facts["engine"]
    assert again.paths["confidence"].read_bytes() == made_by.paths["confidence"].read_bytes()
    run = json.loads(plain.paths["run"].read_text())
    assert "engine" not in run["request"] and run["engine"] == "torch"


@needs_openvino
def test_an_interrupted_map_goes_on_with_its_engine(world_map, tmp_path, monkeypatch):
    model, scene, how = world_map
    whole = map_scene(model, scene, tmp_path / "whole", engine="openvino", **how)
    out = tmp_path / "out"
    stopped_after_a_tile(monkeypatch, model, scene, out, engine="openvino", **how)
    with pytest.raises(BadFile, match="engine openvino .*, now torch"):
        map_scene(model, scene, out, engine="torch", **how)
    with monkeypatch.context() as patch:
        patch.setattr(openvino_engine, "installed_version", lambda: None)
        with pytest.raises(BadFile, match="engine openvino .*, now torch"):
            map_scene(model, scene, out, **how)
    resumed = map_scene(model, scene, out, **how)  # auto: alone it would have taken torch
    assert resumed.resumed and resumed.facts["engine"] == whole.facts["engine"]
    for kind in ("class", "confidence"):
        assert resumed.paths[kind].read_bytes() == whole.paths[kind].read_bytes()


def test_memory_of_the_traced_form_is_told_where_strips_are_not_traced():
    wide = TorchEngine.of(made("mlp", {"widths": (4, 6, 8, 10), "hidden": 1024}), device="cpu")
    assert wide.recorded_bytes(512, 512) > 3 * wide.peak_bytes(512, 512)
    assert wide.peak_bytes(512, 512) == TorchEngine.peak_bytes(wide, 512, 512)
    plain = TorchEngine.of(made(), device="cpu")
    assert plain.recorded_bytes(512, 512) == plain.peak_bytes(512, 512)


@needs_openvino
def test_a_signal_after_networks_came_and_went_finds_a_stack():
    """Python's handlers run on the thread's stack for signals, which OpenVINO exchanges (with faulthandler
    switched on, as in pytest; a fault there has no message: the kernel ends the process).
    """
    program = """
import gc, os, signal
import torch
from labelscape.scoring.openvino_engine import Converted
import openvino.opset13 as opset13
from openvino import Model, Type

def converted():
    images = opset13.parameter([1, 3, 8, 8], Type.f32)
    return Converted(Model([opset13.relu(images)], [images]))

one, other = converted(), converted()
for each in one, other:
    each(torch.rand(1, 3, 8, 8))
del one
gc.collect()
other(torch.rand(1, 3, 8, 8))
del other, each
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("tidy", flush=True))
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "tidy\n"), done.stderr


@pytest.mark.parametrize(("side", "many"), [(1152, False), (1664, True)])
def test_one_network_for_all_shapes_pays_where_there_are_many_tiles_in_all(side, many, monkeypatch):
    """Where each of the shapes alone has few."""
    monkeypatch.setattr(engine_choice, "why_not", lambda *_: "")
    monkeypatch.setattr(engine_choice, "seconds_of", lambda *_: 10.0)
    asked = []
    monkeypatch.setattr(engine_choice, "_converted", lambda member, *_: asked.append(member) or member)
    scorer = Scorer.of(made("smp/Unet", {"encoder": "resnet18"}), device="cpu")
    plan = plan_tiles(Window(0, 0, side, side), tile_size=256, overlap=16, stride=32)
    counts = image_shapes(plan)
    assert min(sorted(counts.values())[-3:]) < engine_choice.WORTH_FORWARDS
    with_engine(scorer, [plan])
    assert bool(asked) == many
    assert bool(engine_choice.extra_bytes(scorer, plan, "auto")) == many
