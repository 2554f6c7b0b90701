"""What an exported network says of itself beyond a checkpoint's description: how its input is scaled, which
sizes it takes, how its tiles are cut. Written by `export`, read wherever such a file is mapped with.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from labelscape.errors import BadFile, first_line, refused_setting
from labelscape.exported_formats import GRAPH, KINDS, TITLES, Shapes, read_onnx, read_openvino, read_pt2
from labelscape.text import printable

FORMAT = "labelscape-export-1"
HEADER, FACTS = "labelscape", "labelscape_export"
"""Keys of the metadata: a checkpoint's description, and `Facts`."""
SCALINGS = ("inside", "outside", "unit")
"""What the graph reads. inside: the scene's own units; outside: (value - mean) / std, computed by whoever
runs it; unit: values divided by 255, which is what QGIS Deepness and GeoDeep give 8-bit images as.
"""
READS = {
    "inside": "values as the scene has them",
    "outside": "(value - mean) / deviation",
    "unit": "8-bit values over 255",
}
"""The same in words."""
Positive = Annotated[int, Field(gt=0, le=2**40)]


class _Schema(BaseModel):
    """A stranger's file is checked before any of it is used."""

    format: Literal["labelscape-export-1"]
    normalise: Literal["inside", "outside", "unit"]
    dtype: Literal["float32", "float16", "int8"]
    size: Positive | None
    stride: Positive
    reach: Annotated[int, Field(ge=0)] | None
    memory: Annotated[list[tuple[Positive, Positive]], Field(min_length=1, max_length=100)]
    sha256: str
    check: dict[str, Any] | None = None
    pads_to: Positive | None = None


@dataclass(frozen=True)
class Facts:
    """normalise  one of SCALINGS
    dtype      of the weights and of the computation; input and output are float32
    size       rows and columns of every image; None where any multiple of the stride may be given
    stride     rows and columns are multiples of it
    reach      how far, in pixels, a score depends on the image; None where it depends on all of it
    memory     (pixels of all images of a batch, bytes that torch needs for them), ascending: tiles are
               planned by it as the checkpoint's are
    sha256     fingerprint of the checkpoint it was made of
    check      of a network in int8 its scores beside float32 (`export.int8.Check`); else None
    pads_to    rows and columns to a multiple of which images of any size are padded, as in torch; None where
               that is the stride
    """

    normalise: str
    dtype: str
    size: int | None
    stride: int
    reach: int | None
    memory: tuple[tuple[int, int], ...]
    sha256: str
    check: Mapping[str, Any] | None = None
    pads_to: int | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        fields = asdict(self)
        # Left out where there is none: the same network in float32 gives the same file as before.
        for name in ("check", "pads_to"):
            if fields[name] is None:
                del fields[name]
        return {"format": FORMAT, **fields, "memory": [list(pair) for pair in self.memory]}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Facts:
        """The inverse of `describe`. Raises ValueError with a sentence for what is none."""
        try:
            found = _Schema.model_validate(fields)
        except ValidationError as error:
            raise ValueError(refused_setting(error.errors(include_url=False)[0]).rstrip(".")) from None
        values = found.model_dump(exclude={"format"})
        return cls(**{**values, "memory": tuple(sorted(map(tuple, values["memory"])))})

    @property
    def images(self) -> str:
        """The sizes that it takes, in words."""
        if self.size is None:
            return f"any multiple of {self.stride} pixels"
        return f"{self.size} x {self.size} pixels"

    def peak_bytes(self, pixels: int) -> int:
        """Memory for so many pixels at once: between two that were computed on the line through both."""
        known = [pair[0] for pair in self.memory]
        if len(known) == 1:
            return self.memory[0][1] * max(1, pixels) // known[0]
        place = min(max(1, bisect.bisect_left(known, pixels)), len(known) - 1)
        (x0, y0), (x1, y1) = self.memory[place - 1], self.memory[place]
        return max(1, y0 + (y1 - y0) * (pixels - x0) // (x1 - x0))


@dataclass(frozen=True, eq=False)
class ExportedNetwork:
    """A file that `export` wrote, as a checkpoint holds it in place of weights.

    sha256   of the file that is named; an OpenVINO model's says that of its weights
    kind     its format, one of the values of `KINDS`
    weights  of an OpenVINO model, which lie in a file of their own
    temperature  by which its probabilities are calibrated already
    others   of an ONNX file, the metadata for other programs (QGIS Deepness, GeoDeep), JSON under their names
    """

    facts: Facts
    sha256: str
    model: bytes = field(repr=False)
    kind: str = "onnx"
    weights: bytes = field(default=b"", repr=False)
    temperature: float = 1.0
    others: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """What it is, with its article."""
        return TITLES[self.kind]

    def describe(self) -> dict[str, Any]:
        """As JSON values: another file is another model."""
        return {**self.facts.describe(), "file": self.sha256}


def check_lines(check: Mapping[str, Any], why_drawn: str = "") -> list[str]:
    """A check of a network in int8 (`Facts.check`) for people; `why_drawn`: why its training data could not
    be opened. Raises KeyError, TypeError or ValueError for what is none.
    """
    equal = f"{100 * check['equal']:.2f} % of {check['pixels']:,} pixels get the class of float32"
    if not check["float32"]:
        why = f" ({why_drawn})" if why_drawn else ""
        return [
            f"{equal}, on images drawn from the statistics of the training data: no score on real pixels "
            f"could be measured{why}"
        ]
    rows = [
        f"{name:<8} mIoU {100 * check[name]['mean_iou']:.2f} %, OA "
        f"{100 * check[name]['overall_accuracy']:.2f} %"
        for name in ("float32", "int8")
    ]
    return [f"on the held-out {printable(check['images'])} part of its training data:", *rows, equal]


def read_exported(path: Path) -> tuple[dict[str, Any], ExportedNetwork]:
    """The description of the checkpoint that such a file was made of, unchecked, and the network. Raises
    BadFile for another file, BadOption where the library of its format is not installed.
    """
    kind, weights = KINDS[path.suffix.lower()], b""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror or error}).") from error
    if kind == "openvino":
        meta, shapes, weights = read_openvino(path, model, (HEADER, FACTS))
    elif kind == "pt2":
        meta, shapes = read_pt2(path, model, (HEADER, FACTS))
    else:
        meta, shapes = read_onnx(path, model)
    if not {HEADER, FACTS} <= meta.keys():
        raise BadFile(
            f"{path} is {TITLES[kind]} without Labelscape's description: only files of `labelscape export` "
            "can be mapped with, since classes, bands and scaling are not known of others."
        )
    try:
        fields, facts = json.loads(meta[HEADER]), Facts.from_dict(json.loads(meta[FACTS]))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} has a damaged description ({first_line(error)}).") from error
    if shapes is not None:
        _refuse_other_graph(path, shapes, fields, facts)
    others = {key: meta[key] for key in sorted(meta.keys() - {HEADER, FACTS, GRAPH})}
    digest = hashlib.sha256(model).hexdigest()
    return fields, ExportedNetwork(facts, digest, model, kind, weights, others=others)


def _refuse_other_graph(path: Path, shapes: Shapes, fields: Any, facts: Facts) -> None:
    """Raises BadFile where a graph is not that of the description beside it: a class more would be mapped
    under a name that it does not have.
    """
    try:
        bands, classes = len(fields["bands"]), len(fields["legend"])
    except (KeyError, TypeError):
        return  # damaged, which is told with the rest of the description
    for what, found, channels in (("takes", shapes[0], bands), ("gives", shapes[1], classes)):
        wanted = (None, channels, facts.size, facts.size)
        # Dimensions that are computed are stated nowhere.
        if len(found) != 1 or len(found[0]) != 4 or any(a and b and a != b for a, b in zip(found[0], wanted)):
            sides = "any" if facts.size is None else facts.size
            raise BadFile(
                f"{path} is not the model that its description tells of: its graph {what} "
                f"{' and '.join(map(_in_words, found)) or 'nothing'}, and by the description "
                f"{_in_words((None, channels, sides, sides))}. Export it again."
            )


def _in_words(shape: Sequence[object]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
