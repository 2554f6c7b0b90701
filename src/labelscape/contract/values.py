"""Do the values of a scene fit those of the training? Undeclared nodata along the border, factors, offsets,
swapped bands, unusual values: each is named with its cure.
"""

from __future__ import annotations

import numpy as np

from labelscape.contract.bands import QUANTILES, BandStatistics
from labelscape.contract.contract import Contract
from labelscape.contract.difference import NOTE, REFUSED, Difference
from labelscape.contract.likeness import KNOWN_FACTORS, Likeness, explain
from labelscape.contract.sample import Border, Sample
from labelscape.scenes.files import stack_files
from labelscape.scenes.scene import Scene

MAYBE_SWAPPED, SURELY_SWAPPED = 0.5, 1.0
"""Nats a pixel that an exchange of two bands must gain to be spoken of, and to refuse a scene for (see
`colours`).
"""
LARGE = 500_000
"""Pixels of a scene that shows enough of a place to be refused by its colours: a small one may be all
forest or all water.
"""


def compare_values(
    contract: Contract, scene: Scene, bands: tuple[str, ...], sample: Sample
) -> list[Difference]:
    """Differences between values sampled from a scene (`bands`: its own, in the model's order) and the
    statistics of the training, which the contract must carry.
    """
    known = np.array([s.quantiles for s in contract.statistics])
    found = []
    if sample.border is not None and not _border_was_trained(sample.border, contract):
        found.append(_border(sample.border, scene))
    if sample.values.shape[1] < 100:
        cause = (
            f"hardly a valid pixel in the {sample.blocks} blocks that were sampled: values were not compared"
        )
        return found or [Difference("values", NOTE, cause)]
    seen = np.quantile(sample.values, QUANTILES, axis=1).T  # (B, Q)
    mistake = explain(seen, known)
    if mistake.factor != 1:
        found.append(_factor(mistake.factor, seen, known, contract.dtype))
    if mistake.offset:
        found.append(_offset(mistake.offset))
    found += [_swap(cycle, bands, contract.bands, scene) for cycle in mistake.cycles]
    if mistake == Likeness():
        if contract.colours is not None:
            found += _exchange(contract, scene, bands, sample.values)
        found += [
            f
            for name, mine, theirs in zip(bands, seen, contract.statistics)
            if (f := _unusual(name, mine, theirs))
        ]
    return found


def _border_was_trained(border: Border, contract: Contract) -> bool:
    """Were the training scenes full of this value too, as measurements?"""
    return contract.nodata != border.value and all(
        s.quantiles[0] <= border.value <= s.quantiles[-1] for s in contract.statistics
    )


def _border(border: Border, scene: Scene) -> Difference:
    says = "declares no nodata value" if scene.nodata is None else f"declares nodata {scene.nodata:g}"
    cause = (
        f"{border.value:g} stands in all bands along the scene's edge ({100 * border.share:.0f} % of the "
        f"border that was sampled) and the scene {says}: "
        f"the border would be mapped as ground. Pass --nodata {border.value:g}"
    )
    # A photograph may be black or white at its edge; an orthophoto is so where it ends.
    return Difference("border", REFUSED if scene.grid.is_georeferenced else NOTE, cause)


def _factor(factor: float, seen: np.ndarray, known: np.ndarray, dtype: str) -> Difference:
    median = QUANTILES.index(0.5)
    ranges = [f"{row[:, median].min():.4g} to {row[:, median].max():.4g}" for row in (seen, known)]
    size = max(factor, 1 / factor)
    size = f"{size:.0f}" if round(size) in KNOWN_FACTORS else f"about {size:.3g}"
    how, cure = (f"divided by {size}", "multiply") if factor > 1 else (f"multiplied by {size}", "divide")
    gdal_type = {"uint8": "Byte"}.get(dtype, dtype.capitalize().replace("Uint", "UInt"))
    ends = f"0 1 0 {factor:.6g}" if factor > 1 else f"0 {1 / factor:.6g} 0 1"
    cause = (
        f"values look {how}: the middles of the bands are {ranges[0]}, in training they were {ranges[1]}. "
        f"{cure.capitalize()} them by {size} first: gdal_translate -ot {gdal_type} -scale {ends} scene.tif "
        "corrected.tif"
    )
    return Difference("factor", REFUSED, cause)


def _offset(offset: float) -> Difference:
    why = (
        " (Sentinel-2 products of processing baseline 04.00 and later carry +1000, older ones do not)"
        if abs(offset) == 1000
        else ""
    )
    start, end = (f"{offset:g}", f"{offset * 11:g}") if offset > 0 else ("0", f"{-10 * offset:g}")
    to = ("0", f"{offset * 10:g}") if offset > 0 else (f"{-offset:g}", f"{-11 * offset:g}")
    cause = (
        f"values look shifted by {offset:+g} in all bands{why}, against the training. "
        f"Bring them back first: gdal_translate -scale {start} {end} {to[0]} {to[1]} scene.tif corrected.tif"
    )
    return Difference("offset", REFUSED, cause)


def _exchange(
    contract: Contract, scene: Scene, bands: tuple[str, ...], values: np.ndarray
) -> list[Difference]:
    """Two bands that look swapped by the company their values keep. A refusal where the scene is large
    enough to be sure.
    """
    pair, gain = contract.colours.exchanged(values)
    if gain <= MAYBE_SWAPPED:
        return []
    return [
        _swap(
            pair,
            bands,
            contract.bands,
            scene,
            surely=gain > SURELY_SWAPPED and scene.grid.window.pixels >= LARGE,
        )
    ]


def _swap(
    cycle: tuple[int, ...],
    bands: tuple[str, ...],
    wanted: tuple[str, ...],
    scene: Scene,
    *,
    surely: bool = True,
) -> Difference:
    """Named as the scene names its bands; beside that what they look like, where the model has other
    names.
    """
    shown = [f"{bands[i]} holds what looks like {wanted[j]}" for i, j in zip(cycle, (*cycle[1:], cycle[0]))]
    order = list(range(len(bands)))
    for i, j in zip(cycle, (*cycle[1:], cycle[0])):
        order[j] = i
    numbers = [scene.bands.index(bands[i]) + 1 for i in order]
    what = (
        f"bands {bands[cycle[0]]} and {bands[cycle[1]]} look swapped"
        if len(cycle) == 2
        else f"bands {' '.join(bands[i] for i in cycle)} look rotated"
    )
    cure = " ".join(f"-b {n}" for n in numbers)
    how = (
        "rename the files"
        if len(stack_files(scene.source)) > 1
        else (
            f"put them in the model's order {' '.join(wanted)}: gdal_translate {cure} scene.tif "
            "corrected.tif, then name them so"
        )
    )
    fits = (
        "as they stand they do not fit the training"
        if surely
        else "the values would fit the training better so, but that may be the place"
    )
    return Difference(
        "swapped bands",
        REFUSED if surely else NOTE,
        f"{what}: {', '.join(shown)}, by their values; {fits}. If so, {how}",
    )


def _unusual(name: str, seen: np.ndarray, known: BandStatistics) -> Difference | None:
    """A band whose middle lies outside nearly all of the training's values."""
    low, median, high = (QUANTILES.index(q) for q in (0.01, 0.5, 0.99))
    value, least, most = seen[median], known.quantiles[low], known.quantiles[high]
    if least <= value <= most:
        return None
    cause = (
        f"band {name}: half the pixels lie around {value:.4g}, where training saw {least:.4g} to "
        f"{most:.4g}: another season or place, snow or clouds?"
    )
    return Difference("values", NOTE, cause)
