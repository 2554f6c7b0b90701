"""What is mended by itself before a scene is mapped: units that the file declares, and pixels finer than
the model knows.
"""

from __future__ import annotations

from labelscape.contract.compare import AFTER, LIKE_SIZES, Finding
from labelscape.contract.contract import Contract
from labelscape.scenes.mosaic import seen_as
from labelscape.scenes.placing import declares
from labelscape.scenes.raster import Scene


def fitted(contract: Contract, scene: Scene) -> tuple[Scene, list[Finding]]:
    """The scene as the model wants it, and what that took; the very scene where nothing is to do. Close both.

    Values are brought to the scale and offset that the training scenes declared; pixels finer than the
    training's by a quarter and more are averaged to its size. Wider pixels are left to the check: no
    resampling brings back what they do not show.
    """
    found, units = [], None
    if declares(contract.units) and declares(scene.units):
        wanted = _in_scene_order(contract, scene)
        if wanted != scene.units:
            units = wanted
            band, own, theirs = next((b, o, t) for b, o, t in zip(scene.bands, scene.units, wanted) if o != t)
            found.append(
                Finding(
                    "units",
                    AFTER,
                    (
                        f"{band} declares {_said(own)}, in training it declared {_said(theirs)}: values are "
                        "converted"
                    ),
                )
            )
    finer = is_finer(contract, scene)
    if finer:
        cause = (
            f"the scene's pixels are {scene.grid.ground_pixel_size:.3g} m wide, the model was trained on "
            f"{contract.pixel_size:.3g} m: "
            "the scene is resampled to that size by averaging, and so is the map"
        )
        found.append(Finding("pixel size", AFTER, cause))
    if not found:
        return scene, []
    return seen_as(scene, pixel_size=contract.pixel_size if finer else None, units=units), found


def is_finer(contract: Contract, scene: Scene) -> bool:
    """Does the scene show more than the model has learned to read?"""
    size = scene.grid.ground_pixel_size
    return bool(
        size
        and contract.pixel_size
        and size / contract.pixel_size <= LIKE_SIZES[0]
        and not scene.grid.crs.is_geographic
    )


def _in_scene_order(contract: Contract, scene: Scene) -> tuple[tuple[float, float], ...]:
    """The training's units in the order of the scene's bands; a band that the model does not read keeps
    its own.
    """
    if set(contract.bands) <= set(scene.bands):
        known = dict(zip(contract.bands, contract.units))
        return tuple(known.get(band, own) for band, own in zip(scene.bands, scene.units))
    return contract.units if len(contract.units) == len(scene.units) else scene.units


def _said(units: tuple[float, float]) -> str:
    return f"scale {units[0]:g} and offset {units[1]:g}"
