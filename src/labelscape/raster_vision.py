"""Bundles of Raster Vision (https://docs.rastervision.io), read without that library
and without running any code: classes, colours, statistics of bands, backbone, and the bytes of the weights.

`bundle/model-bundle.zip` of a pipeline holds `pipeline-config.json`, the statistics, and the bundle of the
training, `train/model-bundle.zip`, with `learner-config.json` and `model.pth`. Either is read.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from labelscape.errors import BadFile, BadInput, first_line
from labelscape.mistaken import DAMAGED_ZIP
from labelscape.text import printable

INNER, PIPELINE, LEARNER = "model-bundle.zip", "pipeline-config.json", "learner-config.json"
WEIGHTS = "model.pth"
LARGEST_JSON, LARGEST_WEIGHTS = 50_000_000, 8_000_000_000
"""Bytes (ours): a small archive may say that it unpacks to any size."""
STATISTICS = ("analyze/stats/train_scenes/stats.json", "stats.json")
"""Of the training scenes; older versions have them at the top."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle says of its model.

    classes      name and colour of each class, in the order of its values; no colour where it is unknown
    null         name of the class of pixels without a label, or ""
    task         such as "semantic_segmentation"
    backbone     such as "resnet50"; "" where the network is defined by code in the bundle
    means, stds  of the bands in the order in which the network reads them; empty where there are none
    channels     number of bands that the network reads; None where it is not known
    order        places of those bands in a scene, from 0; empty where they are all of them
    has_weights  is there a `model.pth`?
    """

    path: str
    classes: tuple[tuple[str, tuple[int, int, int] | None], ...]
    null: str
    task: str
    backbone: str
    means: tuple[float, ...]
    stds: tuple[float, ...]
    channels: int | None
    order: tuple[int, ...]
    has_weights: bool

    @property
    def scaling(self) -> str:
        """How the images were scaled that its weights learned from."""
        if not self.means:
            return "8-bit values over 255 (no statistics are in the bundle)"
        pairs = ", ".join(f"{mean:.6g} ({std:.6g})" for mean, std in zip(self.means, self.stds, strict=True))
        return (
            f"(value - mean) / (6 x deviation) + 0.5, cut to 0 and 1, with the means (deviations) {pairs}; "
            "8-bit images were only divided by 255"
        )

    def pairs(self, dtype: str, bands: int) -> tuple[tuple[float, float], ...]:
        """(mean, deviation) of so many bands by which scenes of this type are scaled as those that its
        weights learned from: `scaling` without the cut. Empty where it has no statistics.
        """
        if dtype == "uint8":
            return ((0.0, 255.0),) * bands
        # (v - m) / 6 d + 1 / 2 = (v - (m - 3 d)) / 6 d
        return tuple((mean - 3 * std, 6 * std) for mean, std in zip(self.means, self.stds, strict=True))


def is_bundle(path: str | Path) -> bool:
    """Is it an archive with the settings of a pipeline or a training of Raster Vision?"""
    try:
        # Not by `is_zipfile`, which looks at the end of a file alone: its list of members may be damaged.
        with zipfile.ZipFile(path) as archive:
            return not {PIPELINE, LEARNER}.isdisjoint(archive.namelist())
    except (*DAMAGED_ZIP, ValueError):
        return False


def read_bundle(path: str | Path) -> Bundle:
    """Everything but the weights. Raises BadFile where it is none or damaged."""
    with _opened(path) as (outer, inner):
        # In older versions the training's settings are a part of its own pipeline-config.json.
        pipeline, inside = (_json(path, where, PIPELINE) for where in (outer, inner))
        learner = _json(path, inner, LEARNER) or inside.get("learner") or {}
        stats = next(filter(None, (_json(path, outer, name) for name in STATISTICS)), {})
        try:
            return _bundle(path, pipeline, learner, stats, WEIGHTS in inner.namelist())
        # OverflowError: JSON has numbers beyond a float, and infinite ones.
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise BadFile(f"{path} has damaged settings ({printable(first_line(error))}).") from error


def weights_in(path: str | Path) -> IO[bytes]:
    """The bytes of `model.pth`, unread: a pickle, to be read as weights alone. Raises BadFile, BadInput where
    there are none.
    """
    with _opened(path) as (_, inner):
        if WEIGHTS not in inner.namelist():
            raise BadInput(
                f"{path} is a bundle of Raster Vision without {WEIGHTS}: there is nothing to start from."
            )
        return io.BytesIO(_content(path, inner, WEIGHTS, LARGEST_WEIGHTS))


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipFile]]:
    """The archive, and the one of the training inside it, or itself."""
    if not Path(path).is_file():
        raise BadFile(f"{path} does not exist.")
    try:
        with zipfile.ZipFile(path) as outer:
            if {PIPELINE, LEARNER}.isdisjoint(outer.namelist()):
                raise BadFile(
                    f"{path} is no bundle of Raster Vision: it holds neither {PIPELINE} nor {LEARNER}."
                )
            if INNER not in outer.namelist():
                yield outer, outer
                return
            with outer.open(INNER) as file, zipfile.ZipFile(file) as inner:
                yield outer, inner
    except BadFile:
        raise
    except DAMAGED_ZIP as error:
        raise BadFile(f"{path} is damaged ({first_line(error)}).") from error


def _content(path: str | Path, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as file:
        # Not by the size that the archive states: it may lie.
        content = file.read(most + 1)
    if len(content) > most:
        raise BadFile(f"{path} holds a {name} of more than {most:,} bytes, which is not read.")
    return content


def _json(path: str | Path, archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """The object in a member; empty where there is no such member."""
    if name not in archive.namelist():
        return {}
    try:
        found = json.loads(_content(path, archive, name, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} has a damaged {name} ({first_line(error)}).") from error
    if not isinstance(found, dict):
        raise BadFile(f"{path} has a damaged {name}: an object of settings was expected.")
    return found


def _bundle(
    path: str | Path,
    pipeline: Mapping[str, Any],
    learner: Mapping[str, Any],
    stats: Mapping[str, Any],
    has_weights: bool,
) -> Bundle:
    model, data = learner.get("model") or {}, learner.get("data") or {}
    model = model or (pipeline.get("backend") or {}).get("model") or {}
    dataset = pipeline.get("dataset") or {}
    classes = (
        dataset.get("class_config")
        or data.get("class_config")
        or {"names": data["class_names"], "colors": data.get("class_colors")}
    )
    scenes = [*(dataset.get("validation_scenes") or ()), *(dataset.get("train_scenes") or ())]
    order = next((((one.get("raster_source") or {}).get("channel_order")) for one in scenes), None) or ()
    means, stds = (tuple(float(value) for value in stats.get(key) or ()) for key in ("means", "stds"))
    if len(means) != len(stds) or not all(map(math.isfinite, (*means, *stds))):
        raise ValueError("the statistics of its bands are no numbers, or not as many means as deviations")
    order = tuple(int(place) for place in order)
    # Up to version 0.30 the statistics were those of all bands of a scene.
    if order and len(means) > len(order):
        means, stds = (tuple(values[place] for place in order) for values in (means, stds))
    names = [str(name) for name in classes["names"]]
    colors = list(classes.get("colors") or [None] * len(names))
    if not names or len(colors) != len(names):
        raise ValueError("it has no classes, or not as many colours")
    kind = str(model.get("type_hint") or pipeline.get("type_hint") or "")
    return Bundle(
        path=str(path),
        classes=tuple((name, _color(color)) for name, color in zip(names, colors, strict=True)),
        null=str(classes.get("null_class") or ""),
        task=kind.removesuffix("_model"),
        backbone="" if model.get("external_def") else str(model.get("backbone") or ""),
        means=means,
        stds=stds,
        channels=int(data["img_channels"]) if data.get("img_channels") else len(means) or len(order) or None,
        order=order,
        has_weights=has_weights,
    )


def _color(color: str | Sequence[int] | None) -> tuple[int, int, int] | None:
    """Names and #RRGGBB as Pillow has them, or three numbers; None for others."""
    from PIL import ImageColor

    try:
        values = ImageColor.getrgb(color) if isinstance(color, str) else tuple(int(v) for v in color or ())
    except (ValueError, TypeError, OverflowError):
        return None
    return tuple(values[:3]) if len(values) >= 3 and all(0 <= v <= 255 for v in values) else None
