"""`explain`: choose windows, run the analyses that suit the network, write page, JSON and arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelscape.checkpoint import Checkpoint, load_all
from labelscape.errors import BadInput, BadOption, check_names
from labelscape.evaluation.report import write_report
from labelscape.explanation import (
    dfcnet,
    dgcwnet,
    disagreement,
    general,
    ifbfnet,
    maggiori,
    mswbn,
    mswbn_gradients,
    over_training,
    speaks_for,
)
from labelscape.explanation.analysis import Analysis, Explanation, Found, Look
from labelscape.explanation.page import page_of
from labelscape.explanation.windows import Wanted, choose
from labelscape.files import check_path, stem_of, written_whole
from labelscape.maps.request import request_for
from labelscape.progress import bar
from labelscape.scenes.files import Source
from labelscape.scenes.scene_list import SceneList
from labelscape.scoring.engines import build_network, pick_device
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
    Analysis("bands", "Importance of bands", general.why_no_bands, general.band_importance),
    Analysis("speaks-for", "What speaks for the class at a pixel", speaks_for.why_not, speaks_for.speaks_for),
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
    over        folder of a training run of this network: its saved states are looked at too
    layer       name of a layer (of torch's `named_modules`) whose maps are shown
    only        names of analyses; by default all that suit the network
    settings    of `map_scene`: nodata, band_names, asset, allow_remote, device, force

    One window is in memory at a time beyond a fixed 256 MiB, whatever the scene's size. Raises as `map_scene`
    where a scene does not fit the model; BadOption for windows outside the scene, UnknownName for an unknown
    class or analysis, BadInput where no window has data, or no analysis that was asked for suits.
    """
    check_path(out, "The folder of the explanation (out)")
    (model,) = load_all(checkpoint)
    sources = [one.source for one in scene] if isinstance(scene, SceneList) else [scene]
    request = request_for(checkpoint, sources[0], None, None, settings)
    wanted = Wanted(_tuples(window), _tuples(pixel), windows, size, of_class, seed)
    check_names("analysis", only, [one.name for one in ANALYSES])
    if of_class is not None:
        model.legend.index(of_class)
    if wanted.placed and len(sources) > 1:
        raise BadOption(f"A window's place is in one scene; {len(sources)} were given.")
    stem = Path(out) / f"{stem_of(model.network)}_explained"
    paths = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("html", "json", "npz")}
    _check_free(paths, overwrite)
    net = build_network(model).to(pick_device(request.device))
    second = None if other is None else load_all(other)[0]
    with bar("choose windows", wanted.placed or windows, "windows") as tick:
        chosen, notes = choose(net, model, request, sources, wanted, tick)
    asked = {"over": None if over is None else Path(over), "layer": layer, "pixels": wanted.pixels}
    look = Look(net, model, chosen, other=second, seed=seed, **asked)
    return _explained(
        look, [one for one in ANALYSES if not only or one.name in only], paths, notes, overwrite
    )


def _explained(
    look: Look, asked: Sequence[Analysis], paths: dict[str, Path], notes: Sequence[str], overwrite: bool
) -> Explanation:
    """Run the analyses that suit, and write what they find."""
    found, not_suited = _run(look, asked)
    if not found:
        raise BadInput(f"No analysis suits {look.checkpoint.network}: {_reasons(not_suited)}.")
    seen = tuple(one.named(look.names) for one in look.windows)
    made = Explanation(paths, seen, found, not_suited, tuple(notes), _facts(look))
    _write(made, look, overwrite)
    return made


def _tuples(given: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(value) for value in one) for one in given)


def _facts(look: Look) -> dict[str, Any]:
    model = look.checkpoint
    return {
        "software": f"labelscape {__version__}",
        "network": model.network,
        "options": model.options,
        "model": None if model.stored is None else vars(model.stored),
        "other": look.other and look.other.stored and look.other.stored.path,
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


def _check_free(paths: dict[str, Path], overwrite: bool) -> None:
    # Before any work, not after minutes of it.
    taken = [path for path in paths.values() if path.exists()]
    if taken and not overwrite:
        raise BadOption(f"{taken[0]} exists; pass `overwrite=True` to replace it, or another `out`.")


def _write(made: Explanation, look: Look, overwrite: bool) -> None:
    write_report(made.paths["html"], page_of(made, look, ANALYSES), overwrite=overwrite)
    with written_whole(made.paths["json"], overwrite=overwrite) as part:
        # newline: the same bytes on Windows. NaN is not JSON: analyses give None.
        text = json.dumps(made.to_dict(), indent=1, allow_nan=False) + "\n"
        part.write_text(text, encoding="utf-8", newline="\n")
    arrays = {f"{name}/{key}": value for name, one in made.found.items() for key, value in one.arrays.items()}
    with written_whole(made.paths["npz"], overwrite=overwrite) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
