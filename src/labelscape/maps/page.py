"""The report of a finished map: pictures, areas, accuracy, files and settings on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio

from labelscape.checkpoint import Checkpoint
from labelscape.contract.familiarity import QUANTILE
from labelscape.evaluation.metrics import DEFINITIONS
from labelscape.evaluation.reliability import usual_limit
from labelscape.evaluation.report import (
    AreaRow,
    ConfusionFigure,
    Curve,
    FileRow,
    ModelScores,
    Report,
    write_report,
)
from labelscape.evaluation.sections import VIRIDIS, ColourBar, Picture, shades
from labelscape.evaluation.units import area_unit
from labelscape.grid import decimated
from labelscape.legend import IGNORE, Legend
from labelscape.maps.outputs import LIMIT, all_outputs
from labelscape.maps.settings import settings_in_words
from labelscape.model_card import calibration, measured_on, scored_with
from labelscape.scenes.files import gdal
from labelscape.scenes.scene import Scene

if TYPE_CHECKING:
    from labelscape.maps.result import MapResult

SIDE = 1000
"""Pixels a side of the report's pictures, at most."""

UNFINISHED = {"report", "stac", "run"}
"""Files written with or after the page: those that exist now are from an earlier map."""


def write_map_report(
    path: Path, checkpoint: Checkpoint, scene: Scene, result: MapResult, *, overwrite: bool = False
) -> None:
    """Write the HTML report of a `MapResult`."""
    legend, facts = checkpoint.legend, result.facts
    # Mean and low share are those of the small picture: the page costs seconds, whatever the map's size.
    confidence = small(result.paths["confidence"])
    scores = tuple(ModelScores(name, metrics) for name, metrics in checkpoint.scores.items())
    own = _own_scores(checkpoint, facts)
    report = Report(
        title=f"Map of {facts['name']}",
        subtitle=f"{checkpoint.network}, {facts['when'][:10]}, {facts['software']}",
        lead=lead(result, confidence[confidence != IGNORE], checkpoint),
        notes=tuple(result.notes),
        pictures=_pictures(scene, result, legend, confidence),
        # Scene and map: the first two of `_pictures`, both at one size.
        overlay=(0, 1),
        areas=tuple(
            AreaRow(a.name, c.color, a.pixels, a.hectares) for a, c in zip(result.areas, legend.classes)
        ),
        nodata_pixels=result.nodata_pixels,
        area_hint=tiny_hint(result),
        measured_on=measured(checkpoint.recipe, facts.get("scene")) + otherwise(facts, own) if scores else "",
        scores=scores,
        definitions=tuple(DEFINITIONS.values()) if scores else (),
        confusion=_confusion(checkpoint, own),
        curves=_curves(checkpoint),
        tasks=tuple(_second_task(checkpoint, scene, one) for one in result.tasks.values()),
        files=_files(result),
        provenance=settings_in_words(facts) | _measured_of_it(result),
    )
    write_report(path, report, overwrite=overwrite)


def _measured_of_it(result: MapResult) -> dict[str, str]:
    seam = {} if np.isnan(result.seam) else {"Seam score": f"{result.seam:.2f} (1: no seams)"}
    return seam | ({"Speed": str(result.speed)} if result.speed else {})


def _second_task(checkpoint: Checkpoint, scene: Scene, result: MapResult) -> Report:
    """The section of a second task, whose map `result` is."""
    one = checkpoint.task(checkpoint.mate.name)
    confidence = small(result.paths["confidence"])
    scores = tuple(ModelScores(name, metrics) for name, metrics in one.scores.items())
    own = _own_scores(one, result.facts)
    return Report(
        title=f"Second task: {checkpoint.mate.name}",
        lead=lead(result, confidence[confidence != IGNORE], one),
        pictures=_pictures(scene, result, one.legend, confidence)[1:],
        areas=tuple(
            AreaRow(a.name, c.color, a.pixels, a.hectares) for a, c in zip(result.areas, one.legend.classes)
        ),
        nodata_pixels=result.nodata_pixels,
        area_hint=tiny_hint(result),
        # Of its own data, which may be of another sensor: the sentence says which.
        measured_on=measured(one.recipe, result.facts.get("scene")) + otherwise(result.facts, own)
        if scores
        else "",
        scores=scores,
        confusion=_confusion(one, own),
    )


def lead(result: MapResult, confidence: np.ndarray, checkpoint: Checkpoint) -> str:
    """Lead paragraph: mapped area, largest class and confidence; `confidence` (N,) is per cent of valid
    pixels.

    The limit of low confidence is half way between chance and certainty (ours), since with two classes no
    confidence is below 50 %.
    """
    total = sum(a.pixels for a in result.areas)
    hectares = sum(a.hectares or 0 for a in result.areas)
    unit = area_unit([(total, hectares)])
    size = unit.of_hectares(hectares)
    mapped = f"{size:,.{0 if size >= 100 else unit.digits}f} {unit.name}" if hectares else f"{total:,} pixels"
    largest = max(result.areas, key=lambda a: a.pixels)
    share = 100 * largest.pixels / max(1, total)
    text = f"{mapped} mapped; the largest class is {largest.name} ({share:.1f} %). "
    if confidence.size:
        limit = usual_limit(len(checkpoint.legend))
        unsure = 100 * (confidence < limit).mean()
        text += f"Mean confidence {confidence.mean():.0f} %; {unsure:.1f} % of the map is below {limit} %. "
    text += f"Confidences are {calibration(checkpoint.temperature)}."
    if result.unfamiliar is not None:
        text += f" {unfamiliar_text(result.unfamiliar)}"
    if not checkpoint.scores:
        text += " The accuracy of this model has not been measured."
    return text


def unfamiliar_text(share: float) -> str:
    """A sentence on the share of unfamiliar pixels, with what is usual beside it."""
    usual = 1 - QUANTILE
    text = (
        f"{100 * share:.1f} % of the map is unfamiliar: farther from the training data than all but "
        f"{100 * usual:.0f} % of held-out training pixels."
    )
    # Ours: five times as many as on land like that of training is no chance.
    return text + (" Confidences and scores of the model say little about it there." * (share > 5 * usual))


def measured(recipe: Mapping, scene: str | Sequence[str] | None) -> str:
    """What the scores were measured on, and whether the mapped scene was part of it.

    Relative paths and paths of other machines cannot be compared reliably: for an equal file name the text
    says no more than that.
    """
    held_out = measured_on(recipe)
    if not held_out:
        return "It is not recorded where these scores were measured; it was not on this map."
    mapped = [scene] if isinstance(scene, str) else list(scene or ())
    images = [i if isinstance(i, str) else i[0] for i in (recipe.get("data") or {}).get("images", ())]
    # The first file stands for a scene of several, as it does in `images`.
    here = Path(mapped[0]) if mapped else Path()
    if any(Path(i).is_absolute() and Path(i).resolve() == here.resolve() for i in images):
        return f"Measured on {held_out}; this scene was used for training."
    # A weaker sentence: `scene.tif` is the name of many scenes.
    if any(Path(i).name == here.name for i in images):
        return f"Measured on {held_out}; the file mapped here has that name and may be it."
    return f"Measured on {held_out}, not on this scene."


def otherwise(facts: Mapping[str, Any], scored: str) -> str:
    """A sentence on what this map does that the scores named `scored` were measured without; "" for a map
    made as they were. `evaluate` with the same options scores it.
    """
    augmented, scales = facts.get("tta", "none"), list(facts.get("scales") or [1])
    reject = (facts.get("request") or {}).get("reject")
    does = []
    if facts.get("models_averaged", 1) > 1:
        does.append(f"averages {facts['models_averaged']} models")
    if augmented != "none" and scored != scored_with(facts["network"], augmented):
        does.append(f"has test-time augmentation ({augmented})")
    if scales != [1]:
        does.append(f"averages scales ({', '.join(f'{scale:g}' for scale in scales)})")
    if reject:
        does.append(f"leaves confidences below {100 * reject:g} % unknown")
    if not does:
        return ""
    said = " and ".join(filter(None, (", ".join(does[:-1]), does[-1])))
    return f" The map {said}; the scores of {scored} are without."


def _own_scores(checkpoint: Checkpoint, facts: Mapping[str, Any]) -> str:
    """The name of the scores of the network as this map uses it, or else of the network alone."""
    name = scored_with(checkpoint.network, facts.get("tta", "none"))
    return name if name in checkpoint.scores else checkpoint.network


def tiny_hint(result: MapResult) -> str:
    """A hint at the minimum mapping unit where most polygons are specks; "" elsewhere."""
    done = result.outlined
    if done is None or not done.mostly_tiny:
        return ""
    hectares, pixels = (sum(getattr(a, key) or 0 for a in result.areas) for key in ("hectares", "pixels"))
    # The mean pixel of this map: pixels of a scene in degrees differ in area.
    size = done.tiny_pixels * (hectares / pixels if hectares else 1)
    # In the table's unit too where that is another: nobody sees 0.14 m² in 0.000014 ha.
    unit = area_unit([(pixels, hectares)]) if hectares else None
    other = f"{unit.of_hectares(size):.2g} {unit.name}, " if unit and unit.name != "hectares" else ""
    size = np.format_float_positional(size, 2, fractional=False, trim="-")
    return (
        f"{done.tiny:,} of {done.written:,} polygons are smaller than {done.tiny_pixels} pixels "
        f"({other}{size} {'ha' if hectares else 'pixels'}). A minimum mapping unit merges such areas into "
        f"their neighbours: labelscape map ... --sieve {size}, or for the finished map: labelscape sieve "
        f"{result.paths['class'].name} OUT.tif --min-area {size}"
    )


def _pictures(scene: Scene, result: MapResult, legend: Legend, confidence: np.ndarray) -> tuple[Picture, ...]:
    """Scene, map, the sieved map where there is one, confidence."""
    chips = tuple((c.name, c.color) for c in legend.classes)
    size = scene.grid.ground_pixel_size
    said = f"{scene.grid.width:,} x {scene.grid.height:,} pixels" + (
        f" of {size:.3g} m" if size else ", no coordinates"
    )
    nodata = "white is nodata" if result.nodata_pixels else ""
    classes = legend.paint(legend.indices(small(result.paths["class"])))
    pictures = [
        Picture("Scene", scene.thumbnail(SIDE), said, f"The scene, {said}"),
        Picture("Map", classes, nodata, f"Class map with {len(legend)} classes", legend=chips),
    ]
    if result.sieved is not None:
        pictures.append(_sieved(result, legend))
    pictures.append(
        Picture(
            "Confidence",
            shades(np.where(confidence == IGNORE, np.nan, confidence / 100)),
            "; ".join(filter(None, ("probability of the class shown", nodata))),
            "Confidence of the class map, dark where it is low",
            bar=ColourBar(VIRIDIS, ("0 %", "25 %", "50 %", "75 %", "100 %")),
        )
    )
    if "unfamiliar" in result.paths:
        pictures.append(_unfamiliar(result))
    return tuple(pictures)


def _unfamiliar(result: MapResult) -> Picture:
    """The picture of unfamiliar input, the limit in the middle of its colours."""
    far = small(result.paths["unfamiliar"])
    # NaN is shown white.
    return Picture(
        "Unfamiliar input",
        shades(np.where(far == IGNORE, np.nan, far / (2 * LIMIT))),
        unfamiliar_text(result.unfamiliar or 0.0),
        "Distance from the training data, bright where it is far",
        bar=ColourBar(VIRIDIS, ("0", "half", "limit", "1.5", "2 limits")),
    )


def _sieved(result: MapResult, legend: Legend) -> Picture:
    """The picture of the sieved map, with what changed as its caption."""
    done, unit = result.sieved, "ha" if result.areas[0].hectares is not None else "pixels"
    share = 100 * done.changed_pixels / max(1, sum(a.pixels for a in result.areas))
    caption = (
        f"areas below {result.facts['request']['sieve']:g} {unit} merged into a neighbour: {done.given:,} "
        f"areas, {share:.2f} % of the pixels. "
    )
    if done.left:
        caption += f"{done.left:,} smaller ones remain, surrounded by nodata. "
    caption += (
        "The polygons are of this map; classes, confidences, areas and scores on this page are of the "
        "map before sieving."
    )
    picture = legend.paint(legend.indices(small(result.paths["sieved"])))
    return Picture("Sieved map", picture, caption, "Class map without small areas")


def _confusion(checkpoint: Checkpoint, name: str) -> ConfusionFigure | None:
    # Of the networks it was compared with, only the numbers are shown.
    own = checkpoint.scores.get(name)
    if not own or not own.get("confusion") or not own.get("classes"):
        return None
    counts, unpredicted = (np.array(own["confusion"].get(key, [])) for key in ("counts", "unpredicted"))
    title = f"{name}, {measured_on(checkpoint.recipe) or 'unknown scenes'}"
    return ConfusionFigure(tuple(c["name"] for c in own["classes"]), counts, title, unpredicted)


def _curves(checkpoint: Checkpoint) -> tuple[Curve, ...]:
    """Curves of the loss, and of the validation mIoU where it was computed."""
    mate = (checkpoint.whole or checkpoint).mate
    name = mate.name if mate else "the second task"
    quantities = {
        "loss": ("loss", "loss"),
        "loss_first": ("loss", "loss of the first task"),
        "loss_mate": ("loss", f"loss of {name}"),
        "val_miou": ("validation mIoU", "mIoU"),
        "val_miou_mate": ("validation mIoU", f"mIoU of {name}"),
    }
    curves = []
    for key, (quantity, what) in quantities.items():
        known = [h for h in checkpoint.history if h.get(key) is not None]
        if known:
            steps, values = (tuple(h[k] for h in known) for k in ("step", key))
            label = what if " of " in what else f"{what} of {checkpoint.network}"
            curves.append(Curve(quantity, steps, values, label))
    return tuple(curves)


def _files(result: MapResult) -> tuple[FileRow, ...]:
    in_words = {output.kind: output.holds for output in all_outputs(next(iter(result.tasks), ""))}
    return tuple(
        FileRow(
            path.name,
            in_words[kind],
            # Their sizes are not known yet, and those of an earlier map would be wrong.
            path.stat().st_size if kind not in UNFINISHED and path.is_file() else None,
        )
        for kind, path in result.paths.items()
    )


def small(path: Path, side: int = SIDE) -> np.ndarray:
    """The first band decimated to `side`, from overviews where there are any."""
    with gdal(), rasterio.open(path) as file:
        # Decimated reads come from the mode overviews: classes are never averaged into others.
        return file.read(1, out_shape=decimated(file.shape, side))
