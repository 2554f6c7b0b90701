"""Does this scene fit this model? Every difference between a scene and the scenes a model was trained on,
with its cause and what to do about it.
"""

from __future__ import annotations

import math

import numpy as np

from labelscape.contract.alike import unlike_pieces
from labelscape.contract.contract import Contract
from labelscape.contract.difference import AFTER, LEVELS, NOTE, REFUSED, Difference
from labelscape.contract.matching import BandMatch, match_bands, match_pixels
from labelscape.contract.sample import sample_scene
from labelscape.contract.values import compare_values
from labelscape.grid import Grid
from labelscape.scenes.files import stack_files
from labelscape.scenes.placing import declares
from labelscape.scenes.scene import Scene
from labelscape.text import some

TOO_COARSE = 3
"""From this ratio of pixel sizes on, resampling is not suggested: coarse pixels lack the detail the network
was trained on.
"""


def compare(contract: Contract, scene: Scene, *, stride: int = 1) -> tuple[Difference, ...]:
    """All differences between a scene and the model's training scenes, the most severe first.

    Values are compared where the contract carries statistics, on about 1 % of the scene's blocks. `stride` is
    the network's, in pixels. Raises BadFile for a damaged file.
    """
    bands, found = _bands(contract.bands, scene)
    found += _types(contract, scene) + _units(contract, scene, bands) + _places(contract, scene.grid)
    found += [Difference("file", NOTE, note) for note in scene.notes]
    # A note only: the network pads such a scene by itself. Of a part of a scene it sees what lies around too.
    if min(scene.around.shape) < stride:
        size = f"{scene.around.width} x {scene.around.height}"
        found.append(
            Difference(
                "small",
                NOTE,
                (
                    f"the scene has {size} pixels, the network needs at least {stride} x {stride}: the scene "
                    "is padded by repeating its border"
                ),
            )
        )
    # Imported networks carry no statistics; without matched bands there is nothing to compare.
    if bands is not None and len(contract.statistics) == len(contract.bands):
        found += compare_values(contract, scene, bands, sample_scene(scene, bands))
        known = np.array([one.quantiles for one in contract.statistics])
        lines = unlike_pieces(known, scene, bands, contract.bands)
        found += [Difference("pieces", REFUSED, line) for line in lines]
    # A stable sort: findings of one level stay in the order in which they are found.
    return tuple(sorted(found, key=lambda f: -LEVELS.index(f.level)))


# ------------------------------------------------------------------------------------------------ bands, type


def _bands(wanted: tuple[str, ...], scene: Scene) -> tuple[tuple[str, ...] | None, list[Difference]]:
    """The scene's bands in the network's order, None where they cannot be matched, and the differences
    found.
    """
    # The very rule by which bands are read later: the check cannot say otherwise than the map does.
    match = match_bands(wanted, scene.bands)
    found = {"name": _by_name, "position": _by_position, "none": _too_few_or_many}[match.by]
    return match.order, found(match, wanted, scene)


def _by_name(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    if _nameless(wanted) and len(scene.bands) > len(wanted):
        # A number is no name: the second of eight bands need not be the second of four.
        cause = (
            f"the scene has {len(scene.bands)} bands and the model's are only numbered: it reads "
            f"{' '.join(wanted)} of them. Where these are not the bands it learned from, name all bands of "
            "the file in order with `band_names`, or select the right ones first (gdal_translate -b)"
        )
        return [Difference("band names", NOTE, cause)]
    picked = tuple(b for b in scene.bands if b in wanted)
    # The order of files in a folder is only that of their names, and no finding.
    if picked == wanted or len(stack_files(scene.source)) > 1:
        return []
    cause = (
        f"the scene's bands are in the order {' '.join(picked)}, the model reads {' '.join(wanted)}: "
        "they are matched by name"
    )
    return [Difference("band order", AFTER, cause)]


def _too_few_or_many(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    has = scene.bands
    count = f"{len(has)} bands" if len(has) > 1 else "1 band"
    named = f"; no band is called {' or '.join(match.missing)}" if match.missing != wanted else ""
    if len(has) == 1:
        cure = "If each band is a file of its own, pass their folder, or all files separated by commas"
    elif len(has) + scene.alphas == len(wanted):
        # A near infrared that is saturated, or heights of flat land, have the values of a mask.
        cure = (
            "A band of its file is marked as alpha and read as a mask; if it is the missing one, name all "
            "bands of the file in order (`band_names`)"
        )
    elif len(has) < len(wanted):
        cure = "Add the missing bands, or use a model that does not need them"
    else:
        cure = (
            "Name the scene's bands as the model calls them (`band_names`), or select them in the model's "
            "order, such as gdal_translate -b 3 -b 2 -b 1 scene.tif picked.tif where blue comes first"
        )
    cause = (
        f"{scene.name} has {count} ({' '.join(has)}); this model reads {len(wanted)} "
        f"({' '.join(wanted)}){named}. {cure}"
    )
    return [Difference("band count", REFUSED, cause)]


def _by_position(match: BandMatch, wanted: tuple[str, ...], scene: Scene) -> list[Difference]:
    has = scene.bands
    taken = f"bands are matched by position: {', '.join(f'{a} as {b}' for a, b in zip(has, wanted))}"
    if _nameless(has) or _nameless(wanted):
        side = "the scene's" if _nameless(has) else "the model's"
        return [Difference("band names", NOTE, f"{taken}, because {side} bands are only numbered")]
    if len(match.missing) == len(wanted):
        cause = f"{taken}; the model has other band names, so check that these are the same bands"
        return [Difference("band names", NOTE, cause)]
    # Some names agree, so both sides use one naming and a missing name is a missing band.
    strange = " ".join(b for b in has if b not in wanted)
    cause = (
        f"the scene has {strange} where the model reads {' '.join(match.missing)} (scene: "
        f"{' '.join(has)}; model: {' '.join(wanted)}). "
        "Add the missing bands, or, if they are the same bands under other names, name all bands of the "
        "file in order with `band_names`"
    )
    return [Difference("band names", REFUSED, cause)]


def _nameless(bands: tuple[str, ...]) -> bool:
    # Bands without a name are called by their number when a scene is opened.
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


def _units(contract: Contract, scene: Scene, bands: tuple[str, ...] | None) -> list[Difference]:
    """Scales and offsets that differ from band to band, where one side declares none: values are compared and
    mapped as they are stored, and are one to the other in each band by another factor.
    """
    of_band = dict(zip(scene.bands, scene.units))
    own, trained = tuple(of_band[band] for band in bands or ()), contract.units
    if declares(own) == declares(trained) or (len({*own}) < 2 and len({*trained}) < 2):
        return []
    who, pairs = ("the scene", own) if declares(own) else ("the training scenes", trained)
    stated = dict.fromkeys(f"scale {scale:g} and offset {offset:g}" for scale, offset in pairs)
    cause = (
        f"the bands of {who} declare different scales and offsets ({some(stated, 3)}), and "
        f"{'the training scenes' if declares(own) else 'the scene'} none: values are taken as they are "
        "stored, so check that they mean the same in each band"
    )
    return [Difference("units", NOTE, cause)]


# ------------------------------------------------------------------------------------------------------ where


def _places(contract: Contract, grid: Grid) -> list[Difference]:
    """Differences in pixel size and kind of coordinates (metres or degrees)."""
    if contract.pixel_size is None:
        return []
    trained, size = contract.pixel_size, grid.ground_pixel_size
    if size is None:
        cause = (
            f"the scene has no coordinates, so its pixel size cannot be compared with the {trained:.3g} m "
            "of the training scenes"
        )
        return [Difference("pixel size", NOTE, cause)]
    # Before sizes are compared: a reprojection settles both.
    if grid.crs.is_geographic and contract.crs_kind == "projected":
        return [_degrees(grid, trained, size)]
    if match_pixels(trained, size).is_alike:
        return []
    times = f"{size / trained:.3g} times as wide" if size > trained else f"1/{trained / size:.3g} as wide"
    # In the CRS's own units, which -tr expects; `size` and `trained` are metres.
    step = [f"{side * trained / size:.6g}" for side in grid.pixel_size]
    cure = (
        f"Resample the scene first: gdalwarp -tr {step[0]} {step[1]} -r "
        f"{'bilinear' if size > trained else 'average'} scene.tif resampled.tif"
    )
    # Refused like other coarse pixels; only the advice differs.
    if size / trained > TOO_COARSE:
        cure = (
            "Resampling cannot add the missing detail: use a model that was trained at about "
            f"{size:.2g} m, or a finer scene"
        )
    cause = (
        f"the scene's pixels are {size:.3g} m wide, the model was trained on {trained:.3g} m: they are "
        f"{times}. {cure}"
    )
    return [Difference("pixel size", REFUSED, cause)]


def _degrees(grid: Grid, trained: float, size: float) -> Difference:
    """A scene in degrees for a model trained in metres. Away from the equator its pixels are narrower on the
    ground than they are high, so the shapes of objects differ too.
    """
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    t = grid.transform
    # Metres in a degree of latitude and of longitude, at the scene's centre.
    north, east = 110_574.0, 111_320.0 * math.cos(math.radians(y))
    across, down = math.hypot(t.a * east, t.d * north), math.hypot(t.b * east, t.e * north)
    found = (
        f"the scene's coordinates are degrees (a pixel is {across:.3g} m wide and {down:.3g} m high), the "
        f"model was trained on scenes in metres ({trained:.3g} m)"
    )
    if all(match_pixels(trained, side).is_alike for side in (across, down, size)):
        return Difference("crs", NOTE, f"{found}; the pixel sizes agree")
    # UTM of the scene's centre; % 60 since 180 degrees east is zone 1 again.
    zone = int((x + 180) // 6) % 60 + 1
    cure = (
        f"gdalwarp -t_srs EPSG:{(32600 if y >= 0 else 32700) + zone} -tr {trained:.4g} {trained:.4g} -r "
        "bilinear scene.tif metres.tif"
    )
    return Difference("crs", REFUSED, f"{found}. Reproject the scene first: {cure}")
