"""Options that several verbs share, declared once, and how results and messages are printed."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from labelscape.cli.parsing import label_files, names_of, numbers_of, pairs_of, scales_of
from labelscape.progress import print_line

if TYPE_CHECKING:
    from labelscape.scoring.protocol import Protocol
    from labelscape.workers.share import Hands

TileSize = Annotated[
    int | None,
    typer.Option(
        "--tile-size",
        help="Side of a tile in pixels, overlap included.",
        show_default="2048 where tiles are exact; else what the network learned",
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        help="Pixels of overlap on each side of a tile.",
        show_default="the receptive field where tiles are exact; else an eighth of the tile, at most 64",
    ),
]
Blend = Annotated[
    str | None,
    typer.Option(
        "--blend",
        help="How overlaps are joined: crop, hann (blended) or none (no overlap).",
        show_default="crop where that is exact, else hann",
    ),
]
Device = Annotated[str, typer.Option("--device", help="Device to run on: auto, cpu, cuda, cuda:1, mps.")]
PRECISION = "32; on CUDA devices tf32, which rounds convolutions; or mixed precision: bf16, 16."
Precision = Annotated[str, typer.Option("--precision", help=PRECISION)]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What runs the network: torch, openvino, onnxruntime, or auto (torch unless another is the same "
        "and faster).",
    ),
]
Tta = Annotated[
    str,
    typer.Option(
        "--tta",
        help="Test-time augmentation, averaged: none, mirror (left-right), flips (4 images) or dihedral (8).",
    ),
]
Scales = Annotated[
    str,
    typer.Option(
        "--scales", help="Multi-scale inference: factors by which the image is resized, such as 0.75,1,1.25."
    ),
]
Average = Annotated[
    str, typer.Option("--average", help="How augmented predictions are averaged: as probabilities or logits.")
]
Also = Annotated[
    list[Path],
    typer.Option(
        "--also",
        help="Ensemble: another checkpoint whose probabilities are averaged with the first's. Repeat.",
    ),
]
PublishedSet = Annotated[
    str | None,
    typer.Option("--dataset", help="The folder is this published data set (labelscape data list)."),
]
OneTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Name of the model's second task (labelscape info), to map it alone: the scene is then checked "
        "and scaled as that task's training images.",
        show_default="both tasks",
    ),
]
Nodata = Annotated[
    float | None,
    typer.Option("--nodata", help="Nodata value of the scene, where its files do not declare it."),
]
AllowRemote = Annotated[
    bool,
    typer.Option(
        "--allow-remote",
        help="Let a STAC item name files outside of its folder, or of its host, and a list of scenes name "
        "addresses.",
    ),
]
Asset = Annotated[
    str | None,
    typer.Option(
        "--asset",
        help="Of STAC items the asset of this key or role, such as visual; several separated by commas.",
        show_default="those with the role data",
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each",
        help="Every raster below a folder, and every item of an ItemCollection, is a scene of its own, not a "
        "part of one mosaic.",
    ),
]
BandNames = Annotated[
    str | None,
    typer.Option(
        "--band-names", help="Names of all bands of each file in order, also of one marked as alpha: red,nir."
    ),
]
Area = Annotated[
    str | None, typer.Option("--area", help="Area of interest: map only inside these polygons (any CRS).")
]
MinArea = Annotated[
    float,
    typer.Option(
        "--min-area", help="Drop polygons below this many hectares, leaving gaps (use --sieve to avoid gaps)."
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
    typer.Option(
        "--simplify",
        help="Simplify polygon borders with this tolerance in metres (pixels without coordinates).",
    ),
]
Proba = Annotated[
    bool, typer.Option("--proba", help="Also write the probability of every class, one band each.")
]
Entropy = Annotated[
    bool, typer.Option("--entropy", help="Also write the entropy of the prediction, 0 (certain) to 100.")
]
Unfamiliar = Annotated[
    bool,
    typer.Option(
        "--unfamiliar",
        help="Also write how far the input is from the training data, 100 at the limit of held-out pixels.",
    ),
]
LocalWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Share the work among so many processes of this machine, one thread each; with --cluster wait "
        "for so many of its workers.",
    ),
]
ClusterAt = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS|FILE",
        help="Share the work among the workers of a Dask cluster: tcp://host:8786 or its scheduler file.",
    ),
]
BlockTimeout = Annotated[
    float,
    typer.Option(
        "--block-timeout",
        metavar="SECONDS",
        help="A worker without progress for so long is ended, and its work given to another one.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Co = Annotated[
    list[str],
    typer.Option(
        "--co",
        metavar="KEY=VALUE",
        help="GDAL creation option of the rasters: COMPRESS=LZW, LEVEL=9, BLOCKSIZE=256, BIGTIFF=YES. "
        "Repeat.",
    ),
]
SCENE = (
    "A raster file; a folder (or a,b,c) of single-band files of one area, or of tiles; a STAC item, or a "
    "collection of items (.json or https://...)."
)
"""Help of every argument that takes a scene."""
LISTS = (
    "Several, or lists of them: globs in quotes, a text file with a path a line, a CSV or GeoParquet table "
    "or a tile index with a column href, path or location, stac-geoparquet, a static STAC catalogue."
)
"""Help of arguments that take many scenes."""
PolygonsAs = Annotated[
    str, typer.Option("--polygons-as", help="Format of the polygons: gpkg, geojson, fgb or parquet.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a scene is cut into tiles."""

    tile_size: TileSize = None
    overlap: Overlap = None
    blend: Blend = None


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Test-time augmentation, multi-scale inference and ensembles."""

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
    band_names: BandNames = None
    area: Area = None
    asset: Asset = None
    allow_remote: AllowRemote = False

    @property
    def settings(self) -> dict[str, Any]:
        """As `map_scene` and `check` take them."""
        names = tuple(names_of(self.band_names)) if self.band_names else None
        return {**asdict(self), "band_names": names}


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Which task is mapped, and rasters that are written on request."""

    task: OneTask = None
    proba: Proba = False
    entropy: Entropy = False
    unfamiliar: Unfamiliar = False


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """How a class map becomes polygons."""

    sieve: Sieve = 0.0
    min_area: MinArea = 0.0
    simplify: Simplify = 0.0


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work, where this process does not."""

    workers: LocalWorkers = None
    cluster: ClusterAt = None
    block_timeout: BlockTimeout = 3600.0

    @property
    def hands(self) -> Hands:
        """The same as a value of the library. Raises BadOption."""
        from labelscape.workers.share import Hands

        return Hands(self.workers, self.cluster, self.block_timeout)


def allow_everywhere() -> None:
    """Let STAC items name files anywhere, for as long as this process runs."""
    from labelscape.scenes.stac_documents import ALLOWED

    # Not a setting of a recipe, which a checkpoint stores: a stranger's would then allow it to itself.
    os.environ[ALLOWED] = "1"


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Label files, and how their classes are read. Of a polygon file with several layers one is named as QGIS
    writes it: fields.gpkg|layername=crops.
    """

    labels: Annotated[
        list[str],
        typer.Option(
            "--labels",
            help="Label raster or polygon file; one per scene, or one for all. Repeat, or name them by a "
            "quoted glob or a list (.txt, .csv), in the order of the scenes.",
        ),
    ] = field(default_factory=list)
    class_column: Annotated[
        str | None, typer.Option("--class-column", help="Column of the polygon file that holds the class.")
    ] = None
    merge: Annotated[
        list[str],
        typer.Option(
            "--merge", help="NEW=OLD,OLD: merge classes; classes not named stay unlabelled. Repeat."
        ),
    ] = field(default_factory=list)
    classes: Annotated[
        list[str],
        typer.Option("--classes", help="Class of a label raster, NAME=VALUE. Repeat, or separate by commas."),
    ] = field(default_factory=list)
    background: Annotated[
        str | None, typer.Option("--background", help="Class of pixels that no polygon covers.")
    ] = None
    ignore_value: Annotated[
        list[int], typer.Option("--ignore-value", help="Label value that means 'not labelled'. Repeat.")
    ] = field(default_factory=list)
    threshold: Annotated[
        int | None,
        typer.Option(
            "--threshold",
            help="Label rasters are grey masks: pixels from this value up are the second class.",
        ),
    ] = None

    @property
    def files(self) -> list[str]:
        """The label files, those of globs and lists one by one. Raises as `listed_files`."""
        return label_files(self.labels) if self.labels else []  # many verbs need no GDAL

    @property
    def settings(self) -> dict[str, Any]:
        """The options that were given, as settings of a recipe's data (`training.recipe_data.Data`).
        Raises BadOption for classes or merges that cannot be read.
        """
        # What is not given stays out, so that the recipe's own default holds.
        return {name: value for name, value in self._read().items() if value not in (None, [], {})}

    def _read(self) -> dict[str, Any]:
        return {
            "labels": self.files,
            "class_column": self.class_column,
            "merge": pairs_of(self.merge, "merge"),
            "classes": numbers_of(self.classes, "classes"),
            "background": self.background,
            "ignore_values": self.ignore_value,
            "threshold": self.threshold,
        }

    @property
    def named(self) -> list[str]:
        """The options that were given, as on the command line: --class-column."""
        return [
            f"--{option.name.replace('_', '-')}"
            for option in fields(self)
            # Not of the labels: scenes of the model's own training may be STAC items too.
            if getattr(self, option.name) not in (None, []) and option.name != "allow_remote"
        ]


@dataclass(frozen=True, kw_only=True)
class Labels(LabelFiles):
    """Label files, and how they and their scenes are read."""

    layer: Annotated[
        str | None,
        typer.Option("--layer", help="Layer of the polygon file with the labels.", show_default="the first"),
    ] = None
    area: Annotated[
        str | None, typer.Option("--area", help="Polygons inside which the labels are complete.")
    ] = None
    bands: Annotated[
        str | None, typer.Option("--bands", help="Bands to use by name, in order: B04,B03,B02.")
    ] = None
    band_names: BandNames = None
    nodata: Nodata = None
    asset: Asset = None
    allow_remote: AllowRemote = False

    def __post_init__(self) -> None:
        if self.allow_remote:
            allow_everywhere()

    def _read(self) -> dict[str, Any]:
        return super()._read() | {
            "layer": self.layer,
            "area": self.area,
            "bands": names_of(self.bands) if self.bands else None,
            "band_names": names_of(self.band_names) if self.band_names else None,
            "nodata": self.nodata,
            "asset": self.asset,
        }


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the network runs."""

    device: Device = "auto"
    precision: Precision = "32"


@dataclass(frozen=True, kw_only=True)
class Inference(Machine):
    """Where and by what it is predicted."""

    engine: Engine = "auto"


def grouped(run: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take groups of options (the dataclasses above) as single values: the command line shows the
    fields of each group as options of their own.
    """
    # typer knows no groups. It reads names and defaults from __signature__ and types from __annotations__, so
    # both are replaced by the flat list of options.
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
            # Keyword-only: a signature may not have a required parameter after one with a default otherwise.
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @functools.wraps(run)
    def verb(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option.name: given.pop(option.name) for option in fields(group)})
        run(**given)

    verb.__signature__ = inspect.Signature(shown)
    verb.__annotations__ = {p.name: p.annotation for p in shown}
    del verb.__wrapped__  # inspect.signature would follow it back to the groups
    return verb


SETTINGS = (
    "allow_remote area asset average background band_names bands base_steps batch blend block buffer "
    "class_column classes crop dataset deterministic device fold force grid holdout ignore_values labels "
    "layer legend log mate merge min_area name network networks nodata other_data optimizer out overlap "
    "overwrite part polygons polygons_as precision engine rate reject report rows scales seed seeds sieve "
    "simplify split start steps threshold task tile_size tta val size target_se target_class expect engines "
    "allocation floor strata confidence_bands per_block second design other_map side rounds bootstrap "
    "column confidence top below corrections by_name crs each like method pixel_size workers cluster "
    "grain block_timeout journal other over pixel windows trials hours pruner train_best to dtype dynamic "
    "opset normalise force license private level replicates tolerance freeze encoder_factor independent "
    "port band base_rate layer_decay map_size map_steps score"
)
"""Settings of the library that are options of verbs, under the same names, separated by blanks."""

OF_RECIPE = (
    "accumulate augment aux_losses aux_weight base_batch class_weights clip_norm ema keep_every losses "
    "map_batch map_crop map_tiles measure_tile_sizes measure_unfamiliar momentum normalisation patience "
    "power rate_factors resampling sampling save_every scale_range scale_set schedule sync_bn tenth_every "
    "val_every warmup weight_decay"
)
"""Settings of a recipe without an option of their own, which `-o KEY=VALUE` sets."""

OF_MATE = (
    "area asset background band_names bands batch block buffer class_column classes dataset fold holdout "
    "ignore_values labels layer merge name nodata split threshold val weight"
)
"""Settings of a second task (`mate`) and of its data (`mate.data`) that are options: `mate.data.classes` is
--mate-classes.
"""


def as_options(text: str) -> str:
    """A message of the library in the words of the command line: `overwrite=True` becomes --overwrite,
    `classes={'other': 0, 'road': 1}` becomes --classes other=0,road=1. Other words in backquotes stay.
    """

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        # Settings of the data have no option of their own under this name: -o data.KEY.
        if name == "data" and value:
            return _set("data", ast.literal_eval(value))
        its_own = re.sub(r"^mate\.(data\.)?", "", name)
        if its_own != name and its_own in OF_MATE.split():
            return option_named(f"mate_{its_own}", value)
        if value and ("." in name or name in OF_RECIPE.split()):
            return _set(name, _value(value))
        if name not in SETTINGS.split():
            return found[0]
        return option_named(name, value)

    return re.sub(r"`([\w.-]+)(?:=([^`]*))?`", option, text)


def option_named(name: str, value: str | None) -> str:
    """A setting and its value in a message as they are typed: `ignore_values`, "[255]" -> --ignore-value
    255.
    """
    # One value at a time on the command line, a list in Python: the option is named in the singular.
    flag = "--" + name.replace("_", "-").replace("ignore-values", "ignore-value")
    if value == "False":
        return flag.replace("--", "--no-", 1)
    return flag if value in (None, "True") else f"{flag} {_typed(_value(value))}"


def _set(name: str, value: Any) -> str:
    """A setting without an option of its own as it is typed, one -o for each key of a mapping; lists as JSON,
    in which `parsing.settings_of` reads them.
    """
    if isinstance(value, dict) and value:
        return " ".join(_set(f"{name}.{key}", one) for key, one in value.items())
    several = isinstance(value, (list, tuple, dict))
    return f"-o {name}={json.dumps(value, separators=(',', ':')) if several else value}"


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # a path, inf, an array
        return text


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, dict):
        return ",".join(f"{key}={_typed(one)}" for key, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def talk(text: str) -> None:
    """Print a message to stderr: stdout is for results, which other programs may read."""
    print_line(as_options(text))


def is_first_process() -> bool:
    """Whether this process is the one that prints: under torchrun or SLURM all have the results."""
    # torchrun sets RANK, srun SLURM_PROCID; alone neither is there.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def given(ctx: typer.Context, parameter: str) -> bool:
    """Whether a parameter was given on the command line, not left at its default."""
    # By name: typer may carry a click of its own, whose enum differs from the installed click's.
    return getattr(ctx.get_parameter_source(parameter), "name", "") == "COMMANDLINE"


def option_of(ctx: typer.Context, parameter: str) -> str:
    """The option of a parameter, as on the command line: --tile-size for tile_size."""
    return next(p.opts[0] for p in ctx.command.params if p.name == parameter)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
