"""What is adjusted before a scene is mapped: declared scale and offset, and pixels finer than in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labelscape.contract.contract import Contract
from labelscape.contract.difference import AFTER, Difference
from labelscape.contract.matching import match_bands, match_pixels
from labelscape.scenes.mosaic import seen_as
from labelscape.scenes.placing import declares
from labelscape.scenes.scene import Scene, Units


def fitted(contract: Contract, scene: Scene) -> tuple[Scene, list[Difference]]:
    """The scene adjusted to the model, and what was adjusted; the same scene object where nothing is needed.
    Close both.

    Values are converted to the scale and offset that the training scenes declared; pixels finer than the
    training's (see `match_pixels`) are averaged to its size. Coarser pixels are not touched, because
    resampling cannot add detail: `compare` reports them.
    """
    units = units_of(contract, scene)
    found = [] if units is None else [units_difference(scene, units)]
    finer = is_finer(contract, scene)
    if finer:
        cause = (
            f"the scene's pixels are {scene.grid.ground_pixel_size:.3g} m wide, the model was trained on "
            f"{contract.pixel_size:.3g} m: "
            "the scene is resampled to that pixel size by averaging, and so is the map"
        )
        found.append(Difference("pixel size", AFTER, cause))
    if not found:
        return scene, []
    # One view for both adjustments: each pixel is read once.
    return seen_as(scene, pixel_size=contract.pixel_size if finer else None, units=units), found


def units_of(contract: Contract, scene: Scene) -> Units | None:
    """The scale and offset of each band of the scene that its values are converted to; None where they stay
    as they are.
    """
    # Both must declare: a file that says nothing may hold either kind of values, which `compare` judges by
    # statistics.
    if not (declares(contract.units) and declares(scene.units)):
        return None
    wanted = _in_scene_order(contract, scene)
    return wanted if wanted != scene.units else None


def units_difference(scene: Scene, units: Units) -> Difference:
    """That a scene's values are converted to these `units`, others than its own."""
    # One band as the example: scale and offset nearly always differ in all of them alike.
    band, own, theirs = next((b, o, t) for b, o, t in zip(scene.bands, scene.units, units) if o != t)
    cause = f"{band} declares {_stated(own)}, in training it declared {_stated(theirs)}: values are converted"
    return Difference("units", AFTER, cause)


@contextmanager
def in_units(contract: Contract, scene: Scene) -> Iterator[Scene]:
    """The scene in the scale and offset of training; the same scene where nothing is converted."""
    units = units_of(contract, scene)
    if units is None:
        yield scene
        return
    with seen_as(scene, units=units) as converted:
        yield converted


def is_finer(contract: Contract, scene: Scene) -> bool:
    """Are the scene's pixels so much finer than in training that it has to be resampled?"""
    # A scene in degrees would need a reprojection for a model of metres, which is the user's choice: the
    # check suggests one.
    found = match_pixels(contract.pixel_size, scene.grid.ground_pixel_size)
    return found.is_finer and (contract.crs_kind != "projected" or not scene.grid.crs.is_geographic)


def _in_scene_order(contract: Contract, scene: Scene) -> Units:
    """The training scale and offset in the order of the scene's bands; a band that the model does not read
    keeps its own.
    """
    known = dict(zip(match_bands(contract.bands, scene.bands).order or (), contract.units))
    return tuple(known.get(band, own) for band, own in zip(scene.bands, scene.units))


def _stated(units: tuple[float, float]) -> str:
    return f"scale {units[0]:g} and offset {units[1]:g}"
