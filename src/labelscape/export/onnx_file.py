"""A network as an ONNX file: written by torch, with metadata, and run by onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from labelscape.errors import BadInput, BadOption
from labelscape.export.graph import Graph
from labelscape.exported_formats import GRAPH, graph_digest
from labelscape.nets.blocks import at_any_size
from labelscape.scoring.onnx_graph import recorded

OPSETS = range(14, 21)
"""Those that torch's exporter writes and all these networks can be said in."""
OPSET = 17
IMAGE, PROBABILITIES = "image", "probabilities"


def check_installed() -> None:
    """Raises BadOption where a package is missing."""
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise BadOption(
            f"ONNX needs {' and '.join(missing)}, not installed here: pip install 'labelscape[onnx]'."
        )


def onnx_bytes(
    graph: Graph, image: Tensor, opset: int, dynamic: bool, metadata: Mapping[str, str], network: str
) -> bytes:
    """The network as an ONNX file. `image` (N, B, H, W) is what it is recorded with; its batch is free, and
    with `dynamic` its rows and columns too. Raises BadInput where an operator has no form in ONNX.
    """
    import onnx

    free = {0: "batch", 2: "rows", 3: "columns"} if dynamic else {0: "batch"}
    try:
        with at_any_size() if dynamic else nullcontext():
            made = recorded(graph, image, opset, (IMAGE, PROBABILITIES), free)
    except MemoryError:
        raise
    # Each operator that has no form in ONNX fails in a way of its own.
    except Exception as error:
        raise BadInput(_not_said(network, error, opset, dynamic)) from error
    model = onnx.load_from_string(made)
    # Written out: Deepness takes no output whose rows and columns are unnamed.
    for dim, side in zip(model.graph.output[0].type.tensor_type.shape.dim[2:], image.shape[2:]):
        if not dynamic:
            dim.dim_value = side
    return described(model, metadata)


def described(model: Any, metadata: Mapping[str, str]) -> bytes:
    """An ONNX model with this metadata alone, as a file."""
    import onnx

    model.producer_name = "labelscape"
    # Set anew, sorted: the same network gives the same bytes.
    del model.metadata_props[:]
    digest = graph_digest(model.SerializeToString(deterministic=True))
    onnx.helper.set_model_props(model, dict(sorted({**metadata, GRAPH: json.dumps(digest)}.items())))
    return model.SerializeToString(deterministic=True)


def _not_said(network: str, error: Exception, opset: int, dynamic: bool) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    cures = ["another `opset`"] + ["a fixed `size`"] * dynamic + ["`to='openvino'`", "`to='pt2'`"]
    return (
        f"{network} cannot be exported to ONNX (opset {opset}): {line.rstrip('.')}. Try "
        f"{', '.join(cures[:-1])} or {cures[-1]}."
    )


def run_session(run: Any, images: Tensor) -> Tensor:
    """Images (N, B, H, W) float32 -> probabilities (N, K, H, W)."""
    return torch.from_numpy(run.run([PROBABILITIES], {IMAGE: images.contiguous().numpy()})[0])


def deepness_metadata(
    names: Sequence[str],
    *,
    pixel_size: float | None,
    size: int | None,
    overlap: int,
    normalisation: Sequence[tuple[float, float]],
    scaling: str,
) -> dict[str, str]:
    """What QGIS Deepness and GeoDeep read: JSON values under names of theirs.

    normalisation  (mean, std) of each band in the scene's units: both give the network 8-bit values over 255,
                   from which Deepness takes a mean and divides by a deviation
    """
    if scaling == "outside":
        means, stds = ([value / 255 for value in column] for column in zip(*normalisation))
        stds = [std or 1 / 255 for std in stds]
    else:
        # Back to the scene's units where the graph scales these itself.
        means = [0.0] * len(normalisation)
        stds = [1.0 if scaling == "unit" else 1 / 255] * len(normalisation)
    found: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": {str(k): name for k, name in enumerate(names)},
        "tiles_overlap": overlap,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "standardization_mean": means,
        "standardization_std": stds,
    }
    if pixel_size:
        found["resolution"] = round(100 * pixel_size, 6)  # centimetres
    if size:
        found["tile_size"] = found["tiles_size"] = size
    return {key: json.dumps(value) for key, value in found.items()}
