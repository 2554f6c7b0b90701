"""Samples, assessments and counts of evaluations: what each is, and what to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.assessment.answers import read_answers
from labelscape.assessment.points import Design, read_design
from labelscape.assessment.words import PIXELS, unit_of
from labelscape.errors import LabelscapeError
from labelscape.evaluation.counts import FORMAT, Evaluation
from labelscape.evaluation.text import percent
from labelscape.evaluation.units import AreaUnit
from labelscape.inspection.card import Info, damaged, lines, size_text
from labelscape.scenes.vectors import layers_of
from labelscape.text import typed

ASSESSED = "assessed_points"
"""Layer of points with both classes, which `assess` writes."""


def sample(path: Path) -> Info | None:
    """A GeoPackage that `sample` or `assess` wrote; None for another. Raises BadFile, BadInput as
    `read_design`.
    """
    if path.suffix.lower() != ".gpkg":
        return None
    # First: a damaged file is refused here in the words for all vector files.
    layers = [layer.name for layer in layers_of(path)]
    design = read_design(path)
    if design is not None:
        return _sample(path, design)
    if ASSESSED in layers:
        card = {"assessed points": str(path), "file size": size_text(path.stat().st_size)}
        card["use"] = "open them in QGIS: points with the class of the map and of the reference"
        return Info("assessed points", str(path), {"bytes": path.stat().st_size}, lines(card))
    return None


def _sample(path: Path, design: Design) -> Info:
    facts, strata = design.facts, design.facts["strata"]
    answered = _answered(path, design)
    drawn = np.bincount(design.stratum, minlength=len(strata["names"]))
    known = {key: facts[key] for key in ("map", "map_sha256", "software", "allocation", "seed", "block")}
    known |= {"points": len(design), "answered": answered, "classes": list(design.legend.names)}
    known["strata"] = [
        {"name": name, "pixels": pixels, "points": int(points)}
        for name, pixels, points in zip(strata["names"], strata["pixels"], drawn)
    ]
    block = facts["block"]
    card: dict[str, Any] = {"sample": str(path), "of the map": facts["map"], "points": f"{len(design):,}"}
    card["answered"] = "the answers cannot be read" if answered is None else f"{answered:,}"
    card["strata"] = f"{strata['by']}, {facts['allocation']} allocation"
    card["blocks"] = f"{block['side']} pixels a side, {block['per_block']} points in each" if block else ""
    card["seed"] = str(facts["seed"])
    card["classes"] = ", ".join(f"{c.value} {c.name}" for c in design.legend.classes)
    card["use"] = (
        f"labelscape assess {typed(facts['map'])} {typed(path)}"
        if answered == len(design)
        else "open it in QGIS over imagery, without the map, and choose a class for each point; then "
        f"labelscape assess {typed(facts['map'])} {typed(path)}"
    )
    table = [f"{'stratum':<24}{'pixels':>16}{'points':>9}"]
    table += [f"{row['name']:<24}{row['pixels']:>16,}{row['points']:>9,}" for row in known["strata"]]
    return Info("sample", str(path), known, lines(card, table))


def _answered(path: Path, design: Design) -> int | None:
    """Points with an answer; None where points were changed, which `assess` says how."""
    try:
        return int(read_answers(path, design, design.legend).answered.sum())
    except LabelscapeError:
        return None


def document(path: Path, fields: Mapping[str, Any]) -> Info | None:
    """A JSON document that `assess`, `evaluate` or `train` wrote; None for another."""
    if fields.get("format") == FORMAT:
        return _counts(path, Evaluation.from_dict(fields))
    if {"estimator", "design", "sentence", "classes"} <= fields.keys():
        with damaged(f"{path} is not an assessment, or is damaged"):
            return _assessment(path, fields)
    if {"seconds_per_step", "includes", "steps"} <= fields.keys():
        card = {"times": str(path), "network": fields.get("network"), "device": fields.get("device")}
        card["seconds a step"] = f"{fields['seconds_per_step']} ({fields['steps']} steps)"
        card |= {"includes": fields["includes"], "excludes": fields.get("excludes")}
        return Info("times", str(path), dict(fields), lines(card))
    return None


def _counts(path: Path, found: Evaluation) -> Info:
    scores = found.metrics if found.per_scene else {}
    facts = {key: scores.get(key) for key in ("overall_accuracy", "mean_iou", "labelled_pixels")}
    facts |= {"classes": list(found.names), "scenes": list(found.per_scene), "blocks": len(found.per_block)}
    card = {"counts of an evaluation": str(path), "classes": ", ".join(found.names)}
    card["scenes"] = f"{len(found.per_scene):,}, {len(found.per_block):,} blocks"
    if scores:
        card["labelled pixels"] = f"{scores['labelled_pixels']:,}"
        card["scores"] = f"OA {percent(scores['overall_accuracy'])} %, mIoU {percent(scores['mean_iou'])} %"
    card["use"] = f"labelscape evaluate {typed(path)} --card; name more files of counts to add them"
    return Info("counts", str(path), facts, lines(card))


def _area(value: float | None, unit: AreaUnit) -> str:
    """An area of the file, which has hectares, or pixels where the map has no coordinates."""
    if value is None or unit is not PIXELS:
        return unit.text(value)
    return f"{value:,.0f}"


def _assessment(path: Path, fields: Mapping[str, Any]) -> Info:
    low, high = fields["oa_interval"]
    card: dict[str, Any] = {"assessment": str(path), "of the map": fields["design"]["map"]}
    card["points"] = f"{fields['points']:,} of {fields['drawn']:,} drawn"
    card["estimator"] = fields["estimator"]
    card["overall accuracy"] = f"{percent(fields['oa'])} % ({percent(low)} to {percent(high)} %)"
    card["notes"] = " ".join(fields["notes"])
    # The unit of the sentence and of the report, which for fine pixels is not the file's.
    unit = unit_of(fields["design"])
    table = [f"{'class':<24}{unit.name:>16}{'± 95 %':>14}{'UA %':>8}{'PA %':>8}"]
    for one in fields["classes"]:
        area, half = (_area(one[key], unit) for key in ("area", "area_ci95"))
        table.append(f"{one['name']:<24}{area:>16}{half:>14}{percent(one['ua']):>8}{percent(one['pa']):>8}")
    return Info("assessment", str(path), dict(fields), lines(card, [*table, "", fields["sentence"]]))
