"""A STAC item for a model: footprint, bands, scaling, classes and files in the words of STAC's extension for
machine-learning models (https://github.com/stac-extensions/mlm, version 1.5.2).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint, StoredAs
from labelscape.export.card import Place, places_of
from labelscape.maps.stac import class_values

EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.5.2/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
)
FRAMEWORKS = {"onnx": "ONNX", "openvino": "OpenVINO", "pt2": "PyTorch"}
MEDIA = {
    "safetensors": "application/octet-stream; application=safetensors",
    "onnx": "application/octet-stream; framework=onnx",
    "openvino": "application/xml",
    "pt2": "application/octet-stream; application=pytorch",
}
ARTIFACTS = {
    "safetensors": "safetensors.torch.save_file",
    "onnx": "torch.onnx.export",
    "openvino": "openvino.save_model",
    "pt2": "torch.export.save",
}
"""By the format of the file, as are the media types above."""
WORLD = ((-180.0, -90.0, 180.0, 90.0), "the whole Earth: where it was trained is not known")


def model_item(
    checkpoint: Checkpoint,
    file: Path,
    *,
    name: str,
    when: datetime.datetime,
    license: str = "",
    card: str = "README.md",
) -> dict[str, Any]:
    """The item of a checkpoint stored in `file`, as JSON values; the file is named relative to the item.

    when     time of writing, with its time zone
    license  SPDX identifier; "other", as STAC has it, where it is empty
    card     name of the model card beside it
    """
    places, _ = places_of(checkpoint)
    bbox, geometry = _ground(places)
    made: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": _identifier(name),
        "geometry": geometry,
        "bbox": list(bbox),
        "properties": {
            "datetime": when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "title": name,
            "license": license or "other",
            **_fields(checkpoint, name),
        },
        "links": [],
        "assets": {"model": _asset(file, checkpoint), "card": _card_asset(card)},
    }
    if checkpoint.exported is not None and checkpoint.exported.kind == "openvino":
        made["assets"]["weights"] = _weights_asset(file.with_suffix(".bin"))
    if not places:
        made["properties"]["description"] = f"The footprint is {WORLD[1]}."
    return made


def _ground(places: Sequence[Place]) -> tuple[tuple[float, float, float, float], dict[str, Any]]:
    """Bounding box and geometry of the training scenes; of the Earth where none is known."""
    if not places:
        west, south, east, north = WORLD[0]
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return WORLD[0], {"type": "Polygon", "coordinates": [ring]}
    boxes = [place.bbox for place in places]
    # A box over the antimeridian has its west above its east; with others beside it, it is round the Earth.
    if len(boxes) > 1 and any(west > east for west, _, east, _ in boxes):
        box = (-180.0, min(b[1] for b in boxes), 180.0, max(b[3] for b in boxes))
    else:
        lows, highs = ([min(b[i] for b in boxes) for i in (0, 1)], [max(b[i] for b in boxes) for i in (2, 3)])
        box = (lows[0], lows[1], highs[0], highs[1])
    if len(places) == 1:
        return box, places[0].geometry
    polygons = []
    for place in places:
        coordinates = place.geometry["coordinates"]
        polygons += coordinates if place.geometry["type"] == "MultiPolygon" else [coordinates]
    return box, {"type": "MultiPolygon", "coordinates": polygons}


def _fields(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The extension's fields."""
    recipe = checkpoint.recipe
    pretrained = bool(recipe.get("start") or recipe.get("options", {}).get("pretrained"))
    source = recipe.get("start") and Path(str(recipe["start"])).name
    found = {
        "mlm:name": _name(name),
        "mlm:architecture": checkpoint.network,
        "mlm:tasks": ["semantic-segmentation"],
        **_framework(checkpoint),
        "mlm:pretrained": pretrained,
        "mlm:pretrained_source": (source or "ImageNet") if pretrained else None,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input(checkpoint)],
        "mlm:output": [_output(checkpoint)],
    }
    keys = ("steps", "batch", "crop", "rate", "optimizer", "seed")
    if settings := {key: recipe[key] for key in keys if recipe.get(key) is not None}:
        found["mlm:hyperparameters"] = settings
    return found


def _framework(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.exported is not None:
        # Its weights are in the graph, and which version will run it is not known.
        return {"mlm:framework": FRAMEWORKS[checkpoint.exported.kind]}
    import torch

    return {
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__,
        "mlm:total_parameters": sum(values.size for values in checkpoint.weights.values()),
        "mlm:memory_size": sum(values.nbytes for values in checkpoint.weights.values()),
    }


def _shape(checkpoint: Checkpoint, channels: int) -> list[int]:
    """Of images or answers; -1: any number, of one network or another."""
    exported = checkpoint.exported
    side = (exported and exported.facts.size) or -1
    return [1 if exported and exported.kind == "pt2" else -1, channels, side, side]


def _value_scaling(checkpoint: Checkpoint) -> list[dict[str, Any]] | None:
    """What is to be done to values before the file is given them; None where that is nothing."""
    normalise = checkpoint.exported.facts.normalise if checkpoint.exported else "outside"
    if normalise == "inside":
        return None
    if normalise == "unit":
        return [{"type": "min-max", "minimum": 0, "maximum": 255}] * len(checkpoint.bands)
    return [
        # As the network uses it: a constant band is centred and not scaled.
        {"type": "z-score", "mean": mean, "stddev": std if std > 0 else 1.0}
        for mean, std in checkpoint.contract.normalisation
    ]


def _input(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": "image",
        "bands": list(checkpoint.bands),
        "input": {
            "shape": _shape(checkpoint, len(checkpoint.bands)),
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": f"Values as stored in the training scenes, of type {checkpoint.contract.dtype}.",
        "value_scaling": _value_scaling(checkpoint),
        "resize_type": None,
    }


def _output(checkpoint: Checkpoint) -> dict[str, Any]:
    exported = checkpoint.exported is not None
    return {
        "name": "probabilities" if exported else "classes",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": _shape(checkpoint, len(checkpoint.legend)),
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "description": "Calibrated probabilities, adding up to 1."
        if exported
        else "Logits; their softmax, after division by the temperature, are probabilities.",
        "classification:classes": class_values(checkpoint.legend),
    }


def _asset(file: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    kind = checkpoint.exported.kind if checkpoint.exported else "safetensors"
    # OpenVINO keeps its weights in another file.
    weights = [] if kind == "openvino" else ["mlm:weights"]
    return {
        "href": f"./{file.name}",
        "title": "Weights, classes and input contract",
        "type": MEDIA[kind],
        "roles": ["mlm:model", *weights, "data"],
        "mlm:artifact_type": ARTIFACTS[kind],
        # The extension wants the bands of an input described; STAC has no place for them in an item itself.
        "raster:bands": [{"name": band, "data_type": checkpoint.contract.dtype} for band in checkpoint.bands],
        "file:size": file.stat().st_size,
        # A multihash in hexadecimal: 12 is SHA-256, 20 its length of 32 bytes.
        "file:checksum": f"1220{StoredAs.now(file).sha256}",
    }


def _weights_asset(file: Path) -> dict[str, Any]:
    """The .bin of an OpenVINO model."""
    return {
        "href": f"./{file.name}",
        "title": "Weights",
        "type": "application/octet-stream",
        "roles": ["mlm:weights"],
        "file:size": file.stat().st_size,
        "file:checksum": f"1220{StoredAs.now(file).sha256}",
    }


def _card_asset(name: str) -> dict[str, Any]:
    return {"href": f"./{name}", "title": "Model card", "type": "text/markdown", "roles": ["metadata"]}


def _name(name: str) -> str:
    """Letters, digits, blanks, points, dashes and underscores, from a letter to a letter or digit."""
    plain = re.sub(r"[^A-Za-z0-9_.\- ]+", "-", name).strip("-_. ")
    return plain if re.fullmatch(r"[A-Za-z].+[A-Za-z0-9]", plain) else f"model {plain or 'a'}"


def _identifier(name: str) -> str:
    return _name(name).replace(" ", "-")
