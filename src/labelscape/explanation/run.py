"""`explain`: choose windows, run the analyses that suit the network, write page, JSON and arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelscape.checkpoint import Checkpoint, load_all
from labelscape.errors import BadInput, BadOption, check_names
from labelscape.evaluation.report import write_report
from labelscape.explanation import (
    bands,
    dfcnet,
    dgcwnet,
    disagreement,
    general,
    ifbfnet,
    maggiori,
    mistakes,
    mswbn,
    mswbn_gradients,
    over_training,
    speaks_for,
)
from labelscape.explanation.analysis import Analysis, Explanation, Found, Look
from labelscape.explanation.choosing import Wanted, choose
from labelscape.explanation.page import page_of
from labelscape.explanation.reference import Reference
from labelscape.explanation.windows import Windows, network_of
from labelscape.files import check_folder, check_new, stem_of, written_whole
from labelscape.maps.request import MapRequest, request_for
from labelscape.nets.blocks import Network
from labelscape.progress import bar, told_where_lost
from labelscape.scenes.files import Source
from labelscape.scenes.scene_list import SceneList
from labelscape.scoring.devices import float32_in, pick_device
from labelscape.version import __version__

ANALYSES = (
    Analysis("branch-weights", "Branch weights", mswbn.why_not, mswbn.branch_weights),
    Analysis("receptive-fields", "Receptive field spectrum", mswbn.why_not, mswbn.receptive_fields),
    Analysis("over-training", "Branch weights over the training", over_training.why_not, over_training.run),
    Analysis("gradients", "Gradients of the paper", mswbn.why_not, mswbn_gradients.check),
    Analysis("resolutions", "What each resolution contributes", maggiori.why_not, maggiori.by_resolution),
    Analysis("halves", "Balance of high and low levels", ifbfnet.why_not, ifbfnet.halves),
    Analysis("class-variance", "Class-wise variance", dgcwnet.why_not, dgcwnet.class_variance),
    Analysis("pair", "Channels for a pair of pixels", dgcwnet.why_no_pair, dgcwnet.channels_of_a_pair),
    Analysis("deepest-features", "Deepest features", dfcnet.why_not, dfcnet.deepest_features),
    Analysis("second-task", "Where the second task is found", dfcnet.why_no_mate, dfcnet.co_occurrence),
    Analysis("effective-field", "Effective receptive field", general.always, general.receptive_field),
    Analysis("bands", "Importance of bands", bands.why_no_bands, bands.band_importance),
    Analysis("speaks-for", "What speaks for the class at a pixel", speaks_for.why_not, speaks_for.speaks_for),
    Analysis("mistakes", "Where the model is wrong", mistakes.why_not, mistakes.mistakes),
    Analysis("disagreement", "Where two models disagree", disagreement.why_not, disagreement.disagreement),
    Analysis("feature-maps", "Feature maps", general.why_no_layer, general.feature_maps),
)
"""All analyses, in the order of the page."""


def explain(
    checkpoint: Checkpoint | str | Path,
    scene: Source | SceneList,
    out: str | Path,
    *,
    window: Sequence[tuple[int, int, int]] = (),
    windows: int = 8,
    size: int | None = None,
    of_class: str | None = None,
    seed: int = 0,
    pixel: Sequence[tuple[int, int]] = (),
    other: Checkpoint | str | Path | None = None,
    task: str | None = None,
    labels: str | Path | Sequence[str | Path] | None = None,
    spec: Mapping[str, Any] | None = None,
    over: str | Path | None = None,
    layer: str | None = None,
    only: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Explanation:
    """Look inside a network on windows of a scene: write `<network>_explained.html`, `.json` and `.npz`.

    checkpoint  a checkpoint or its file
    scene       as `map_scene` takes it, or the list of `find_scenes`: windows are then drawn from all of them
    out         the folder of the three files
    window      windows (x, y, size) of the scene, in pixels from its upper left corner; else
    windows     so many at random places, `size` pixels a side (by default what the network learned from, at
                most 512), drawn by `seed`; where a class is named, those in which it predicts most `of_class`
    pixel       pixels (x, y) of the scene, in a window around them: what speaks for the class of the first
                (this needs Captum, the extra `explain`), in which channels of a DGCWNet do two differ
    other       another checkpoint, of the same bands and classes, to be compared with
    task        name of the second task that the model learned, to look at that instead of the first
    labels      one label file per scene, or one for all: windows are drawn where there are labels, and
                classes are the labelled ones wherever they can be; `spec` as `evaluate` has it
    over        folder of a training run of this network: its saved states are looked at too
    layer       name of a layer (of torch's `named_modules`) whose maps are shown
    only        names of analyses; by default all that suit the network
    settings    of `map_scene`: nodata, band_names, asset, allow_remote, device, force

    One window is in memory at a time beyond a fixed 256 MiB, whatever the scene's size. Raises as `map_scene`
    where a scene does not fit the model; BadOption for windows outside the scene, UnknownName for an unknown
    class, task or analysis, BadInput where no window has data, or no analysis that was asked for suits;
    BadFile and BadInput as `open_labels` for labels.
    """
    check_folder(out, "The folder of the explanation (out)")
    model, second = _models(checkpoint, other, task)
    sources = [one.source for one in scene] if isinstance(scene, SceneList) else [scene]
    wanted = Wanted(_tuples(window), _tuples(pixel), windows, size, of_class, seed)
    _check(model, sources, wanted, only)
    paths = _free_paths(Path(out), model, overwrite)
    request = request_for(checkpoint, sources[0], None, None, settings)
    reference = _reference(model, sources, labels, spec or {})
    asked = {"over": None if over is None else Path(over), "layer": layer, "pixels": wanted.pixels}
    with float32_in("32", device := pick_device(request.device)):  # as a map is predicted
        net, chosen, notes = _chosen(model, device, request, sources, wanted, reference)
        look = Look(net, model, chosen, other=second, seed=seed, **asked)
        return _explained(look, only, paths, notes, overwrite)


def _models(
    checkpoint: Checkpoint | str | Path, other: Checkpoint | str | Path | None, task: str | None
) -> tuple[Checkpoint, Checkpoint | None]:
    """The model, for the task that is asked for, and the other one: its own second task of that name, or else
    all of it, as a model of roads alone.
    """
    model = load_all(checkpoint)[0].task(task)
    second = None if other is None else load_all(other)[0]
    return model, second.task(task) if second is not None and task in second.tasks else second


def _check(model: Checkpoint, sources: Sequence[Source], wanted: Wanted, only: Sequence[str]) -> None:
    """Raises UnknownName, BadOption where what is wanted cannot be."""
    check_names("analysis", only, [one.name for one in ANALYSES])
    if wanted.of_class is not None:
        model.legend.index(wanted.of_class)
    if wanted.placed and len(sources) > 1:
        raise BadOption(f"A window's place is in one scene; {len(sources)} were given.")


def _chosen(
    model: Checkpoint,
    device: torch.device,
    request: MapRequest,
    sources: Sequence[Source],
    wanted: Wanted,
    reference: Reference | None,
) -> tuple[Network, Windows, list[str]]:
    """The network on its device, its windows, and what was found of their scenes and labels."""
    # A plain network: analyses hook into layers, which the engines of maps fold together.
    net = network_of(model).to(device)
    with bar("choose windows", wanted.candidates, "windows") as tick:
        windows, notes = choose(net, model, request, sources, wanted, tick, reference)
    return net, windows, [*([] if reference is None else reference.notes), *notes]


def _reference(
    model: Checkpoint,
    sources: Sequence[Source],
    labels: str | Path | Sequence[str | Path] | None,
    spec: Mapping[str, Any],
) -> Reference | None:
    if labels is None:
        if spec:
            raise BadOption(f"{', '.join(spec)}: these say how labels are read; give the `labels` too.")
        return None
    files = [labels] if isinstance(labels, (str, Path)) else list(labels)
    return Reference.of(model, sources, files, spec)


def _explained(
    look: Look, only: Sequence[str], paths: dict[str, Path], notes: Sequence[str], overwrite: bool
) -> Explanation:
    """Run the analyses that suit, and write what they find."""
    found, not_suited = _run(look, [one for one in ANALYSES if not only or one.name in only])
    if not found:
        raise BadInput(f"No analysis suits {look.checkpoint.network}: {_reasons(not_suited)}.")
    seen = tuple(one.named(look.names) for one in look.windows)
    made = Explanation(paths, seen, found, not_suited, tuple(notes), _facts(look))
    # Minutes of looking: the answers are worth more than their page.
    with told_where_lost(lambda: (f"{name}: {one.lead}" for name, one in found.items())):
        _write(made, look, overwrite)
    return made


def _tuples(given: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(value) for value in one) for one in given)


def _facts(look: Look) -> dict[str, Any]:
    model = look.checkpoint
    return {
        "software": f"labelscape {__version__}",
        "network": model.network,
        "task": model.whole and model.whole.mate.name,
        "options": model.options,
        "model": None if model.stored is None else vars(model.stored),
        "other": look.other and look.other.stored and look.other.stored.path,
        "labels": None if look.reference is None else sorted({str(file) for file in look.reference.files}),
        "seed": look.seed,
    }


def _run(look: Look, asked: Sequence[Analysis]) -> tuple[dict[str, Found], dict[str, str]]:
    found: dict[str, Found] = {}
    reasons = {one.name: one.why_not(look) for one in asked}
    suited = [one for one in asked if not reasons[one.name]]
    with bar("explain", len(suited), "steps") as tick:
        for one in suited:
            found[one.name] = one.run(look)
            tick(1, last=one.name)
    return found, {name: reason for name, reason in reasons.items() if reason}


def _reasons(not_suited: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in not_suited.items())


def _free_paths(out: Path, model: Checkpoint, overwrite: bool) -> dict[str, Path]:
    """Where the page ("html"), the numbers and the arrays go. Raises BadFile where one exists: before any
    work, not after minutes of it.
    """
    task = "" if model.whole is None else f"_{model.whole.mate.name}"
    stem = out / f"{stem_of(model.network)}{task}_explained"
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("html", "json", "npz")}
    for path in paths.values():
        check_new(path, overwrite=overwrite)
    return paths


def _write(made: Explanation, look: Look, overwrite: bool) -> None:
    try:
        # NaN is not JSON: analyses give None.
        text = json.dumps(made.to_dict(), indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise BadInput(
            f"The network {look.checkpoint.network} gives numbers that are not finite: its weights or "
            "statistics are damaged, or the input lies far from what it learned. Train or download it again."
        ) from error
    write_report(made.paths["html"], page_of(made, look, ANALYSES), overwrite=overwrite)
    with written_whole(made.paths["json"], overwrite=overwrite) as part:
        # newline: the same bytes on Windows.
        part.write_text(text, encoding="utf-8", newline="\n")
    arrays = {f"{name}/{key}": value for name, one in made.found.items() for key, value in one.arrays.items()}
    with written_whole(made.paths["npz"], overwrite=overwrite) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
