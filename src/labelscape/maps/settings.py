"""Settings of a map as text, for its report and `labelscape info`; _run.json has the raw values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

AUGMENTED = {
    "none": "none",
    "mirror": "original and left-right mirrored image, averaged",
    "flips": "4 flips, averaged",
    "dihedral": "8 flips and rotations, averaged",
}
PRECISIONS = {
    "32": "32-bit floating point",
    "tf32": "TF32 in convolutions",
    "bfloat16": "bfloat16, mixed",
    "float16": "float16, mixed",
}

# Shown elsewhere on the page, part of another line, or for programs alone.
SHOWN = {"name", "request", "core", "halo", "blend", "software", "build", "when", "scene_files"}


def settings_in_words(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Label -> value: what was mapped, by which model, how. Uninformative defaults (no test-time scales, one
    model) are left out; unknown keys keep their names.
    """
    rows: dict[str, Any] = {
        "Software": facts.get("software"),
        "Date": str(facts.get("when", "")).replace("T", " ").replace("+00:00", " UTC"),
    }
    for key, value in facts.items():
        # Files of other versions have other keys: an unknown one is shown under its own name rather than
        # hidden.
        if key in WORDS:
            label, words = WORDS[key]
            rows[label] = words(value)
        elif key not in SHOWN:
            rows[key.replace("_", " ").capitalize()] = value
    if "core" in facts:
        rows["Tiles"] = _tiles(facts)
    # Older run files have no `request`.
    rows |= _options(facts.get("request") or {}, metric=facts.get("crs") is not None)
    return {label: value for label, value in rows.items() if value not in (None, "")}


def _machine(machine: Mapping[str, Any]) -> str:
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    # Exported models are mapped without torch, which also names the processor.
    if "torch" not in machine:
        return threads
    return f"{machine['processor']}, {threads}, torch {machine['torch']}"


def _tiles(facts: Mapping[str, Any]) -> str:
    count, core, halo, blend = (facts.get(key) or 0 for key in ("tiles", "core", "halo", "blend"))
    # A scene smaller than a tile has no overlap, whatever the plan says.
    if count == 1:
        return f"1: the whole {'area' if (facts.get('request') or {}).get('area') else 'scene'} at once"
    overlap = f", overlapping by {halo} pixels on each side" if halo else ", without overlap"
    joined = f"; neighbours blended over {blend} pixels" if blend else "; no blending"
    return f"{count:,} of {core} x {core} pixels{overlap}{joined}"


def _options(options: Mapping[str, Any], *, metric: bool) -> dict[str, str]:
    """Options that differ from the defaults."""
    area, length = ("ha", "m") if metric else ("pixels", "pixels")
    rows = {}
    if options.get("reject"):
        rows["Rejection threshold"] = f"confidence below {100 * options['reject']:g} % is mapped as unknown"
    if options.get("sieve"):
        rows["Minimum mapping unit"] = f"{options['sieve']:g} {area} (sieved map and polygons)"
    if options.get("min_area"):
        rows["Smallest polygon"] = f"{options['min_area']:g} ha"
    if options.get("simplify"):
        rows["Polygon simplification"] = f"tolerance {options['simplify']:g} {length}"
    if options.get("area"):
        rows["Mapped area"] = f"inside the polygons of {options['area']}"
    if options.get("nodata") is not None:
        rows["Nodata value given"] = f"{options['nodata']:g}"
    if options.get("band_names"):
        rows["Bands named"] = ", ".join(options["band_names"])
    if options.get("asset"):
        rows["Assets of the STAC item"] = str(options["asset"])
    if options.get("creation_options"):
        rows["Creation options"] = ", ".join(options["creation_options"])
    if options.get("force"):
        rows["Forced"] = "yes: the scene was mapped although the check refused it"
    return rows


def _models(models: list[Mapping[str, Any]]) -> str:
    texts = [
        # Twelve digits, enough to tell files apart on a page; the run file has them all.
        f"{m['path']} (SHA-256 {m['sha256'][:12]}…)" if m.get("path") else "from memory, not from a file"
        for m in models
    ]
    return "; ".join(texts)


WORDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "scene": ("Scene", lambda value: value),
    "size": ("Size", lambda size: f"{size[0]:,} x {size[1]:,} pixels"),
    "crs": ("Coordinate reference system", lambda crs: crs or "none"),
    "pixel_size_m": ("Pixel size", lambda size: None if size is None else f"{size:.4g} m on the ground"),
    "network": ("Network", lambda value: value),
    "task": ("Task", lambda value: value),
    "bands": ("Bands read", lambda value: value),
    "models": ("Checkpoint", _models),
    "tiles": ("Tiles", lambda value: f"{value:,}"),
    "scales": ("Test-time scales", lambda scales: None if list(scales) == [1] else scales),
    "tta": ("Test-time augmentation", lambda tta: AUGMENTED.get(tta, tta)),
    "average": ("Averaged as", lambda value: value),
    "models_averaged": ("Models averaged", lambda count: None if count == 1 else count),
    "device": ("Device", lambda value: value),
    "engine": ("Engine", lambda value: None if value == "torch" else value),
    "machine": ("Processor", lambda m: _machine(m) if m else None),
    "precision": ("Precision", lambda value: PRECISIONS.get(str(value), value)),
}
