"""All settings of a map as one frozen value, `MapRequest`; all invalid settings are reported at once."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from labelscape.areas.polygon_files import SUFFIXES
from labelscape.areas.sieve import check_minimum
from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadOption, UnknownName, WrongType, refused_setting
from labelscape.files import ADDED, name_fault, stem_of
from labelscape.rasters.creation import Given, as_texts
from labelscape.scenes.files import source_paths
from labelscape.scoring.devices import PRECISIONS, check_device
from labelscape.scoring.engine_choice import ENGINES
from labelscape.scoring.protocol import Protocol
from labelscape.scoring.tiles import BLENDS

Models = Checkpoint | str | Path | Sequence[Checkpoint | str | Path]
"""A checkpoint or its file, or several whose predictions are averaged."""


class Affects(Enum):
    """What a setting of a map affects. Finished tiles of an interrupted map are reused if and only if no
    setting that affects TILES has changed, and they hold all rasters that are asked for.
    """

    TILES = "the values of tiles"
    PLANES = "which rasters are kept for every tile"
    FILES = "which files are made of the tiles, and how"
    MACHINE = "where the work is done"


class MapSettings(TypedDict, total=False):
    """The settings of `map_scene` and `check`, for editors and type checkers; `MapRequest` documents
    them.
    """

    name: str | None
    task: str | None
    tile_size: int | None
    overlap: int | None
    blend: str | None
    tta: str
    scales: tuple[float, ...]
    average: str
    reject: float | None
    entropy: bool
    unfamiliar: bool
    proba: bool
    sieve: float
    polygons: bool
    polygons_as: str
    min_area: float
    simplify: float
    report: bool
    nodata: float | None
    band_names: tuple[str, ...] | None
    area: str | Path | None
    asset: str | None
    allow_remote: bool
    device: str
    precision: str
    engine: str
    force: bool
    creation_options: Given


class MapRequest(BaseModel):
    """Settings of a map. Attribute docstrings are the help text; make variants with `request.replace(...)`.

    Raises BadOption listing every problem; unknown names come with the nearest known one.
    """

    # "forbid": pydantic would drop a misspelt setting without a word.
    # Strict: a text that looks like a number is a mistake here, and "0.75,1" would not be one at all.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    checkpoint: Annotated[tuple[str, ...], Affects.TILES] = ()
    """Checkpoint files; the probabilities of several are averaged. Empty where they are in memory."""
    scene: Annotated[str | tuple[str, ...] | None, Affects.TILES] = None
    """File, folder, list of files or STAC item. None where the scene is in memory."""
    name: Annotated[str | None, Affects.FILES] = None
    """Stem of the map's file names; by default the scene's."""
    task: Annotated[str | None, Affects.TILES] = Field(None, exclude_if=lambda task: task is None)
    """Name of the second task, to map it alone, checked and scaled as its own training images; the name is
    then part of all file names. By default both tasks are mapped, with the scene scaled as the first one's
    images. (Not stored unless given: run files of maps of both stay the same.)
    """
    tile_size: Annotated[int | None, Affects.TILES] = Field(None, ge=1)
    """Side of a tile in pixels, overlap included; by default 2048 where tiles are exact, else the size that
    the network learned.
    """
    overlap: Annotated[int | None, Affects.TILES] = Field(None, ge=0)
    """Pixels that a tile sees beyond its core on each side; by default the network's reach where tiles are
    exact, else an eighth of their side, at most 64.
    """
    blend: Annotated[str | None, Affects.TILES] = None
    """hann: neighbouring tiles are blended; crop: cut at their cores; none: no overlap. By default crop where
    that is exact, else hann.
    """
    tta: Annotated[str, Affects.TILES] = "none"
    """Test-time augmentation: none, mirror (left-right), flips (4 images) or dihedral (8)."""
    scales: Annotated[tuple[float, ...], Affects.TILES] = (1.0,)
    """Multi-scale inference: factors by which the image is resized."""
    average: Annotated[str, Affects.TILES] = "probabilities"
    """How augmented predictions are averaged: as probabilities or logits."""
    reject: Annotated[float | None, Affects.TILES] = None
    """Confidence (0..1) below which a pixel becomes the class "unknown", which is added to the legend."""
    entropy: Annotated[bool, Affects.PLANES] = False
    """Also write the entropy of the prediction: 0 (certain) to 100 (all classes alike), uint8."""
    unfamiliar: Annotated[bool, Affects.PLANES] = False
    """Also write how far the network's features are from those of its training data: 100 is the distance
    within which 99 % of held-out training pixels lie, uint8.
    """
    proba: Annotated[bool, Affects.PLANES] = False
    """Also write the probability of every class: one uint8 band each, scale 1/250."""
    sieve: Annotated[float, Affects.FILES] = 0.0
    """Minimum mapping unit in hectares (pixels without coordinates): also write the map with all smaller
    areas merged into a neighbour, and make the polygons of it. The class raster and the reported areas stay
    those of the network.
    """
    polygons: Annotated[bool, Affects.FILES] = True
    """Write the map as polygons too."""
    polygons_as: Annotated[str, Affects.FILES] = "gpkg"
    """Format of the polygons: gpkg, geojson, fgb or parquet."""
    min_area: Annotated[float, Affects.FILES] = Field(0.0, ge=0, allow_inf_nan=False)
    """Hectares below which a polygon is dropped, leaving a gap; the raster keeps it."""
    simplify: Annotated[float, Affects.FILES] = Field(0.0, ge=0, allow_inf_nan=False)
    """Metres (pixels without coordinates) by which polygon borders may be smoothed."""
    report: Annotated[bool, Affects.FILES] = True
    """Write the HTML report."""
    nodata: Annotated[float | None, Affects.TILES] = None
    """Nodata value of the scene, where its files do not declare it."""
    band_names: Annotated[tuple[str, ...] | None, Affects.TILES] = None
    """Names of all bands of each file in order, instead of those that the files have."""
    area: Annotated[str | None, Affects.TILES] = None
    """File of polygons in any CRS: only what lies in them is mapped, on a grid cut to them."""
    asset: Annotated[str | None, Affects.TILES] = None
    """Of STAC items the asset of this key or role, such as visual, instead of those with the role data;
    several separated by commas.
    """
    allow_remote: Annotated[bool, Affects.MACHINE] = False
    """A STAC item may name files outside of its folder, or of its host."""
    device: Annotated[str, Affects.MACHINE] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Annotated[str, Affects.TILES] = "32"
    """32, bf16 or 16."""
    engine: Annotated[str, Affects.TILES] = Field("auto", exclude_if=lambda engine: engine == "auto")
    """auto, torch, openvino or onnxruntime: what runs the network. auto is torch unless another one is
    installed, gives the same on tiles of this size, and saves more than its conversion takes. (Not stored
    unless given; the engine that was used is a fact of the run.)
    """
    force: Annotated[bool, Affects.FILES] = False
    """Map a scene that `check` refuses; the findings stand in the run's notes and in the class raster's tag
    `labelscape_forced`.
    """
    creation_options: Annotated[Given, Affects.FILES] = Field((), exclude_if=lambda options: not options)
    """GDAL creation options of all rasters, {"COMPRESS": "LZW"} or ["COMPRESS=LZW"]: COMPRESS, LEVEL,
    PREDICTOR, BLOCKSIZE, BIGTIFF, OVERVIEWS, OVERVIEW_COUNT, NUM_THREADS. (Not stored unless given.)
    """

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            # `from None`: pydantic's own error repeats all of this in its own terms.
            raise _as_one(error) from None

    def replace(self, **changes: Any) -> MapRequest:
        """The same request with changes. Raises BadOption as `MapRequest` does."""
        # Not `model_copy`, which validates nothing.
        return MapRequest(**{**self.model_dump(), **changes})

    @property
    def protocol(self) -> Protocol:
        """Scales and test-time augmentation as one value."""
        return Protocol(self.scales, self.tta, self.average)

    @classmethod
    def fields_that(cls, affects: Affects) -> tuple[str, ...]:
        """Names of the settings that affect this."""
        # pydantic keeps in `metadata` what `Annotated` adds to a type.
        return tuple(name for name, about in cls.model_fields.items() if affects in about.metadata)

    @field_validator("checkpoint", "scales", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any, info: Any) -> Any:
        if info.field_name == "scales" and isinstance(value, str):
            raise BadOption(f"`scales={value!r}` must be a number or a list of them, such as (0.75, 1.0).")
        return (value,) if isinstance(value, (str, os.PathLike, int, float)) else value

    # Of validators of one kind pydantic runs the last first, and lists are made of plain values.
    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """Convert NumPy numbers, paths and lists of them to plain values."""
        return _text(value)

    @field_validator("creation_options", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> tuple[str, ...]:
        return as_texts(value)

    @field_validator("name")
    @classmethod
    def _stem(cls, name: str | None) -> str | None:
        if name is not None and (not name or Path(name).name != name or stem_of(name) != name):
            raise BadOption(
                f"The name {name!r} cannot start file names; give a name without folders (use `out`) and "
                "without characters that the system forbids."
            )
        if name is not None and (fault := name_fault(name, free=ADDED)):
            raise BadOption(f"The files of a map cannot start with this `name`: {fault}.")
        return name

    @field_validator("blend", "precision", "engine", "polygons_as")
    @classmethod
    def _known(cls, value: str | None, info: Any) -> str | None:
        formats = [suffix.removeprefix(".") for suffix in SUFFIXES]
        what, known = {
            "blend": ("way to join tiles (`blend`)", BLENDS),
            "precision": ("`precision`", PRECISIONS),
            "engine": ("`engine`", ENGINES),
            "polygons_as": ("format of polygons (`polygons_as`)", formats),
        }[info.field_name]
        if value is not None and value not in known:
            raise UnknownName(what, value, known)
        return value

    @field_validator("tta", "scales", "average")
    @classmethod
    def _in_a_protocol(cls, value: Any, info: Any) -> Any:
        # The protocol knows what is valid; each of its settings is tried with the defaults of the others.
        Protocol(**{info.field_name: value})
        return value

    @field_validator("reject")
    @classmethod
    def _confidence(cls, reject: float | None) -> float | None:
        if reject is not None and not 0 < reject < 1:
            raise BadOption(f"`reject={reject}` must be between 0 and 1.")
        return reject

    @field_validator("sieve")
    @classmethod
    def _mapping_unit(cls, sieve: float) -> float:
        if sieve:
            check_minimum(sieve)
        return sieve

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        """A device that this machine lacks is valid here: requests are also read on other machines."""
        check_device(device)
        return device


def request_for(
    checkpoint: Models | None,
    scene: object,
    request: MapRequest | None,
    protocol: Protocol | None,
    settings: Mapping[str, Any],
) -> MapRequest:
    """Build the request of `map_scene` or `check`; settings override those of the `request` given."""
    for what, given, kind in (("request", request, MapRequest), ("protocol", protocol, Protocol)):
        if given is not None and not isinstance(given, kind):
            raise WrongType(f"{what} must be a labelscape.{kind.__name__}; found a {type(given).__name__}.")
    changes = dict(settings)
    if protocol is not None:
        twice = [name for name in ("tta", "scales", "average") if name in changes]
        if twice:
            raise BadOption(f"protocol and {twice[0]} set the same thing; give one of them.")
        changes |= {"tta": protocol.tta, "scales": protocol.scales, "average": protocol.average}
    if checkpoint is not None:
        changes["checkpoint"] = files_of(checkpoint)
    if scene is not None:
        changes["scene"] = source_paths(scene)
    # Validated once, as a whole: all mistakes are reported together.
    made = MapRequest(**{**(request.model_dump() if request else {}), **changes})
    # Values in memory leave no path in the request, and are no lack.
    missing = ["checkpoint"] if checkpoint is None and not made.checkpoint else []
    missing += ["scene"] if scene is None and made.scene is None else []
    if missing:
        raise BadOption(f"A map needs a {' and a '.join(missing)}; the request has none.")
    return made


def files_of(checkpoint: Models) -> tuple[str, ...]:
    """Paths of the checkpoints; empty where one was made or changed in memory, since files alone could not
    repeat the map then.
    """
    several = (
        [checkpoint] if isinstance(checkpoint, str) or not isinstance(checkpoint, Sequence) else checkpoint
    )
    files = [one.stored and one.stored.path if isinstance(one, Checkpoint) else one for one in several]
    return tuple(map(str, files)) if all(isinstance(one, (str, os.PathLike)) for one in files) else ()


def _text(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_text, value)) if isinstance(value, (list, tuple)) else value


def _as_one(error: ValidationError) -> BadOption:
    """One error for all problems; a single problem is returned as it is."""
    problems = [_problem(found) for found in error.errors()]
    if len(problems) == 1:
        return problems[0]
    return BadOption("These settings are invalid:\n  - " + "\n  - ".join(map(str, problems)))


def _problem(found: ErrorDetails) -> BadOption:
    where = ".".join(str(part) for part in found["loc"])
    # pydantic says only that it is not permitted; a near name helps more.
    if found["type"] == "extra_forbidden":
        return UnknownName("setting of a map", where, MapRequest.model_fields)
    if found["type"] == "value_error":  # raised by a validator above: it has its message
        return found["ctx"]["error"]
    return BadOption(refused_setting(found))


SETTINGS_HERE = "{settings}"
"""Where a docstring gets the list of settings."""

Function = TypeVar("Function", bound=Callable[..., object])


def spelt_out(function: Function) -> Function:
    """Show the settings behind `**settings` in the function's signature, and explain them in its docstring:
    `help` and notebooks do not read `Unpack`.
    """
    own = inspect.signature(function)
    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=MapRequest.model_fields[name].default,
            annotation=annotation,
        )
        for name, annotation in get_type_hints(MapSettings).items()
    ]
    kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*kept, *settings])  # type: ignore[attr-defined]
    if function.__doc__:
        function.__doc__ = inspect.cleandoc(function.__doc__).replace(SETTINGS_HERE, settings_help())
    return function


def settings_help() -> str:
    """Every setting of a map with its meaning and default, as a list for docstrings."""
    meaning = _attribute_docstrings()
    # Cut to the width of a terminal, as the docstring itself is.
    return "\n".join(
        textwrap.fill(
            f"{name:<12} {' '.join(meaning[name].split())} [{MapRequest.model_fields[name].default!r}]",
            110,
            initial_indent="    ",
            subsequent_indent=" " * 17,
        )
        for name in get_type_hints(MapSettings)
    )


def _attribute_docstrings() -> dict[str, str]:
    """Setting -> the text below it in `MapRequest`. Empty texts where the source is not at hand, as in a
    frozen program.
    """
    try:
        (own,) = ast.parse(textwrap.dedent(inspect.getsource(MapRequest))).body
    except OSError:
        return dict.fromkeys(MapRequest.model_fields, "")
    return {
        one.target.id: text.value.value
        for one, text in itertools.pairwise(own.body)
        if isinstance(one, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
