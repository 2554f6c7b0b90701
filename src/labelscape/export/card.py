"""A model card in Markdown: what a checkpoint was trained on and where, what it reads and gives, how it
scored and by which definitions, and what it must not be used for. It begins with the YAML that Hugging Face
lists models by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelscape.checkpoint import Checkpoint
from labelscape.errors import LabelscapeError
from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.exported import READS
from labelscape.maps.stac import footprint
from labelscape.model_card import calibration, measured_on, pixel_size, trained_on
from labelscape.progress import in_words
from labelscape.scenes.mosaic import open_scene
from labelscape.text import some
from labelscape.training.outputs import times_path
from labelscape.version import __version__

LOADING = {
    "": "The file holds arrays and JSON: loading it runs no code.",
    "onnx": "The file holds operators of ONNX and JSON: loading it runs no code.",
    "openvino": "The .xml and the .bin beside it hold operators, arrays and JSON: loading them runs no code. "
    "Keep both together.",
    "pt2": "Labelscape reads arrays and operators alone from the file, and runs no code of it; "
    "`torch.export.load` does run what such a file brings along.",
}
"""By the format of a model, "" of a checkpoint."""
WEAK = 0.5
"""Classes below this IoU are named among the limits (ours)."""
UNKNOWN = "not stated"


@dataclass(frozen=True)
class Place:
    """The ground of a training scene: its name, GeoJSON geometry, and west, south, east, north in degrees."""

    name: str
    geometry: dict[str, Any]
    bbox: tuple[float, float, float, float]


def places_of(checkpoint: Checkpoint) -> tuple[list[Place], list[str]]:
    """Footprints of the training scenes that are still where they were, and the names of the others, which
    are missing or have no coordinates.
    """
    found, unknown = [], []
    for image in (checkpoint.recipe.get("data") or {}).get("images") or ():
        # Names alone: a path tells of the machine it was trained on.
        name = Path(image).name if isinstance(image, str) else "+".join(Path(part).name for part in image)
        try:
            with open_scene(image if isinstance(image, str) else ",".join(image)) as scene:
                if scene.grid.crs is None:
                    unknown.append(name)
                    continue
                geometry, box = footprint(scene.grid)
            found.append(Place(name, geometry, tuple(box)))
        except LabelscapeError:
            unknown.append(name)
    return found, unknown


def card(checkpoint: Checkpoint, *, name: str, license: str = "", file: str = "") -> str:
    """The card as Markdown.

    name     of the model: its heading
    license  an SPDX identifier, such as CC-BY-4.0; "not stated" where it is empty
    file     the checkpoint's file name, for the commands
    """
    about = checkpoint.describe()
    places, unknown = places_of(checkpoint)
    sections = [
        ("", [_summary(checkpoint)]),
        ("Use", _use(file or f"{name}.safetensors", checkpoint)),
        ("Trained on", _training(checkpoint, about, places, unknown)),
        ("Input", _input(checkpoint, about)),
        ("Classes", _classes(checkpoint)),
        ("Scores", _scores(checkpoint, about)),
        ("Limits", _limits(checkpoint, about)),
        ("Licence", [license or f"{UNKNOWN}: ask the authors before you use it."]),
    ]
    body = "\n\n".join(
        (f"## {heading}\n\n" if heading else f"# {_plain(name)}\n\n") + "\n".join(lines)
        for heading, lines in sections
    )
    return f"{_front(checkpoint, license)}\n{body}\n"


def _front(checkpoint: Checkpoint, license: str) -> str:
    """YAML that Hugging Face lists models by; JSON strings are YAML too."""
    lines = ["---", "library_name: labelscape", "pipeline_tag: image-segmentation"]
    # The hub knows identifiers in small letters.
    lines += [f"license: {json.dumps(license.lower())}"] if license else []
    tags = ["remote-sensing", "semantic-segmentation", "geospatial", checkpoint.network]
    return "\n".join([*lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---", ""])


def _summary(checkpoint: Checkpoint) -> str:
    size = sum(values.size for values in checkpoint.weights.values())
    exported = checkpoint.exported
    # Of an exported network the weights are in its graph, and are not counted.
    what = f"of {size:,} weights" if exported is None else f"as {exported.title} ({exported.facts.dtype})"
    return (
        f"A `{checkpoint.network}` network {what} that gives each pixel of an image with "
        f"{len(checkpoint.bands)} bands one of {len(checkpoint.legend)} classes. Made with Labelscape "
        f"{__version__}."
    )


def _use(file: str, checkpoint: Checkpoint) -> list[str]:
    kind = checkpoint.exported.kind if checkpoint.exported else ""
    return [
        "```sh",
        f"labelscape check {file} scene.tif",
        f"labelscape map {file} scene.tif --out map",
        "```",
        "",
        f"{LOADING[kind]} `check` refuses scenes that do not fit.",
    ]


def _training(
    checkpoint: Checkpoint, about: Mapping[str, Any], places: Sequence[Place], unknown: Sequence[str]
) -> list[str]:
    recipe, lines = checkpoint.recipe, []
    lines.append(f"- Data: {_plain(trained_on(recipe)) or UNKNOWN}")
    for place in places:
        west, south, east, north = place.bbox
        lines.append(
            f"- {_plain(place.name)}: {west:.4f} to {east:.4f} degrees east, {south:.4f} to {north:.4f} "
            "degrees north"
        )
    if unknown:
        shown = some(map(_plain, unknown), 3)
        lines.append(f"- Where on Earth {shown} lies is not known here: no coordinates, or no such file now")
    if recipe.get("steps"):
        keys = ("optimizer", "rate", "batch", "crop", "augment", "precision", "seed")
        settings = ", ".join(f"{key} {recipe[key]}" for key in keys if key in recipe)
        lines.append(f"- Training: {recipe['steps']:,} steps ({settings})")
    if recipe.get("start"):
        frozen = ", its encoder frozen" if recipe.get("freeze") == "encoder" else ""
        lines.append(f"- Started from {_plain(Path(str(recipe['start'])).name)}{frozen}")
    elif recipe.get("options", {}).get("pretrained"):
        lines.append("- Started from ImageNet weights")
    lines += [f"- Time: {line}" for line in _times(checkpoint)]
    return lines


def _times(checkpoint: Checkpoint) -> list[str]:
    """From the file that `train` writes beside the checkpoint. Energy was not measured, and is not
    guessed.
    """
    if checkpoint.stored is None:
        return []
    path = times_path(Path(checkpoint.stored.path).parent, checkpoint.network)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        seconds = float(facts["seconds_per_step"]) * int(facts["steps"])
        where, processes = str(facts["device"]), int(facts["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    several = f", {processes} processes" if processes > 1 else ""
    return [
        f"{in_words(max(1, seconds))} of training steps on {_plain(where)}{several}; energy and carbon were "
        "not measured"
    ]


def _input(checkpoint: Checkpoint, about: Mapping[str, Any]) -> list[str]:
    contract = checkpoint.contract
    rows = ["| band | mean | deviation | scale, offset |", "|---|---|---|---|"]
    units = contract.units or ((1.0, 0.0),) * len(contract.bands)
    for band, (mean, std), (scale, offset) in zip(contract.bands, contract.normalisation, units, strict=True):
        rows.append(f"| {_plain(band)} | {mean:.6g} | {std:.6g} | {scale:g}, {offset:g} |")
    nodata = "none" if contract.nodata is None else f"{contract.nodata:g}"
    given = ""
    if checkpoint.exported:
        facts = checkpoint.exported.facts
        given = f"The file is given images of {facts.images}, {READS[facts.normalise]}. "
    return [
        f"Values of type {contract.dtype} (nodata: {nodata}), pixels of {pixel_size(contract.pixel_size)}. "
        f"{given}The network reads (value - mean) / deviation of these bands, in this order:",
        "",
        *rows,
    ]


def _classes(checkpoint: Checkpoint) -> list[str]:
    lines = ["| value | class | colour | description |", "|---|---|---|---|"]
    for one in checkpoint.legend.classes:
        colour = "#{:02X}{:02X}{:02X}".format(*one.color)
        lines.append(f"| {one.value} | {_plain(one.name)} | {colour} | {_plain(one.description)} |")
    return [*lines, "", "255 is nodata in every map."]


def _scores(checkpoint: Checkpoint, about: Mapping[str, Any]) -> list[str]:
    own = checkpoint.scores.get(checkpoint.network)
    if not own:
        return ["None: the model was not scored on labels that it had not learned from."]
    lines = [f"Measured on {_plain(measured_on(checkpoint.recipe)) or UNKNOWN}. {_blocks(checkpoint.recipe)}"]
    pixels = own.get("labelled_pixels")
    lines[0] += f" {pixels:,} labelled pixels." if pixels else ""
    lines += ["", "| score | % | definition |", "|---|---|---|"]
    for key in ("mean_iou", "overall_accuracy", "mean_f1", "mean_accuracy", "kappa"):
        if own.get(key) is not None:
            short, _, what = DEFINITIONS[key].partition(": ")
            lines.append(f"| {short} | {100 * own[key]:.2f} | {what} |")
    if own.get("classes"):
        lines += ["", "| class | IoU % | F1 % | UA % | PA % | pixels |", "|---|---|---|---|---|---|"]
        for row in own["classes"]:
            values = (row.get(key) for key in ("iou", "f1", "precision", "recall"))
            shown = " | ".join("-" if value is None else f"{100 * value:.2f}" for value in values)
            lines.append(f"| {_plain(row['name'])} | {shown} | {row.get('support') or 0:,} |")
        lines += ["", *(f"{DEFINITIONS[key]}." for key in ("precision", "recall"))]
    others = [name for name in checkpoint.scores if name != checkpoint.network]
    for name in others:
        found = checkpoint.scores[name].get("mean_iou")
        if found is not None:
            lines += ["", f"On the same pixels, {_plain(name)} has a mIoU of {100 * found:.2f} %."]
    return lines


def _blocks(recipe: Mapping[str, Any]) -> str:
    """How what was scored was held out."""
    data = recipe.get("data") or {}
    if not data.get("labels"):
        return ""
    how = "at random, 32 pixels wide" if data.get("split") == "random" else f"{data.get('block')} pixels wide"
    buffer = f", {data['buffer']} pixels around them unused" if data.get("buffer") else ""
    share = f"{100 * data['holdout']:.3g} % of the labels" if data.get("holdout") else "none"
    fold = f", fold {data['fold']}" if data.get("fold") else ""
    return f"Held out: {share}, in blocks {how}{buffer} (seed {recipe.get('seed', 0)}{fold})."


def _limits(checkpoint: Checkpoint, about: Mapping[str, Any]) -> list[str]:
    # What an exported network gives is calibrated already.
    inside = checkpoint.exported or checkpoint
    lines = [
        "- It knows the landscapes, seasons and sensors that it was trained on. Elsewhere it was not "
        "measured: score it on labels of your own (`labelscape evaluate`), or assess the finished map "
        "(`labelscape sample`, `labelscape assess`) before areas are published.",
        "- Held-out blocks lie in the training scenes: they tell nothing of other scenes.",
        "- Every pixel gets one of the classes above, also where the ground is none of them"
        + ("; `map --unfamiliar` marks such places." if checkpoint.familiarity else "."),
        f"- Confidences: {calibration(inside.temperature)}.",
    ]
    if (checkpoint.recipe.get("data") or {}).get("split") == "random":
        lines.append(
            "- The scores are optimistic: blocks drawn at random lie beside training blocks, and "
            "neighbouring pixels are alike."
        )
    rows = (checkpoint.scores.get(checkpoint.network) or {}).get("classes") or []
    if weak := [_plain(r["name"]) for r in rows if r.get("iou") is not None and r["iou"] < WEAK]:
        lines.append(f"- Weak classes, IoU below {100 * WEAK:.0f} %: {', '.join(weak)}.")
    if unseen := [_plain(r["name"]) for r in rows if not r.get("support")]:
        lines.append(f"- Not measured, since no held-out pixel had them: {', '.join(unseen)}.")
    return lines


def _plain(text: str) -> str:
    """Names come from others, and could be markup: what Markdown or HTML would read as such is escaped."""
    made = "".join(f"\\{ch}" if ch in "\\`*_[]<>|#" else ch for ch in text)
    return " ".join(made.split())
