"""Save and resume an interrupted run, to the same weights: network, optimizer state, moving average, step and
log. One safetensors file, never pickle.

Random numbers need no place here: crops and dropout of a step are drawn from (seed, step), not from a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labelscape.errors import BadFile
from labelscape.files import written_whole
from labelscape.scenes.stamps import unlike
from labelscape.tensor_file import check_tensors, write_tensors
from labelscape.training.optimizers import pack, unpack
from labelscape.training.recipe import in_todays_words

WHERE_ONLY = ("device", "save_every", "keep_every", "measure_tile_sizes", "measure_unfamiliar")
"""Settings that may change between a run and its resumption: they do not change the weights."""


@dataclass
class Progress:
    """Where a run stands after `step` updates."""

    step: int = 0
    history: list[dict] = field(default_factory=list)
    recent: list[list[float]] = field(default_factory=list)
    """Losses since the log's last line, a row for each step: the loss, and with two tasks that of each. (A
    row is a tensor until it is read; state files of earlier versions have a number for it.)
    """
    best: float = -1.0
    best_step: int = 0
    waited: int = 0
    """Scores in a row that were no better."""
    best_weights: dict[str, np.ndarray] | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of the weights, on the device; empty without `ema` and before the first step."""


HEAVY = ("best_weights", "average")
"""What of the progress are tensors of their own in the file."""

FILES = "files"
"""Key of the stamps of the data's files (`Watched.named`) in its fingerprint."""
Scaler = torch.amp.GradScaler | None
"""Scales losses so that float16 gradients do not underflow; the factor adapts during training."""


def save_state(
    path: Path,
    recipe: dict,
    progress: Progress,
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Scaler = None,
    seen: dict | None = None,
    machine: dict | None = None,
) -> None:
    """Write the state file, whole or not at all. `seen` is the fingerprint of the data (`setup.seen_data`).
    Raises BadFile where it cannot be written.
    """
    from safetensors.torch import save

    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in pack(optimizer).items()}
    for name, value in (progress.best_weights or {}).items():
        tensors[f"best.{name}"] = torch.from_numpy(value)
    tensors |= {f"average.{name}": value for name, value in progress.average.items()}
    facts = {
        "recipe": recipe,
        "progress": {key: value for key, value in vars(progress).items() if key not in HEAVY},
        "scaler": scaler.state_dict() if scaler else None,
        "seen": seen,
        "machine": machine,
    }
    # safetensors refuses tensors that share memory and those that are not contiguous (channels last).
    content = save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"labelscape-state": json.dumps(facts)},
    )
    with written_whole(path, overwrite=True) as part:
        write_tensors(part, content)


def load_state(
    path: Path,
    recipe: dict,
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Scaler = None,
    seen: dict | None = None,
    machine: dict | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Progress:
    """Restore net, optimizer and scaler from the file and return the progress; `say` gets a line where the
    `machine` is another one. Raises BadFile for a damaged
    file, or one of another recipe or other data.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            check_tensors(path)
            facts = json.loads(file.metadata()["labelscape-state"])
            # Copies: Windows replaces no file that is still mapped into memory.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadFile(
            f"{path} cannot be resumed from ({str(error).splitlines()[0]}); start again with "
            "`overwrite=True`."
        ) from error
    # In today's words: a setting newer than the state is no difference at its default.
    changed = differing(in_todays_words(facts["recipe"]), recipe)
    if changed:
        raise BadFile(
            f"{path} belongs to an unfinished run with other settings ({', '.join(changed)}). Give the same "
            "settings to continue it, "
            "`overwrite=True` to start again, or another `out`."
        )
    # State files of earlier versions hold no fingerprint of the data.
    changed = _other_data(facts.get("seen") or {}, seen or {})
    if changed:
        raise BadFile(
            f"{path} belongs to an unfinished run on other data, although its files have the same names "
            f"({'; '.join(changed)} differ{'s' * (len(changed) == 1)}). Put the files back "
            "to continue it, `overwrite=True` to start again, or another `out`."
        )
    for line in other_machine(facts.get("machine") or {}, machine or {}):
        say(line)
    # After all checks: a refused file must leave network and optimizer as they were.
    net.load_state_dict(_named(tensors, "net."))
    # State files older than AdamW hold SGD's momentum as momentum.N.
    old = {f"momentum_buffer.{number}": value for number, value in _named(tensors, "momentum.").items()}
    unpack(optimizer, old | _named(tensors, "optimizer."))
    if scaler is not None and facts.get("scaler"):
        scaler.load_state_dict(facts["scaler"])
    # Into the memory layout of the network's own state: other strides may round the average otherwise.
    average = {
        name: torch.empty_like(net.state_dict()[name]).copy_(value)
        for name, value in _named(tensors, "average.").items()
    }
    best = {name: value.numpy() for name, value in _named(tensors, "best.").items()}
    return Progress(**facts["progress"], best_weights=best or None, average=average)


def _other_data(before: dict, now: dict) -> list[str]:
    """In what the data of a saved state differs, in words: facts that both have, and files."""
    common = [key for key in before if key in now and key != FILES]
    changed = differing({key: before[key] for key in common}, {key: now[key] for key in common})
    old, new = (side.get(FILES) for side in (before, now))
    if old is None or new is None:
        return changed
    # A copy of the data, as clusters make of it for every job, has other times of all files.
    if not {tuple(one) for one in old} & {tuple(one) for one in new}:
        old, new = ([[name, size, *more] for name, size, _, *more in map(_full, side)] for side in (old, new))
    names = unlike(old, new)
    return [*changed, *names[:3], *([f"{len(names) - 3} more files"] if len(names) > 3 else [])]


def _full(named: list) -> list:
    """A missing file's name with as many values as that of others."""
    return [*named, None, None, None][:4]


def other_machine(before: dict, now: dict) -> list[str]:
    """One line where a run continues with other numbers of threads or processes, or on another kind of
    device: they decide the order of sums, and processes what batch normalisation sees.
    """
    changed = [
        f"{key} {before[key]} -> {now[key]}" for key in before if now.get(key) not in (None, before[key])
    ]
    if not changed:
        return []
    more = " (with another number of processes, more than that)" if "processes" in changed[-1] else ""
    return [
        f"continued under other conditions ({', '.join(changed)}): the weights may differ from those of an "
        f"uninterrupted run in their last digits{more}"
    ]


def differing(one: dict, other: dict, where: str = "") -> list[str]:
    """Dotted names of the settings in which two recipes differ, except WHERE_ONLY."""
    found = []
    for key in sorted({*one, *other}):
        if not where and key in WHERE_ONLY:
            continue
        # Through JSON: a stored recipe has lists where a new one has tuples.
        a, b = (json.loads(json.dumps(side.get(key))) for side in (one, other))
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing(a, b, f"{where}{key}.")
        elif a != b:
            found.append(where + key)
    return found


def _named(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
