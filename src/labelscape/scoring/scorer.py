"""From pixels to class probabilities, in one place: normalise, pad, run the network, softmax.

Training, evaluation and mapping prepare pixels with `normalise`; evaluation and mapping call `Scorer.logits`.
No other module pads or flips, and `stitch` alone scales scenes: what is trained is what is scored and
mapped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labelscape.checkpoint import Checkpoint, SecondTask, load_all
from labelscape.errors import BadInput, BadOption, WrongType
from labelscape.imports import importing
from labelscape.scenes.validity import measured
from labelscape.scoring.arrays import (
    Array,
    as_numpy,
    back_to_logits,
    library_of,
    parts_of,
    resized,
    soften,
    softmax,
    without_gradients,
)
from labelscape.scoring.devices import Processor
from labelscape.scoring.engine import Engine
from labelscape.scoring.exported_engine import ExportedEngine
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.symmetry import SYMMETRIES, turned, turned_back
from labelscape.scoring.unfamiliar import CHANNELS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def normalise(
    pixels: np.ndarray, valid: np.ndarray, normalisation: tuple[tuple[float, float], ...]
) -> Tensor:
    """(B, H, W) in the scene's units -> (B, H, W) float32, (value - mean) / std per band; invalid pixels
    become 0, the mean.
    """
    import torch

    return torch.from_numpy(_scaled(pixels, valid, normalisation))


def _scaled(
    pixels: np.ndarray, valid: np.ndarray, normalisation: tuple[tuple[float, float], ...]
) -> np.ndarray:
    # A constant band has std 0: it is centred and not scaled.
    mean, std = (np.array(column, np.float32).reshape(-1, 1, 1) for column in zip(*normalisation))
    # One copy, changed in place from here on: a tile of many bands is large.
    scaled = pixels.astype(np.float32)
    scaled -= mean
    scaled /= np.where(std > 0, std, np.float32(1))
    # Indexing by a mask copies, and most tiles have no invalid pixel.
    if not valid.all():
        scaled[:, ~valid] = 0
    return scaled


SCALED_ROWS = 16
"""Rows that are scaled at a time on their way to another order (measured): they stay in the processor's
cache.
"""


def _scaled_last(
    pixels: np.ndarray, valid: np.ndarray, normalisation: tuple[tuple[float, float], ...]
) -> Tensor:
    """(B, H, W) -> (1, B, H, W): the same values, the bands of a pixel side by side in memory.

    Written into that order at once: torch takes twice as long to bring whole tiles into it as all the rest
    of this takes (measured).
    """
    import torch

    bands, height, width = pixels.shape
    if bands == 1:  # both orders are one, and torch tells them apart by strides alone
        return torch.from_numpy(_scaled(pixels, valid, normalisation)[None])
    made = np.empty((1, height, width, bands), np.float32).transpose(0, 3, 1, 2)
    for top in range(0, height, SCALED_ROWS):
        rows = slice(top, top + SCALED_ROWS)
        for into, band in zip(made[0, :, rows], _scaled(pixels[:, rows], valid[rows], normalisation)):
            into[...] = band
    return torch.from_numpy(made)


@dataclass(frozen=True)
class Member:
    """One network of an ensemble: its checkpoint, and the engine that runs it."""

    checkpoint: Checkpoint
    engine: Engine


@dataclass(frozen=True, repr=False)
class Scorer:
    """One checkpoint ready for inference, or an ensemble of several whose probabilities are averaged."""

    members: tuple[Member, ...]
    """All have the same bands and classes, and their engines one device and precision."""
    protocol: Protocol = Protocol()
    groups: tuple[int, ...] = ()
    """Where more than one task is predicted at once: how many of the K classes are the first's, how many the
    second's, and the channels of the distance from training. The probabilities of each add up to 1.
    """

    unfamiliar: bool = False
    """Is the last of the groups the distance from training?"""

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
        *,
        device: str = "auto",
        precision: str = "32",
        protocol: Protocol = Protocol(),
        both: bool = False,
        unfamiliar: bool = False,
    ) -> Scorer:
        """Load one checkpoint or several; `both` predicts their second tasks too (`second_task` says whether
        they have one), `unfamiliar` the distance of their features as a last group of two channels. Raises
        BadFile as `load`, and where features of training are not known; BadOption for an unknown device or
        precision, BadInput where several checkpoints differ in bands or classes.
        """
        checkpoints = load_all(checkpoint)
        _check_agreement(checkpoints)
        how = {"device": device, "precision": precision, "both": both, "unfamiliar": unfamiliar}
        members = (Member(c, _engine_class(c).of(c, **how)) for c in checkpoints)
        first = checkpoints[0]
        groups = (len(first.legend),) if both or unfamiliar else ()
        groups += ((len(first.mate.legend),) if both else ()) + ((CHANNELS,) if unfamiliar else ())
        return cls(tuple(members), protocol, groups, unfamiliar)

    @property
    def checkpoint(self) -> Checkpoint:
        """The first member's: its bands, classes and contract hold for all."""
        return self.members[0].checkpoint

    @property
    def classes(self) -> int:
        """K: how many classes it predicts, over both tasks where these are predicted at once."""
        return sum(self.groups) or len(self.checkpoint.legend)

    @property
    def device(self) -> torch.device | Processor:
        return self.members[0].engine.device

    @property
    def dtype(self) -> torch.dtype | None:
        return self.members[0].engine.dtype

    @property
    def engine(self) -> str:
        """Name of the engine, one for all members."""
        return self.members[0].engine.name

    @property
    def reach(self) -> int | None:
        """How far, in pixels of the scene, a prediction depends on the image; None where it depends on the
        whole tile.
        """
        reaches = [member.engine.reach for member in self.members]
        # In pixels of the scene it is another one at every scale.
        return None if None in reaches or self.protocol.scales != (1.0,) else max(reaches)

    @property
    def at_one_scale(self) -> Scorer:
        """The same networks on images as they are: scenes are scaled before they are cut into tiles."""
        return replace(self, protocol=replace(self.protocol, scales=(1.0,)))

    @property
    def stride(self) -> int:
        return math.lcm(*(member.engine.stride for member in self.members))

    def __repr__(self) -> str:
        names = ", ".join(member.checkpoint.network for member in self.members)
        return f"<Scorer of {names} on {self.device}: {self.protocol}>"

    @property
    def needs_torch(self) -> bool:
        """Are its images and logits tensors of torch? Those of exported models alone are NumPy's."""
        return not all(isinstance(member.engine, ExportedEngine) for member in self.members)

    def prepare(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> list[Array]:
        """(B, H, W) in the scene's units, valid (H, W) bool -> (1, B, H, W) float32 on the CPU for each
        member, as its network reads it.
        """
        if pixels.ndim != 3 or len(pixels) != len(self.checkpoint.bands):
            bands = " ".join(self.checkpoint.bands)
            raise BadInput(
                f"The pixels have shape {pixels.shape}; this network reads ({len(self.checkpoint.bands)}, "
                f"H, W): the bands {bands}."
            )
        valid = _all_finite(pixels) if valid is None else valid
        scalings = [member.checkpoint.contract.normalisation for member in self.members]
        as_read = _scaled_last if self.needs_torch else lambda *image: _scaled(*image)[None]
        # Members of one scaling share the image: a tile of many bands is large.
        made = {scaling: as_read(pixels, valid, scaling) for scaling in dict.fromkeys(scalings)}
        return [made[scaling] for scaling in scalings]

    @without_gradients()
    def logits(self, images: Sequence[Array]) -> Array:
        """What `prepare` gave -> (K, H, W) scores whose softmax is the prediction, on the scorer's device.

        One pass of one network: its logits over its temperature. Several: the logarithm of the mean
        probability.
        """
        return self.batch_logits(images)[0]

    @without_gradients()
    def batch_logits(self, images: Sequence[Array]) -> Array:
        """The same for several tiles of one shape: (N, B, H, W) for each member -> (N, K, H, W)."""
        how = self.protocol, self.groups, self.unfamiliar
        each = (_member_logits(m, i, *how) for m, i in zip(self.members, images))
        if len(self.members) == 1:
            found = next(each)
        else:
            total = sum(softmax(_as_float32(logits), 1, self.groups) for logits in each)
            found = back_to_logits(total / len(self.members))
        # One pass instead of five over all logits. Where their sum alone is not finite, each is looked at.
        library = library_of(found)
        if not library.isfinite(_sum(found)) and not library.isfinite(found).all():
            raise BadInput(self._not_finite(images))
        return found

    def _not_finite(self, images: Sequence[Array]) -> str:
        """Why scores are no numbers; mapped all the same, they would be the first class everywhere."""
        most = max(float(abs(image).max()) for image in images)
        where = f"its input lies up to {most:.3g} standard deviations from the training's mean"
        half = self.dtype is not None and str(self.dtype) != "torch.float32"
        cure = "Map with `precision=32`" if half else "Declare what is no measurement with `nodata`"
        if most < 1e4 and not half:
            cure = "Its weights or statistics are damaged: train or download it again"
        return (
            f"The network {self.checkpoint.network} gives scores that are no finite numbers; {where}. {cure}."
        )

    def score(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> Array:
        """(B, H, W) in the scene's units, valid (H, W) bool -> (K, H, W) float32 class probabilities on
        the CPU.
        """
        return soften(self.logits(self.prepare(pixels, valid)), self.groups)


def _engine_class(checkpoint: Checkpoint) -> type:
    if checkpoint.exported is not None:
        return ExportedEngine
    # Here, not above: exported models are mapped where torch is not installed.
    try:
        with importing():
            from labelscape.scoring.engines import TorchEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BadOption(
            "A checkpoint needs PyTorch, which is not installed: pip install torch, or export it where it is "
            "(labelscape export --to onnx) and pass the .onnx file."
        ) from error
    return TorchEngine


def _as_float32(values: Array) -> Array:
    return values.astype(np.float32, copy=False) if isinstance(values, np.ndarray) else values.float()


def _sum(values: Array) -> Array:
    """In float32, also of half precision."""
    # An overflow is what is looked for.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.sum(dtype=library_of(values).float32)


def calibrated(
    logits: Array, checkpoint: Checkpoint, groups: tuple[int, ...], unfamiliar: bool = False
) -> Array:
    """(N, K, H, W) logits over the temperature, with `groups` each task's over its own; a last group that is
    `unfamiliar` stays as it is.
    """
    if not groups:
        return logits if checkpoint.temperature == 1 else logits / checkpoint.temperature
    temperatures = [checkpoint.temperature]
    if len(groups) - unfamiliar > 1:
        temperatures.append(checkpoint.mate.temperature)
    if all(t == 1 for t in temperatures):
        return logits
    # A distance is no confidence.
    temperatures += [1.0] * unfamiliar
    parts = zip(parts_of(logits, groups, 1), temperatures)
    return library_of(logits).concatenate([part / t for part, t in parts], 1)


def _check_agreement(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises BadInput where checkpoints to be averaged differ in bands or classes, or there is none."""
    if not checkpoints:
        raise BadInput("No checkpoint is given: an empty list. Pass one checkpoint or several.")
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for what, one, two in (
            ("bands", first.bands, other.bands),
            ("classes", first.legend.names, other.legend.names),
        ):
            # Probabilities are averaged by position: the same classes in another order would be mixed up.
            if list(one) != list(two):
                raise BadInput(
                    f"Models that are averaged need the same {what}; the first has {' '.join(one)}, "
                    f"another {' '.join(two)}."
                )


def second_task(checkpoints: Sequence[Checkpoint]) -> SecondTask | None:
    """The second task that all of them learned, of one name and the same classes: that of the first; None
    where there is none.
    """
    tasks = [one.mate for one in checkpoints]
    if None in tasks or len({(task.name, *task.legend.names) for task in tasks}) > 1:
        return None
    return tasks[0]


def _member_logits(
    member: Member, image: Array, protocol: Protocol, groups: tuple[int, ...] = (), unfamiliar: bool = False
) -> Array:
    """(N, B, H, W) -> (N, K, H, W): all scales and augmentations of one network, averaged."""
    engine, checkpoint = member.engine, member.checkpoint
    if not isinstance(engine, ExportedEngine):
        image = image.to(engine.device)
    if protocol.passes == 1 and protocol.scales == (1.0,):
        return calibrated(engine.forward(image), checkpoint, groups, unfamiliar)
    total = None  # one running sum, whatever the number of passes
    for scale in protocol.scales:
        # Once for all augmentations of this scale.
        scaled = _at_scale(image, scale)
        for which in SYMMETRIES[protocol.tta]:
            logits = _as_float32(turned_back(engine.forward(turned(scaled, which)), which))
            logits = calibrated(logits, checkpoint, groups, unfamiliar)
            if scale != 1:
                logits = resized(logits, image.shape[-2:])
            answer = logits if protocol.average == "logits" else softmax(logits, 1, groups)
            if total is None:
                total = answer
            else:
                total += answer
    mean = total / protocol.passes
    return mean if protocol.average == "logits" else back_to_logits(mean)


def _at_scale(image: Array, scale: float) -> Array:
    """Resized by `scale`; with antialiasing when reducing."""
    if scale == 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    return resized(image, (height, width), antialias=scale < 1)


def predict(
    checkpoint: Checkpoint | str | Path | Scorer,
    pixels: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    task: str | None = None,
) -> np.ndarray:
    """(B, H, W) array in the scene's own units -> (K, H, W) float32 probabilities, any H and W.

    `task` is the name of a second task, whose classes are returned instead (pixels scaled as its training
    images were). `valid` (H, W) marks the pixels that hold a measurement; where it is not given, all finite
    pixels do. Raises WrongType for a path or another value that is no array of three dimensions.
    """
    _check_pixels(pixels)
    if isinstance(checkpoint, Scorer):
        scorer = checkpoint
    else:
        scorer = Scorer.of([one.task(task) for one in load_all(checkpoint)])
    # A masked array loses its mask here: `valid` says which pixels count.
    return as_numpy(scorer.score(np.asarray(pixels), valid))


def _check_pixels(pixels: object) -> None:
    wanted = "predict takes an array of pixels (bands, rows, columns)"
    if isinstance(pixels, (str, os.PathLike)):
        raise WrongType(
            f"{wanted}, and found the path {os.fspath(pixels)!r}. Read it (with labelscape.Scene(path) as "
            "scene: pixels = scene.read().pixels), or map the file with labelscape.map_scene."
        )
    if np.ndim(pixels) != 3:
        kind = type(pixels).__name__
        raise WrongType(f"{wanted}, and found a {kind} of shape {np.shape(pixels)}.")


def _all_finite(pixels: np.ndarray) -> np.ndarray:
    return measured(pixels, (None,) * len(pixels))
