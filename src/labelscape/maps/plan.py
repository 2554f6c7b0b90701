"""Check a scene against a model before mapping (`check`), and estimate tiles, memory, disk and minutes."""

from __future__ import annotations

import math
import time
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Unpack

from labelscape.checkpoint import load_all
from labelscape.contract.difference import REFUSED, Difference, verdict
from labelscape.contract.matching import match_bands
from labelscape.contract.tile_sizes import TileSizes
from labelscape.errors import Refused
from labelscape.files import free_bytes, written_whole
from labelscape.maps.duration import seconds_of_map
from labelscape.maps.layout import blocks_for, in_words
from labelscape.maps.outputs import RasterOutput, bytes_on_disk, rasters_of, room_note
from labelscape.maps.request import MapRequest, MapSettings, Models, request_for, spelt_out
from labelscape.maps.work import fitting, scorer_of
from labelscape.progress import in_words as lasting
from labelscape.scenes.files import GDAL_CACHE_BYTES, Source
from labelscape.scenes.scene import Scene
from labelscape.scoring.engine_choice import check_usable, extra_bytes
from labelscape.scoring.memory import scoring_bytes, size_warning
from labelscape.scoring.precision import checked_bytes, is_checked
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.scales import tiles_given
from labelscape.scoring.scorer import Scorer, second_task
from labelscape.scoring.stitch import forward_share, plan_for
from labelscape.scoring.tiles import TilePlan
from labelscape.text import printable
from labelscape.workers.cluster import check_count

KEPT, KEPT_OF_ONE = 1.9, 1.2
"""Of a network's memory on a CPU: freed memory is kept for the next tile, and lies between what that uses. On
scenes of 8192 x 8192 and 16384 x 16384 pixels a process came to 1.7 (`fcn`) and 1.9 (a U-Net) times it, with
one tile to 1.02 to 1.17.
"""
PROCESS_BYTES = 450 * 2**20
"""Memory of Python, torch and GDAL before the first tile."""
LIBRARIES_BYTES = 200 * 2**20
"""Of timm, segmentation-models-pytorch and torchvision, where the network stands on them."""


@dataclass(frozen=True)
class Plan:
    """Estimated cost of mapping a scene.

    tiles          number of tiles; `core` is the side of the part written, `halo` the overlap beyond it on
                   each side, in pixels
    forward_share  pixels the network predicts over pixels of the scene
    ram, gpu       peak memory in bytes, of the machine and of the GPU (0 without one)
    disk           bytes at most, while files are being finished: rasters before compression, with overviews;
                   polygons not counted
    minutes        of a map without its report, from reading, predicting and writing a part of the scene; None
                   without timing
    """

    tiles: int
    core: int
    halo: int
    forward_share: float
    ram: int
    gpu: int
    disk: int
    minutes: float | None
    device: str

    def __repr__(self) -> str:
        memory = f"{self.ram / 2**30:.1f} GiB" + (f" and {self.gpu / 2**30:.1f} on it" if self.gpu else "")
        time = "" if self.minutes is None else f", about {lasting(max(1, 60 * self.minutes))}"
        tiles = f"{self.tiles:,} tile{'s' * (self.tiles != 1)}"
        return f"<Plan: {tiles} on {self.device}, memory {memory}{time}>"


@dataclass(frozen=True)
class CheckResult:
    """The result of `check`: `verdict` is "FITS", "FITS AFTER" or "REFUSED"; plan is None where bands are
    missing.

    warnings    of settings: tiles larger than the model learned; of the disk, where it may be too small
    tile_sizes  held-out scores by tile size, where they were measured; of several models those of the one
                with the smallest default
    shared      how the scene is shared among workers, and what they need together; "" without workers
    """

    verdict: str
    findings: tuple[Difference, ...]
    plan: Plan | None
    warnings: tuple[str, ...] = ()
    tile_sizes: TileSizes | None = None
    shared: str = ""

    def __repr__(self) -> str:
        kinds = ", ".join(f.kind for f in self.findings)
        warned = f"{len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}, " if self.warnings else ""
        found = f"{self.verdict}{f' ({kinds})' if kinds else ''}"
        return f"<CheckResult {found}: {warned}{self.plan or 'no plan'}>"

    def to_dict(self) -> dict:
        """JSON values."""
        return {
            "verdict": self.verdict,
            "findings": [f.to_dict() for f in self.findings],
            "plan": asdict(self.plan) if self.plan else None,
            "warnings": list(self.warnings),
            "tile_sizes": {**self.tile_sizes.to_dict(), "default": self.tile_sizes.default}
            if self.tile_sizes
            else None,
            **({"shared": self.shared} if self.shared else {}),
        }


@spelt_out
def check(
    checkpoint: Models | None = None,
    scene: Source | None = None,
    *,
    request: MapRequest | None = None,
    protocol: Protocol | None = None,
    timing: bool = True,
    out: str | Path | None = None,
    workers: int | None = None,
    **settings: Unpack[MapSettings],
) -> CheckResult:
    """Check whether a scene fits a model, and estimate the cost of mapping it. Reads about 1 % of the scene,
    in seconds at any size.

    Settings are those of `map_scene`, one by one or as a `request`; with their defaults:

    {settings}

    The estimate includes test-time augmentation and all checkpoints; the check uses the first checkpoint.
    Without `timing` the plan has no minutes. With `out`, the folder that the map will be written to, its free
    disk space is compared with the map's. With a number of `workers` it says how they share the scene, and
    the memory they need. Raises BadOption for invalid settings, UnknownName for a `task`
    that a model did not learn, BadFile where a file is missing or damaged.
    """
    start = time.monotonic()
    request = request_for(checkpoint, scene, request, protocol, settings)
    loaded = load_all(checkpoint if checkpoint is not None else request.checkpoint)
    models = [one.task(request.task) for one in loaded]
    scorer, mate = scorer_of(request, models), second_task(models)
    source = scene if scene is not None else request.scene
    with fitting(models[0], source, request, stride=scorer.stride) as (opened, findings, _):
        # Without its bands the network cannot be timed on the scene; the verdict is REFUSED already.
        if match_bands(models[0].bands, opened.bands).order is None:
            return CheckResult(verdict(findings), findings, None)
        tiles = plan_for(
            scorer, opened, tile_size=request.tile_size, overlap=request.overlap, blend=request.blend
        )
        # Refused here, not at the map.
        check_usable(scorer, request.engine)
        outputs = rasters_of(request, mate.name if mate else "")
        minutes = None
        if timing:
            # What `check` itself did so far, loading models and reading a sample, a map does too.
            begun = time.monotonic() - start
            minutes = (begun + seconds_of_map(scorer, opened, tiles, outputs, request)) / 60
        found = cost(scorer, opened, tiles, outputs, request=request, minutes=minutes)
        warnings = [size_warning(scorer, tiles)]
        if out is not None and (free := free_bytes(Path(out))) is not None:
            warnings.append(room_note(found.disk, free, out))
        measured = [model.tile_sizes for model in models if model.tile_sizes is not None]
        sizes = min(measured, key=lambda one: one.default, default=None)
        shared = "" if workers is None else _shared(tiles, found, workers)
        return CheckResult(verdict(findings), findings, found, tuple(filter(None, warnings)), sizes, shared)


def _shared(tiles: TilePlan, found: Plan, workers: int) -> str:
    check_count(workers)
    each = found.gpu or found.ram
    where = "" if not found.gpu else " of a GPU"
    return (
        f"{in_words(blocks_for(tiles, workers), workers)}; each needs about {each / 2**30:.1f} GiB{where}, "
        f"all together {workers * each / 2**30:.1f} GiB"
    )


def refuse_unless(findings: tuple[Difference, ...], name: str, task: str | None = None) -> None:
    """Raises Refused with the causes where a finding refuses the scene called `name` (for a second task)."""
    # All at once: a user who fixes one cause and starts again would meet the next.
    causes = [f.cause for f in findings if f.level == REFUSED]
    forced = [f.cause for f in findings if f.level == REFUSED and f.kind != "band count"]
    if causes:
        listed = "; ".join(causes) if len(causes) == 1 else "".join(f"\n  - {cause}" for cause in causes)
        what, other = "this model", ""
        if task:
            what = f"the images that this model learned {task} from"
            other = " (Without `task` both tasks are mapped, for scenes like the images of the first.)"
        # With too few bands there is nothing that the network could be given.
        cure = "Fix it, or pass `force=True` to map anyway." if causes == forced else ""
        gap = chr(10) if len(causes) > 1 else " "
        raise Refused(f"{name} does not fit {what}: {listed}.{gap if cure else ''}{cure}{other}")


def mark_forced(class_raster: Path, findings: tuple[Difference, ...]) -> None:
    """Record the causes overruled by `force` as a tag of the class raster (`labelscape_forced`). It goes into
    GDAL's side file: changing a tag inside the TIFF would break its COG layout.
    """
    causes = [f.cause for f in findings if f.level == REFUSED]
    side = Path(f"{class_raster}.aux.xml")
    if not causes:
        return
    # The attribute table with the class names is in the same side file, and is kept.
    root = xml.fromstring(side.read_bytes()) if side.exists() else xml.Element("PAMDataset")
    metadata = xml.Element("Metadata")
    xml.SubElement(metadata, "MDI", key="labelscape_forced").text = printable("; ".join(causes))
    # Before the bands, where GDAL writes it itself.
    root.insert(0, metadata)
    with written_whole(side, overwrite=True) as part:
        part.write_bytes(xml.tostring(root, encoding="utf-8"))


def cost(
    scorer: Scorer,
    scene: Scene,
    tiles: TilePlan,
    outputs: Sequence[RasterOutput],
    *,
    request: MapRequest,
    minutes: float | None,
) -> Plan:
    """What a plan of tiles costs with this network on this device, written as these rasters; it takes so
    many `minutes`.
    """
    classes, bands, averaged = scorer.classes, len(scorer.checkpoint.bands), 0
    # Of the scale whose tiles take most: those of a small scale may hold all of it.
    most = max(tiles.scaled or [tiles], key=lambda one: math.prod(one.seen_shape) * one.batch)
    # Cut to the scene: a scene smaller than a tile needs less.
    side, pixels = most.seen_shape, math.prod(most.seen_shape) * most.batch
    network = scoring_bytes(scorer, *side, most.batch) + extra_bytes(scorer, tiles, request.engine)
    if is_checked(scorer):
        network = checked_bytes(scorer, network)
    # Beside the network's memory: one batch read ahead and scaled to float32; logits and probabilities of
    # this batch and of the one being written.
    read = pixels
    if tiles.scaled:
        # Of a block: logits at the largest scale, their sum, and what is being written of the one before.
        larger = max(one.ground.pixels for one in tiles.scaled) / tiles.ground.pixels
        averaged = int(math.prod(tiles.seen_shape) * classes * (16 + 4 * larger))
        # Of the scene: a tile of a small scale is made of many of its pixels.
        read = max(
            math.prod(one.seen_shape) * one.batch * tiles.ground.pixels // one.ground.pixels
            for one in tiles.scaled
        )
    tile_bytes = averaged + read * bands * (scene.dtype.itemsize + 4) + pixels * (2 * classes * 8 + 16)
    on_gpu = scorer.device.type != "cpu"
    given = tiles_given(tiles)
    kept = 0.0 if on_gpu else KEPT if given > 1 else KEPT_OF_ONE
    ram = _process_bytes(scorer) + GDAL_CACHE_BYTES + tile_bytes + int(kept * network)
    layers = sum(len(o.band_names(scorer.checkpoint.task(o.task or None).legend)) for o in outputs)
    disk = bytes_on_disk(scene.grid.window.pixels, layers)
    return Plan(
        given,
        tiles.shown.core,
        tiles.shown.halo,
        forward_share(tiles),
        ram,
        network if on_gpu else 0,
        disk,
        minutes,
        str(scorer.device),
    )


def _process_bytes(scorer: Scorer) -> int:
    """Memory before the first tile: libraries, and the checkpoints' weights, which each network copies."""
    made = [member.checkpoint for member in scorer.members]
    others = any(one.network.startswith("smp/") or "backbone" in one.options for one in made)
    weights = sum(value.nbytes for one in made for value in one.weights.values())
    return PROCESS_BYTES + (LIBRARIES_BYTES if others else 0) + weights
