"""Labels where a scene has no data. They are neither learned nor scored, but a split that counts labels
counts them: its parts then have other shares of what is learned and scored than were asked for.
"""

from __future__ import annotations

import numpy as np

from labelscape.contract.bands import spread_blocks
from labelscape.datasets.own import Dataset
from labelscape.datasets.split import PARTS
from labelscape.legend import IGNORE
from labelscape.training.data import looked_at

WORTH_SAYING = 0.1
"""Share of the labels on nodata from which it is said (ours)."""


def labels_on_nodata(dataset: Dataset) -> str | None:
    """A sentence where many labelled pixels have no data, from blocks of at most LOOKED_AT scenes; None where
    few have none. Raises as `LabelledScene.read`.
    """
    counts = {part: np.zeros(2, np.int64) for part in PARTS}  # labelled, and of these with data
    for scene, own in looked_at(list(zip(dataset.scenes, dataset.part_of))):
        for window in spread_blocks(scene.scene.grid.window, most=16):
            labelled = {
                part: scene.read_labels(window, part) != IGNORE for part in PARTS if own in (None, part)
            }
            # Pixels are read for blocks with labels alone.
            if any(one.any() for one in labelled.values()):
                valid = scene.scene.read(window).valid
                for part, one in labelled.items():
                    counts[part] += np.count_nonzero(one), np.count_nonzero(one & valid)
    labelled, with_data = sum(counts.values())
    if not with_data or labelled - with_data < WORTH_SAYING * labelled:
        return None
    shares = [f"{part} {100 * c[1] / with_data:.0f} %" for part, c in counts.items() if c[0]]
    missing = 100 * (1 - with_data / labelled)
    return (
        f"{missing:.0f} % of the labelled pixels looked at lie where the scenes have no data: they are "
        "neither learned nor scored, but the split and class weights count them. Of those with data, "
        f"the parts have {', '.join(shares)}. Leave nodata unlabelled for the shares that were asked for"
    )
