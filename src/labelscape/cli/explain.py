"""labelscape explain: look inside a network on windows of scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.given_files import check_files, check_models
from labelscape.cli.options import (
    LISTS,
    SCENE,
    AsJson,
    Device,
    Each,
    LabelFiles,
    Overwrite,
    Reading,
    as_options,
    grouped,
    print_json,
    talk,
)
from labelscape.cli.scenes import scenes_of
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.explanation.analysis import Explanation

NAME = "explain"

Window = Annotated[
    list[str],
    typer.Option(
        "--window", metavar="X,Y,SIZE", help="A window of the scene, in pixels from its upper left. Repeat."
    ),
]
Number = Annotated[int, typer.Option("--windows", help="So many windows at random places.")]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Pixels a side of random windows.",
        show_default="what the network learned from, at most 512",
    ),
]
OfClass = Annotated[
    str | None,
    typer.Option(
        "--class", help="Random windows with most of this class, as labelled (--labels) or else as predicted."
    ),
]
Pixel = Annotated[
    list[str],
    typer.Option(
        "--pixel",
        metavar="X,Y",
        help="A pixel of the scene: what speaks for its class? Needs Captum. Twice for a pair (DGCWNet).",
    ),
]
Other = Annotated[
    Path | None,
    typer.Option("--other", metavar="MODEL", help="Another checkpoint: where do the two disagree?"),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="Name of the model's second task (labelscape info), to look at it instead of the first.",
        show_default="the first",
    ),
]
Over = Annotated[
    Path | None,
    typer.Option(
        "--over", metavar="RUN", help="Folder of a run of this network: also look at its saved states."
    ),
]
Layer = Annotated[
    str | None, typer.Option("--layer", help="Show the feature maps of this layer, such as trunk.layer4.")
]
Only = Annotated[
    list[str], typer.Option("--only", help="Run this analysis alone. Repeat. By default all that suit.")
]


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which windows are looked at."""

    window: Window = field(default_factory=list)
    windows: Number = 8
    size: Size = None
    of_class: OfClass = None
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same windows.")] = 0
    pixel: Pixel = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """As `explain` takes them. Raises BadOption for what is no place."""
        window = [_numbers_of(text, "--window", ("X", "Y", "SIZE")) for text in self.window]
        pixel = [_numbers_of(text, "--pixel", ("X", "Y")) for text in self.pixel]
        return {**vars(self), "window": window, "pixel": pixel}


@grouped
def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint.")],
    scenes: Annotated[list[str], typer.Argument(metavar="SCENE", help=f"{SCENE} {LISTS}")],
    *,
    each: Each = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page, the numbers and the arrays.")],
    which: Which,
    other: Other = None,
    task: Task = None,
    labels: LabelFiles,
    over: Over = None,
    layer: Layer = None,
    only: Only = [],
    reading: Reading,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Explain on a scene that `check` refuses.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Look inside a network: the analyses of its paper, on windows of your own scenes.

    Writes a page with figures and captions, the numbers as JSON and the arrays as .npz. A scene that does not
    fit the model is refused as `map` refuses it; an analysis that does not suit the network is named.

    Examples:

      labelscape explain runs/a/mswbn.safetensors scene.tif --out inside

      labelscape explain runs/a/mswbn.safetensors scene.tif --out inside --window 1024,512,256

      labelscape explain runs/a/mlp.safetensors images/ --each --out inside --windows 20 --class forest

      labelscape explain runs/a/mlp.safetensors scene.tif --out inside --labels fields.gpkg

      labelscape explain runs/both/dfcnet.safetensors scene.tif --out roads --task road
    """
    check_models([model, other], scenes)
    check_files([*scenes, *labels.labels])
    from labelscape.explanation.run import explain

    settings: dict[str, Any] = {**reading.settings, "device": device, "force": force}
    found = scenes_of(scenes, each=each, settings=settings)
    done = explain(
        model,
        found,
        out,
        **which.settings,
        other=other,
        task=task,
        **_labels(labels),
        over=over,
        layer=layer,
        only=only,
        overwrite=overwrite,
        **settings,
    )
    _tell(done, as_json)


def _labels(given: LabelFiles) -> dict[str, Any]:
    spec = given.settings
    return {"labels": spec.pop("labels", None), "spec": spec}


def _numbers_of(text: str, option: str, names: tuple[str, ...]) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != len(names):
        raise BadOption(f"{option} {text} must be {len(names)} whole numbers, {','.join(names)}.")
    return found


def _tell(done: Explanation, as_json: bool) -> None:
    for note in done.notes:
        talk(f"note: {note}")
    if as_json:
        print_json({**done.to_dict(), "files": {kind: str(path) for kind, path in done.paths.items()}})
        return
    for name, one in done.found.items():
        print(f"{name}: {one.lead}")
    # A line for each reason: most analyses of other networks have the same one.
    for reason in dict.fromkeys(done.not_suited.values()):
        names = [name for name, why in done.not_suited.items() if why == reason]
        print(f"not shown: {', '.join(names)} ({as_options(reason)})")
    for kind, path in done.paths.items():
        print(f"{kind:<5}{path}")
