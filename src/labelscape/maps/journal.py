"""The journal of a map: every finished tile is kept in a file of its own until the map is complete, so that
an interrupted run resumes.

The folder is beside the map's files and is removed when they are complete. Its files are written atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile
from labelscape.files import written_whole
from labelscape.grid import Window
from labelscape.maps.outputs import rasters_of
from labelscape.maps.request import Affects, MapRequest
from labelscape.rasters import compression
from labelscape.rasters.write import GDAL_FAILURES
from labelscape.scenes.files import gdal, reason
from labelscape.scenes.scene import Scene
from labelscape.scoring.fade import HANN
from labelscape.scoring.tiles import TilePlan
from labelscape.version import __version__

RESOLVED = {"checkpoint", "scene", "tile_size", "overlap", "blend"}
"""Settings that enter the key by their effect: the same weights under another path, or the same tile size by
default instead of by option, give the same values.
"""


def tile_key(
    request: MapRequest, models: Sequence[Checkpoint], scene: Scene, plan: TilePlan, device: str
) -> dict:
    """Everything that determines the values of a finished tile, as JSON values; maps with one key share
    tiles.

    Settings of polygons, report and other files made from tiles are not part of it. `device` is the type
    (cpu, cuda, mps): results differ between them in the last digit.
    """
    grid = scene.grid
    files = [Path(f) for f in (*scene.files, *([] if request.area is None else [request.area]))]
    return {
        **request.model_dump(mode="json", include=set(request.fields_that(Affects.TILES)) - RESOLVED),
        # Another version may compute other values: its tiles are made again rather than mixed with these.
        "version": __version__,
        # Hashed, so that a checkpoint renamed or copied elsewhere shares tiles, and one trained again does
        # not.
        "models": [fingerprint(m) for m in models],
        "plan": [plan.core, plan.halo, plan.fade, plan.side, plan.batch],
        # Tiles blended by another ramp would not add up with these.
        "ramp": HANN.name if plan.fade else None,
        # A scene in memory has no file time: only its pixels show whether it is the same.
        "files": [_stamp(f) for f in files] + ([scene.digest()] if scene.in_memory else []),
        "grid": [str(grid.crs), *grid.transform, *grid.shape],
        # A request with more rasters has other planes: tiles lacking some could not be completed.
        "planes": [[r.kind, len(r.band_names(models[0].legend))] for r in rasters_of(request)],
        "device": device,
    }


def _stamp(file: Path) -> list[str | int]:
    """Where a file lies, with size and time of a local one. A relative path means another file in another
    working directory, and a link another one once it is changed.
    """
    if not file.exists():
        return [str(file)]
    return [str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns]


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint's weights and description."""
    # `default=str`: a recipe made in Python may hold values that JSON has not.
    digest = hashlib.sha256(json.dumps(checkpoint.describe(), sort_keys=True, default=str).encode())
    # Sorted: the order in which weights were loaded says nothing about their values.
    for name in sorted(checkpoint.weights):
        digest.update(name.encode() + np.ascontiguousarray(checkpoint.weights[name]).tobytes())
    return digest.hexdigest()


def is_begun(folder: Path, key: dict) -> bool:
    """Does a folder hold finished tiles of a map with this key?"""
    # The glob passes over hidden files: a tile that was being written when the run was killed is not
    # finished.
    return _stored(folder) == json.dumps(key, sort_keys=True) and any(folder.glob("[!.]*.tif"))


def _stored(folder: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return (folder / "settings.json").read_text(encoding="utf-8")
    return None


class Journal:
    """The finished tiles of one map; those made under another `tile_key` are deleted."""

    def __init__(self, folder: Path, key: dict) -> None:
        self.folder = folder
        self._wanted = json.dumps(key, sort_keys=True)
        try:
            # All or nothing: one tile of other settings among these would be a map that no settings give.
            if _stored(folder) != self._wanted:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                # Before the first tile: tiles without settings beside them are taken for another map's and
                # deleted.
                with written_whole(folder / "settings.json", overwrite=True) as part:
                    part.write_text(self._wanted, encoding="utf-8")
        except OSError as error:
            raise BadFile(
                f"{folder} cannot be written: {error.strerror or error}. Is the disk full, or the folder "
                "read-only?"
            ) from error
        # A first run finds none, and is spared one call of the file system per tile.
        self.found = len(list(folder.glob("*.tif")))
        """Number of tiles finished by an earlier run."""

    def _path(self, core: Window) -> Path:
        # By place, not by number: a tile is found again whatever was skipped before it.
        return self.folder / f"{core.top}_{core.left}.tif"

    def has(self, core: Window) -> bool:
        return self._path(core).exists()

    def save(self, core: Window, planes: np.ndarray) -> None:
        """Keep the uint8 planes (C, h, w) of a finished tile. Raises BadFile where they cannot be written."""
        path = self._path(core)
        profile = {
            "driver": "GTiff",
            "count": len(planes),
            "height": core.height,
            "width": core.width,
            "dtype": "uint8",
            **compression.for_journal().profile,
            "interleave": "band",
        }
        try:
            # Made in memory and written by Python: GDAL raises no error when the disk is full at the last
            # blocks of a file.
            with gdal(), rasterio.MemoryFile() as memory:
                with memory.open(**profile) as file:
                    file.write(planes)
                with written_whole(path, overwrite=True) as part:
                    part.write_bytes(memory.getbuffer())
        except GDAL_FAILURES as error:
            cause = error.__cause__ if isinstance(error, BadFile) else error
            raise BadFile(f"{path} cannot be written: {reason(cause or error)}. Is the disk full?") from error

    def load(self, core: Window) -> np.ndarray | None:
        """The planes of a tile; None where its file is missing or damaged, and it must be scored again."""
        try:
            with gdal(), rasterio.open(self._path(core)) as file:
                planes = file.read()
        except (RasterioError, *GDAL_FAILURES):
            # A damaged tile must not end the run: it costs the time of one tile.
            return None
        # A file that opens can still be another's, put there by hand.
        return planes if planes.shape[1:] == core.shape else None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder.exists() and not any(self.folder.glob("*.tif")):
            self.close()  # stopped before anything was worth keeping

    def close(self) -> None:
        """Delete the journal: the map is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
