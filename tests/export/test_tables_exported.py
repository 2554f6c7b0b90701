"""Every network of the papers' tables, with all its options, gives by onnxruntime what torch gives, on pixels
of a real scene: of small sizes, since the rounding of large networks of random weights is that of float32
alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import SMALL

from labelscape.checkpoint import Checkpoint
from labelscape.contract.contract import Contract
from labelscape.demo import scene_folder
from labelscape.errors import BadFile
from labelscape.export.model import export_model
from labelscape.legend import Legend
from labelscape.nets.catalog import create_model
from labelscape.nets.tables import TABLES
from labelscape.scenes.mosaic import open_scene
from labelscape.scoring.engines import state_arrays
from labelscape.scoring.onnx_graph import quiet
from labelscape.scoring.proof import proof_images
from labelscape.scoring.scorer import predict

SIDE = 128


def smaller(network: str, options: dict) -> dict:
    """The same options with fewer channels: what a row switches on or off stays as it is."""
    idle = {"operations"} | ({"width"} if options.get("context") == "none" else set())
    sizes = {key: value for key, value in SMALL[network].items() if key not in idle}
    # A branch that a row leaves out has no channels.
    return {**options, **{key: size for key, size in sizes.items() if options.get(key) != 0}}


def calls() -> dict[str, tuple[str, dict, int, int]]:
    """Every different network of the tables, by the first row that has it."""
    found: dict[tuple, str] = {}
    rows = {}
    for name, table in TABLES.items():
        for number, row in enumerate(table.rows, start=1):
            if row.network is None:
                continue
            shape = (table.in_channels, table.classes)
            options = smaller(row.network, row.options)
            key = (row.network, repr(sorted(options.items())), *shape)
            if key not in found:
                found[key] = f"{name}-row{number}"
                rows[found[key]] = (row.network, options, *shape)
    return rows


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """(N, bands, SIDE, SIDE) of a scene of Sentinel-2: fields, lake, town, and a corner of each."""
    try:
        folder = scene_folder()
    except BadFile:
        pytest.skip("the demo's scene is not installed")
    with open_scene(str(folder / "IMG_DATA")) as scene:
        pixels = scene.read(scene.grid.window, ("B04", "B03", "B02", "B08")).pixels
    height, width = pixels.shape[1:]
    places = [(height * n // 7, width * (3 * n % 7) // 7) for n in range(6)]
    return np.stack([pixels[:, top : top + SIDE, left : left + SIDE] for top, left in places])


def settled(net: torch.nn.Module, images: torch.Tensor) -> None:
    """Batch normalisation of these images, and no branch that begins as zero: a residual network of random
    weights would else explode, or do nothing.
    """
    draw = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            if module.affine:
                module.weight.data = torch.rand(module.weight.shape, generator=draw) + 0.5
                module.bias.data = torch.rand(module.bias.shape, generator=draw) - 0.5
    for parameter in net.parameters():
        if not parameter.any():  # offsets, and factors of attention, begin as 0
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.data = (torch.rand(parameter.shape, generator=draw) - 0.5) / inputs**0.5
    with torch.no_grad():
        net.train()(images)
    net.eval()


def made(network: str, options: dict, bands: int, classes: int, crops: np.ndarray) -> Checkpoint:
    torch.manual_seed(0)
    with quiet():
        net = create_model(network, in_channels=bands, classes=classes, **options)
    given = crops[:, :bands].astype(np.float32)
    scaling = tuple((float(band.mean()), float(band.std())) for band in given.swapaxes(0, 1))
    mean, std = (np.array(c, np.float32).reshape(1, -1, 1, 1) for c in zip(*scaling))
    names = [f"band{n}" for n in range(bands)]
    contract = Contract(bands=tuple(names), dtype="uint16", normalisation=scaling, pixel_size=10.0)
    legend = Legend.of_names([f"class {n}" for n in range(classes)])
    stored = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    blank = Checkpoint(network, stored, {}, legend, contract)
    real, drawn = torch.from_numpy((given - mean) / std), proof_images(blank, (3, bands, SIDE, SIDE))
    # Of both kinds of images that are compared: scores of what it never saw would run away.
    settled(net, torch.cat([real[:3], drawn.contiguous()]))
    # Scores that neither tie nor saturate, as those of a trained network. Over a small temperature the
    # rounding of float32 alone, against float64, is more than is allowed.
    with torch.no_grad():
        spread = max(float(net(images).std(1).mean()) for images in (real[3:], drawn))
    return replace(blank, weights=state_arrays(net), temperature=spread / 2)


def check(network: str, options: dict, bands: int, classes: int, crops: np.ndarray, folder) -> None:
    checkpoint = made(network, options, bands, classes, crops)
    done = export_model(checkpoint, folder / "m.onnx", size=SIDE)
    assert done.difference <= 1e-4 and done.changed <= 1e-4
    for pixels in crops[3:, :bands]:
        wanted = predict(checkpoint, pixels)
        found = predict(done.path, pixels)
        assert np.unique(wanted.argmax(0)).size > 1 and wanted.max(0).std() > 0.02
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        top = np.sort(wanted, axis=0)
        clear = top[-1] - top[-2] > 2e-4  # ties alone may differ
        np.testing.assert_array_equal(found.argmax(0)[clear], wanted.argmax(0)[clear])


# Of each paper with options of its own one row; the others take a minute.
SHORT = ("mswbn-7-row1", "dgcwnet-2-row12", "ifbfnet-2-row3")


@pytest.mark.parametrize(
    "row", [row if row in SHORT else pytest.param(row, marks=pytest.mark.long) for row in calls()]
)
def test_every_option_of_the_tables_is_the_same_in_onnxruntime(row, crops, tmp_path):
    check(*calls()[row], crops, tmp_path)
