"""The data of a recipe as one frozen value: which scenes and labels, and what is held out.

`training.data` opens it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from labelscape.checkpoint import Checkpoint
from labelscape.datasets.split import fold_of
from labelscape.errors import BadOption

OF_FILES = {"format": "path"}
"""Marks settings that name files, in the JSON Schema too: in a configuration file they are relative to it."""


class Data(BaseModel):
    """Training data: scenes, their labels, how labels are read, and what is held out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    images: tuple[str | tuple[str, ...], ...] = Field(json_schema_extra=OF_FILES)
    """Scenes: files, folders of single-band files, or one folder of image and label pairs; the folder of a
    published data set.
    """
    dataset: str | None = None
    """Name of a published data set (`labelscape data list`), with its own classes and parts."""
    dataset_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the published data set (`labelscape data list`)."""
    train_on: tuple[Literal["train", "val", "test"], ...] | None = Field(
        None, exclude_if=lambda parts: parts is None
    )
    """Parts of a published data set to train on; its part train unless given, and then not stored."""
    labels: tuple[str, ...] = Field((), json_schema_extra=OF_FILES)
    """One label file per scene, or one for all: a raster of class values, or polygons."""
    classes: dict[str, int] | None = None
    """Class name -> value in label rasters; found in the labels unless given."""
    class_column: str | None = None
    """The column of a polygon file that names the class."""
    layer: str | None = Field(None, exclude_if=lambda layer: layer is None)
    """The layer of polygon files that holds the labels; the first unless given, and then not stored: recipes
    of earlier versions stay the same, to the byte.
    """
    merge: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """New class -> the classes it is made of; classes not named stay unlabelled."""
    background: str | None = None
    """Name of the class of every pixel that no polygon covers."""
    area: str | None = Field(None, json_schema_extra=OF_FILES)
    """Polygons inside which the labels are complete."""
    ignore_values: tuple[int, ...] = ()
    """Values of a label raster that mean "not labelled"."""
    threshold: int | None = Field(None, ge=1)
    """Label rasters are grey masks: values from this one up are the second class, the others the first."""
    corrections: tuple[str, ...] = Field((), exclude_if=lambda files: not files, json_schema_extra=OF_FILES)
    """Answered review files (`labelscape review`), or polygons with a column `class`: their classes replace
    the labels of training blocks; held-out blocks keep theirs. (Not stored where not given.)
    """
    nodata: float | None = None
    """Nodata value of the scenes, where the files do not declare it."""
    bands: tuple[str, ...] | None = None
    """Names of the bands to use, in this order; all unless given."""
    band_names: tuple[str, ...] | None = Field(None, exclude_if=lambda names: names is None)
    """Names of all bands of every file, in order, instead of those that the files have; not stored unless
    given.
    """
    asset: str | None = Field(None, exclude_if=lambda asset: asset is None)
    """Of STAC items the asset of this key or role, such as visual, instead of those with the role data;
    several separated by commas. (Not stored where not given.)
    """
    pixel_size: float | None = Field(None, gt=0)
    """Pixel size in metres that all scenes are resampled to; by default that of the coarsest scene.
    """
    block: int = Field(256, ge=1)
    """Side, in pixels, of the blocks that are held out whole."""
    split: Literal["blocks", "random"] = "blocks"
    """blocks: large blocks, balanced over classes; random: blocks of 32 pixels at random, which gives
    optimistic scores, because neighbouring pixels look alike.
    """
    fold: str | None = Field(None, exclude_if=lambda fold: fold is None)
    """Cross-validation: K/N holds out fold K of N folds of blocks, and sets `holdout` to 1/N. Over all N
    folds each labelled block is tested once. (Not stored where not given.)
    """
    buffer: int = Field(0, ge=0, le=1_000_000)
    """Training labels within this many pixels of a held-out block are dropped."""
    holdout: float = Field(0.25, ge=0, lt=1)
    """Share of the labels held out for the score (part "test")."""
    val: float = Field(0.0, ge=0, lt=1)
    """Share of the labels held out for validation during training (part "val")."""

    train_share: float | None = Field(None, gt=0, le=1, exclude_if=lambda share: share is None)
    """Train on this share of the labelled training blocks or images, drawn by the recipe's seed, as learning
    curves do (`labelscape train --curve`). (Not stored where not given, as the next.)
    """
    split_seed: int | None = Field(None, ge=0, lt=2**63, exclude_if=lambda seed: seed is None)
    """Seed of the split into blocks, where it is not that of the recipe: trainings with other seeds are then
    scored on the same pixels.
    """

    @field_validator("images", "labels", "corrections", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return (str(value),) if isinstance(value, (str, os.PathLike)) else value

    @model_validator(mode="before")
    @classmethod
    def _fold_is_the_holdout(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("fold") is None:
            return given
        try:
            share = 1 / fold_of(given["fold"])[1]
        except BadOption as problem:
            raise ValueError(str(problem)) from problem
        # A stored recipe has the fold's own share beside it, which is no contradiction.
        for name, none in (("dataset", None), ("split", "blocks"), ("holdout", share)):
            if given.get(name, none) != none:
                raise ValueError(f"`fold={given['fold']}` cannot be given with `{name}={given[name]}`.")
        return {**given, "holdout": share}

    @model_validator(mode="after")
    def _corrections_have_labels(self) -> Data:
        if self.corrections and self.dataset:
            raise ValueError(
                f"corrections replace labels of one's own scenes, not of a published data set "
                f"({self.dataset})."
            )
        return self

    @property
    def shares(self) -> dict[str, float] | None:
        parts = {"train": 1 - self.holdout - self.val, "val": self.val, "test": self.holdout}
        return parts if self.holdout or self.val else None


def make_data(fields: Mapping[str, Any], whose: str = "These settings of data") -> Data:
    """The data of a recipe from its settings alone: a caller's, or those that a checkpoint stores. Raises
    BadOption that lists every problem, as `make_recipe` does.
    """
    try:
        return Data(**fields)
    except ValidationError as error:
        # Under the name that they have in a recipe, by which `problems` finds the settings there are.
        wrong = [{**one, "loc": ("data", *one["loc"])} for one in error.errors()]
    # Here, not above: it knows the networks, which are of torch, and data are read without them too.
    from labelscape.training.recipe import problems

    raise BadOption(f"{whose} cannot be used:\n  - " + "\n  - ".join(problems(wrong)))


def stored_data(checkpoint: Checkpoint) -> Data:
    """What a checkpoint says it was trained on. Raises BadOption where that cannot be read."""
    return make_data(checkpoint.recipe["data"], "The settings of data that the checkpoint stores")
