"""Options that several verbs share, declared once, and the ways to read and print values."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from labelscape.cli.parsing import numbers_of, pairs_of, scales_of

if TYPE_CHECKING:
    from labelscape.scoring.protocol import Protocol

TileSize = Annotated[
    int | None,
    typer.Option(
        "--tile-size",
        help="Side of a tile in pixels, overlap included.",
        show_default="1152 to 2048 as memory lets",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        help="Pixels a tile sees beyond its core on each side.",
        show_default="the network's reach",
    ),
]
Blend = Annotated[
    str | None,
    typer.Option("--blend", help="crop, hann or none.", show_default="crop where tiles are exact, else hann"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option("--precision", help="32, bf16 or 16.")]
Tta = Annotated[
    str,
    typer.Option(
        "--tta",
        help="Test-time augmentation, averaged: none, mirror (left-right), flips (4 images) or dihedral (8).",
    ),
]
Scales = Annotated[
    str,
    typer.Option("--scales", help="Multi-scale inference: factors the image is resized by, as 0.75,1,1.25."),
]
Average = Annotated[
    str, typer.Option("--average", help="How augmented predictions are averaged: as probabilities or logits.")
]
Also = Annotated[
    list[Path],
    typer.Option(
        "--also", help="Another checkpoint whose probabilities are averaged with the first's. Repeat."
    ),
]
PublishedSet = Annotated[
    str | None,
    typer.Option("--dataset", help="The folder is this published data set (labelscape data list)."),
]
Nodata = Annotated[
    float | None,
    typer.Option("--nodata", help="Nodata value of the scene, where its files do not declare it."),
]
Area = Annotated[str | None, typer.Option("--area", help="Polygons (any CRS): map only what lies in them.")]
MinArea = Annotated[
    float,
    typer.Option(
        "--min-area",
        help="Hectares below which a polygon is dropped, leaving a gap (use --sieve to avoid gaps).",
    ),
]
Sieve = Annotated[
    float,
    typer.Option(
        "--sieve",
        metavar="HECTARES",
        help="Minimum mapping unit (pixels without coordinates): merge smaller areas into a neighbour before "
        "polygons are made.",
    ),
]
Simplify = Annotated[
    float,
    typer.Option("--simplify", help="Metres (pixels without coordinates) by which borders may be smoothed."),
]
Proba = Annotated[
    bool, typer.Option("--proba", help="Also write the probability of every class, one band each.")
]
Entropy = Annotated[
    bool, typer.Option("--entropy", help="Also write the entropy of the prediction, 0 (certain) to 100.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
SCENE = (
    "A file; a folder (or a,b,c) of single-band files of one ground, or of tiles; a STAC item, or a "
    "collection of items (.json or https://...)."
)
"""What may stand for a scene wherever one is asked for."""
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No talk on stderr.")]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a scene is cut into tiles."""

    tile_size: TileSize = None
    overlap: Overlap = None
    blend: Blend = None


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """What is averaged into one prediction: augmented images, scales, several checkpoints."""

    tta: Tta = "none"
    scales: Scales = "1"
    average: Average = "probabilities"
    also: Also = field(default_factory=list)

    @property
    def protocol(self) -> Protocol:
        from labelscape.scoring.protocol import Protocol

        return Protocol(scales_of(self.scales), self.tta, self.average)

    @property
    def settings(self) -> dict[str, Any]:
        """As `map_scene` and `check` take them; `also` goes with the checkpoint."""
        return {"tta": self.tta, "scales": scales_of(self.scales), "average": self.average}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a scene is read."""

    nodata: Nodata = None
    area: Area = None


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Rasters that are written on request."""

    proba: Proba = False
    entropy: Entropy = False


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """How a class map becomes polygons."""

    sieve: Sieve = 0.0
    min_area: MinArea = 0.0
    simplify: Simplify = 0.0


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Label files, and how they and their scenes are read."""

    labels: Annotated[
        list[str], typer.Option("--labels", help="Label raster or polygons; one per scene, or one for all.")
    ] = field(default_factory=list)
    class_column: Annotated[
        str | None, typer.Option("--class-column", help="Column of the polygons that names the class.")
    ] = None
    layer: Annotated[
        str | None,
        typer.Option("--layer", help="Layer of the polygon file with the labels.", show_default="the first"),
    ] = None
    merge: Annotated[
        list[str],
        typer.Option(
            "--merge", help="NEW=OLD,OLD: merge classes; classes not named stay unlabelled. Repeat."
        ),
    ] = field(default_factory=list)
    classes: Annotated[
        list[str],
        typer.Option("--classes", help="NAME=VALUE of a label raster. Repeat, or separate by commas."),
    ] = field(default_factory=list)
    background: Annotated[
        str | None, typer.Option("--background", help="Class of all that no polygon covers.")
    ] = None
    area: Annotated[
        str | None, typer.Option("--area", help="Polygons inside which the labels are complete.")
    ] = None
    ignore_value: Annotated[
        list[int], typer.Option("--ignore-value", help="Label value that means 'not labelled'. Repeat.")
    ] = field(default_factory=list)
    threshold: Annotated[
        int | None,
        typer.Option(
            "--threshold", help="Label rasters are grey masks: from this value up is the second class."
        ),
    ] = None
    bands: Annotated[
        str | None, typer.Option("--bands", help="Bands to use by name, in order: B04,B03,B02.")
    ] = None
    nodata: Nodata = None

    @property
    def settings(self) -> dict[str, Any]:
        """What was named on the command line, as settings of a recipe's data (`training.recipe_data.Data`).
        Raises BadOption for classes or merges that cannot be read.
        """
        told = {
            "labels": self.labels,
            "class_column": self.class_column,
            "layer": self.layer,
            "merge": pairs_of(self.merge, "merge"),
            "classes": numbers_of(self.classes, "classes"),
            "background": self.background,
            "area": self.area,
            "ignore_values": self.ignore_value,
            "threshold": self.threshold,
            "bands": self.bands.split(",") if self.bands else None,
            "nodata": self.nodata,
        }
        return {name: value for name, value in told.items() if value not in (None, [], {})}

    @property
    def named(self) -> list[str]:
        """The options that were named, as on the command line: --class-column."""
        return [
            f"--{option.name.replace('_', '-')}"
            for option in fields(self)
            if getattr(self, option.name) not in (None, [])
        ]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the network runs."""

    device: Device = "auto"
    precision: Precision = "32"


def grouped(run: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes groups of options (dataclasses above) as single values: the command line shows the
    fields of each group as options of their own.
    """
    own = inspect.signature(run, eval_str=True).parameters
    groups = {name: p.annotation for name, p in own.items() if is_dataclass(p.annotation)}
    shown = []
    for name, parameter in own.items():
        for option in fields(groups[name]) if name in groups else ():
            default = option.default if option.default_factory is MISSING else option.default_factory()
            hint = get_type_hints(groups[name], include_extras=True)[option.name]
            shown.append(
                inspect.Parameter(option.name, parameter.KEYWORD_ONLY, default=default, annotation=hint)
            )
        if name not in groups:
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @functools.wraps(run)
    def verb(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option.name: given.pop(option.name) for option in fields(group)})
        run(**given)

    verb.__signature__ = inspect.Signature(shown)
    verb.__annotations__ = {p.name: p.annotation for p in shown}
    del verb.__wrapped__  # whoever looks for the verb's parameters finds the options
    return verb


def talk(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


def given(ctx: typer.Context, parameter: str) -> bool:
    """Was a parameter named on the command line?"""
    return getattr(ctx.get_parameter_source(parameter), "name", "") == "COMMANDLINE"


def option_of(ctx: typer.Context, parameter: str) -> str:
    """What a parameter is called on the command line."""
    return next(p.opts[0] for p in ctx.command.params if p.name == parameter)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
