"""Do the values of a scene fit those of the training scenes? Undeclared nodata along the border, scale
factors, offsets, swapped bands, unusual values: each is named, with the command that corrects it.
"""

from __future__ import annotations

import math

import numpy as np

from labelscape.contract.bands import QUANTILES, BandStatistics
from labelscape.contract.contract import Contract
from labelscape.contract.difference import NOTE, REFUSED, Difference
from labelscape.contract.likeness import KNOWN_FACTORS, Likeness, explain
from labelscape.contract.sample import Beyond, Border, Filler, Sample, sample_scene
from labelscape.scenes.files import stack_files
from labelscape.scenes.scene import Scene
from labelscape.scenes.validity import LARGEST, as_typed

MAYBE_SWAPPED, SURELY_SWAPPED = 0.5, 1.0
"""Gain in log-likelihood, in nats per pixel, from which a swap of two bands is mentioned, and from which a
scene is refused for it (see `colours`).
"""
HOLES = 0.001
"""Share of the sampled pixels with a value that looks like nodata in all bands, to be told (ours)."""
LARGE = 500_000
"""Pixels that a scene must have to be refused by its colours: a smaller one may be all forest or all
water.
"""


def compare_values(
    contract: Contract, scene: Scene, bands: tuple[str, ...], sample: Sample
) -> list[Difference]:
    """Differences between values sampled from a scene and the training statistics in the contract.

    bands  the scene's own band names, in the model's order
    """
    known = np.array([s.quantiles for s in contract.statistics])
    found = []
    # Before values: the border's pixels are left out of them.
    if sample.border is not None and not _border_was_trained(sample.border, contract):
        found.append(_border(sample.border, scene))
    if sample.filler is not None and not _filler_was_trained(sample.filler, contract):
        found.append(_filler(sample.filler, scene, bands))
    if sample.beyond is not None:
        found.append(_beyond(sample.beyond, scene))
    holes, hit = _holes(contract, scene, sample.values)
    found += holes
    values = sample.values[:, ~hit]
    if values.shape[1] < 100:
        cause = (
            f"fewer than 100 valid pixels in the {sample.blocks} blocks that were sampled: values were not "
            "compared"
        )
        # A scene that is all border has its finding already.
        return found or [Difference("values", NOTE, cause)]
    seen = np.quantile(values, QUANTILES, axis=1).T  # (B, Q)
    # First what explains all bands at once: single bands are judged only when nothing does.
    mistake = explain(seen, known)
    if mistake.factor != 1:
        found.append(_factor(mistake.factor, seen, known, contract.dtype))
    if mistake.offset:
        found.append(_offset(mistake.offset))
    found += [_swap(cycle, bands, contract.bands, scene) for cycle in mistake.cycles]
    # Colours and single bands say nothing while a factor, an offset or a swap is not undone.
    if mistake == Likeness():
        if contract.colours is not None:
            found += _exchange(contract, scene, bands, values)
        found += [
            f
            for name, mine, theirs in zip(bands, seen, contract.statistics)
            if (f := _unusual(name, mine, theirs))
        ]
    return found


def undeclared_nodata(scene: Scene) -> Difference | None:
    """What `compare_values` says of a border, a fill value, values beyond all measurements or holes that the
    scene does not declare, before there is a model. None where there is none, or NaN is given as nodata:
    there is none then, whatever it looks like.

    Raises BadFile where the file is damaged.
    """
    if scene.nodata is not None and scene.nodata != scene.nodata and scene.dtype.kind in "iu":
        return None
    sample = sample_scene(scene, scene.bands, most_blocks=12, seconds=5.0)
    if sample.filler is not None:
        return _filler(sample.filler, scene, scene.bands)
    if sample.border is not None:
        return _border(sample.border, scene)
    if sample.beyond is not None:
        return _beyond(sample.beyond, scene)
    holes, _ = _holes(None, scene, sample.values)
    return holes[0] if holes else None


def _beyond(found: Beyond, scene: Scene) -> Difference:
    # No refusal: these pixels are left out in training and in maps alike.
    share = _of_pixels(found.share)
    declare = (
        f", or declare it: `nodata={as_typed(found.value, scene.dtype)}`"
        if math.isfinite(found.value)
        else ""
    )
    cause = (
        f"{share} of the sampled pixels of {scene.name} hold values beyond {LARGEST:g}, such as "
        f"{found.value:.6g}, and the scene {_declared(scene)}: they are taken for nodata. Correct them where "
        f"they should be measurements{declare}"
    )
    return Difference("beyond", NOTE, cause)


def _holes(
    contract: Contract | None, scene: Scene, values: np.ndarray
) -> tuple[list[Difference], np.ndarray]:
    """Pixels inside the scene that no rule of it makes nodata, though they look like it: notes on them, and
    which of the values (B, N) they are, (N,) bool. Their value is the training scenes' nodata, or the largest
    of the type, in all bands.
    """
    none = np.zeros(values.shape[1], bool)
    # NaN given as nodata of whole numbers: there is none, whatever it looks like.
    no_nodata = scene.nodata is not None and scene.nodata != scene.nodata and scene.dtype.kind in "iu"
    if no_nodata or not values.size:
        return [], none
    if contract is not None and contract.nodata is not None:
        hit = (values == np.float32(contract.nodata)).all(axis=0)
        if hit.mean() >= HOLES:
            value = as_typed(contract.nodata, scene.dtype)
            return [_hole(hit, value, scene, f"the training scenes declared {value} as nodata")], hit
    if scene.dtype.kind in "iu":
        full = float(np.iinfo(scene.dtype).max)
        hit = (values == np.float32(full)).all(axis=0)
        if hit.mean() >= HOLES and _stands_alone(full, values[:, ~hit], contract):
            why = "no other value is near it: software fills gaps so, and very bright clouds are so"
            return [_hole(hit, as_typed(full, scene.dtype), scene, why)], hit
    return [], none


def _stands_alone(value: float, others: np.ndarray, contract: Contract | None) -> bool:
    """Is a value far above the others (B, N) of each band, further than they reach, and above those of the
    training scenes? Sensors that saturate have values below it too.
    """
    if not others.size or (contract and any(s.quantiles[-1] >= value for s in contract.statistics)):
        return False
    low, high = np.quantile(others, (0.001, 0.999), axis=1)
    return bool((value > high + (high - low)).all())


def _hole(hit: np.ndarray, value: str, scene: Scene, why: str) -> Difference:
    # A note: of black or white pixels only the user knows whether they were measured.
    cause = (
        f"all bands of {scene.name} are {value} in {_of_pixels(hit.mean())} of the sampled pixels inside it; "
        f"{why}, and this scene {_declared(scene)}: these pixels are taken for ground. If nothing was "
        f"measured there, pass {_option(value, scene)}"
    )
    return Difference("holes", NOTE, cause)


def _of_pixels(share: float) -> str:
    if share >= 0.1:  # two digits would be "1e+02" of all of them
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2g} %" if share >= 1e-4 else "a few"


def _filler_was_trained(filler: Filler, contract: Contract) -> bool:
    known = contract.statistics[filler.band]
    return contract.nodata != filler.value and known.quantiles[0] <= filler.value <= known.quantiles[-1]


def _filler(filler: Filler, scene: Scene, bands: tuple[str, ...]) -> Difference:
    share = _of_pixels(filler.share)
    value = as_typed(filler.value, scene.dtype)
    cause = (
        f"band {bands[filler.band]} of {scene.name} is {value} in {share} of the sampled pixels, far from "
        f"all its other values, and the scene {_declared(scene)}: they would count as measurements. "
        f"Pass {_option(value, scene)}"
    )
    return Difference("border", REFUSED, cause)


def _option(value: str, scene: Scene) -> str:
    """The option that declares a nodata value, with what it replaces: a scene has one."""
    own = scene.nodata
    if own is None or own != own:
        return f"`nodata={value}`"
    return (
        f"`nodata={value}` (it replaces {own:g}; where both mark gaps, make them one: gdalwarp -srcnodata "
        f"{value} -dstnodata {own:g} scene.tif corrected.tif)"
    )


def _declared(scene: Scene) -> str:
    return "declares no nodata value" if scene.nodata is None else f"declares nodata {scene.nodata:g}"


def _border_was_trained(border: Border, contract: Contract) -> bool:
    """Is the border's value a normal measurement in the training scenes?"""
    # A value that training treated as nodata is a border even where it is common.
    return contract.nodata != border.value and all(
        s.quantiles[0] <= border.value <= s.quantiles[-1] for s in contract.statistics
    )


def _border(border: Border, scene: Scene) -> Difference:
    value = as_typed(border.value, scene.dtype)
    cause = (
        f"all bands are {value} along the scene's edge ({100 * border.share:.0f} % of the border "
        f"that was sampled) and the scene {_declared(scene)}: the border would be mapped as "
        f"ground. Pass {_option(value, scene)}"
    )
    # A photograph may well be black or white at its edge; in a georeferenced image that is where data end.
    return Difference("border", REFUSED if scene.grid.is_georeferenced else NOTE, cause)


def _factor(factor: float, seen: np.ndarray, known: np.ndarray, dtype: str) -> Difference:
    median = QUANTILES.index(0.5)
    ranges = [f"{row[:, median].min():.4g} to {row[:, median].max():.4g}" for row in (seen, known)]
    size = max(factor, 1 / factor)
    size = f"{size:.0f}" if round(size) in KNOWN_FACTORS else f"about {size:.3g}"
    how, cure = (f"divided by {size}", "multiply") if factor > 1 else (f"multiplied by {size}", "divide")
    # GDAL's own names: Byte, UInt16, Int16, Float32.
    gdal_type = {"uint8": "Byte"}.get(dtype, dtype.capitalize().replace("Uint", "UInt"))
    # gdal_translate -scale maps a source range to a target range; any two points of the line will do.
    ends = f"0 1 0 {factor:.6g}" if factor > 1 else f"0 {1 / factor:.6g} 0 1"
    cause = (
        f"values look {how}: the band medians are {ranges[0]}, in training they were {ranges[1]}. "
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
    # Ranges from 0 or the offset up, so that all values stay positive in an unsigned type.
    to = ("0", f"{offset * 10:g}") if offset > 0 else (f"{-offset:g}", f"{-11 * offset:g}")
    cause = (
        f"values look shifted by {offset:+g} in all bands{why}, compared with the training scenes. "
        f"Subtract the offset first: gdal_translate -scale {start} {end} {to[0]} {to[1]} scene.tif "
        "corrected.tif"
    )
    return Difference("offset", REFUSED, cause)


def _exchange(
    contract: Contract, scene: Scene, bands: tuple[str, ...], values: np.ndarray
) -> list[Difference]:
    """Two bands that look swapped, judged by the values of all bands in each pixel. A refusal where the scene
    is large enough to be sure.
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
    """A cycle of swapped bands, under the scene's names and beside them the model's names for what they look
    like; with the command that puts them in order.
    """
    shown = [f"{bands[i]} holds what looks like {wanted[j]}" for i, j in zip(cycle, (*cycle[1:], cycle[0]))]
    order = list(range(len(bands)))
    for i, j in zip(cycle, (*cycle[1:], cycle[0])):
        # The inverse of "band i holds j": place j of the new file is taken from band i.
        order[j] = i
    # Numbers in the file: the model may read only some of its bands.
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
            "corrected.tif, then set these band names"
        )
    )
    fits = (
        "in the present order they do not fit the training scenes"
        if surely
        else "the training scenes would fit better then, but the reason may also be the place"
    )
    return Difference(
        "swapped bands",
        REFUSED if surely else NOTE,
        f"{what}: judged by its values, {', '.join(shown)}; {fits}. If they are swapped, {how}",
    )


def _unusual(name: str, seen: np.ndarray, known: BandStatistics) -> Difference | None:
    """A band whose median lies outside the 1 % to 99 % range of the training values."""
    low, median, high = (QUANTILES.index(q) for q in (0.01, 0.5, 0.99))
    value, least, most = seen[median], known.quantiles[low], known.quantiles[high]
    # The median alone: a few per cent of clouds would carry any outer quantile out of the range.
    if least <= value <= most:
        return None
    cause = (
        f"band {name}: the median is {value:.4g}, outside the range of the training scenes ({least:.4g} to "
        f"{most:.4g}): another season or place, snow or clouds?"
    )
    return Difference("values", NOTE, cause)
