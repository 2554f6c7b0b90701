"""The journal of a map: every finished tile is kept in a file of its own until the map is complete, so that
an interrupted run resumes.

It is a folder beside the map's files, or a place on S3 (`store`), and is removed when they are complete. Its
files are written atomically. Tiles are never deleted unasked: a journal with tiles of another map, or of a
scene that has changed since, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from labelscape.checkpoint import Checkpoint, fingerprint
from labelscape.errors import BadFile
from labelscape.grid import Window
from labelscape.maps.outputs import rasters_of
from labelscape.maps.request import Affects, MapRequest
from labelscape.rasters import compression
from labelscape.rasters.write import GDAL_FAILURES
from labelscape.scenes.files import gdal, reason
from labelscape.scenes.scene import Scene
from labelscape.scenes.stamps import Watched, unlike
from labelscape.scenes.vectors import VectorSource
from labelscape.scoring.fade import HANN
from labelscape.scoring.scorer import second_task
from labelscape.scoring.stitch import windows_read
from labelscape.scoring.tiles import TilePlan
from labelscape.stages import stage
from labelscape.version import build
from labelscape.workers.store import Store

TORCH = "torch"
RESOLVED = {"checkpoint", "scene", "tile_size", "overlap", "blend", "engine"}
"""Settings that enter the key by their effect: the same weights under another path, or the same tile size by
default instead of by option, give the same values.
"""


def tile_key(
    request: MapRequest,
    models: Sequence[Checkpoint],
    scene: Scene,
    plan: TilePlan,
    device: str,
    watched: Watched | None = None,
    *,
    engine: str = TORCH,
) -> dict:
    """Everything that determines the values of a finished tile, as JSON values; maps with one key share
    tiles.

    Settings of polygons, report and other files made from tiles are not part of it. `device` is the type
    (cpu, cuda, mps) and `engine` the one that was chosen: results differ between them in the last digit.
    `watched` are the scene's files, by default as they are now.
    """
    grid = scene.grid
    watched = watched or Watched.of(files_of_map(request, scene))
    # Of a part of a scene the network sees what lies around it too.
    seen = None if plan.around is None else windows_read(plan)
    return {
        **request.model_dump(mode="json", include=set(request.fields_that(Affects.TILES)) - RESOLVED),
        # Other code may compute other values: its tiles are not mixed with these.
        "version": build(),
        # Hashed, so that a checkpoint renamed or copied elsewhere shares tiles, and one trained again does
        # not.
        "models": [fingerprint(m) for m in models],
        "plan": _numbers(plan),
        # Tiles blended by another ramp would not add up with these.
        "ramp": HANN.name if any(one.fade for one in (plan, *plan.scaled)) else None,
        # Tiles are averaged over those of scaled scenes.
        **({"scaled": [_numbers(one) for one in plan.scaled]} if plan.scaled else {}),
        # A scene in memory has no file time: only its pixels show whether it is the same.
        "files": watched.named() + ([["pixels", scene.digest(seen)]] if scene.in_memory else []),
        "grid": [str(grid.crs), *grid.transform, *grid.shape],
        # Which part of a scene is mapped decides where its tiles begin.
        **(
            {} if plan.around is None else {"around": [*plan.around.shape, plan.around.top, plan.around.left]}
        ),
        "device": device,
        # Left out for torch: maps that an earlier version has begun are resumed.
        **({} if engine == TORCH else {"engine": engine}),
    }


def _numbers(plan: TilePlan) -> list[int]:
    return [plan.core, plan.halo, plan.fade, plan.side, plan.batch]


def files_of_map(request: MapRequest, scene: Scene) -> tuple[str, ...]:
    """The rasters that the scene is read from, and the polygons that it is cut to."""
    area = [] if request.area is None else [str(VectorSource.of(request.area).path)]
    return (*scene.files, *area)


def planes_wanted(request: MapRequest, models: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The kind of the raster that each plane of a tile belongs to."""
    mate = second_task(models)
    legends = {"": models[0].legend} | ({mate.name: mate.legend} if mate else {})
    rasters = rasters_of(request, mate.name if mate else "")
    return tuple(r.kind for r in rasters for _ in r.band_names(legends[r.task]))


SETTINGS = "settings.json"


def engine_begun(store: Store) -> str | None:
    """The engine that a store's finished tiles were predicted with, without its version; None where there are
    none.
    """
    key = _stored(store).get("key")
    return str(key.get("engine", TORCH)).partition(" ")[0] if key and _tiles(store) else None


def is_begun(store: Store, key: dict) -> bool:
    """Does a store hold finished tiles of a map with this key?"""
    return bool(_tiles(store)) and not differences(store, key)


def _tiles(store: Store) -> list[str]:
    return [name for name in store.names() if name.endswith(".tif") and not name.startswith(".")]


def _stored(store: Store) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(store.get(SETTINGS) or b"")
        if isinstance(found, dict) and isinstance(found.get("key"), dict):
            return found
    return {}


def differences(store: Store, key: dict) -> list[str]:
    """In what the map that a store's tiles are of differs from the map of this key, in words."""
    return _differences(_stored(store), key)


def _differences(settings: dict[str, Any], key: dict) -> list[str]:
    stored, wanted = settings.get("key"), json.loads(json.dumps(key))
    if stored is None:
        return ["another version of Labelscape"]
    names = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
    said = (words for name in names for words in _in_words(name, stored.get(name), wanted.get(name)))
    return list(dict.fromkeys(said))  # several may be said in the same words


def _in_words(name: str, before: Any, now: Any) -> list[str]:
    if name == "files":
        changed = unlike(before or [], now or [])
        return [f"{file} has changed" for file in changed[:3]] or ["the files are in another order"]
    if name == "version":
        return [f"Labelscape {before}, now {now}"]
    if name == "device":
        return [f"device {before}, now {now}"]
    if name == "engine":
        return [f"engine {before or TORCH}, now {now or TORCH}"]
    words = {
        "models": "another checkpoint",
        "plan": "tile size, overlap or blending",
        "ramp": "tile size, overlap or blending",
        "grid": "place or size of the scene",
        "around": "place or size of the scene",
    }
    return [words[name]] if name in words else [f"{name} {before}, now {now}"]


class Journal:
    """The finished tiles of one map.

    key      see `tile_key`; tiles of another key are deleted with `overwrite`, and refused without
    planes   kind of the raster of each plane; a tile that was kept with more of them is used, one that lacks
             some is made again
    machine  facts of the machine that values depend on in the last digit, stored with the first tile

    Raises BadFile where the store holds tiles of another key, or cannot be written.
    """

    def __init__(
        self,
        store: Store,
        key: dict,
        planes: Sequence[str] = (),
        *,
        machine: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.store, self.planes, self._end = store, tuple(planes), _end(store, key)
        self.deleted = ""
        """What was deleted of another map, as a sentence."""
        # Read once: on S3 each look is a request.
        begun, settings = _tiles(store), _stored(store)
        different = _differences(settings, key)
        # On S3 a worker that was given up for lost may write a tile after the journal was removed: without
        # settings nobody knows of which map it is.
        if begun and different and (not store.remote or settings):
            tiles = f"{len(begun)} finished tile{'s' * (len(begun) > 1)} of an interrupted map"
            if not overwrite:
                raise BadFile(
                    f"{store.address} holds {tiles} that differs from this one ({'; '.join(different)}). "
                    "Repeat it as it was to resume it, pass `overwrite=True` to delete its tiles, or another "
                    f"{'`journal`' if store.remote else '`out`'} or `name`."
                )
            self.deleted = f"{tiles} were deleted: it differed from this one ({'; '.join(different)})"
        # All or nothing: one tile of other settings among these would be a map that no settings give.
        if different:
            store.empty()
            # Before the first tile: tiles without settings beside them cannot be resumed.
            settings = {"key": key, "machine": dict(machine or {})}
            store.put(SETTINGS, json.dumps(settings, sort_keys=True).encode())
        self.machine = settings.get("machine") or dict(machine or {})
        self._found = frozenset() if different else frozenset(n for n in begun if n.endswith(self._end))

    @classmethod
    def of_another(cls, store: Store, key: dict, planes: Sequence[str]) -> Journal:
        """The journal that another process has opened, to add tiles to."""
        made = cls.__new__(cls)
        made.store, made.planes, made._end = store, tuple(planes), _end(store, key)
        made.deleted, made.machine, made._found = "", {}, frozenset()
        return made

    @property
    def found(self) -> int:
        """Number of tiles finished by an earlier run."""
        return len(self._found)

    def count(self) -> int:
        """Number of tiles that are kept now. Raises BadFile where a server does not answer."""
        return sum(name.endswith(self._end) for name in _tiles(self.store))

    def had(self, core: Window) -> bool:
        """Did an earlier run finish this tile?"""
        return self._name(core) in self._found

    def lookup(self) -> Callable[[Window], bool]:
        """Is a tile finished by now, whoever finished it? Asks the store once for many tiles where it can."""
        has = self.store.lookup()
        return lambda core: has(self._name(core))

    def _name(self, core: Window) -> str:
        # By place, not by number: a tile is found again whatever was skipped before it.
        return f"{core.top}_{core.left}{self._end}"

    @stage("journal")
    def save(self, core: Window, planes: np.ndarray) -> None:
        """Keep the uint8 planes (C, h, w) of a finished tile. Raises BadFile where they cannot be written."""
        name = self._name(core)
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
                    for band, kind in enumerate(self.planes, start=1):
                        file.set_band_description(band, kind)
                self.store.put(name, bytes(memory.getbuffer()))
        except BadFile:
            raise
        except GDAL_FAILURES as error:
            raise BadFile(f"{self.store.address}/{name} cannot be written: {reason(error)}.") from error

    def load(self, core: Window) -> np.ndarray | None:
        """The planes of a tile; None where its file is missing or damaged or lacks some, and it must be
        scored again. Raises BadFile where a server does not answer.
        """
        data = self.store.get(self._name(core))
        if not data:
            return None
        try:
            # As GeoTIFF only: on a server others may write, and some formats name files of this machine.
            with gdal(), rasterio.MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
                kinds = file.descriptions
                chosen = [band for band, kind in enumerate(kinds, start=1) if kind in self.planes]
                if self.planes and tuple(kinds[band - 1] for band in chosen) != self.planes:
                    return None
                planes = file.read(chosen or None)
        except (RasterioError, *GDAL_FAILURES):
            # A damaged tile must not end the run: it costs the time of one tile.
            return None
        # A file that opens can still be another's, put there by hand.
        return planes if planes.shape[1:] == core.shape else None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BadFile):  # a server that is gone; the error that ended the run says so
            if not _tiles(self.store):
                self.close()  # stopped before anything was worth keeping

    def close(self) -> None:
        """Delete the journal: the map is complete."""
        self.store.remove()


def _end(store: Store, key: dict) -> str:
    """What the names of this map's tiles end with. No lock keeps another map's process from writing to a
    bucket: there the name says which map a tile is of.
    """
    if not store.remote:
        return ".tif"
    return f".{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.tif"
