"""Were a sample's points among the labels that a map's model was trained with? As far as files can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from labelscape.assessment.points import Design
from labelscape.crs import transformed
from labelscape.errors import BadInput, LabelscapeError
from labelscape.grid import Grid
from labelscape.legend import IGNORE
from labelscape.rasters.made_by import made_by
from labelscape.scenes.files import reading
from labelscape.scenes.stamps import same_content
from labelscape.scenes.vectors import VectorSource, is_vector, read_features


@dataclass(frozen=True)
class Learned:
    """A label file that a model was trained with. Only the inside of `area` (polygons) was used, where there
    is one; with `fills` also what is unlabelled in it, as background.
    """

    label: str
    area: str | None = None
    fills: bool = False


def labels_of(raster: str | Path) -> list[Learned]:
    """Label files of the models that made a map, as its `_run.json` and their checkpoints name them; none
    where those are gone.
    """
    found = [
        label for model in made_by(raster).models.values() for label in _labels(model.get("recipe") or {})
    ]
    return list(dict.fromkeys(found))


def _labels(recipe: Mapping[str, Any]) -> list[Learned]:
    data = recipe.get("data") or {}
    given, area = data.get("labels") or (), data.get("area")
    fills = bool(area and data.get("background"))
    return [
        Learned(str(one), area, fills)
        for one in ([given] if isinstance(given, str) else given)
        if isinstance(one, (str, Path))
    ]


def check_not_training(points: str | Path, labels: Sequence[Learned]) -> None:
    """Raises BadInput where the points are a file of training labels."""
    for label in labels:
        path = Path(VectorSource.of(label.label).path)
        # By another path, through a link or under another name, it is the same file.
        if path.exists() and (path.samefile(points) or same_content(path, Path(points))):
            raise BadInput(
                f"{points} holds the labels that this map's model was trained with: a score on them says how "
                "well they were learned, not how good the map is. Draw a sample with `labelscape sample`."
            )


def on_training_labels(design: Design, labels: Sequence[Learned]) -> int | None:
    """Number of points that lie on training labels; None where no label file can be read."""
    hit, read = np.zeros(len(design), bool), False
    # One area for all label files of a model: its polygons are read once.
    inside = {area: _inside(design, area) for area in {label.area for label in labels}}
    for label in labels:
        try:
            hit |= _on_labels(design, label, inside[label.area])
            read = True
        # Moved or deleted since: what can be read is checked, and None says that nothing could be.
        except (LabelscapeError, OSError, ValueError):
            continue
    return int(hit.sum()) if read else None


def _on_labels(design: Design, one: Learned, inside: np.ndarray | None) -> np.ndarray:
    """(N,) bool: the points that lie on labels that were learned, of points `inside` the area."""
    on = _on_polygons(design, one.label) if is_vector(one.label) else _on_raster(design, one.label)
    if inside is None:
        return on
    return inside if one.fills else on & inside


def _inside(design: Design, area: str | None) -> np.ndarray | None:
    """(N,) bool: the points in an area; None without one, or where it is gone: all labels may have been used
    then.
    """
    try:
        return None if area is None else _on_polygons(design, area)
    except (LabelscapeError, OSError, ValueError):
        return None


def _moved(design: Design, crs: str | None) -> np.ndarray:
    """Centres of the points (N, 2) in another CRS."""
    centres = design.centres
    # Without a CRS on both sides there is nothing to transform: coordinates are taken to be the map's.
    if crs is None or design.grid.crs is None:
        return centres
    return np.column_stack(transformed(centres[:, 0], centres[:, 1], design.grid.crs, crs))


def _on_polygons(design: Design, label: str) -> np.ndarray:
    features = read_features(label)
    shapes = features.geometries[[g is not None for g in features.geometries]]
    tree = shapely.STRtree(shapes)
    hits = tree.query(shapely.points(_moved(design, features.crs)), predicate="intersects")[0]
    return np.isin(np.arange(len(design)), hits)


def _on_raster(design: Design, label: str) -> np.ndarray:
    with reading(label) as file:
        grid = Grid(file.crs, file.transform, file.height, file.width)
        xy = _moved(design, grid.crs.to_wkt() if grid.crs else None)
        # In the label raster's own pixels: its grid need not be the map's.
        columns, rows = (np.floor(v).astype(int) for v in ~grid.transform @ (xy[:, 0], xy[:, 1]))
        inside = (rows >= 0) & (columns >= 0) & (rows < grid.height) & (columns < grid.width)
        values = np.array([v[0] for v in file.sample(xy[inside])]) if inside.any() else np.zeros(0)
        labelled = np.zeros(len(design), bool)
        labelled[inside] = (values != IGNORE) & (values != file.nodata)
    return labelled
