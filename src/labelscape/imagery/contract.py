"""Does this scene fit this model? What differs between a scene and the scenes a model was trained on, in plain sentences."""

from __future__ import annotations

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadInput
from labelscape.imagery.bands import QUANTILES, band_statistics
from labelscape.imagery.raster import Scene


def differences(checkpoint: Checkpoint, scene: Scene, bands: tuple[str, ...], *, blocks: int = 4) -> list[str]:
    """Sentences that name what would make a plausible but wrong map: another type, pixel size or range of values.

    Looks at `blocks` blocks of the scene. `bands` are the scene's bands in the network's order.
    """
    found = []
    if bands != checkpoint.bands:
        found.append(f"bands are taken in their order: {_pairs(bands, checkpoint.bands)}; the model knows other names")
    if scene.dtype.name != checkpoint.dtype:
        found.append(f"the scene holds {scene.dtype.name} values, the model was trained on {checkpoint.dtype}")
    size = scene.grid.ground_pixel_size
    if size and checkpoint.pixel_size and not 0.8 < size / checkpoint.pixel_size < 1.25:
        found.append(f"the scene's pixels are {size:.3g} m wide, the model was trained on {checkpoint.pixel_size:.3g} m")
    if checkpoint.statistics:
        low, median, high = (QUANTILES.index(q) for q in (0.01, 0.5, 0.99))
        try:
            seen = {s.name: s for s in band_statistics([scene], most_blocks=blocks)}
        except BadInput:  # the blocks looked at are empty; others need not be
            return found
        for mine, theirs in zip(bands, checkpoint.statistics):
            value, least, most = seen[mine].quantiles[median], theirs.quantiles[low], theirs.quantiles[high]
            if not least <= value <= most:
                found.append(f"band {mine}: half the pixels lie around {value:.4g}, where training saw {least:.4g} to {most:.4g}")
    return found


def _pairs(mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    return ", ".join(f"{a} as {b}" for a, b in zip(mine, theirs))
