"""Views of a raster through GDAL's virtual format: palette pictures as colours, and selected bands with one
mask, on a grid, as the warper needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from xml.sax.saxutils import escape

import rasterio
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT

from labelscape.errors import BadInput
from labelscape.grid import Grid
from labelscape.scenes.validity import Mask

TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}
"""GDAL's names of the types that pixels may have."""

IDENTITY = [(i, i, i, 255) for i in range(256)]
"""The colour table of a grey picture: BMP has one for every picture of 8 bits."""


def palette_notes(dataset: rasterio.DatasetReader, title: str) -> tuple[str, ...]:
    """A line where `in_colours` expands a palette."""
    if not _is_palette(dataset):
        return ()
    return (f"{title} is a palette picture: it is read as its colours, red, green and blue",)


def _is_palette(dataset: rasterio.DatasetReader) -> bool:
    band = next((i for i, c in zip(dataset.indexes, dataset.colorinterp) if c == ColorInterp.palette), None)
    palette = {} if band is None else dataset.colormap(band)
    return any(palette.get(i) not in (color, None) for i, color in enumerate(IDENTITY))


def in_colours(dataset: rasterio.DatasetReader, title: str, handles: ExitStack) -> rasterio.DatasetReader:
    """The raster itself, or, of a palette picture, a view of its colours as red, green, blue and, where some
    are transparent, alpha: the numbers of a palette are no measurements. `handles` closes the view.

    A nodata value of the file is one of the palette's numbers; in the view it is the mask. Raises BadInput
    where a palette cannot be expanded.
    """
    paletted = [i for i, c in zip(dataset.indexes, dataset.colorinterp) if c == ColorInterp.palette]
    if not _is_palette(dataset):
        return dataset
    palette = dataset.colormap(paletted[0])
    others = [c for c in dataset.colorinterp if c not in (ColorInterp.palette, ColorInterp.alpha)]
    # A warped raster has no file of its own that a view could name.
    if len(paletted) > 1 or others or isinstance(dataset, WarpedVRT):
        raise BadInput(
            f"Band {paletted[0]} of {title} has a colour table: its values are numbers of colours, or "
            "classes, not measurements. Pass measured bands, or colours: gdal_translate -expand rgb in.tif "
            "out.tif"
        )
    transparent = any(color[3] < 255 for color in palette.values())
    source = _source(dataset.name, paletted[0])
    names = ("Red", "Green", "Blue", "Alpha")[: 4 if transparent else 3]
    bands = [
        _band(n, "Byte", f"<ComplexSource>{source}<ColorTableComponent>{n}</ColorTableComponent>"
              "</ComplexSource>", name)
        for n, name in enumerate(names, 1)
    ]  # fmt: skip
    if dataset.nodatavals[paletted[0] - 1] is not None or ColorInterp.alpha in dataset.colorinterp:
        bands.append(
            f"<MaskBand>{_band(None, 'Byte', _of_mask(dataset.name, f'mask,{paletted[0]}'))}</MaskBand>"
        )
    return _opened(_grid_of(dataset), bands, handles)


def selected_view(
    dataset: rasterio.DatasetReader, bands: Sequence[int], mask: Mask | None, grid: Grid, handles: ExitStack
) -> rasterio.DatasetReader:
    """A view of some bands of a file on the grid `grid`, all as measurements, with a mask as alpha band after
    them. It has no nodata value. `handles` closes it.
    """
    made = [
        _band(
            n,
            TYPES[dataset.dtypes[i - 1]],
            f"<SimpleSource>{_source(dataset.name, i)}</SimpleSource>",
            # Undefined, whatever the file says: a band marked as alpha would be the warper's mask.
            "Gray" if n == 1 else "Undefined",
        )
        for n, i in enumerate(bands, 1)
    ]
    if mask is not None:
        made.append(_band(len(made) + 1, "Byte", _of_mask(dataset.name, _place(mask)), "Alpha"))
    return _opened(grid, made, handles)


def blanked_view(
    dataset: rasterio.DatasetReader,
    bands: Sequence[int],
    masks: Sequence[Mask],
    nodata: float,
    grid: Grid,
    handles: ExitStack,
) -> rasterio.DatasetReader:
    """A view of some bands of a file on the grid `grid`, with the nodata value in every pixel that is masked:
    given both, the warper takes an alpha band for one of the bands that may be nodata. `handles` closes it.
    """
    if not masks:
        return selected_view(dataset, bands, None, grid, handles)
    kinds = [TYPES[dataset.dtypes[i - 1]] for i in bands]
    name, places = dataset.name, list(bands)
    # One view around another for each mask, since a virtual raster has a single mask band.
    for mask in masks:
        inner = [
            _band(n, kind, f"<SimpleSource>{_source(name, i)}</SimpleSource>")
            for n, (kind, i) in enumerate(zip(kinds, places), 1)
        ]
        inner.append(f"<MaskBand>{_band(None, 'Byte', _of_mask(dataset.name, _place(mask)))}</MaskBand>")
        document, own = _document(grid, inner), range(1, len(bands) + 1)
        outer = [
            _band(
                n,
                kind,
                # repr: with fewer digits, as %g has, no pixel would equal the value.
                f"<NoDataValue>{nodata!r}</NoDataValue><ComplexSource>{_source(document, n)}"
                "<UseMaskBand>true</UseMaskBand></ComplexSource>",
            )
            for n, kind in zip(own, kinds)
        ]
        name, places = _document(grid, outer), list(own)
    return handles.enter_context(rasterio.open(name))


def empty_view(grid: Grid, handles: ExitStack) -> rasterio.DatasetReader:
    """A band of zeros on a grid: warped, it shows what a file covers. `handles` closes it."""
    return _opened(grid, [_band(1, "Byte", "")], handles)


def mask_view(
    dataset: rasterio.DatasetReader, grid: Grid, mask: Mask, handles: ExitStack
) -> rasterio.DatasetReader:
    """A view of a mask as a band of 0 and 255. `handles` closes it."""
    return _opened(grid, [_band(1, "Byte", _of_mask(dataset.name, _place(mask)), "Gray")], handles)


def _place(mask: Mask) -> str:
    """A mask as GDAL's virtual format names it."""
    return f"mask,{mask.band}" if mask.kind == "mask" else str(mask.band)


def _grid_of(dataset: rasterio.DatasetReader) -> Grid:
    return Grid(dataset.crs, dataset.transform, dataset.height, dataset.width)


def _source(name: str, band: int | str) -> str:
    # Not shared: GDAL would use one handle for views that two threads read.
    return (
        f'<SourceFilename relativeToVRT="0" shared="0">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
    )


def _of_mask(name: str, band: str) -> str:
    # Whatever above 0 masks nothing: 255.
    return f"<ComplexSource>{_source(name, band)}<LUT>0:0,1:255</LUT></ComplexSource>"


def _band(number: int | None, kind: str, source: str, colour: str = "") -> str:
    counted = "" if number is None else f' band="{number}"'
    named = f"<ColorInterp>{colour}</ColorInterp>" if colour else ""
    return f'<VRTRasterBand dataType="{kind}"{counted}>{named}{source}</VRTRasterBand>'


def _document(grid: Grid, bands: Sequence[str]) -> str:
    place = ""
    if not grid.transform.is_identity:
        place = f"<GeoTransform>{','.join(repr(v) for v in grid.transform.to_gdal())}</GeoTransform>"
    if grid.crs is not None:
        place += f"<SRS>{escape(grid.crs.to_wkt())}</SRS>"
    size = f'rasterXSize="{grid.width}" rasterYSize="{grid.height}"'
    return f"<VRTDataset {size}>{place}{''.join(bands)}</VRTDataset>"


def _opened(grid: Grid, bands: Sequence[str], handles: ExitStack) -> rasterio.DatasetReader:
    return handles.enter_context(rasterio.open(_document(grid, bands)))
