"""Model card: a checkpoint's description as text, for notebooks, `labelscape info` and the report of a map.

Everything is read from the checkpoint's description (`checkpoint.description(path)`), so that no weights need
to be loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from labelscape.text import some

SHOWN_FILES = 3
"""Names of training scenes that are listed; the rest are counted."""


def model_card(description: Mapping) -> dict[str, str]:
    """Heading -> text: network, classes, bands, values, pixel size, training, scores, calibration."""
    card = {
        "network": description["network"] + _options(description["options"]),
        "classes": ", ".join(f"{c['value']} {c['name']}" for c in description["legend"]),
        "bands": ", ".join(description["bands"]),
        "data type": f"{description['dtype']}" + _nodata(description.get("nodata")),
        "pixel size": pixel_size(description.get("pixel_size")),
        "trained on": trained_on(description["recipe"]),
        "corrected by": _corrections(description.get("corrections") or ()),
        "training": _training(description["recipe"]),
        "scores": "; ".join(f"{name}: {_score(s)}" for name, s in description["scores"].items()),
        "measured on": measured_on(description["recipe"]) if description["scores"] else "",
        # Files written before calibration existed have no temperature.
        "confidences": calibration(description.get("temperature", 1.0)),
        "unfamiliar input": _unfamiliar(description.get("familiarity") or {}),
        **second_task(description),
    }
    return {heading: text for heading, text in card.items() if text}


def second_task(description: Mapping) -> dict[str, str]:
    """The lines of a card for what was learned in the same batches; empty where there is nothing."""
    mate = description.get("second_task")
    if not mate:
        return {}
    recipe = {"data": (description["recipe"].get("mate") or {}).get("data")}
    return {
        "second task": mate["name"],
        f"{mate['name']} classes": ", ".join(f"{c['value']} {c['name']}" for c in mate["legend"]),
        f"{mate['name']} trained on": trained_on(recipe),
        f"{mate['name']} scores": "; ".join(f"{name}: {_score(s)}" for name, s in mate["scores"].items()),
        f"{mate['name']} measured on": measured_on(recipe) if mate["scores"] else "",
        f"{mate['name']} confidences": calibration(mate["temperature"]),
    }


def html_card(description: Mapping) -> str:
    """The same as an HTML table with the classes in their colours."""
    # Names of classes, bands and files come from others, and could be markup.
    card = {heading: escape(text) for heading, text in model_card(description).items()}
    style = "display:inline-block;width:.9em;height:.9em;border:1px solid #888;background:{}"
    card["classes"] = "&ensp;".join(
        f'<span style="{style.format("#{:02x}{:02x}{:02x}".format(*c["color"]))}"></span> {escape(c["name"])}'
        for c in description["legend"]
    )
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{heading}</th><td style="text-align:left">{text}'
        "</td></tr>"
        for heading, text in card.items()
    )
    return f"<table>{rows}</table>"


def trained_on(recipe: Mapping) -> str:
    """The training scenes: "centre.tif", "a.tif, b.tif, c.tif and 4 more", "gid-5"; "" where not known."""
    if recipe.get("imported_from"):
        return f"weights imported from {recipe['imported_from']}"
    data = recipe.get("data") or {}
    if data.get("dataset"):
        return str(data["dataset"])
    names = [_name(image) for image in data.get("images", ())]
    return some(names, SHOWN_FILES)


def scored_with(network: str, tta: str) -> str:
    """The name of a network's scores with test-time augmentation: "mlp, tta dihedral", "mlp" without."""
    return network if tta == "none" else f"{network}, tta {tta}"


def measured_on(recipe: Mapping) -> str:
    """The pixels that scores were measured on: "held-out blocks of centre.tif"; "" where not known."""
    data, scenes = recipe.get("data") or {}, trained_on(recipe)
    if not data or not scenes:
        return ""
    if data.get("dataset"):
        return f"the held-out part of {scenes}"
    # Blocks drawn at random lie beside training blocks, and neighbouring pixels are alike.
    if data.get("split") == "random":
        return f"randomly held-out blocks of {scenes}: an optimistic estimate"
    fold = f" (fold {data['fold']})" if data.get("fold") else ""
    return f"{'held-out blocks' if data.get('labels') else 'held-out pictures'} of {scenes}{fold}"


def calibration(temperature: float) -> str:
    """Whether confidences are calibrated, as text."""
    if temperature == 1:
        return "not calibrated (run labelscape calibrate)"
    return f"calibrated by temperature scaling (temperature {temperature:.3g})"


def pixel_size(metres: float | None) -> str:
    return "unknown (pictures without coordinates)" if metres is None else f"{metres:.4g} m on the ground"


def _corrections(made: Sequence[Mapping]) -> str:
    """What corrections changed in the training labels."""
    return "; ".join(
        f"{one['polygons']:,} areas of {one['file']}, {one['changed']:,} of {one['pixels']:,} pixels had "
        "another class"
        for one in made
    )


def _unfamiliar(features: Mapping) -> str:
    """What `map --unfamiliar` compares with; "" for checkpoints without."""
    if not features:
        return ""
    learned, judged = features["pixels"]
    return (
        f"told by distance from the features of {learned:,} training pixels; its limit is that of 99 % of "
        f"{judged:,} pixels of the part {features['part']} (map --unfamiliar)"
    )


def _name(image: str | list | tuple) -> str:
    # A scene of several single-band files is named by all of them.
    return Path(image).name if isinstance(image, str) else "+".join(Path(part).name for part in image)


def _options(options: Mapping) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else ""


def _nodata(value: float | None) -> str:
    return "" if value is None else f", nodata {value:g}"


def _training(recipe: Mapping) -> str:
    # Imported networks have a recipe without steps.
    if not recipe.get("steps"):
        return ""
    start = f", started from {Path(recipe['start']).name}" if recipe.get("start") else ""
    # Recipes of earlier versions, and of strangers, may lack either: the card shows what there is.
    crops = (
        f" of {recipe['batch']} crops of {recipe['crop']} pixels" if {"batch", "crop"} <= set(recipe) else ""
    )
    return f"{recipe['steps']:,} steps{crops}{start}"


def _score(metrics: Mapping) -> str:
    shown = (("mIoU", "mean_iou"), ("overall accuracy", "overall_accuracy"))
    known = [(label, metrics[key]) for label, key in shown if metrics.get(key) is not None]
    return ", ".join(f"{label} {100 * value:.2f} %" for label, value in known) or "none"
