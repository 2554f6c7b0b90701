"""The recipe of a training run as one frozen, validated value. All its problems are reported at once."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from labelscape.checkpoint import TASK_NAME
from labelscape.errors import BadOption, UnknownName, WrongType, refused_setting
from labelscape.nets.catalog import NETWORKS, entry, in_our_words, options_of
from labelscape.training.losses import LOSSES
from labelscape.training.recipe_checks import wrong_factors, wrong_freeze, wrong_options
from labelscape.training.recipe_data import OF_FILES, Data
from labelscape.training.recipe_sizes import filled, wrong_map_size

DEFAULT_NETWORK, DEFAULT_STEPS = "mlp", 400
SUMMARISED = ("network", "steps", "base_steps", "batch", "crop")
HIGHEST_ADAMW_RATE = 0.02
"""No network of the catalogue learned anything above it: a higher rate is meant for SGD."""


NEW_RUNS = {"resampling": "antialiased"}
"""Defaults of new recipes that differ from a field's own default, which stands for what recipes of earlier
versions mean by leaving it out.
"""
RATES = {"sgd": 0.02, "adamw": 0.001}
"""Where a user chooses another optimizer than the network's defaults have, without a rate (ours)."""


class Mate(BaseModel):
    """A second task trained in the same batches through one trunk (DFCNet sec. 3.2: roads beside land cover).
    Any labelled data will do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    data: Data
    """The second task's scenes and labels; as many bands as the first's. Each set is scaled by its own
    mean and deviation.
    """
    name: str | None = Field(None, pattern=f"^{TASK_NAME}$", exclude_if=lambda name: name is None)
    """One word for the second task, part of the names of its maps' files; by default that of its class beside
    "other" or "background", such as road.
    """
    batch: int = Field(0, ge=0)
    """Crops of the second task per update; 0: as many as of the first."""
    weight: float = Field(1.0, ge=0)
    """Weight of the second task's loss. 0: its crops only take part in batch statistics; its head learns
    nothing and is not described in the checkpoint.
    """
    scale_range: tuple[float, float] | None = None
    """As the recipe's, for crops of the second task."""


class Recipe(BaseModel):
    """How a network is trained. Attribute docstrings are the help text; variants are
    `recipe.replace(...)`.

    Fields left out here have the same default for every network; `make_recipe` fills them with the network's
    own (`nets.catalog`). A field with `exclude_if` is not stored at its default, so that recipes of earlier
    versions stay the same to the byte.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    data: Data
    """Scenes, labels, and what is held out."""
    network: str = DEFAULT_NETWORK
    """Name in the catalogue (`labelscape models`)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the network (`labelscape models NAME`)."""
    start: str | None = Field(None, json_schema_extra=OF_FILES)
    """Checkpoint that the network starts from: its encoder where a paper says so, else all that fits. Or a
    state dict of torchgeo, segmentation-models-pytorch or timm (.pth, .safetensors) with the same encoder.
    """
    base_steps: int = Field(None, ge=0)
    """Steps of the base network that is trained first, where the paper of this network starts from one; twice
    `steps` unless given (ours), 0 with `start`.
    """
    base_rate: float = Field(0.1, gt=0)
    """Learning rate of the base network; `rate` where that is given, else the base network's own default
    (0.1 for the fcn: Maggiori et al., sec. V-C).
    """
    base_batch: int | None = Field(None, ge=1, exclude_if=lambda batch: batch is None)
    """Crops per update of the base network; as `batch` unless given, and then not stored."""
    steps: int = Field(DEFAULT_STEPS, ge=1)
    """Updates of the weights."""
    batch: int = Field(8, ge=1)
    """Crops per update, over all parts and processes together."""
    accumulate: int = Field(1, ge=1)
    """Gradient accumulation: parts that a batch is divided into; the memory of one part, the gradient of the
    whole batch. (Batch normalisation, and losses that choose or rank pixels - all but cross-entropy and focal
    - see one part at a time, and one process.)"""
    mate: Mate | None = None
    """A second data set that trains in the same batches, for networks with a classmate head."""
    crop: int = Field(128, ge=16)
    """Side of a training crop, in pixels."""
    map_size: int | None = Field(None, ge=16, exclude_if=lambda size: size is None)
    """Side in pixels of the tiles in which maps will be made, where they are larger than `crop`: after the
    last step statistics of batch normalisation are estimated at this size, and scores by tile size are
    measured up to it. For networks that see the whole tile. (Stored only where given, as the four below.)
    """
    map_steps: int | None = Field(None, ge=0, exclude_if=lambda steps: steps is None)
    """With `map_size`: how many of the last `steps` run at larger crops; none unless given (a quarter where
    `map_crop` or `map_batch` is)."""
    map_crop: int | None = Field(None, ge=16, exclude_if=lambda crop: crop is None)
    """Side of the larger crops; unless given, what fits into the memory of an ordinary step in a batch of
    two, at most `map_size`.
    """
    map_batch: int | None = Field(None, ge=1, exclude_if=lambda batch: batch is None)
    """Batch of the larger crops; unless given, as many as have the pixels of an ordinary step, two at least.
    The learning rate is multiplied by map_batch / batch, but not raised.
    """
    map_tiles: int | None = Field(None, ge=0, exclude_if=lambda tiles: tiles is None)
    """Training tiles of `map_size` over which batch normalisation's statistics are estimated after the last
    step; 32 unless given, 0: they stay as trained.
    """
    rate: float = Field(0.05, gt=0)
    """Learning rate at the start."""
    schedule: Literal["poly", "exponential", "constant", "cosine"] = "poly"
    """poly: rate (1 - step/steps)^power; exponential: a tenth every `tenth_every` steps; cosine: half a
    period from the end of the warm-up to 0.
    """
    power: float = Field(0.9, gt=0)
    """Exponent of the poly schedule."""
    tenth_every: float = Field(10_000, gt=0)
    """Steps after which the exponential schedule has divided the rate by ten."""
    warmup: int = Field(0, ge=0)
    """Steps over which the rate grows linearly from 0; no more than `steps`."""
    rate_factors: dict[str, float] = Field(default_factory=dict)
    """Start of a parameter's name -> factor on its learning rate ("backbone": 0.1); where several fit, the
    longest counts.
    """
    freeze: Literal["none", "encoder"] = Field("none", exclude_if=lambda what: what == "none")
    """encoder: the encoder's weights and batch normalisation's statistics stay as they start, to the bit, and
    it works as in a map, without dropout; only the rest learns. (none is not stored, nor are the next two at
    1.)
    """
    encoder_factor: float = Field(1.0, gt=0, exclude_if=lambda factor: factor == 1)
    """Factor on the learning rate of the encoder, in any network; it multiplies those of `rate_factors`."""
    layer_decay: float = Field(1.0, gt=0, le=1, exclude_if=lambda factor: factor == 1)
    """Layer-wise rate decay: the last stage of the encoder learns at this factor, the one before at its
    square, and so on to the stem. 0.65 to 0.9 are usual.
    """
    optimizer: Literal["sgd", "adamw"] = Field("sgd", exclude_if=lambda name: name == "sgd")
    """sgd or adamw; adamw wants a smaller rate: 0.001 or less. (sgd is not stored: recipes of earlier
    versions stay the same.)
    """
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd, beta1 of adamw."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay: L2 in sgd, decoupled in adamw. (5e-4 in all five papers but MSWBN: 1e-4.)"""
    clip_norm: float = Field(0.0, ge=0, exclude_if=lambda norm: not norm)
    """Gradient clipping: gradients are scaled down to this norm over all parameters where they exceed it; 0:
    never.
    """
    ema: float = Field(0.0, ge=0, lt=1, exclude_if=lambda decay: not decay)
    """Exponential moving average of the weights (0.999): scores, best weights and the checkpoint are those of
    the average. In early steps the decay is at most (1 + step) / (10 + step). 0: none.
    """
    losses: dict[str, float] = Field(default_factory=lambda: {"cross-entropy": 1.0})
    """Loss -> its factor; the sum is minimised. cross-entropy, ohem, hardest, hardest-per-image,
    ohem-hardest, focal, dice, tversky, jaccard, lovasz.
    """
    aux_losses: dict[str, float] | None = None
    """The same for the auxiliary head; as `losses` unless given."""
    class_weights: Literal["none", "auto"] = "none"
    """auto: classes weigh 1 / sqrt(share of the training labels), scaled to a mean of 1 over labelled
    pixels.
    """
    aux_weight: float = Field(0.4, ge=0)
    """Weight of the auxiliary head's loss, where the network has one (DGCWNet eq. 7, IFBFNet table 5)."""
    normalisation: Literal["auto", "data", "weights"] = Field("auto", exclude_if=lambda how: how == "auto")
    """Mean and deviation of the input bands. data: the training data's own; weights: those that the ImageNet
    weights were trained with, for red, green and blue of 8 bits, or those of a bundle of Raster Vision in
    `start`; auto: weights where these apply, else data. (auto is not stored.)
    """
    sampling: Literal["uniform", "labelled", "balanced"] = "labelled"
    """Where crops are taken: anywhere; around a labelled pixel; around a pixel of a class drawn with equal
    chances.
    """
    augment: Literal["none", "mirror", "flips", "dihedral"] = "dihedral"
    """flips: left-right and up-down; mirror: left-right alone, for pictures with a sky; dihedral: the
    eight flips and quarter turns.
    """
    scale_range: tuple[float, float] | None = None
    """Crops are enlarged by a factor drawn evenly from (least, most)."""
    scale_set: tuple[float, ...] = ()
    """Crops are enlarged by one of these factors, each as likely."""
    resampling: Literal["bilinear", "antialiased"] = Field(
        "bilinear", exclude_if=lambda name: name == "bilinear"
    )
    """How crops are reduced to scale: antialiased, as multi-scale inference does, or bilinear of the nearest
    four pixels, which leaves aliases. Enlarging is the same in both.
    """
    save_every: int = Field(200, ge=1)
    """Steps between two saved states, from which an interrupted run resumes."""
    keep_every: int = Field(0, ge=0, exclude_if=lambda steps: not steps)
    """Steps between two checkpoints that are kept in the folder `<network>_steps`, to look at the course of a
    training (`explain --over`) or to map with; 0: the last one alone. (0 is not stored.)
    """
    val_every: int = Field(0, ge=0)
    """Steps between validation scores (data.val); the weights with the best score are kept. 0: no validation,
    the last weights are kept.
    """
    patience: int = Field(0, ge=0)
    """Early stopping: validation scores in a row without an improvement before training ends; 0: never."""
    measure_tile_sizes: bool = Field(True, exclude_if=lambda measured: measured)
    """Score some held-out pixels at several tile sizes after training, for networks that see the whole tile;
    without it they are mapped in tiles of the training crop. (true is not stored.)
    """
    measure_unfamiliar: bool = Field(True, exclude_if=lambda measured: measured)
    """Measure the network's features of training pixels after training, by which `map --unfamiliar` tells
    unfamiliar input. (true is not stored.)
    """
    sync_bn: bool = False
    """Synchronised batch normalisation: statistics over all processes instead of each one's own."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the first weights, the split, the crops and the dropout."""
    deterministic: bool = Field(False, exclude_if=lambda wanted: not wanted)
    """Deterministic algorithms alone, meant to bring two runs on a CUDA device to the same weights, more
    slowly; an operation that has none stops the run. (On a CPU two runs of one number of threads come to the
    same weights anyway.)
    """
    precision: Literal["32", "tf32", "bf16", "16"] = "32"
    """32; tf32, where convolutions on CUDA devices round what they multiply to 10 binary digits; or mixed
    precision: bf16 or 16 bits where a layer allows it.
    """
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_of_before(cls, value: Any) -> Any:
        # Names of Lightning Fabric, which recipes of earlier versions hold.
        return {"32-true": "32", "bf16-mixed": "bf16", "16-mixed": "16"}.get(str(value), str(value))

    @model_validator(mode="before")
    @classmethod
    def _options_in_our_words(cls, given: Any) -> Any:
        network, options = given.get("network", DEFAULT_NETWORK), given.get("options")
        if not isinstance(network, str) or not isinstance(options, Mapping):
            return given
        with suppress(UnknownName):  # `_can_run` reports an unknown network
            return {**given, "options": in_our_words(network, options)}
        return given

    @model_validator(mode="before")
    @classmethod
    def _base_comes_first(cls, given: Any) -> Any:
        # Before validation, because the default depends on other fields and the stored recipe has the number.
        if given.get("base_steps") is not None:
            return given
        network, steps = given.get("network", DEFAULT_NETWORK), given.get("steps", DEFAULT_STEPS)
        derived = network in NETWORKS and NETWORKS[network].start is not None and not given.get("start")
        return {**given, "base_steps": 2 * steps if derived and isinstance(steps, int) else 0}

    @model_validator(mode="before")
    @classmethod
    def _map_size_in_numbers(cls, given: Any) -> Any:
        if given.get("map_size") is None:
            return given
        # In numbers, as the stored recipe has them: another version may choose other ones.
        usual = {name: cls.model_fields[name].default for name in ("steps", "batch", "crop", "accumulate")}
        return filled(given, usual)

    @model_validator(mode="after")
    def _can_run(self) -> Recipe:
        problems = unknown_names(self.network, self.options, {**self.losses, **(self.aux_losses or {})})
        problems += self._wrong_heads()
        if self.warmup > self.steps:
            problems.append(
                f"`warmup={self.warmup}` is longer than the run of `steps={self.steps}`: the rate would "
                "never reach its value. Shorten it."
            )
        problems += wrong_factors("losses", self.losses, some=True)
        problems += wrong_factors("aux_losses", self.aux_losses or {}, some=self.aux_losses is not None)
        problems += wrong_factors("rate_factors", self.rate_factors, some=False)
        problems += wrong_options(self.network, self.options)
        if self.freeze == "encoder":
            idle = {"encoder_factor": self.encoder_factor, "layer_decay": self.layer_decay}
            problems += wrong_freeze(bool(self.start or self.base_steps), self.options, idle)
        if self.start and self.base_steps:
            problems.append("`start` and `base_steps` both choose the first weights; give one of them.")
        if self.data.holdout + self.data.val >= 1:
            problems.append(
                f"`holdout={self.data.holdout}` and `val={self.data.val}` leave nothing to train on."
            )
        rates = {"rate": self.rate, **({"base_rate": self.base_rate} if self.base_steps else {})}
        for what, rate in rates.items():
            if self.optimizer == "adamw" and rate > HIGHEST_ADAMW_RATE:
                problems.append(f"`{what}={rate}` is too high for adamw; try 0.001, or `optimizer=sgd`.")
        problems += self._unequal_parts()
        problems += wrong_map_size(dict(self))
        for where, bounds in (
            ("scale_range", self.scale_range),
            ("mate.scale_range", self.mate and self.mate.scale_range),
        ):
            if bounds and not 0 < bounds[0] <= bounds[1]:
                problems.append(f"`{where}={bounds}` must be the least and the most, both above 0.")
        if self.scale_range and self.scale_set:
            problems.append("`scale_range` and `scale_set` are two ways to draw a scale; give one.")
        if any(scale <= 0 for scale in self.scale_set):
            problems.append(f"`scale_set={self.scale_set}` must be above 0.")
        if self.val_every and not self.data.val:
            problems.append(
                "`val_every` needs validation labels: give `val`, the share of the labels held out for them."
            )
        if self.patience and not self.val_every:
            problems.append("`patience` counts validation scores; give `val_every`, the steps between them.")
        if problems:
            # All at once: a recipe would otherwise be corrected and refused again and again.
            raise ValueError("\n".join(problems))
        return self

    def _wrong_heads(self) -> list[str]:
        """A second task without a head for it, a head without a task, a start that the network has not."""
        try:
            known, start = options_of(self.network), entry(self.network).start
        except UnknownName:  # said of the network's name already
            return []
        problems = []
        if self.mate and "mate_classes" not in known:
            problems.append(
                f"`mate` is given, but {self.network} has no second head; classmate and dfcnet have."
            )
        asked = self.options.get("mate_classes") if "mate_classes" in known else None
        if self.mate and asked == 0:
            problems.append(
                "`options.mate_classes=0` builds no head for the second task (`mate`); leave one of them out."
            )
        if not self.mate and asked:
            problems.append(
                f"`options.mate_classes={asked}` builds a second head, and without a second task (`mate`) "
                "nothing would train it; give one, or leave the option out."
            )
        if self.base_steps and start is None:
            problems.append(
                f"`base_steps={self.base_steps}`, but {self.network} starts from no other network; leave "
                "it out."
            )
        return problems

    def _unequal_parts(self) -> list[str]:
        """Batches that `accumulate` does not divide: parts of unequal size would weigh unequally."""
        batches = {"batch": self.batch, "base_batch": self.base_batch, "map_batch": self.map_batch}
        if self.mate:
            batches["mate.batch"] = self.mate.batch or self.batch
        return [
            f"`{name}={size}` cannot be divided into equal parts by `accumulate={self.accumulate}`."
            for name, size in batches.items()
            if size and size % self.accumulate
        ]

    def __repr__(self) -> str:
        return f"<Recipe {', '.join(self._summary().values())}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the summary, and every setting that differs from its default."""
        rows = self._summary()
        for name, setting in Recipe.model_fields.items():
            value = getattr(self, name)
            if name not in ("data", *SUMMARISED) and value != setting.get_default(call_default_factory=True):
                rows[name] = str(value)
        cells = (f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def _summary(self) -> dict[str, str]:
        names = [self.data.dataset] if self.data.dataset else []
        for place in (*self.data.images, *self.data.labels):
            names += [os.path.basename(file.rstrip("/")) or file for file in one_or_several(place)]
        shown = " ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        base = f" after {self.base_steps} of its base network" if self.base_steps else ""
        return {
            "network": self.network,
            "steps": f"{self.steps} steps{base}",
            "batch": f"{self.batch} x {self.crop} x {self.crop} pixels",
            "data": shown,
        }

    def replace(self, **changes: Any) -> Recipe:
        """The same recipe with changes; raises BadOption as `make_recipe` does."""
        # Not pydantic's model_copy, which does not validate.
        return exact_recipe(**{**self.model_dump(), **changes})


def refuse_unequal_parts(recipe: Recipe, processes: int, where: str) -> None:
    """Raises BadOption unless every batch divides evenly over processes and accumulated parts."""
    parts = processes * recipe.accumulate
    named = {"batch": recipe.batch, "mate.batch": recipe.mate.batch if recipe.mate else 0}
    more = {"base_batch": recipe.base_batch or 0, "map_batch": recipe.map_batch or 0}
    for name, batch in {**named, **more}.items():
        if batch % parts:
            each = f", each in parts (`accumulate={recipe.accumulate}`)" if recipe.accumulate > 1 else ""
            raise BadOption(
                f"`{name}={batch}` cannot be divided evenly over {where}{each}: give a multiple of {parts}."
            )


def one_or_several(place: str | tuple[str, ...]) -> tuple[str, ...]:
    return (place,) if isinstance(place, str) else place


def make_recipe(**fields: Any) -> Recipe:
    """A validated recipe; settings that are not given are the defaults of its network. Raises BadOption that
    lists every problem, with the nearest known name for unknown ones.
    """
    # pydantic's own message, that a mapping was expected, would not show how one is written.
    if isinstance(fields.get("data"), (str, os.PathLike)):
        raise WrongType(
            f"data is the path {str(fields['data'])!r}; a mapping was expected: "
            "data={'images': ['scene.tif'], 'labels': ['fields.gpkg']}."
        )
    return exact_recipe(**{**defaults_of(fields), **fields})


def defaults_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults for a new recipe with these settings: those of its network (`nets.catalog`), with a rate that
    fits the optimizer; the base network has the same rate, and the same optimizer.
    """
    try:
        about = entry(fields.get("network", DEFAULT_NETWORK))
    except (UnknownName, AttributeError):  # `exact_recipe` reports it
        return {}
    found = {**NEW_RUNS, **about.defaults}
    optimizer = fields.get("optimizer", found.get("optimizer", "sgd"))
    # The network's rate is for its own optimizer: 0.001 suits AdamW, and SGD hardly moves at it.
    if optimizer != found.get("optimizer", "sgd"):
        found["rate"] = RATES.get(optimizer, RATES["sgd"])
    if about.start is not None:
        found["base_rate"] = fields.get("rate", found["rate"])
    return found


def exact_recipe(**fields: Any) -> Recipe:
    """`make_recipe` without the defaults of the network: for recipes that spell out all they mean."""
    try:
        return Recipe(**fields)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _said(problem)]
    # pydantic skips checks of the whole recipe where a single setting is wrong: names are checked here then.
    network, options, losses = (
        fields.get("network", "mlp"),
        fields.get("options", {}),
        fields.get("losses", {}),
    )
    if isinstance(network, str) and isinstance(options, Mapping) and isinstance(losses, Mapping):
        try:
            options = in_our_words(network, options)
        except BadOption:  # named already
            options = {}
        lines += [line for line in unknown_names(network, options, losses) if line not in lines]
    raise BadOption("This recipe cannot run:\n  - " + "\n  - ".join(lines))


def as_recipe(given: Recipe | Mapping[str, Any]) -> Recipe:
    """A recipe as it is, or made of a mapping of its settings; the complete recipe that a checkpoint stores
    is taken without today's defaults. Raises WrongType for anything else, BadOption as `make_recipe`.
    """
    if isinstance(given, Recipe):
        return given
    if not isinstance(given, Mapping):
        raise WrongType(f"A recipe is made with ls.make_recipe(data=...); found a {type(given).__name__}.")
    # What a stored recipe may lack are the fields that are left out at their default (`exclude_if`).
    spelled_out = {name for name, field in Recipe.model_fields.items() if field.exclude_if is None}
    return exact_recipe(**given) if spelled_out <= given.keys() else make_recipe(**given)


def in_todays_words(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe stored by an earlier version, with today's names, and today's defaults for settings that
    version did not have. What does not validate today is returned unchanged.
    """
    try:
        return Recipe(**stored).model_dump(mode="json")
    except ValidationError:
        return dict(stored)


def unknown_names(network: str, options: Mapping[str, Any], losses: Mapping[str, Any]) -> list[str]:
    """One sentence for each unknown name of a network, its options and losses."""
    problems = []
    try:
        known = options_of(network)
        problems += [
            f"{option} follows from the labels or the bands; leave `options.{option}` out."
            if option in ("classes", "in_channels")
            else str(UnknownName(f"option of {network}", option, known))
            for option in options
            if option not in known
        ]
    except UnknownName as error:
        problems.append(str(error))
    return problems + [str(UnknownName("loss", loss, LOSSES)) for loss in losses if loss not in LOSSES]


def problems(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences for what pydantic found wrong with a recipe's fields."""
    return [line for one in found for line in _said(dict(one))]


def _said(problem: dict) -> list[str]:
    if problem["type"] == "extra_forbidden":
        *path, name = map(str, problem["loc"])
        if not path and name in Data.model_fields:
            return [f"{name} is a setting of data: give `data={{{name!r}: {problem['input']!r}}}`."]
        model = Data if path and path[-1] == "data" else Mate if path == ["mate"] else Recipe
        return [
            str(
                UnknownName(
                    f"setting of {'.'.join(path)}" if path else "recipe setting", name, model.model_fields
                )
            )
        ]
    if problem["type"] == "value_error":
        # From a validator of ours, whose lines are whole sentences.
        return str(problem["ctx"]["error"]).splitlines()
    return [refused_setting(problem)]
