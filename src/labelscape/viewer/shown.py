"""What a page shows: the rasters of one map by its folder or class map, another map, and the scene.

Files found in a folder must lie in it, links followed: a folder may come from somebody else, and the page
shows nothing that its user did not name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio

from labelscape.errors import BadFile, BadInput, LabelscapeError
from labelscape.files import check_path
from labelscape.grid import Grid, decimated
from labelscape.legend import IGNORE, Legend
from labelscape.mistaken import no_such_file
from labelscape.rasters.class_map import ClassRaster, class_raster
from labelscape.rasters.class_names import legend_in, values_in
from labelscape.rasters.overviews import count_areas
from labelscape.scenes.files import READ_FAILURES, gdal, reading, reason
from labelscape.scenes.picture import PICTURES
from labelscape.text import printable_name
from labelscape.version import build
from labelscape.viewer.differences import difference_layer
from labelscape.viewer.geopackage import is_geopackage
from labelscape.viewer.layers import (
    ByteReader,
    Layer,
    Pool,
    is_quick,
    scene_pool,
    spread,
    stamp_of,
    version_of,
)

if TYPE_CHECKING:
    from labelscape.viewer.judge import Judged
    from labelscape.viewer.outlines import Outlines

# Of `inspection`, whose import takes a second that a page which opens has not.
CLASS, RUN, POLYGONS = "_class.tif", "_run.json", "_polygons.gpkg"
ERRORS, BLOCKS = "_errors.tif", "blocks.gpkg"
"""What `evaluate --out` writes."""
LARGEST_RUN = 50_000_000
"""Bytes of a run file that is read."""
COUNTED = 25_000_000
"""Pixels of a map whose areas are counted at the start (ours): a second. Of larger ones without a run file
they are estimated from an overview.
"""
PLAIN = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    **{b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"\0\0\0\x0cjP": "JP2OpenJPEG"},
}
"""First bytes -> driver of rasters that are opened because they lie in a folder: they hold their own pixels.
Others open files, or ask servers, that are named in the file.
"""
LOOKED = 2048
MOST_RASTERS = 40
SLOW = (
    "is shown only when zoomed in: coarse views would read all of it. `gdaladdo -r nearest FILE` makes them."
)
BESIDE = {
    "_class.tif": "Classes",
    "_sieved.tif": "Classes, sieved",
    "_confidence.tif": "Confidence",
    "_entropy.tif": "Entropy",
    "_unfamiliar.tif": "Unfamiliar input",
    "_proba.tif": "Probability",
    "_errors.tif": "Errors",
}
"""Ending of a name -> title of its layer."""


@dataclass(eq=False)
class Shown:
    """What a page shows. Only the colours of classes change while it is open (`recolour`).

    layers    the map's own first; the first one is the class map, and all lie on its `grid`. Only imagery
              where a sample is judged
    notes     what could not be shown, a sentence each
    folder    the folder of the map, in which edits are stored
    judged    places to answer
    outlines  the polygons of the map
    """

    title: str
    grid: Grid
    layers: tuple[Layer, ...]
    folder: Path
    notes: tuple[str, ...] = ()
    judged: Judged | None = None
    outlines: Outlines | None = None

    def layer(self, key: str) -> Layer | None:
        return next((one for one in self.layers if one.key == key), None)

    def version(self, layer: Layer | Outlines) -> str:
        """Another text when a tile of a layer may be another picture: browsers keep tiles by their address,
        and the next map may be served at the same one.
        """
        legend = layer.legend if isinstance(layer, Layer) else None
        colors = [(one.value, one.color) for one in legend.classes] if legend else ()
        return version_of((layer.stamp(), self._place, colors, build()))

    @cached_property
    def _place(self) -> str:
        """The grid that tiles are cut from, as text."""
        return repr(self.grid)

    def recolour(self, key: str, legend: Legend) -> None:
        """Show a layer in the colours of another legend of the same classes."""
        self.layers = tuple(replace(one, legend=legend) if one.key == key else one for one in self.layers)

    def close(self) -> None:
        for layer in self.layers:
            layer.pool.close()


def find(
    place: str | Path,
    other: str | Path | None = None,
    scene: str | Path | Sequence[str | Path] | None = None,
    judge: str | Path | None = None,
) -> Shown:
    """Find and open what is to be shown.

    place  a folder of a map or of an evaluation, a class map, or an error map, whose blocks are then judged
    other  another map to compare with, or an error map
    scene  the imagery below; by default the scene of the run file where it lies in the map's folder
    judge  a review file or a sample to answer, or the blocks of an evaluation; of a map with a sample only
           the imagery is shown, since its interpreter must not see the classes

    Raises BadFile where a file cannot be read, BadInput where there is no class map, or where the other map
    cannot be laid on the first.
    """
    main = class_map_of(place)
    run = _run_of(main)
    with reading(main) as file:
        grid = class_raster(file, main).grid
    layers = _map_layers(main, run, None, "")
    notes: list[str] = []
    if other is not None and str(other).endswith(ERRORS):
        # Its values are other things than classes: nothing differs from them.
        layers.append(_byte_layer(class_map_of(other), "errors", "Errors", grid, {}))
    elif other is not None:
        second = class_map_of(other)
        layers += _map_layers(second, _run_of(second), grid, "2-")
        layers.append(difference_layer(layers[0], next(one for one in layers if one.key == "2-class")))
    imagery, note = _scene_of(main, run, scene, grid)
    judged = None
    blocks = main.with_name(BLOCKS)
    if judge is None and main.name.endswith(ERRORS) and blocks.exists():
        judge = _inside(blocks, main.parent) if is_geopackage(blocks) else None
    if judge is not None:
        from labelscape.viewer.judge import Judged

        judged = Judged.of(judge, grid, layers[0].legend)
    if judged is not None and judged.kind == "sample":
        layers = []
        if not imagery:
            raise BadInput("A sample is interpreted on imagery, without the map: pass a scene (--scene).")
    layers += imagery
    notes += [f"{one.title} has no overviews and {SLOW}" for one in layers if one.path and not one.quick]
    # An interpreter of a sample sees no polygons of classes either.
    outlines = _outlines_of(main, grid) if judged is None or judged.kind != "sample" else None
    return Shown(stem_of_map(main), grid, tuple(layers), main.parent, (*notes, *note), judged, outlines)


def _outlines_of(main: Path, grid: Grid) -> Outlines | None:
    """The polygons beside a class map."""
    path = main.with_name(main.name.removesuffix(CLASS) + POLYGONS)
    if not main.name.endswith(CLASS) or path.is_symlink() or not is_geopackage(path):
        return None
    from labelscape.viewer.outlines import Outlines

    return Outlines.of(path, grid)


def class_map_of(place: str | Path) -> Path:
    """The class map of a folder, or the file itself. Raises BadFile, BadInput."""
    check_path(place, "The map")
    path = Path(place)
    if not path.exists():
        raise BadFile(no_such_file(path))
    if not path.is_dir():
        return path
    runs = sorted(path.glob(f"*{RUN}"))
    found = [path / (run.name.removesuffix(RUN) + CLASS) for run in runs]
    found = [file for file in found if file.exists()] or sorted(path.glob(f"*{CLASS}"))
    # The folder of an evaluation holds no class map, but a map of its errors.
    found = found or sorted(path.glob(f"*{ERRORS}"))
    if not found:
        raise BadInput(f"{path} holds no map (no file *{CLASS}); pass a map's folder or a class map.")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5]) + (" ..." if len(found) > 5 else "")
        raise BadInput(f"{path} holds {len(found)} maps ({names}); pass one of these files.")
    return _own_raster(found[0], path)


def stem_of_map(path: Path) -> str:
    return printable_name(path.name.removesuffix(CLASS).removesuffix(ERRORS).removesuffix(path.suffix))


def _inside(path: Path, folder: Path) -> Path:
    """The path itself. Raises BadInput where it is a link that leads out of the folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{path} is a link to a file outside {folder}; pass that file itself.")
    return path


def _own_raster(path: Path, folder: Path) -> Path:
    """The path itself of a raster found in a folder. Raises BadInput where it or a file that belongs to it
    lies elsewhere, BadFile where it is none of PLAIN.
    """
    _inside(path, folder)
    if not path.is_file():
        raise BadInput(f"{path} is not a file; pass it itself.")
    with path.open("rb") as opened:
        first = opened.read(8)
    driver = next((name for magic, name in PLAIN.items() if first.startswith(magic)), None)
    if driver is None:
        raise BadFile(
            f"{path} cannot be opened: it is no GeoTIFF, PNG, JPEG or JPEG 2000. What names other files, "
            "such as a VRT, is not opened because it lies in a folder: pass it itself."
        )
    try:
        with gdal(), rasterio.open(path, driver=driver) as file:
            parts = file.files
    except READ_FAILURES as error:
        raise BadFile(f"{path} cannot be opened ({reason(error)}).") from error
    for part in parts:
        _inside(Path(part), folder)
    return path


def _run_of(main: Path) -> dict[str, Any]:
    """The run file beside a class map; empty without one, or where it is of another map."""
    path = main.with_name(main.name.removesuffix(CLASS) + RUN)
    if not main.name.endswith(CLASS) or not path.is_file() or path.stat().st_size > LARGEST_RUN:
        return {}
    try:
        run = json.loads(_inside(path, main.parent).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def _map_layers(main: Path, run: dict[str, Any], grid: Grid | None, prefix: str) -> list[Layer]:
    """The class map and what lies beside it; resampled to `grid` where one is given."""
    second = " (second map)" if prefix else ""
    if main.name.endswith(ERRORS):
        return [_byte_layer(main, f"{prefix}errors", f"Errors{second}", grid, {})]
    layers = [_byte_layer(main, f"{prefix}class", f"Classes{second}", grid, run)]
    stem = main.name.removesuffix(CLASS)
    if main.name.endswith(CLASS):
        beside = [file for file in sorted(main.parent.glob(f"{_plain(stem)}_*.tif")) if file != main]
        for file in beside[:MOST_RASTERS]:
            ending = next((e for e in BESIDE if file.name.endswith(e)), None)
            between = file.name.removeprefix(f"{stem}_")[: -len(ending) + 1] if ending else ""
            # Only of this map: `havel_south_class.tif` beside `havel_class.tif` is another one's.
            task = between.rstrip("_")
            if ending is None or (task and task not in (run.get("tasks") or {})):
                continue
            title = f"{task}: {BESIDE[ending]}" if task else BESIDE[ending]
            key = prefix + (f"{task}_" if task else "") + ending[1:-4]
            try:
                layers.append(_byte_layer(_own_raster(file, main.parent), key, title + second, grid, {}))
            except LabelscapeError:
                # A raster beside the map that is damaged must not hide the map.
                continue
    return layers


def _plain(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _byte_layer(path: Path, key: str, title: str, grid: Grid | None, run: dict[str, Any]) -> Layer:
    kind = next((e[1:-4] for e in BESIDE if path.name.endswith(e)), "class")
    kind = {"sieved": "classes", "class": "classes", "errors": "classes"}.get(kind, kind)
    pool = Pool(lambda: ByteReader(path, grid), lambda: stamp_of(path))
    with pool.lent():
        pass  # damaged files are refused before the page is opened
    with reading(path) as file:
        quick = is_quick(file.width * file.height, file.overviews(1))
        if kind == "proba":
            names = [
                printable_name(name or "") or f"band {i + 1}" for i, name in enumerate(file.descriptions)
            ]
            bands = Legend.of_names(_unique(names))
            return Layer(
                key, "proba", title, pool, tuple(bands.names), bands, top=250, path=path, quick=quick
            )
        if kind != "classes":
            top, unit = (200, "% of the limit") if kind == "unfamiliar" else (100, "%")
            return Layer(key, "measure", title, pool, (title,), top=top, unit=unit, path=path, quick=quick)
        found = class_raster(file, path)
        legend = legend_in(found, None if found.grid.window.pixels <= COUNTED else _some_values)
        areas = _areas_of_run(run, legend)
        exact = True
        if areas is None:
            areas, exact = _counted(found, legend)
    return Layer(key, "classes", title, pool, ("class",), legend, areas, exact, path=path, quick=quick)


def _some_values(found: ClassRaster) -> list[int]:
    """Values of a large map without names: those of its overview, or of windows spread over it, and those
    that have a colour. Rarer ones stay transparent.
    """
    try:
        palette = found.file.colormap(1)
    except ValueError:  # rasterio's answer where there is no colour table
        palette = {}
    # GDAL fills a table of 256 colours up with black.
    colored = {value for value, color in palette.items() if any(color[:3])}
    seen = {int(value) for values in _looked_at(found) for value in np.unique(values)}
    return sorted((seen | colored) - {IGNORE, found.nodata}) or values_in(found)


def _looked_at(found: ClassRaster) -> Iterator[np.ndarray]:
    """Pixels that stand for all of a large map."""
    if found.file.overviews(1):
        yield found.read(found.grid.window, decimated(found.grid.shape, LOOKED))
    else:
        for window in spread(found.grid.window):
            yield found.read(window)


def _unique(names: list[str]) -> list[str]:
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _areas_of_run(run: dict[str, Any], legend: Legend) -> tuple[tuple[int, float | None], ...] | None:
    """Areas by the run file, None where it does not say them."""
    try:
        known = {one["name"]: (int(one["pixels"]), one["hectares"]) for one in run["areas"]}
        return tuple((known[name][0], known[name][1] and float(known[name][1])) for name in legend.names)
    except (KeyError, TypeError, ValueError):
        return None


def _counted(found: ClassRaster, legend: Legend) -> tuple[tuple[tuple[int, float | None], ...], bool]:
    """(pixels, hectares) of each class, and whether they are exact."""
    grid = found.grid
    exact = grid.window.pixels <= COUNTED
    if exact:
        pixels, metres = np.zeros(256, np.int64), np.zeros(256)
        for block in grid.window.blocks(512):
            counts, areas = count_areas(found.read(block), grid, block)
            pixels += counts
            metres += areas
    else:
        seen = sum(np.bincount(values.ravel(), minlength=256) for values in _looked_at(found))
        pixels = (seen * (grid.window.pixels / max(1, seen.sum()))).astype(np.int64)
        metres = pixels * (grid.ground_pixel_size or 1.0) ** 2
    known = grid.is_on_earth
    return tuple((int(pixels[v]), float(metres[v]) / 10_000 if known else None) for v in legend.values), exact


def _scene_of(
    main: Path, run: dict[str, Any], given: str | Path | Sequence[str | Path] | None, grid: Grid
) -> tuple[list[Layer], list[str]]:
    """The imagery as a layer, and why there is none."""
    if given is None:
        named = run.get("scene")
        named = [named] if isinstance(named, str) else named
        if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
            return [], ["No imagery: pass it with --scene FILE."]
        files = [main.parent / one for one in named]
        if not all(f.resolve().is_relative_to(main.parent.resolve()) and f.exists() for f in files):
            # The run file is data that may be somebody else's: no file is opened because it says so.
            return [], [
                f"No imagery: if {printable_name(named[0])} is this map's scene, pass it with --scene."
            ]
        try:
            for file in files:
                _own_raster(file, main.parent)
        except LabelscapeError as error:
            return [], [f"No imagery: {error} (--scene)"]
        source: str | list[str] = str(files[0]) if len(files) == 1 else [str(f) for f in files]
    else:
        source = str(given) if isinstance(given, (str, Path)) else [str(one) for one in given]
    try:
        pool, scene = scene_pool(source, grid)
    except LabelscapeError as error:
        if given is not None:
            raise
        return [], [f"No imagery: {error}"]
    names = scene.bands
    sets = (*PICTURES, names[:3] if len(names) > 2 else (names[0],) * 3)
    shown = next(s for s in sets if set(s) <= set(names))
    usual = tuple(names.index(name) for name in shown)
    quick = is_quick(grid.window.pixels, scene.has_overviews)
    title = f"Scene {printable_name(scene.name)}"
    notes = [] if quick else [f"{title} has no overviews and {SLOW}"]
    return [Layer("scene", "scene", title, pool, names, usual=usual, quick=quick)], notes
