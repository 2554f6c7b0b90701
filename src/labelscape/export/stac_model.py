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
    import torch

    recipe = checkpoint.recipe
    pretrained = bool(recipe.get("start") or recipe.get("options", {}).get("pretrained"))
    source = recipe.get("start") and Path(str(recipe["start"])).name
    weights = sum(values.nbytes for values in checkpoint.weights.values())
    found = {
        "mlm:name": _name(name),
        "mlm:architecture": checkpoint.network,
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__,
        "mlm:total_parameters": sum(values.size for values in checkpoint.weights.values()),
        "mlm:memory_size": weights,
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


def _input(checkpoint: Checkpoint) -> dict[str, Any]:
    # Any size, of one number of rows and columns or another: -1.
    return {
        "name": "image",
        "bands": list(checkpoint.bands),
        "input": {
            "shape": [-1, len(checkpoint.bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": f"Values as stored in the training scenes, of type {checkpoint.contract.dtype}.",
        "value_scaling": [
            # As the network uses it: a constant band is centred and not scaled.
            {"type": "z-score", "mean": mean, "stddev": std if std > 0 else 1.0}
            for mean, std in checkpoint.contract.normalisation
        ],
        "resize_type": None,
    }


def _output(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "name": "classes",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(checkpoint.legend), -1, -1],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "description": "Logits; their softmax, after division by the temperature, are probabilities.",
        "classification:classes": class_values(checkpoint.legend),
    }


def _asset(file: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "href": f"./{file.name}",
        "title": "Weights, classes and input contract",
        "type": "application/octet-stream; application=safetensors",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": "safetensors.torch.save_file",
        # The extension wants the bands of an input described; STAC has no place for them in an item itself.
        "raster:bands": [{"name": band, "data_type": checkpoint.contract.dtype} for band in checkpoint.bands],
        "file:size": file.stat().st_size,
        # A multihash in hexadecimal: 12 is SHA-256, 20 its length of 32 bytes.
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
