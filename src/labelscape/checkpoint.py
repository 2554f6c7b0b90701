"""Checkpoints: one `.safetensors` file with all that mapping needs, weights, classes and the input contract.

Loading a stranger's model must not run a stranger's code: the file holds arrays and JSON, never pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from labelscape.checkpoint_schema import check_description, check_options
from labelscape.contract.contract import Contract
from labelscape.contract.familiarity import PREFIX, Familiarity
from labelscape.contract.tile_sizes import TileSizes
from labelscape.errors import BadFile, BadOption, UnknownName
from labelscape.exported import ExportedNetwork, read_exported
from labelscape.exported_formats import KINDS
from labelscape.files import check_path, written_whole
from labelscape.legend import Legend
from labelscape.mistaken import no_such_file, what_it_is
from labelscape.model_places import local_model
from labelscape.tensor_file import check_header, check_tensors, write_tensors
from labelscape.text import printable, some

FORMAT = "labelscape-1"
TASK_NAME = r"[\w-]{1,40}"
"""Names of second tasks: what file names may hold everywhere."""


@dataclass(frozen=True)
class StoredAs:
    """The file that a checkpoint was read from or written to, and its SHA-256 at that time."""

    path: str
    sha256: str

    @classmethod
    def now(cls, path: str | Path) -> StoredAs:
        with open(path, "rb") as file:
            return cls(str(path), hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, eq=False)
class SecondTask:
    """What a network learned beside its own classes, in the same batches (DFCNet: roads beside land cover).

    name         one word, part of the names of its maps' files
    legend       its classes
    contract     the imagery it was trained on, scaled by its own mean and deviation
    scores       metrics on its own held-out labels, by network
    temperature  calibration, as the checkpoint's
    """

    name: str
    legend: Legend
    contract: Contract
    scores: dict = field(default_factory=dict)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        # Also of a stranger's file: a name with a slash would write its maps to another folder.
        if not re.fullmatch(TASK_NAME, self.name):
            raise BadOption(
                f"The second task's name {self.name!r} must be one word of letters, digits and hyphens, such "
                "as road: it is part of file names."
            )

    def describe(self) -> dict:
        """As JSON values."""
        return {
            "name": self.name,
            "legend": json.loads(self.legend.to_json()),
            "contract": self.contract.describe(),
            "scores": self.scores,
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, fields: Mapping) -> SecondTask:
        """The inverse of `describe`. Raises KeyError, TypeError or ValueError for what is none."""
        return cls(
            name=fields["name"],
            legend=Legend.from_json(json.dumps(fields["legend"])),
            contract=Contract.from_dict(fields["contract"]),
            scores=fields["scores"],
            temperature=fields["temperature"],
        )


# Weights are arrays, and arrays do not compare to one truth value: a checkpoint equals itself only.
@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """A trained network with its classes and the contract of its imagery.

    network, options  name in the catalogue and the options it was built with
    weights           state_dict as float32 arrays
    legend            the classes; output channel k is class k
    contract          the imagery it was trained on: bands, value statistics, units, pixel size
    recipe            how it was trained, as JSON values
    scores            metrics on the held-out blocks by network: its own, and those of networks it was
                      compared with on the same blocks
    history           loss and learning rate over the steps
    temperature       calibration: logits are divided by it before the softmax; 1 as trained
    tile_sizes        held-out scores by tile size; None where a tile's size makes no difference, or was not
                      measured
    corrections       what each file of corrections changed in the training labels, with its SHA-256, as JSON
                      values (`datasets.corrected.Corrected`)
    familiarity       features of its training data, by which unfamiliar input is told; None where they were
                      not measured
    mate              the second task that it learned in the same batches; None where there is none
    exported          the graph of a model that `export` wrote, which stands for the weights. Not stored
    whole             of what `task` returned, the checkpoint with both tasks; else None. Not stored
    stored            the file that `load` read or `train` wrote, by which a map of it can be made again; None
                      for a checkpoint made or changed (`dataclasses.replace`) in memory. Not stored

    Two checkpoints are equal when they are the same object; `describe()` and `weights` can be compared.
    """

    network: str
    options: dict
    weights: Mapping[str, np.ndarray]
    legend: Legend
    contract: Contract
    recipe: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    history: tuple[dict, ...] = ()
    temperature: float = 1.0
    tile_sizes: TileSizes | None = None
    familiarity: Familiarity | None = None
    mate: SecondTask | None = None
    corrections: tuple[dict, ...] = ()
    whole: Checkpoint | None = None
    exported: ExportedNetwork | None = field(default=None, repr=False)
    # init=False, so that `dataclasses.replace` does not carry it over to other weights.
    stored: StoredAs | None = field(default=None, init=False)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands it reads, in the network's order."""
        return self.contract.bands

    @property
    def pixel_size(self) -> float | None:
        """Side of a training pixel on the ground in metres, None for pictures without coordinates."""
        return self.contract.pixel_size

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks beside its own: one, or none."""
        return () if self.mate is None else (self.mate.name,)

    def task(self, name: str | None) -> Checkpoint:
        """The second task alone, as a checkpoint that maps, scores and calibrates as any other: its classes,
        scaling, data and scores. None is the checkpoint itself. Raises UnknownName for a task that it did not
        learn.
        """
        if name is None or (self.whole is not None and name == self.whole.mate.name):
            return self
        if name not in self.tasks:
            raise UnknownName("second task of this checkpoint", name, self.tasks)
        data = (self.recipe.get("mate") or {}).get("data")
        return replace(
            self,
            legend=self.mate.legend,
            contract=self.mate.contract,
            recipe={**self.recipe, "data": data, "mate": None},
            scores=self.mate.scores,
            temperature=self.mate.temperature,
            mate=None,
            corrections=(),
            whole=self,
        )

    def describe(self) -> dict:
        """All but the weights, as JSON values."""
        return {
            "format": FORMAT,
            "network": self.network,
            "options": self.options,
            "legend": json.loads(self.legend.to_json()),
            # Flat among the rest, as the first version wrote it: a nested contract would be another format.
            **self.contract.describe(),
            "recipe": self.recipe,
            "scores": self.scores,
            "history": list(self.history),
            "temperature": self.temperature,
            # Left out where there is none: checkpoints of earlier versions stay the same, to the byte.
            **({"tile_sizes": self.tile_sizes.to_dict()} if self.tile_sizes else {}),
            **({"familiarity": self.familiarity.describe()} if self.familiarity else {}),
            **({"second_task": self.mate.describe()} if self.mate else {}),
            **({"corrections": list(self.corrections)} if self.corrections else {}),
            # Never in a file (`save` refuses it): it tells the tiles of one task's map from the other's.
            **({"task": self.whole.mate.name} if self.whole else {}),
            **({"exported": self.exported.describe()} if self.exported else {}),
        }

    def __repr__(self) -> str:
        size = "no pixel size" if self.pixel_size is None else f"{self.pixel_size:.3g} m"
        score = self.scores.get(self.network, {}).get("mean_iou")
        scored = "" if score is None else f", mIoU {100 * score:.2f} %"
        counts = f"{len(self.bands)} bands, {len(self.legend)} classes"
        counts += f" and {len(self.mate.legend)} of {self.mate.name}" if self.mate else ""
        return f"<Checkpoint {self.network}: {counts}, {size}{scored}>"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from labelscape.model_card import html_card

        return html_card(self.describe())


def remember_file(checkpoint: Checkpoint, path: str | Path) -> Checkpoint:
    """The checkpoint itself, which now knows the file that holds it."""
    object.__setattr__(checkpoint, "stored", StoredAs.now(path))
    return checkpoint


def save(checkpoint: Checkpoint, path: str | Path, *, half: bool = False) -> Path:
    """Write a checkpoint atomically; an existing file is replaced. `half` stores weights as float16: half the
    size, about three decimal digits.

    Raises BadFile where it cannot be written, BadOption for one task of two.
    """
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    if checkpoint.whole is not None:
        raise BadOption("This is one task of a checkpoint; save the checkpoint itself (`.whole`).")
    if checkpoint.exported is not None:
        raise BadOption("This is an exported model, whose weights are in its graph; it cannot be saved.")
    # Copied to C order: safetensors stores the raw buffer, whatever the strides.
    weights = {
        k: np.array(v, np.float16 if half and v.dtype == np.float32 else v.dtype, order="C")
        for k, v in checkpoint.weights.items()
    }
    # In float64 even with `half`: small, and squares of their differences are divided by small variances.
    weights |= checkpoint.familiarity.arrays() if checkpoint.familiarity else {}
    # safetensors sorts by name and type: the same weights give the same bytes.
    content = to_bytes(weights, metadata={"labelscape": json.dumps(checkpoint.describe())})
    with written_whole(path, overwrite=True) as part:
        write_tensors(part, content)
    return path


def description(path: str | Path) -> dict:
    """Read all of a checkpoint but its weights, as JSON values. Raises BadFile as `load` does."""
    check_path(path, "A checkpoint")
    path = local_model(path)
    if not os.path.isfile(path):
        raise BadFile(
            no_such_file(path)
            if not os.path.exists(path)
            else f"{path} is a folder; a .safetensors checkpoint was expected{_such_as(path)}."
        )
    if path.suffix.lower() in KINDS:
        found, network = read_exported(path)
        return {**_checked(path, found), "exported": network.describe() | {"metadata": dict(network.others)}}
    with _opened(path) as file:
        # Only the header is read, not hundreds of megabytes of weights.
        meta = (file.metadata() or {}).get("labelscape")
    if meta is None:
        raise BadFile(
            f"{path} is a safetensors file without Labelscape's description: it was not made by `labelscape "
            "train` or an import."
        )
    check_header(path)
    try:
        fields = json.loads(meta)
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} has a damaged description ({_short(error)}).") from error
    return _checked(path, fields)


def _such_as(folder: Path) -> str:
    """The checkpoints that a folder holds, such as the one that a training wrote to."""
    held = sorted(one for one in folder.glob("*.safetensors") if not one.name.endswith(".state.safetensors"))
    return f", such as {some(held, 3)}" if held else ""


def _checked(path: Path, fields: Any) -> dict:
    """The description without its format. Raises BadFile for one of another format, or damaged."""
    try:
        # Before any other field is looked at: another format may mean something else by the same names.
        if (made_as := fields.pop("format")) != FORMAT:
            raise BadFile(
                f"{path} was written by another version of Labelscape (format {made_as}, this one reads "
                f"{FORMAT})."
            )
        check_description(fields)
    except KeyError as error:
        raise BadFile(f"{path} has a damaged description ({error} is missing).") from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadFile(f"{path} has a damaged description ({_short(error)}).") from error
    return fields


def _short(error: BaseException) -> str:
    """The first line of an error, cut: it may quote a stranger's text."""
    text = printable((str(error).splitlines() or [type(error).__name__])[0])
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises BadFile where it is not one, or what is read from it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        if found := what_it_is(path):
            raise BadFile(f"{path} {found}.") from error
        raise BadFile(
            f"{path} is not a Labelscape checkpoint or is damaged ({str(error).splitlines()[0]})."
        ) from error


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint (weights as float32), or a model that `export` wrote. Raises BadFile where it
    is missing, damaged or another file. `path` may be a place that `push` wrote to: a folder, hf://owner/name,
    s3://bucket/prefix, or its https:// address.
    """
    check_path(path, "A checkpoint")
    path = local_model(path)
    if Path(path).suffix.lower() in KINDS and Path(path).is_file():
        return _load_exported(Path(path))
    fields = description(path)
    path = Path(path)
    with _opened(path) as file:
        weights = {key: _as_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (no mapping)
    check_tensors(path)
    beside = {key: weights.pop(key) for key in [*weights] if key.startswith(PREFIX)}
    for key, values in weights.items():
        # A NaN in the weights makes every pixel the first class, without an error.
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise BadFile(
                f"{path} cannot be used: its weights {printable(key)!r} hold values that are no finite "
                "numbers."
            )
    try:
        check_options(fields["options"], sum(values.size for values in weights.values()))
        loaded = Checkpoint(
            network=fields["network"],
            options=fields["options"],
            weights=weights,
            # Through JSON, so that a damaged legend is refused by the same checks as a legend's own file.
            legend=Legend.from_json(json.dumps(fields["legend"])),
            contract=Contract.from_dict(fields),
            recipe=fields["recipe"],
            scores=fields["scores"],
            history=tuple(fields["history"]),
            # Files written before calibration existed have none.
            temperature=fields.get("temperature", 1.0),
            tile_sizes=TileSizes.from_dict(fields["tile_sizes"]) if fields.get("tile_sizes") else None,
            familiarity=Familiarity.of_file(fields.get("familiarity"), beside),
            mate=SecondTask.from_dict(fields["second_task"]) if fields.get("second_task") else None,
            corrections=tuple(fields.get("corrections", ())),
        )
        # Written by a later version: ignoring a field could change the map without a message.
        if unknown := fields.keys() - loaded.describe().keys():
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path} has a damaged description ({_short(error)}).") from error
    return remember_file(loaded, path)


def _load_exported(path: Path) -> Checkpoint:
    found, network = read_exported(path)
    fields = _checked(path, found)
    try:
        made = Checkpoint(
            network=fields["network"],
            options=fields["options"],
            weights={},
            legend=Legend.from_json(json.dumps(fields["legend"])),
            contract=Contract.from_dict(fields),
            recipe=fields["recipe"],
            scores=fields["scores"],
            history=tuple(fields["history"]),
            # The graph's probabilities are calibrated already.
            temperature=1.0,
            tile_sizes=TileSizes.from_dict(fields["tile_sizes"]) if fields.get("tile_sizes") else None,
            corrections=tuple(fields.get("corrections", ())),
            exported=replace(network, temperature=fields.get("temperature", 1.0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path} has a damaged description ({_short(error)}).") from error
    return remember_file(made, path)


def load_all(given: Checkpoint | str | Path | Sequence[Checkpoint | str | Path]) -> list[Checkpoint]:
    """Make a list of one checkpoint or several, loading files. Raises BadFile as `load`, BadOption for an
    empty list.
    """
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not several:
        raise BadOption("At least one checkpoint is needed; the list is empty.")
    return [one if isinstance(one, Checkpoint) else load(one) for one in several]


def _as_float32(array: np.ndarray) -> np.ndarray:
    # Half precision is for storage: networks compute in float32 unless asked otherwise.
    return array.astype(np.float32) if array.dtype == np.float16 else array


_KNOWN: WeakKeyDictionary[Checkpoint, str] = WeakKeyDictionary()
"""Fingerprints: a job asks for those of the same models for every scene."""


def fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 of a checkpoint's weights and description."""
    if checkpoint not in _KNOWN:
        _KNOWN[checkpoint] = _computed(checkpoint)
    return _KNOWN[checkpoint]


def _computed(checkpoint: Checkpoint) -> str:
    # `default=str`: a recipe made in Python may hold values that JSON has not.
    digest = hashlib.sha256(json.dumps(checkpoint.describe(), sort_keys=True, default=str).encode())
    # Sorted: the order in which weights were loaded says nothing about their values.
    for name in sorted(checkpoint.weights):
        digest.update(name.encode() + np.ascontiguousarray(checkpoint.weights[name]).tobytes())
    return digest.hexdigest()
