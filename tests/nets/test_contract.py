"""One contract for every network of the catalogue, in small variants: sizes, heads, gradients, storage,
export, formats, learning.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import HEADS, SMALL
from torch import Tensor

from labelscape import demo
from labelscape.checkpoint import Checkpoint, load, save
from labelscape.contract.contract import Contract
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput, UnknownName, WrongType
from labelscape.labels.rules import LabelRules
from labelscape.legend import IGNORE, Legend
from labelscape.nets.blocks import Network
from labelscape.nets.catalog import NETWORKS, create_model, list_models, options_of
from labelscape.nets.count import on_meta
from labelscape.scoring.engines import build_network, state_arrays

"""What `heads` adds to "logits" in training, with its channels; the classmates' second task for the images
that are of it.
"""
SIZES = [(1, 5, 7), (3, 33, 47), (5, 65, 40)]
"""Bands, height, width: below one stride, and sizes that are whole strides of no network."""

every_network = pytest.mark.parametrize("name", SMALL)


def small(name: str, in_channels: int = 3, classes: int = 4) -> Network:
    """A small variant whose normalisations are not at their start: it has seen a few images, and its residual
    blocks count, which timm starts at 0.
    """
    torch.manual_seed(0)
    net = create_model(name, in_channels=in_channels, classes=classes, **SMALL[name])
    with torch.no_grad():
        for module in net.modules():
            if (
                isinstance(module, torch.nn.BatchNorm2d)
                and module.weight is not None
                and not module.weight.any()
            ):
                module.weight.fill_(1)
        for _ in range(2):
            net.heads(torch.randn(2, in_channels, 64, 64))
    return net


@cache
def settled(name: str) -> Network:
    """`small(name)` in eval mode. Tests that change it take a copy of their own."""
    return small(name).eval()


def image_of(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_training(net: Network, name: str, image: Tensor) -> dict[str, Tensor]:
    """All heads; of a classmate's two images the second is of the second task."""
    return net.train().heads(image, first=1) if "mate" in HEADS.get(name, {}) else net.train().heads(image)


def test_no_network_is_left_out() -> None:
    assert [name for name in SMALL if not name.startswith("smp/")] == list_models()


@every_network
@pytest.mark.parametrize(("bands", "height", "width"), SIZES)
def test_logits_have_the_images_size_and_heads_are_what_they_are_said_to_be(
    name: str, bands: int, height: int, width: int
) -> None:
    with torch.device("meta"):
        net = create_model(name, in_channels=bands, classes=4, **SMALL[name])
        image = torch.empty(2, bands, height, width)
        assert isinstance(net, Network) and (net.in_channels, net.classes) == (bands, 4)
        assert on_meta(net, image[:1]).shape == (1, 4, height, width)
        assert {head: tuple(value.shape) for head, value in net.eval().heads(image).items()} == {
            "logits": (2, 4, height, width)
        }
        heads = in_training(net, name, image)
        mixed = "mate" in HEADS.get(name, {})
        wanted = {"logits": 4} | HEADS.get(name, {})
        assert {head: tuple(value.shape) for head, value in heads.items()} == {
            head: (1 if mixed else 2, channels, height, width) for head, channels in wanted.items()
        }
        assert net(image).shape == (2, 4, height, width)


@every_network
@pytest.mark.parametrize(("height", "width"), [(5, 7), (41, 70)])
def test_an_image_alone_is_scored_as_in_a_batch(name: str, height: int, width: int) -> None:
    net, images = settled(name), image_of(2, 3, height, width)
    with torch.no_grad():
        together, alone = net(images), net(images[1:])
    assert torch.isfinite(together).all() and together.std() > 1e-3
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-4)
    if height > 8:  # at 5 x 7 eight units may all be silent
        assert not torch.allclose(together[0], together[1], atol=1e-3)  # and it is the image that counts


@every_network
def test_every_parameter_has_a_finite_gradient(name: str) -> None:
    """None is left without one. Single numbers may be exactly 0: the generator of an MSWBN branch whose
    weight lies below theta (its eq. 16 wants that), biases before a normalisation, units that ReLU has
    silenced. No whole kernel is.
    """
    net = small(name)
    loss = sum(
        F.cross_entropy(
            scores, torch.arange(37 * 70).view(1, 37, 70).expand(len(scores), -1, -1) % scores.shape[1]
        )
        for scores in in_training(net, name, image_of(2, 3, 37, 70)).values()
    )
    loss.backward()
    for parameter, value in net.named_parameters():
        assert value.grad is not None, f"{parameter} takes no part"
        assert torch.isfinite(value.grad).all(), parameter
        if value.dim() == 4:
            assert value.grad.abs().max() > 0, f"{parameter} is never moved"


@every_network
def test_a_stored_network_scores_the_same(name: str, tmp_path: Path) -> None:
    net, image = settled(name), image_of(1, 3, 41, 50)
    checkpoint = Checkpoint(
        network=name,
        options=SMALL[name],
        weights=state_arrays(net),
        legend=Legend.of_names(["a", "b", "c", "d"]),
        contract=Contract(bands=("x", "y", "z"), dtype="float32", normalisation=((0, 1),) * 3),
    )
    restored = build_network(load(save(checkpoint, tmp_path / "net.safetensors")))
    assert not restored.training and restored.state_dict().keys() == net.state_dict().keys()
    # Made of shapes and filled: what follows from building must be the same, and no shape may be left.
    assert (restored.stride, restored.reach, restored.pads_to) == (net.stride, net.reach, net.pads_to)
    assert [(k, v.dtype, v.is_meta, v.requires_grad) for k, v in restored.named_parameters()] == [
        (k, v.dtype, False, v.requires_grad) for k, v in net.named_parameters()
    ]
    with torch.no_grad():
        assert torch.equal(restored(image), net(image))


@every_network
def test_memory_format_and_half_precision_change_little(name: str) -> None:
    net, image = settled(name), image_of(1, 3, 64, 70)
    other = small(name).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        plain = net(image)
        last = other(image.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = net(image)
    spread = plain.std()
    assert (last - plain).abs().max() < 1e-3 * spread
    # bfloat16 has three digits, and errors add up over layers. The unpooling network finds its maxima in
    # float32: in bfloat16 some move to another pixel, and it deviated by 0.3 of the spread.
    assert (half.float() - plain).pow(2).mean().sqrt() < (0.03 if name == "unpooling" else 0.1) * spread


@every_network
def test_an_unknown_option_is_refused_with_the_nearest(name: str) -> None:
    for option in options_of(name):
        with pytest.raises(UnknownName) as refused:
            create_model(name, classes=4, **{option + "x": 1})
        assert refused.value.nearest == option


@every_network
def test_options_survive_json(name: str) -> None:
    """A checkpoint stores them so: a list must do where a tuple does."""
    with torch.device("meta"):
        one, two = (
            create_model(name, classes=4, **options)
            for options in (SMALL[name], json.loads(json.dumps(SMALL[name])))
        )
    assert [(k, v.shape) for k, v in one.state_dict().items()] == [
        (k, v.shape) for k, v in two.state_dict().items()
    ]


def exported_equals_eager(name: str) -> None:
    net, image = small(name).eval(), image_of(1, 3, 50, 70)
    with torch.no_grad():
        exported = torch.export.export(net, (image,)).module()
        for seed in (1, 2):  # another image of the size: nothing of the first is baked in
            image = image_of(1, 3, 50, 70, seed=seed)
            torch.testing.assert_close(exported(image), net(image), rtol=1e-4, atol=1e-5)


def test_an_exported_network_is_right_at_another_size_or_refuses_it() -> None:
    """DGCWNet divides its pixels into chunks, of which tracing keeps the number."""
    net, size = small("dgcwnet").eval(), torch.export.Dim.DYNAMIC
    with torch.no_grad():
        exported = torch.export.export(
            net, (image_of(1, 3, 64, 96),), dynamic_shapes={"image": {2: size, 3: size}}
        ).module()
        for height, width in ((64, 96), (96, 160), (256, 64), (50, 70)):
            image = image_of(1, 3, height, width)
            try:
                found = exported(image)
            except AssertionError:  # "Guard failed": the size is another one in what tracing kept
                assert (height, width) != (64, 96)
            else:
                torch.testing.assert_close(found, net(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp"])
def test_export(name: str) -> None:
    exported_equals_eager(name)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SMALL if name != "mlp"])
def test_export_of_the_others(name: str) -> None:
    exported_equals_eager(name)


@cache
def real_patch() -> tuple[Tensor, Tensor]:
    """(1, 10, 64, 64) of the demo's Sentinel-2 scene, scaled band by band, and its classes (1, 64, 64) from
    OpenStreetMap; 255 unlabelled.

    Of the patches on a grid of 64 that are two thirds labelled and have three classes, the one with the
    shortest outlines: networks that answer at an eighth of the resolution draw no fine ones.
    """
    try:
        data = demo.demo_data()
    except BadFile:
        pytest.skip("the demo's scene is not installed")
    spec = LabelRules(class_column=data["class_column"], merge=data["merge"])
    with open_dataset(data["images"], data["labels"], spec=spec, bands=data["bands"]) as dataset:
        scene = dataset.scenes[0]
        found = []
        for window in scene.scene.grid.window.blocks(64):
            labels = scene.read_labels(window).astype(np.int64)
            counts = np.bincount(labels.ravel(), minlength=256)
            if (
                window.shape == (64, 64)
                and counts[IGNORE] < 64 * 64 / 3
                and (counts[:IGNORE] > 200).sum() >= 3
            ):
                outline = sum(
                    ((a != b) & (a != IGNORE) & (b != IGNORE)).sum()
                    for a, b in ((labels[1:], labels[:-1]), (labels.T[1:], labels.T[:-1]))
                )
                found.append((int(outline), window.top, window.left, window, labels))
        _, _, _, window, labels = min(found)
        pixels = torch.from_numpy(scene.scene.read(window).pixels.astype(np.float32))
    mean, std = pixels.mean(dim=(1, 2), keepdim=True), pixels.std(dim=(1, 2), keepdim=True)
    return ((pixels - mean) / std)[None], torch.from_numpy(labels)[None]


def accuracy_on_its_own_patch(name: str, steps: int, rate: float = 1e-2) -> float:
    """Of a network that has seen one real patch over and over, in eval mode, on that patch's labelled
    pixels.
    """
    image, labels = real_patch()
    torch.manual_seed(0)
    net = create_model(name, in_channels=10, classes=5, **{**SMALL[name], **LEARNER.get(name, {})}).train()
    labelled = labels != IGNORE
    optimiser = torch.optim.Adam(net.parameters(), rate)
    for step in range(steps):
        if step == steps * 2 // 3:  # so that the running statistics catch up
            optimiser.param_groups[0]["lr"] = rate / 10
        optimiser.zero_grad()
        # The patch and its mirror image: normalised over one image, or two that are the same, a map of one
        # cell has no spread.
        F.cross_entropy(
            net(torch.cat([image, image.flip(3)])), torch.cat([labels, labels.flip(2)]), ignore_index=IGNORE
        ).backward()
        optimiser.step()
    with torch.no_grad():
        return float((net.eval()(image).argmax(1) == labels)[labelled].double().mean())


WIDER = {"widths": (8, 12, 16, 20)}
LEARNER = {
    "tiramisu": {"dropout": 0.0},
    "pspnet": {"width": 32},
    "fcn": WIDER,
    "unpooling": WIDER,
    "skip": WIDER,
    "mlp": WIDER,
}
"""What the variants that learn the patch have beyond the smallest ones."""
STEPS = {"unpooling": 150}
"""Its sparse maps take longer to fill."""
QUICK = ("fcn", "unpooling", "skip", "mlp", "fc-densenet", "dfcnet", "tiramisu")


@pytest.mark.parametrize("name", QUICK)
def test_one_patch_is_learned_by_heart(name: str) -> None:
    assert accuracy_on_its_own_patch(name, STEPS.get(name, 150)) > 0.95


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SMALL if name not in QUICK])
def test_one_patch_is_learned_by_heart_by_the_others(name: str) -> None:
    assert accuracy_on_its_own_patch(name, STEPS.get(name, 150)) > 0.95


def test_images_of_a_second_task_need_a_network_that_has_one() -> None:
    net, image = settled("fcn"), image_of(2, 3, 32, 32)
    torch.testing.assert_close(net.heads(image, first=2), net.heads(image))
    with pytest.raises(BadInput, match="no second head; classmate and dfcnet"):
        net.heads(image, first=1)


def test_starts_copy_from_their_base() -> None:
    for name, line in NETWORKS.items():
        if line.start is None:
            continue
        base, net = small(line.start.base), small(name)
        copied = line.start.copy_weights(net, base.state_dict())
        assert copied
        for key in set(copied) & set(base.state_dict()):
            assert torch.equal(net.state_dict()[key], base.state_dict()[key])


def test_sizes_are_given_by_name():
    with pytest.raises(UnknownName, match="Did you mean 'smp/Unet'"):
        create_model("unet", 4, 3)
    with pytest.raises(WrongType, match=r"create_model\('mlp', in_channels=4, classes=3\)"):
        create_model("mlp", 4, 3)
    with pytest.raises(WrongType, match="by its name, such as 'mlp'; found a int"):
        create_model(4, classes=3)
