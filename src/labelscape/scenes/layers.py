"""Layers, the open files of a scene with what of each is read, and their resampling to another grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput
from labelscape.grid import Grid
from labelscape.scenes.files import EXACT
from labelscape.scenes.validity import LARGEST, Mask, Nodata, Rules
from labelscape.scenes.views import blanked_view, empty_view, mask_view, selected_view

OUTSIDE = 1e5 * LARGEST
"""What a warped file whose nodata is NaN holds where it has no pixel; beyond LARGEST, so it is invalid."""


@dataclass(frozen=True)
class Layer:
    """Bands of one open dataset (from 1), and the nodata value of each.

    masks   of all its bands
    grid    where the dataset lies
    title   its file, for messages
    shared  was it opened elsewhere, so that its name need not open the same raster again?
    """

    dataset: rasterio.DatasetReader | WarpedVRT
    bands: tuple[int, ...]
    nodata: Rules
    masks: tuple[Mask, ...]
    grid: Grid
    title: str
    shared: bool = False

    @property
    def dtypes(self) -> tuple[np.dtype, ...]:
        return tuple(np.dtype(self.dataset.dtypes[i - 1]) for i in self.bands)


def picked(layers: Sequence[Layer], chosen: Sequence[int] | None) -> list[Layer]:
    """Select bands by position over all layers, all for None. Consecutive bands of one file stay one layer,
    so that they are one read: blocks interleaved by pixel are decoded once.
    """
    if chosen is None:
        return list(layers)
    singles = [
        replace(layer, bands=(band,), nodata=(rule,))
        for layer in layers
        for band, rule in zip(layer.bands, layer.nodata)
    ]
    return _joined([singles[c] for c in chosen])


def _joined(singles: Sequence[Layer]) -> list[Layer]:
    made: list[Layer] = []
    for one in singles:
        if made and made[-1].dataset is one.dataset:
            last = made.pop()
            one = replace(last, bands=last.bands + one.bands, nodata=last.nodata + one.nodata)
        made.append(one)
    return made


def is_spread(layers: Sequence[Layer]) -> bool:
    """Do bands of several files, or with several nodata values, have to be nodata together to make a pixel
    invalid?
    """
    return len({(id(a.dataset), rule) for a in layers for rule in a.nodata if rule and not rule.alone}) > 1


def warped(
    layers: Sequence[Layer], onto: Grid, resampling: Resampling, handles: ExitStack, *, spread: bool
) -> list[Layer]:
    """The layers resampled to another grid, in their order; no invalid pixel is among those interpolated, and
    what a file does not cover is masked. `handles` closes what is opened; `spread` is what `is_spread` says
    of all layers of the scene.

    Raises BadInput where GDAL cannot resample an object that was opened elsewhere.
    """
    places: dict[tuple[int, int], tuple[WarpedVRT, int, tuple[Mask, ...]]] = {}
    for first in {id(layer.dataset): layer for layer in layers}.values():
        # All bands of one dataset together, however its bands are ordered among those of others.
        alike = [layer for layer in layers if layer.dataset is first.dataset]
        rules = {b: rule for layer in alike for b, rule in zip(layer.bands, layer.nodata)}
        for view, numbers, masks in _views(first, rules, _Target(onto, resampling, handles, spread)):
            places |= {(id(first.dataset), band): (view, n, masks) for band, n in numbers.items()}
    singles = []
    for layer in layers:
        for band, rule in zip(layer.bands, layer.nodata):
            view, number, masks = places[id(layer.dataset), band]
            singles.append(Layer(view, (number,), (rule,), masks, onto, layer.title, shared=True))
    return _joined(singles)


@dataclass(frozen=True)
class _Target:
    """Where and how layers are resampled."""

    onto: Grid
    resampling: Resampling
    handles: ExitStack
    spread: bool

    def warp(self, dataset: object, **options: object) -> WarpedVRT:
        size = {"width": self.onto.width, "height": self.onto.height}
        how = {"crs": self.onto.crs, "transform": self.onto.transform, "tolerance": EXACT, **size}
        how |= {"resampling": self.resampling}
        return self.handles.enter_context(WarpedVRT(dataset, **(how | options)))

    def mask(self, flat: object, band: int) -> Mask:
        """A mask of the file, or what it covers, as a mask of the warped one."""
        view = self.warp(flat, resampling=Resampling.nearest, add_alpha=True)
        return Mask(view, band, "alpha")


Views = Iterator[tuple[WarpedVRT, dict[int, int], tuple[Mask, ...]]]
"""Warped views of one dataset: each with the number in it of the dataset's bands, and its masks."""


def _views(layer: Layer, rules: dict[int, Nodata | None], target: _Target) -> Views:
    spread = target.spread and any(rule is not None and not rule.alone for rule in rules.values())
    if _is_plain(layer, rules) and not spread:
        rule = next(iter(rules.values()))
        alphas = [m.band for m in layer.masks if m.kind == "alpha"]
        options = _nodata_options(layer, list(rules), rule)
        # All above 0 is opaque, as without resampling. The warper takes the type's largest value for opaque,
        # and a mask of 0 and 1 for one that is all but transparent: nothing would be left.
        options |= {"SRC_ALPHA_MAX": "1"} if alphas else {}
        view = target.warp(layer.dataset, add_alpha=not alphas, **options)
        # The warp has an alpha band whatever the file has: it marks what the file does not cover.
        mark = Mask(view, alphas[0] if alphas else view.count, "alpha")
        yield view, {band: band for band in rules}, (mark,)
        return
    if layer.shared:
        raise BadInput(
            f"{layer.title} was opened elsewhere and cannot be resampled with its masks and nodata values: "
            "pass its path, or write it to a file first."
        )
    # The warper has one nodata value for all bands: bands with another get a view of their own.
    for rule in dict.fromkeys(rules.values()):
        bands = [band for band, its in rules.items() if its == rule]
        yield _view(layer, bands, rule, target)


def _view(
    layer: Layer, bands: list[int], rule: Nodata | None, target: _Target
) -> tuple[WarpedVRT, dict[int, int], tuple[Mask, ...]]:
    """A view of bands with one nodata value."""
    source, handles = (layer.dataset, layer.grid), target.handles
    numbers = {band: n for n, band in enumerate(bands, 1)}
    options = _nodata_options(layer, bands, rule)
    marks = []
    if rule is not None:
        plain = blanked_view(layer.dataset, bands, layer.masks, rule.value, layer.grid, handles)
        if target.spread and not rule.alone:
            # Whether a pixel is nodata shows in all files together: each leaves its value, and no mask.
            options |= {"UNIFIED_SRC_NODATA": "PARTIAL", "init_dest": repr(rule.value)}
            marks = [target.mask(mask_view(*source, mask, handles), 1) for mask in layer.masks]
            marks.append(target.mask(empty_view(layer.grid, handles), 2))
            return target.warp(plain, add_alpha=True, **options), numbers, tuple(marks)
    else:
        mask = layer.masks[0] if layer.masks else None
        plain = selected_view(layer.dataset, bands, mask, layer.grid, handles)
        marks = [target.mask(mask_view(*source, other, handles), 1) for other in layer.masks[1:]]
    view = target.warp(plain, add_alpha=plain.count == len(bands), **options)
    return view, numbers, (*marks, Mask(view, len(bands) + 1, "alpha"))


def _nodata_options(layer: Layer, bands: Sequence[int], rule: Nodata | None) -> dict[str, object]:
    declared = [layer.dataset.nodatavals[band - 1] for band in bands]
    # NaN is no rule, since it is invalid anyway; the warper still has to leave it out.
    nan = next((value for value in declared if value is not None and value != value), None)
    value = nan if rule is None else rule.value
    # YES: nothing is written where all bands are nodata; PARTIAL: each band for itself, and where nothing is
    # written into one its nodata value stays. The alpha band knows all bands together only.
    if rule is not None and not rule.alone:
        return {"src_nodata": value, "UNIFIED_SRC_NODATA": "YES"}
    # (rasterio does not pass NaN on.)
    stays = {} if value is None else {"init_dest": repr(value if rule is not None else OUTSIDE)}
    return {"src_nodata": value, "UNIFIED_SRC_NODATA": "PARTIAL", **stays}


def _is_plain(layer: Layer, rules: dict[int, Nodata | None]) -> bool:
    """Does GDAL's warper, given the dataset itself, follow the rules of validity.py? It knows one nodata
    value, for all bands of the file, or one mask, or takes what is marked as alpha for one.
    """
    dataset, kinds = layer.dataset, [mask.kind for mask in layer.masks]
    # Ground control points, or a file beside it, may have placed it.
    placed = (layer.grid.transform, layer.grid.crs) != (dataset.transform, dataset.crs)
    if len(set(rules.values())) > 1 or len(kinds) > 1 or placed:
        return False
    marked = {i for i, c in zip(dataset.indexes, dataset.colorinterp) if c == ColorInterp.alpha}
    if marked != {mask.band for mask in layer.masks if mask.kind == "alpha"}:
        return False
    rule = next(iter(rules.values()))
    if rule is not None and (kinds or set(rules) != set(dataset.indexes)):
        return False
    if kinds != ["mask"]:
        return True
    # A mask, and then no nodata value: it would be used instead.
    shared = MaskFlags.per_dataset in dataset.mask_flag_enums[layer.masks[0].band - 1]
    return shared and _nodata_options(layer, list(rules), rule)["src_nodata"] is None
