"""Evaluate finished class maps, of this or any other software, on labelled scenes (`evaluate_maps`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from labelscape.datasets.labelled import scene_names
from labelscape.datasets.own import Dataset
from labelscape.errors import BadInput
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.predicted import STRIP, map_classes, map_of
from labelscape.evaluation.tally import Tally, Watch
from labelscape.legend import IGNORE
from labelscape.progress import bar
from labelscape.scenes.files import as_path


def evaluate_maps(
    path: str | Path,
    dataset: Dataset,
    *,
    part: str | None = None,
    boundaries: bool = False,
    watch: Sequence[Watch] = (),
    show: bool = True,
) -> Evaluation:
    """Confusion counts of a class raster, or of a folder of them with one of each scene's name, over the
    labelled pixels of `part` (None: all); `boundaries` and `watch` as `measure.evaluate` has them.

    Labels on the scene's nodata do not count. Where the map itself is opened as the scene, its nodata is a
    missing prediction, which is wrong. Raises BadFile where a map cannot be read, BadInput where it has other
    classes, lies elsewhere, or no label is found.
    """
    tally = Tally(dataset.legend.names, boundaries=boundaries, watch=watch)
    scenes = dataset.scenes if part is None else dataset.part(part)
    with bar("evaluate", len(scenes), "scenes", shown=show) as tick:
        for name, scene in zip(scene_names(scenes), scenes):
            with ExitStack() as held, tally.scene(name, scene) as add:
                classes, opened = map_classes(as_path(path), scene, dataset.legend)
                held.callback(opened.close)
                # The map's own nodata is a missing prediction, not missing imagery.
                files = {Path(file).absolute() for file in scene.scene.files}
                stands_for_scene = Path(map_of(path, scene.name)).absolute() in files
                for window in scene.scene.grid.window.blocks(STRIP):
                    truth = scene.read_labels(window, part)
                    if not (truth != IGNORE).any():
                        continue
                    if not stands_for_scene:
                        truth[~scene.scene.read(window).valid] = IGNORE
                    add(window, truth, classes.read(window))
            tick()
    if not any(counts.labelled for counts in tally.per_scene.values()):
        raise BadInput(f"No labelled pixel to score on{f' in the {part} part' if part else ''}.")
    return tally.result()
