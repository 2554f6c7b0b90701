"""Does this scene fit this model? Every difference between a scene and the scenes a model was trained on,
with its cause and its cure.
"""

from __future__ import annotations

import math

from labelscape.contract.contract import Contract
from labelscape.contract.difference import AFTER, LEVELS, NOTE, REFUSED, Difference
from labelscape.contract.matching import BandMatch, match_bands, match_pixels
from labelscape.contract.sample import sample_scene
from labelscape.contract.values import compare_values
from labelscape.grid import Grid
from labelscape.scenes.files import stack_files
from labelscape.scenes.scene import Scene

TOO_COARSE = 3
"""Pixels so many times as wide as the training's do not show what the network looks for, however they are
resampled.
"""


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
        found += compare_values(contract, scene, bands, sample_scene(scene, bands))
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
        else "; this model carries no statistics, so check that the values mean the same"
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
