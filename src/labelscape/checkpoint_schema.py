"""What the description in a checkpoint may hold, as one schema: a stranger's file is checked before any of it
is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from labelscape.contract.bands import QUANTILES
from labelscape.errors import refused_setting
from labelscape.text import is_printable_name

DEEPEST = 50
"""Levels of lists and mappings (ours); descriptions have up to seven."""
USUAL_SIZE = 4096
"""Numbers in a network's options that need no weights to be plausible (ours)."""


def _name(text: str) -> str:
    # Names reach terminals, XML and HTML: escape sequences and marks that turn text around are refused.
    if not text.strip() or not is_printable_name(text):
        raise ValueError("a name of visible characters was expected")
    return text


def _data_type(name: str) -> str:
    try:
        kind = np.dtype(name).kind
    except TypeError:
        kind = ""
    # NumPy also knows objects, dates and complex numbers, which no scene is read as.
    if kind not in ("u", "i", "f"):
        raise ValueError("the name of a type of numbers was expected, such as uint16")
    return name


def _float32(value: float) -> float:
    # `not <=` refuses NaN too; beyond float32 the network would compute with infinity.
    if not abs(value) <= np.finfo(np.float32).max:
        raise ValueError("a finite number was expected")
    return value


# A name of a megabyte would stand in every legend, table and message.
Name = Annotated[str, Field(max_length=500), AfterValidator(_name)]
Finite = Annotated[float, AfterValidator(_float32)]
# None: a score that is undefined, since JSON has no NaN.
Fraction = float | None
# JSON has no true and false among its numbers, Python has.
Whole = Annotated[int, BeforeValidator(lambda v: "" if isinstance(v, bool) else v), Field(strict=True)]
Colour = Annotated[Whole, Field(ge=0, le=255)]


class _Open(BaseModel):
    """Fields that are not named here may hold anything: other versions have others."""

    model_config = ConfigDict(extra="allow")


class _Class(BaseModel):
    # 255 is nodata in every map.
    value: Annotated[Whole, Field(ge=0, le=254)]
    name: Name
    color: tuple[Colour, Colour, Colour]
    description: str = ""


class _Statistics(BaseModel):
    name: Name
    mean: Finite
    std: Annotated[Finite, Field(ge=0)]
    min: Finite
    max: Finite
    quantiles: Annotated[list[Finite], Field(min_length=len(QUANTILES), max_length=len(QUANTILES))]


class _Colours(BaseModel):
    floor: Finite
    weights: list[Finite]
    means: list[list[Finite]]
    covariances: list[list[list[Finite]]]
    limits: list[Finite] = []

    def check(self, bands: int) -> None:
        count, pairs = len(self.weights), len(list(itertools.combinations(range(bands), 2)))
        shapes = np.shape(self.means), np.shape(self.covariances)
        if shapes != ((count, bands), (count, bands, bands)) or len(self.limits) not in (0, pairs):
            raise ValueError(f"`colours` do not fit {bands} bands")
        try:
            # Distances of colours are computed with this factor: the first map would fail without it.
            np.linalg.cholesky(np.array(self.covariances))
        except np.linalg.LinAlgError as error:
            raise ValueError("`colours` have covariances that no data can have") from error


class _Data(_Open):
    images: list[str | list[str]] | None = None
    dataset: str | None = None
    split: str | None = None


class _Recipe(_Open):
    data: _Data | None = None
    steps: int | None = None
    start: str | None = None
    imported_from: str | None = None


class _ClassScores(_Open):
    name: str
    support: Annotated[Whole, Field(ge=0)] | None = None
    iou: Fraction = None
    f1: Fraction = None
    precision: Fraction = None
    recall: Fraction = None


class _Confusion(_Open):
    counts: list[list[Annotated[Whole, Field(ge=0)]]]
    unpredicted: list[Annotated[Whole, Field(ge=0)]] = []


class _Scores(_Open):
    overall_accuracy: Fraction = None
    mean_iou: Fraction = None
    mean_f1: Fraction = None
    mean_accuracy: Fraction = None
    frequency_weighted_iou: Fraction = None
    kappa: Fraction = None
    labelled_pixels: Annotated[Whole, Field(ge=0)] | None = None
    classes: list[_ClassScores] = []
    confusion: _Confusion | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Scores:
        if self.confusion is not None:
            counts = self.confusion.counts
            # Reports write the names of `classes` beside the rows, in order.
            if {len(self.classes)} != {len(counts), *map(len, counts)}:
                raise ValueError("a confusion matrix must have a row and a column for each class")
            if len(self.confusion.unpredicted) not in (0, len(counts)):
                raise ValueError("unpredicted pixels must be given for each class")
        return self


class _Step(_Open):
    step: Whole
    loss: Fraction = None
    rate: Fraction = None
    val_miou: Fraction = None


class _TileSizes(_Open):
    """Checked by `TileSizes` itself."""


class _Familiarity(_Open):
    """Checked by `Familiarity` itself."""


Classes = Annotated[list[_Class], Field(min_length=1)]
Temperature = Annotated[Finite, Field(gt=0)]


class _Imagery(_Open):
    """A contract, as `Contract.describe` writes it."""

    bands: Annotated[list[Name], Field(min_length=1)]
    dtype: Annotated[str, AfterValidator(_data_type)]
    normalisation: list[tuple[Finite, Annotated[Finite, Field(ge=0)]]]
    statistics: list[_Statistics] = []
    colours: _Colours | None = None
    units: list[tuple[Finite, Finite]] = []
    pixel_size: Annotated[Finite, Field(gt=0)] | None = None
    nodata: float | None = None
    crs_kind: Literal["projected", "geographic", "none"] = "none"

    @model_validator(mode="after")
    def _fits(self) -> _Imagery:
        bands = len(self.bands)
        # Without its scaling a network cannot be run; without the other two a scene is compared with less.
        for name, values, none in (
            ("pairs of mean and standard deviation", self.normalisation, bands),
            ("statistics", self.statistics, 0),
            ("units", self.units, 0),
        ):
            if len(values) not in (bands, none):
                raise ValueError(f"{bands} bands, {len(values)} {name}")
        # A scene's bands are found by name.
        if len(set(self.bands)) < bands:
            raise ValueError("two bands have one name")
        # Conversion from a scene's units divides by the scale.
        if any(scale == 0 for scale, _ in self.units):
            raise ValueError("`units` have the scale 0")
        if self.colours is not None:
            self.colours.check(bands)
        return self


class _SecondTask(_Open):
    name: Name
    legend: Classes
    contract: _Imagery
    scores: dict[str, _Scores]
    temperature: Temperature


class _Corrected(_Open):
    file: Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    polygons: Annotated[Whole, Field(ge=0)]
    pixels: Annotated[Whole, Field(ge=0)]
    changed: Annotated[Whole, Field(ge=0)]


class _Description(_Imagery):
    """The contract lies flat among the other fields."""

    network: Name
    options: dict[str, Any]
    legend: Classes
    recipe: _Recipe
    scores: dict[str, _Scores]
    history: list[_Step]
    temperature: Temperature = 1.0
    tile_sizes: _TileSizes | None = None
    familiarity: _Familiarity | None = None
    second_task: _SecondTask | None = None
    corrections: list[_Corrected] = []


def check_description(fields: object) -> None:
    """Raises ValueError with a sentence where fields cannot be the description of a checkpoint: a type, a
    number out of range, lists whose lengths do not fit together.
    """
    if not isinstance(fields, dict):
        raise ValueError("a mapping was expected")
    # First, since whatever walks the fields afterwards recurses, and a deep file would exhaust the stack.
    _check_depth(fields, DEEPEST)
    try:
        _Description.model_validate(fields)
    except ValidationError as error:
        raise ValueError(_in_words(error.errors(include_url=False)[0])) from None


def check_options(options: Mapping[str, Any], weights: int) -> None:
    """Raises ValueError where an option holds a number for which a file with so many weights is too small: a
    width or a depth of n needs n weights, and building such a network could take all memory.
    """
    most = max(weights, USUAL_SIZE)
    waiting: list[Any] = list(options.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            # A list may stand for a layer each, however small its numbers.
            if len(value) > USUAL_SIZE:
                raise ValueError(f"`options` hold a list of {len(value)} values")
            waiting += value
        # `not <=`: NaN is no width either.
        elif isinstance(value, (int, float)) and not abs(value) <= most:
            raise ValueError(f"`options` hold the number {value:g}, and the file {weights} weights")


def _check_depth(value: object, left: int) -> None:
    if left < 0:
        raise ValueError("lists in lists, too deep")
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, (dict, list)):
                _check_depth(one, left - 1)


def _in_words(problem: Mapping[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "value_error":
        said = str(problem["ctx"]["error"])
        return f"`{where}`: {said}" if where else said
    if problem["type"] in ("too_short", "too_long", "string_too_long"):
        return f"`{where}`: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    return refused_setting(problem).rstrip(".")
