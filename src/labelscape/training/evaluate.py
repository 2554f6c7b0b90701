"""Score a checkpoint on its own held-out blocks, or on scenes whose labels are read as in its training."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from labelscape.checkpoint import Checkpoint, load_all
from labelscape.contract.adjust import is_finer
from labelscape.contract.matching import match_bands
from labelscape.datasets.own import Dataset, LabelledScene
from labelscape.datasets.split import known_part
from labelscape.errors import BadFile, BadOption, LabelscapeError, WrongType, check_names
from labelscape.evaluation import measure
from labelscape.evaluation.counts import Evaluation
from labelscape.evaluation.kept import KeptClasses
from labelscape.evaluation.measure import for_labels
from labelscape.evaluation.measure_maps import evaluate_maps
from labelscape.evaluation.objects import Objects
from labelscape.evaluation.places import Places, write_places
from labelscape.files import new_files
from labelscape.labels.rules import SETTINGS
from labelscape.legend import Legend
from labelscape.progress import told_where_lost
from labelscape.rasters.creation import Given, of_folder
from labelscape.scenes.files import Source, as_path, is_local, source_paths
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.vectors import is_vector
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.fits import misfits
from labelscape.training.learned import learned, learned_by_makers
from labelscape.training.map_data import data_of_maps, is_map
from labelscape.training.recipe_data import Data, make_data, stored_data
from labelscape.version import __version__
from labelscape.workers.share import Hands

if TYPE_CHECKING:
    from distributed import Client

    from labelscape.scoring.protocol import Protocol


def evaluate(
    checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
    dataset: Dataset | Source | Sequence[Source] | None = None,
    labels: str | Path | Sequence[str | Path] | None = None,
    *,
    spec: Mapping[str, Any] | None = None,
    part: str | None = None,
    tile_size: int | None = None,
    overlap: int | None = None,
    blend: str | None = None,
    device: str = "auto",
    precision: str = "32",
    engine: str = "auto",
    tta: str = "none",
    scales: Sequence[float] | float = (1.0,),
    average: str = "probabilities",
    protocol: Protocol | None = None,
    keep: Callable[[LabelledScene, np.ndarray], None] | None = None,
    boundaries: bool = False,
    objects: Sequence[str] = (),
    tolerance: int = 2,
    topology: Sequence[str] = (),
    apls: Sequence[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    creation_options: Given = None,
    show: bool = True,
    task: str | None = None,
    workers: int | None = None,
    cluster: str | Client | None = None,
) -> Evaluation:
    """Confusion counts of a checkpoint (or its file), or the average of several, over labelled pixels.

        ls.evaluate("mlp.safetensors")                               # its own held-out blocks
        ls.evaluate("mlp.safetensors", "other.tif", "other.gpkg")    # labels read as in training
        ls.evaluate("scene_class.tif", labels="other.gpkg")          # a finished map, of any software

    dataset  from `open_dataset`, or scenes together with their `labels`. Without it: those that the (first)
             checkpoint was trained on, which must still be where its recipe says
    labels   one label file per scene, or one for all
    spec     rules for these labels that differ from those of training, by their names in `LabelRules`
    part     "train", "val", "test" or "all"; None: all labels of what is given, else test (val without)
    engine, tta, scales, average  as `map_scene` has them; `protocol` is the last three as one value
    task     name of the second task to score, on its own labels; by default that whose classes there are
    keep     is given every scene, labelled or not, with its class indices (H, W), 255 where there is no data
    boundaries  also count by distance to the borders of the reference, for `trimap` and the eroded scores
    objects, topology, apls  classes of things, whose objects and borders (to `tolerance` pixels) count too,
             of lines, whose skeletons are compared, and of roads, along which paths are
    out      folder for where it is wrong: error maps (with the `creation_options`), blocks, counts, a report
    workers, cluster  as `map_scenes` has them, a scene a worker; one that fails is in `Evaluation.failed`

    `Evaluation.notes` name a model that was trained on what it is scored on. A class raster, or a folder of
    them by scenes' names, is scored as it is. Raises as `measure.evaluate`; also BadOption, BadFile.
    """
    options = {"tile_size": tile_size, "overlap": overlap, "blend": blend, "keep": keep, "show": show}
    options |= {"device": device, "precision": precision, "boundaries": boundaries, "overwrite": overwrite}
    options |= {"objects": objects, "tolerance": tolerance, "topology": topology, "apls": apls}
    options |= {"engine": engine, "protocol": one_protocol(protocol, tta, scales, average)}
    options |= {"hands": Hands(workers, cluster), "creation_options": creation_options}
    return _evaluate_asked(out, checkpoint, (dataset, labels, spec or {}), part, task, **options)


def _evaluate_asked(
    out: str | Path | None,
    checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
    asked: tuple[Any, Any, Mapping[str, Any]],
    part: str | None,
    task: str | None,
    **options: Any,
) -> Evaluation:
    """`evaluate_into` on the scenes, labels and rules that are `asked` for, or on those of training."""
    if asked[0] is not None and asked[1] is None:
        return evaluate_into(out, checkpoint, asked[0], part, task=task, **options)
    known_part(part)  # before scenes are opened
    if is_map(checkpoint):
        return _evaluate_map(out, as_path(checkpoint), asked, part, **options)
    first, *others = load_all(checkpoint)
    models = [first.task(task), *(one.task(task if task in one.tasks else None) for one in others)]
    hands, failed = options["hands"], {}
    if not hands.alone and asked[0] is not None and asked[1] is not None:
        scenes, files, failed = readable(_scenes(asked[0]), _files(asked[1]), asked[2])
        asked = scenes, files, asked[2]
    data, notes = asked_for(models[0], *asked)
    for note in notes:
        # 3: the line that called `evaluate`, two functions up.
        warnings.warn(note, stacklevel=3)
    # Its seed draws its own held-out blocks, its legend keeps the indices it learned: other labels may lack
    # a class.
    seed, legend = models[0].recipe.get("seed", 0), models[0].legend
    with open_recipe_data(data, seed, legend, hold=hands.alone) as opened:
        if part is None and asked[0] is None:
            part = scored_part(opened)
        return evaluate_into(out, models, opened, part, failed=failed, own=is_own(models[0], data), **options)


def _evaluate_map(
    out: str | Path | None,
    path: Path | str,
    asked: tuple[Any, Any, Mapping[str, Any]],
    part: str | None,
    **how: Any,
) -> Evaluation:
    """A finished map on the labels that are `asked` for."""
    scenes, labels, spec = asked
    if labels is None:
        raise BadOption(
            "A finished map is scored on `labels`; pass them, and scenes where there are several."
        )
    data, legend = data_of_maps([path], scenes, labels, spec)
    # Not held in memory, as for training: each of its pixels is read once.
    with open_recipe_data(data, 0, legend, hold=False) as opened:
        return evaluate_into(out, path, opened, part, **how)


def evaluate_into(
    out: str | Path | None,
    checkpoint: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
    dataset: Dataset,
    part: str | None,
    *,
    overwrite: bool = False,
    creation_options: Given = None,
    objects: Sequence[str] = (),
    tolerance: int = 2,
    topology: Sequence[str] = (),
    apls: Sequence[str] = (),
    hands: Hands = Hands(),
    failed: Mapping[str, str] = MappingProxyType({}),
    own: bool = False,
    **options: Any,
) -> Evaluation:
    """`measure.evaluate`, which also counts `objects`, `topology` and `apls` and writes where the model is
    wrong into the folder `out`, unless that is None. A finished map, or a folder of them, is scored in place
    of a checkpoint; of the options it takes `boundaries` and `show`. `hands` do the work, `failed` are scenes
    that could not be opened, and why; `own`: the data are those of the first model's recipe (`is_own`).
    """
    measure.check_dataset(dataset, "score a checkpoint")
    known = known_part(part)
    scenes = dataset.scenes if known is None else dataset.part(known)
    # Before anything is predicted: that its files may be written is checked when it is made.
    whole = KeptClasses()
    places = _places(out, scenes, dataset.legend, whole, overwrite, creation_options)
    with new_files(places.files if places is not None else ()):
        how = {"tolerance": tolerance, "topology": topology, "apls": apls}
        wanted = objects or topology or apls
        things = Objects(objects, dataset.legend.names, **how, kept=whole) if wanted else None
        wholes = [one.watch for one in (places, things) if one is not None]
        watch = [whole.watch, *wholes] if wholes else []
        if is_map(checkpoint):
            if not hands.alone:
                raise BadOption("A finished map is scored by one process: leave `workers` and `cluster` out.")
            title, kept = Path(checkpoint).name, {name: options[name] for name in ("boundaries", "show")}
            found = evaluate_maps(checkpoint, dataset, part=known, watch=watch, **kept)
            notes = learned_by_makers(checkpoint, dataset, known)
        else:
            models = load_all(checkpoint)
            title = " + ".join(one.network for one in models)
            options |= {"reliability": options.get("reliability", False) or places is not None}
            if hands.alone:
                found = measure.evaluate(models, dataset, part=part, watch=watch, **options)
            else:
                counted = {name: tuple(value) for name, value in how.items() if name != "tolerance"}
                counted |= {"objects": tuple(objects), "tolerance": tolerance}
                found = _on_workers(hands, models, dataset, known, places, {**options, **counted})
                things = None
            notes = _doubts(title, models, dataset, known, options.get("task"), own=own)
            found = replace(found, failed={**failed, **found.failed})
        found = replace(found, notes=(*found.notes, *notes))
        if things is not None:
            counts = {"topology": tuple(things.topology), "paths": tuple(things.paths)}
            found = replace(found, objects=tuple(things.counts), **counts)
        return found if places is None else _placed(found, places, title, known, overwrite)


def _doubts(
    title: str,
    models: Sequence[Checkpoint],
    dataset: Dataset,
    part: str | None,
    task: str | None,
    *,
    own: bool,
) -> list[str]:
    """What makes a score doubtful: pixels that a model was trained on, scenes that it is not for."""
    # What its own split holds out it has not learned: labels need not be read again.
    asked = models[1:] if own and part in ("val", "test") else models
    notes = learned(title, asked, dataset, part)
    return notes if own else notes + misfits(title, for_labels(models, dataset, task)[0], dataset, part)


def _places(
    out: str | Path | None,
    scenes: Sequence[LabelledScene],
    legend: Legend,
    kept: KeptClasses,
    overwrite: bool,
    creation_options: Given,
) -> Places | None:
    """What follows an evaluation, where files are asked for. Raises BadFile, BadOption."""
    files = {"overwrite": overwrite, "creation_options": of_folder(creation_options, out, "error maps")}
    return None if out is None else Places(out, scenes, legend, kept, **files)


def _placed(found: Evaluation, places: Places, title: str, part: str | None, overwrite: bool) -> Evaluation:
    """The counts with those by distance, and the files beside the error maps."""
    found = replace(found, distances=places.distances)
    if places.distances.warning:
        found = replace(found, notes=(*found.notes, places.distances.warning))
    # A disk that fills up with the last file: the scores took hours.
    with told_where_lost(lambda: measure.scores_so_far(found, len(found.per_scene))):
        _write(found, places, title, f"{part or 'all'} labels of {_counted(len(found.per_scene))}", overwrite)
    return found


def _on_workers(
    hands: Hands,
    models: Sequence[Checkpoint],
    dataset: Dataset,
    part: str | None,
    places: Places | None,
    options: dict[str, Any],
) -> Evaluation:
    from labelscape.evaluation.on_workers import Counting
    from labelscape.evaluation.on_workers import evaluate as share

    if options.pop("keep", None) is not None:
        raise BadOption(
            "Predictions are written by one process (`keep`, --predictions): leave `workers` and `cluster` "
            "out."
        )
    options.pop("show", None)
    tiles = {name: options.pop(name, None) for name in ("tile_size", "overlap", "blend")}
    names = ("boundaries", "reliability", "objects", "topology", "apls", "tolerance")
    counting = Counting(part, tiles, None, **{name: options.pop(name) for name in names if name in options})
    return share(hands, models, dataset, counting, places=places, **options)


def readable(
    scenes: Sequence[str | tuple[str, ...]], labels: Sequence[str], reading: Mapping[str, Any]
) -> tuple[list[str | tuple[str, ...]], list[str], dict[str, str]]:
    """Of several scenes those that can be opened, with their labels; and why the others cannot. All of them
    where none can, or where they have no label file each: then opening says what is wrong.
    """
    failed: dict[int, str] = {}
    how = {name: reading[name] for name in ("nodata", "band_names", "asset") if name in reading}
    for number, scene in enumerate(scenes):
        try:
            open_scene(scene, **how).close()
        except LabelscapeError as error:
            failed[number] = str(error)
    if not failed or len(failed) == len(scenes) or len(labels) not in (1, len(scenes)):
        return list(scenes), list(labels), {}
    kept = [number for number in range(len(scenes)) if number not in failed]
    own = [labels[number] for number in kept] if len(labels) > 1 else list(labels)
    first = {n: one if isinstance(one, str) else one[0] for n, one in enumerate(scenes)}
    return [scenes[n] for n in kept], own, {Path(first[n]).stem: cause for n, cause in failed.items()}


def _write(found: Evaluation, places: Places, title: str, measured_on: str, overwrite: bool) -> None:
    """The files of an evaluation, and its report of them."""
    from labelscape.evaluation.page import write_page

    files = write_places(found, places, overwrite=overwrite)
    how = {"measured_on": measured_on, "places": places, "files": files, "overwrite": overwrite}
    made = f"{datetime.date.today():%Y-%m-%d}, labelscape {__version__}"
    write_page(places.out / "report.html", found, title=title, subtitle=made, **how)


def _counted(scenes: int) -> str:
    return f"{scenes} scene{'s' * (scenes != 1)}"


def one_protocol(given: Protocol | None, tta: str, scales: Sequence[float] | float, average: str) -> Protocol:
    """The protocol that is given, or that of the three settings. Raises BadOption where both are given."""
    from labelscape.scoring.protocol import Protocol

    # One scale may be given as a number.
    factors = tuple(np.atleast_1d(scales).tolist())
    if given is None:
        return Protocol(factors, tta, average)
    if (tta, factors, average) != ("none", (1.0,), "probabilities"):
        raise BadOption("protocol and tta, scales or average set the same thing; give one of them.")
    return given


def asked_for(
    model: Checkpoint,
    scenes: Source | Sequence[Source] | None,
    labels: str | Path | Sequence[str | Path] | None,
    spec: Mapping[str, Any],
) -> tuple[Data, list[str]]:
    """The scenes and labels that are given, or those of training; and what to warn of."""
    if scenes is not None:
        return other_data(model, _scenes(scenes), {**spec, "labels": _files(labels)})
    if labels is not None:
        raise BadOption("`labels` are given, but no scene; pass the scenes too.")
    return present(training_data(model)), []


def training_data(checkpoint: Checkpoint, name: str = "The checkpoint") -> Data:
    """What a checkpoint was trained on. Raises BadOption, which calls it `name`, where it does not say."""
    if not checkpoint.recipe.get("data"):
        raise BadOption(f"{name} does not say what it was trained on: pass scenes and `labels`.")
    return stored_data(checkpoint)


def is_own(checkpoint: Checkpoint, data: Data) -> bool:
    """Are these data those of a checkpoint's training, so that their split is its own?"""
    with suppress(BadOption):  # what cannot be read is nobody's
        return bool(checkpoint.recipe.get("data")) and stored_data(checkpoint) == data
    return False


def present(data: Data) -> Data:
    """What a checkpoint was trained on, to be scored. Raises BadFile where it is not there any more."""
    for image in data.images:
        for file in [image] if isinstance(image, str) else image:
            # Patterns and lists of files are told by who reads them.
            if is_local(file) and not set("*?[,") & set(file) and not os.path.exists(file):
                raise BadFile(
                    f"{file}, which the checkpoint was trained on and would be scored on, does not exist. "
                    "Pass scenes and `labels`."
                )
    return data


def other_data(
    checkpoint: Checkpoint, images: Sequence[str | tuple[str, ...]], given: Mapping[str, Any]
) -> tuple[Data, list[str]]:
    """Other scenes than those of training, whose labels are read as in training except for the settings
    `given`; and what to warn of. Raises UnknownName for another setting.
    """
    check_names("setting of labels", given, ("labels", *SETTINGS, "nodata", "bands", "band_names", "asset"))
    as_trained, notes = rules_of_training(checkpoint, given)
    # Nothing of these scenes was trained on, so nothing needs to be held out.
    scenes = {"images": list(images), "holdout": 0}
    return make_data(
        {
            **as_trained,
            **_as_the_model_reads(checkpoint, images[0], given.get("band_names"), given.get("asset")),
            **given,
            **scenes,
        }
    ), notes


def rules_of_training(checkpoint: Checkpoint, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """How the labels of training were read (settings of `LabelRules`, and nodata), for those of other scenes,
    which are read with what is `given` beside; and what to warn of.
    """
    stored = checkpoint.recipe.get("data") or {}
    # The area within which training labels are complete says nothing about the labels of other scenes.
    as_trained = {name: stored[name] for name in (*SETTINGS, "nodata") if name != "area" and name in stored}
    notes = []
    if stored.get("area") and "area" not in given:
        files = given.get("labels", ())
        # A background is what no polygon covers: rasters say themselves what is unlabelled.
        rasters = files and not any(map(is_vector, files))
        background = None if rasters else given.get("background", stored.get("background"))
        notes = [_area_warning(stored["area"], background)]
    return as_trained, notes


def _area_warning(area: str, background: str | None) -> str:
    """What a score means without the area in which labels are complete."""
    counted = (
        f"every pixel without a label counts as {background!r}, even where nothing was mapped, and the score "
        "may be far too low"
        if background
        else "all labels count, even where they are incomplete"
    )
    return (
        f"training used labels only inside {area} (`area`), and no `area` is given for these scenes: "
        f"{counted}. Pass the polygons within which their labels are complete with `area`."
    )


def _as_the_model_reads(
    checkpoint: Checkpoint, image: str | tuple[str, ...], band_names: Sequence[str] | None, asset: str | None
) -> dict[str, Any]:
    """The checkpoint's bands where the scene has them by name, else its own order; its pixel size where the
    scene's pixels are finer.
    """
    # A folder of image and label pairs is no single scene, whose bands could be asked.
    if isinstance(image, str) and any(
        (Path(image) / n).is_dir() for n in ("images", "image", "img_dir", "img")
    ):
        return {}
    with open_scene(image, wanted=checkpoint.bands, band_names=band_names, asset=asset) as scene:
        return {
            "bands": list(checkpoint.bands)
            if match_bands(checkpoint.bands, scene.bands).by == "name"
            else None,
            # Finer pixels are brought to the size that the network knows, as a map brings them.
            "pixel_size": checkpoint.pixel_size if is_finer(checkpoint.contract, scene) else None,
        }


def _scenes(given: object) -> list[str | tuple[str, ...]]:
    """Paths of one scene or several. Raises WrongType for scenes in memory."""
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    paths = [source_paths(one) for one in several]
    if not paths or None in paths:
        found = "an empty list" if not paths else f"a {type(several[paths.index(None)]).__name__}"
        raise WrongType(
            f"Scenes with `labels` are given by their paths; found {found}. Open others with "
            "ls.open_dataset([scene], [labels], spec=ls.LabelRules(legend=checkpoint.legend))."
        )
    return paths


def _files(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [os.fspath(one) for one in ([given] if isinstance(given, (str, os.PathLike)) else given)]
