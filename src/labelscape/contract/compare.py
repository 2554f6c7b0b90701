"""Does this scene fit this model? Every difference between a scene and the scenes a model was trained on,
with its cause and its cure.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from labelscape.contract.bands import QUANTILES, BandStatistics
from labelscape.contract.contract import Contract
from labelscape.contract.likeness import KNOWN_FACTORS, Likeness, explain
from labelscape.contract.matching import BandMatch, match_bands, match_pixels
from labelscape.contract.sample import Border, Look, look_at
from labelscape.grid import Grid
from labelscape.scenes.files import stack_files
from labelscape.scenes.scene import Scene

REFUSED, AFTER, NOTE = "REFUSED", "FITS AFTER", "FITS"
LEVELS = (NOTE, AFTER, REFUSED)
MAYBE_SWAPPED, SURELY_SWAPPED = 0.5, 1.0
"""Nats a pixel that an exchange of two bands must gain to be spoken of, and to refuse a scene for (see
`colours`).
"""
LARGE = 500_000
"""Pixels of a scene that shows enough of a place to be refused by its colours: a small one may be all
forest or all water.
"""
TOO_COARSE = 3
"""Pixels so many times as wide as the training's do not show what the network looks for, however they are
resampled.
"""


@dataclass(frozen=True)
class Difference:
    """One way in which a scene differs from the training scenes.

    kind   "band count", "band names", "band order", "swapped bands", "type", "factor", "offset", "values",
           "border", "pixel size", "crs", "units" or "small"
    level  what it means for the map: "REFUSED", "FITS AFTER" (mapping adjusts it by itself), "FITS" (a note)
    cause  what was found, what was expected, what to do
    """

    kind: str
    level: str
    cause: str

    def to_dict(self) -> dict:
        return asdict(self)


def verdict(findings: tuple[Difference, ...]) -> str:
    """The gravest level of all findings; "FITS" for none."""
    return max((f.level for f in findings), key=LEVELS.index, default=NOTE)


def compare(contract: Contract, scene: Scene, *, stride: int = 1) -> tuple[Difference, ...]:
    """All that differs between a scene and the model's training scenes, the gravest first.

    Values are compared where the contract carries statistics, on about 1 % of the scene's blocks. `stride` is
    the network's. Raises BadFile for a damaged file.
    """
    bands, found = _bands(contract.bands, scene)
    found += _types(contract, scene) + _places(contract, scene.grid)
    if min(scene.grid.shape) < stride:
        size = f"{scene.grid.width} x {scene.grid.height}"
        found.append(
            Difference(
                "small",
                NOTE,
                (
                    f"the scene has {size} pixels, the network works on squares of {stride}: it sees the "
                    "border "
                    "repeated"
                ),
            )
        )
    if bands is not None and len(contract.statistics) == len(contract.bands):
        look = look_at(scene, bands)
        found += _values(contract, scene, bands, look)
    return tuple(sorted(found, key=lambda f: -LEVELS.index(f.level)))


# ------------------------------------------------------------------------------------------------ bands, type


def _bands(wanted: tuple[str, ...], scene: Scene) -> tuple[tuple[str, ...] | None, list[Difference]]:
    """The scene's bands in the network's order, None where there is no such order, and what was found on
    the way.
    """
    match = match_bands(wanted, scene.bands)
    found = {"name": _by_name, "position": _by_position, "none": _too_few_or_many}[match.by]
    return match.order, found(match, wanted, scene)


def _by_name(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    picked = tuple(b for b in scene.bands if b in wanted)
    # Files of a folder have no order but that of their names: nothing is out of order there.
    if picked == wanted or len(stack_files(scene.source)) > 1:
        return []
    cause = (
        f"the scene's bands stand in the order {' '.join(picked)}, the model reads {' '.join(wanted)}: "
        "they are taken by name"
    )
    return [Difference("band order", AFTER, cause)]


def _too_few_or_many(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    has = scene.bands
    count = f"{len(has)} bands" if len(has) > 1 else "1 band"
    named = f"; no band is called {' or '.join(match.missing)}" if match.missing != wanted else ""
    if len(has) == 1:
        cure = "Where the others lie in files of their own, name the folder, or all the files apart by commas"
    elif len(has) < len(wanted):
        cure = "Bring the bands that are missing, or take a model that does without"
    else:
        cure = (
            "Pick or name the bands so that they agree, such as gdal_translate -b 3 -b 2 -b 1 scene.tif "
            "picked.tif"
        )
    cause = (
        f"{scene.name} has {count} ({' '.join(has)}); this model reads {len(wanted)} "
        f"({' '.join(wanted)}){named}. {cure}"
    )
    return [Difference("band count", REFUSED, cause)]


def _by_position(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    has = scene.bands
    taken = f"bands are taken in their order: {', '.join(f'{a} as {b}' for a, b in zip(has, wanted))}"
    if _nameless(has) or _nameless(wanted):
        return [Difference("band names", NOTE, f"{taken}; one side has numbers for names")]
    if len(match.missing) == len(wanted):
        cause = f"{taken}; the model knows none of these names, so check that they mean the same"
        return [Difference("band names", NOTE, cause)]
    # Some names agree, so both sides use one naming and a missing name is a missing band.
    strange = " ".join(b for b in has if b not in wanted)
    cause = (
        f"the scene has {strange} where the model reads {' '.join(match.missing)} (scene: "
        f"{' '.join(has)}; model: {' '.join(wanted)}). "
        "Bring the missing bands, or correct the names in the file with gdal_edit.py or rasterio if "
        "they are the same bands"
    )
    return [Difference("band names", REFUSED, cause)]


def _nameless(bands: tuple[str, ...]) -> bool:
    return all(b.isdigit() for b in bands)


def _types(contract: Contract, scene: Scene) -> list[Difference]:
    if scene.dtype.name == contract.dtype:
        return []
    more = (
        ""
        if contract.statistics
        else "; this model carries no statistics, so look that the values mean the same"
    )
    return [
        Difference(
            "type",
            NOTE,
            f"the scene holds {scene.dtype.name} values, the model was trained on {contract.dtype}{more}",
        )
    ]


# ------------------------------------------------------------------------------------------------------ where


def _places(contract: Contract, grid: Grid) -> list[Difference]:
    """Pixel size and kind of coordinates."""
    if contract.pixel_size is None:
        return []
    trained, size = contract.pixel_size, grid.ground_pixel_size
    if size is None:
        cause = (
            f"the scene has no coordinates, so that its pixels cannot be compared with the {trained:.3g} m "
            "of the training"
        )
        return [Difference("pixel size", NOTE, cause)]
    if grid.crs.is_geographic and contract.crs_kind == "projected":
        return [_degrees(grid, trained, size)]
    if match_pixels(trained, size).is_alike:
        return []
    times = f"{size / trained:.3g} times as wide" if size > trained else f"1/{trained / size:.3g} as wide"
    step = [f"{side * trained / size:.6g}" for side in grid.pixel_size]
    cure = (
        f"Resample the scene first: gdalwarp -tr {step[0]} {step[1]} -r "
        f"{'bilinear' if size > trained else 'average'} scene.tif resampled.tif"
    )
    if size / trained > TOO_COARSE:
        cure = (
            "Resampling does not bring back what they do not show: take a model that was trained on about "
            f"{size:.2g} m, or a finer scene"
        )
    cause = (
        f"the scene's pixels are {size:.3g} m wide, the model was trained on {trained:.3g} m: they are "
        f"{times}. {cure}"
    )
    return [Difference("pixel size", REFUSED, cause)]


def _degrees(grid: Grid, trained: float, size: float) -> Difference:
    """A scene in degrees for a model trained in metres: near the equator its pixels are squares of metres
    all the same, elsewhere not.
    """
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    t = grid.transform
    north, east = 110_574.0, 111_320.0 * math.cos(math.radians(y))
    across, down = math.hypot(t.a * east, t.d * north), math.hypot(t.b * east, t.e * north)
    found = (
        f"the scene's coordinates are degrees (a pixel is {across:.3g} m across and {down:.3g} m down), the "
        f"model was trained on metres ({trained:.3g} m)"
    )
    if all(match_pixels(trained, side).is_alike for side in (across, down, size)):
        return Difference("crs", NOTE, f"{found}; the sizes agree")
    zone = int((x + 180) // 6) % 60 + 1
    cure = (
        f"gdalwarp -t_srs EPSG:{(32600 if y >= 0 else 32700) + zone} -tr {trained:.4g} {trained:.4g} -r "
        "bilinear scene.tif metres.tif"
    )
    return Difference("crs", REFUSED, f"{found}. Bring it to metres first: {cure}")


# ----------------------------------------------------------------------------------------------------- values


def _values(contract: Contract, scene: Scene, bands: tuple[str, ...], look: Look) -> list[Difference]:
    """What the values of the blocks looked at tell, against the training's statistics."""
    known = np.array([s.quantiles for s in contract.statistics])
    found = []
    if look.border is not None and not _border_was_trained(look.border, contract):
        found.append(_border(look.border, scene))
    if look.values.shape[1] < 100:
        cause = f"hardly a valid pixel in the {look.blocks} blocks looked at: values were not compared"
        return found or [Difference("values", NOTE, cause)]
    seen = np.quantile(look.values, QUANTILES, axis=1).T  # (B, Q)
    mistake = explain(seen, known)
    if mistake.factor != 1:
        found.append(_factor(mistake.factor, seen, known, contract.dtype))
    if mistake.offset:
        found.append(_offset(mistake.offset))
    found += [_swap(cycle, bands, contract.bands, scene) for cycle in mistake.cycles]
    if mistake == Likeness():
        if contract.colours is not None:
            found += _exchange(contract, scene, bands, look.values)
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
        f"border looked at) and the scene {says}: "
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
        "mended.tif"
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
        f"Bring them back first: gdal_translate -scale {start} {end} {to[0]} {to[1]} scene.tif mended.tif"
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
            f"put them in the model's order {' '.join(wanted)}: gdal_translate {cure} scene.tif mended.tif, "
            "then name them so"
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
