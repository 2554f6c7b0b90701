"""Cut published images into patches: a folder of pairs with images/, labels/, a list per split, and the
classes.

An image is read in strips as high as a patch, because tiles of some data sets do not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np

from labelscape.datasets.published.catalog import labelled
from labelscape.datasets.published.gid import grid_windows
from labelscape.datasets.published.layout import RED_GREEN_BLUE, Pair, Published
from labelscape.datasets.split import PARTS
from labelscape.errors import BadFile
from labelscape.files import check_written, written_whole
from labelscape.grid import Grid, Window
from labelscape.legend import IGNORE, Legend
from labelscape.scenes.raster import Patch
from labelscape.scenes.written import Piece, write_raster


def default_grid(name: str) -> str:
    """GID is cut without overlap, 182 patches a scene; the MSWBN paper's totals come to 188, which grid "188"
    matches. Of other data sets all pixels are kept.
    """
    return "floor" if name.startswith("gid") else "ceil"


def write_patches(
    found: Published,
    out: Path,
    *,
    size: int = 512,
    grid: str | None = None,
    overwrite: bool = False,
    tick: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Cut every labelled image into windows (see `gid.grid_windows`) and write them; returns the number of
    patches per split.

    Patches are PNG where images are 8-bit red, green, blue without coordinates, else GeoTIFF. Labels have the
    legend's values, 255 where unlabelled. `train.txt`, `val.txt`, `test.txt` and `classes.json` are written
    last: where they exist, the folder is complete. Raises BadFile where `out` is not empty and `overwrite`
    not set, or a file is damaged; otherwise as `gid.grid_windows`.
    """
    # The first thing, although this file is written last: cutting takes hours.
    check_written(out / "classes.json")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise BadFile(f"{out} is not empty; choose another folder, or pass `overwrite=True`.")
    # Those of an earlier run: beside its patches and some of these the folder would pass for complete.
    for earlier in (*(f"{part}.txt" for part in PARTS), "classes.json"):
        (out / earlier).unlink(missing_ok=True)
    names: dict[str, list[str]] = {part: [] for part in PARTS}
    for pair in found.pairs:
        # Images of a benchmark's test split have no labels, and no use as training patches.
        if pair.label is not None:
            names[pair.part] += _patches_of(found, pair, out, size, grid or default_grid(found.name))
        if tick:
            tick()
    # After all patches, and the lists last: without them the folder is not taken for a data set.
    with written_whole(out / "classes.json", overwrite=True) as file:
        file.write_text(found.legend.to_json(), encoding="utf-8")
    write_lists({part: listed for part, listed in names.items() if listed}, out, overwrite=True)
    return {part: len(listed) for part, listed in names.items() if listed}


def write_lists(names: Mapping[str, list[str]], out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the names of each split to SPLIT.txt, one per line; returns the files. Raises BadFile where a
    list exists and `overwrite` is not set.
    """
    for part, listed in names.items():
        with written_whole(out / f"{part}.txt", overwrite=overwrite) as file:
            file.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    return [out / f"{part}.txt" for part in names]


def _patches_of(found: Published, pair: Pair, out: Path, size: int, grid: str) -> Iterator[str]:
    """Write the patches of one image; yields their names."""
    one = labelled(found, pair)
    with one.scene.for_thread() as scene:
        windows = grid_windows(*scene.grid.shape, size=size, grid=grid)
        # Windows come row by row; one read serves all of a row.
        for (top, height), row in groupby(windows, key=lambda w: (w.top, w.height)):
            band = Window(top, 0, height, scene.grid.width)
            patch, indices = scene.read(band), one.labels.read(band)
            indices[~patch.valid] = IGNORE
            for window in row:
                inside = window.inset_of(band)
                name = (
                    pair.name
                    # An image that is one patch keeps its name: it is still found by its published one.
                    if window == scene.grid.window
                    else f"{pair.name}_{window.top:05d}_{window.left:05d}"
                )
                cut = Patch(patch.pixels[(slice(None), *inside)], patch.valid[inside], window)
                _write_pair(out, name, cut, indices[inside], scene.grid.crop(window), found, scene.nodata)
                yield name


def _write_pair(
    out: Path,
    name: str,
    patch: Patch,
    indices: np.ndarray,
    grid: Grid,
    found: Published,
    nodata: float | None,
) -> None:
    # PNG has neither coordinates nor band names: it is used where there is nothing to lose.
    plain = not grid.is_georeferenced and found.bands == RED_GREEN_BLUE and patch.pixels.dtype == np.uint8
    # GDAL marks a fourth 8-bit band as transparency by default; here it may be near infrared.
    options = (
        {"driver": "PNG"}
        if plain
        else {"driver": "GTiff", "compress": "deflate", "photometric": "MINISBLACK", "alpha": "NO"}
    )
    suffix = "png" if plain else "tif"
    place = {"crs": grid.crs, "transform": grid.transform} if grid.is_georeferenced else {}
    shape = {"height": grid.height, "width": grid.width, **place}
    image, label = (out / kind / f"{name}.{suffix}" for kind in ("images", "labels"))
    whole = Window(0, 0, *grid.shape)
    with written_whole(image, overwrite=True) as path:
        write_raster(
            path,
            [Piece(whole, patch.pixels)],
            target=image,
            names=() if plain else found.bands,
            count=len(patch.pixels),
            dtype=patch.pixels.dtype,
            # In a PNG GDAL writes it as transparency, and other readers would hide those pixels.
            nodata=None if plain else nodata,
            **shape,
            **options,
        )
    label_options = {k: v for k, v in options.items() if k not in ("photometric", "alpha")}
    with written_whole(label, overwrite=True) as path:
        write_raster(
            path,
            [Piece(whole, found.legend.decode(indices)[None])],
            target=label,
            colours=_palette(found.legend),
            count=1,
            dtype="uint8",
            nodata=None if plain else IGNORE,
            **shape,
            **label_options,
        )


def _palette(legend: Legend) -> dict[int, tuple[int, int, int]]:
    """All 256 colours, because PNG has no values beyond its palette; white for values without a class."""
    return {value: (255, 255, 255) for value in range(256)} | dict(
        zip(legend.values, map(tuple, legend.colors.tolist()))
    )
