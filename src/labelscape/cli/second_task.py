"""Options of a second task: those of the first task's data, with --mate before their names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import typer

from labelscape.cli.parsing import label_files, labelled_scenes, names_of, numbers_of, pairs_of
from labelscape.errors import BadOption

Texts = list[str]


@dataclass(frozen=True, kw_only=True)
class SecondTask:
    """A second data set, trained in the same batches."""

    mate: Annotated[
        Texts,
        typer.Option(
            "--mate", help="Scenes of a second task, trained in the same batches (classmate, dfcnet). Repeat."
        ),
    ] = field(default_factory=list)
    mate_name: Annotated[
        str | None,
        typer.Option(
            "--mate-name",
            help="One word for the second task, for file names.",
            show_default="its class beside 'other' or 'background', else second",
        ),
    ] = None
    mate_weight: Annotated[
        float | None,
        typer.Option("--mate-weight", help="Weight of the second task's loss.", show_default="1"),
    ] = None
    mate_batch: Annotated[
        int | None,
        typer.Option("--mate-batch", help="Crops of the second task per step.", show_default="--batch"),
    ] = None
    mate_dataset: Annotated[
        str | None, typer.Option("--mate-dataset", help="As --dataset, for the second task.")
    ] = None
    mate_labels: Annotated[Texts, typer.Option("--mate-labels", help="As --labels, for the second task.")] = (
        field(default_factory=list)
    )
    mate_class_column: Annotated[
        str | None, typer.Option("--mate-class-column", help="As --class-column, for the second task.")
    ] = None
    mate_layer: Annotated[
        str | None, typer.Option("--mate-layer", help="As --layer, for the second task.")
    ] = None
    mate_merge: Annotated[Texts, typer.Option("--mate-merge", help="As --merge, for the second task.")] = (
        field(default_factory=list)
    )
    mate_classes: Annotated[
        Texts, typer.Option("--mate-classes", help="As --classes, for the second task.")
    ] = field(default_factory=list)
    mate_background: Annotated[
        str | None, typer.Option("--mate-background", help="As --background, for the second task.")
    ] = None
    mate_area: Annotated[str | None, typer.Option("--mate-area", help="As --area, for the second task.")] = (
        None
    )
    mate_ignore_value: Annotated[
        list[int], typer.Option("--mate-ignore-value", help="As --ignore-value, for the second task.")
    ] = field(default_factory=list)
    mate_threshold: Annotated[
        int | None, typer.Option("--mate-threshold", help="As --threshold, for the second task.")
    ] = None
    mate_bands: Annotated[
        str | None, typer.Option("--mate-bands", help="As --bands, for the second task.")
    ] = None
    mate_band_names: Annotated[
        str | None, typer.Option("--mate-band-names", help="As --band-names, for the second task.")
    ] = None
    mate_nodata: Annotated[
        float | None, typer.Option("--mate-nodata", help="As --nodata, for the second task.")
    ] = None
    mate_asset: Annotated[
        str | None, typer.Option("--mate-asset", help="As --asset, for the second task.")
    ] = None
    mate_block: Annotated[
        int | None, typer.Option("--mate-block", help="As --block, for the second task.", show_default="256")
    ] = None
    mate_split: Annotated[
        str | None,
        typer.Option("--mate-split", help="As --split, for the second task.", show_default="blocks"),
    ] = None
    mate_fold: Annotated[str | None, typer.Option("--mate-fold", help="As --fold, for the second task.")] = (
        None
    )
    mate_buffer: Annotated[
        int | None, typer.Option("--mate-buffer", help="As --buffer, for the second task.", show_default="0")
    ] = None
    mate_holdout: Annotated[
        float | None,
        typer.Option("--mate-holdout", help="As --holdout, for the second task.", show_default="0.25"),
    ] = None
    mate_val: Annotated[
        float | None, typer.Option("--mate-val", help="As --val, for the second task.", show_default="0.0")
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """The options that were given, as a recipe's `mate`; empty without a second task. Raises BadOption
        for options of a second task that has no scenes.
        """
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        # What is not given stays out: the recipe's defaults are the only ones.
        given = {name: value for name, value in given.items() if value not in (None, [])}
        # Without scenes they would be dropped, and the network trained on one task alone.
        if given and "mate" not in given:
            named = ", ".join("--" + name.replace("_", "-") for name in given)
            raise BadOption(f"{named}: a second task needs its scenes too; name them with --mate.")
        if not given:
            return {}
        its_own = {name.removeprefix("mate_"): value for name, value in given.items()}
        data = {"images": labelled_scenes(its_own.pop("mate"))}
        # The rest describes the data, as the first task's options of the same names do.
        task = {key: its_own.pop(key) for key in ("name", "weight", "batch") if key in its_own}
        readings = {
            "merge": lambda texts: pairs_of(texts, "mate-merge"),
            "classes": lambda texts: numbers_of(texts, "mate-classes"),
            "bands": names_of,
            "band_names": names_of,
            "labels": label_files,
        }
        for name, value in its_own.items():
            # Singular on the command line, where it takes one value at a time.
            setting = "ignore_values" if name == "ignore_value" else name
            data[setting] = readings[name](value) if name in readings else value
        return {**task, "data": data}
