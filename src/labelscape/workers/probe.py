"""Can the workers of a cluster do a job? Asked of all of them before it begins: their versions, the
checkpoint, the shared place. A job is refused by the worker's name, not after an hour by a missing file.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.errors import BadFile, BadInput
from labelscape.files import cannot_write
from labelscape.workers import cluster
from labelscape.workers.at_work import versions_for
from labelscape.workers.seen import Seen
from labelscape.workers.store import Folder, Store, new_mark, store_at

if TYPE_CHECKING:
    from distributed import Client

    from labelscape.checkpoint import StoredAs

SEEN_WITHIN = 15.0
"""Seconds within which a file that a worker writes has to be seen here: network file systems may be late
(ours).
"""
MOST_NAMED = 5


@dataclass(frozen=True)
class Needs:
    """What a job needs of every worker, beside the same version of Labelscape.

    out      folder that all of them write to; None for a job that writes no files
    models   checkpoints that they read; with any, torch has to be of the same version too
    device   that the networks run on
    journal  address of the place that all of them write to instead of `out`
    seen     files of the first piece of work, which stand for those of all: each is compared in its turn too
    """

    out: Path | None
    models: tuple[StoredAs, ...] = ()
    device: str = "cpu"
    journal: str | None = None
    seen: Seen = Seen()

    @property
    def shared(self) -> Store | None:
        """The place that all workers write to."""
        place = self.journal or self.out
        return None if place is None else store_at(str(place))


@dataclass(frozen=True)
class Crew:
    """The workers of a job.

    hosts       worker's address -> the name of its machine
    processors  instruction sets, over all workers
    gpus        names of GPUs, over all workers; empty where there is none
    device      type that `auto` stands for on them: cuda, mps or cpu
    """

    hosts: Mapping[str, str]
    processors: tuple[str, ...]
    gpus: tuple[str, ...]
    device: str

    def in_words(self, threads: int) -> str:
        """How many they are, where, and what they compute on."""
        workers, machines = len(self.hosts), len(set(self.hosts.values()))
        where = f" on {machines} machines" if machines > 1 else ""
        return (
            f"{workers} worker{'s' * (workers != 1)}{where} of {threads} thread on "
            f"{', '.join(self.gpus) or self.device}"
        )

    @property
    def doubts(self) -> list[str]:
        """Why the map may differ in the last digit from that of a single process; empty where it does not."""
        found = []
        if len(self.processors) > 1:
            found.append(f"the workers' processors differ ({', '.join(self.processors)})")
        if self.device != "cpu":
            found.append("GPUs round in an order that depends on their kind and driver")
        return [f"{why}: values may differ by one step from those of a single process" for why in found]


def check_workers(client: Client, needs: Needs) -> Crew:
    """Ask every worker. Raises BadInput that names the workers which cannot do the job, and why; BadFile
    where the place that they share cannot be written here.
    """
    ours = versions_for(network=bool(needs.models))
    asked = cluster.asked_of_all(client, _versions(), tuple(ours))
    _refuse({where: _other_version(found, ours) for where, found in asked.items()}, asked)
    many = {where: count for where, count in cluster.workers_of(client).items() if count > 1}
    said = "it has {} threads, one was expected; start it with --nthreads 1 (and more workers)"
    _refuse({where: said.format(count) for where, count in many.items()}, asked)
    answers = _answers(client, needs, asked)
    kinds = sorted({answer["device"] for answer in answers.values()})
    if len(kinds) > 1:
        raise BadInput(f"Some workers compute on {' and some on '.join(kinds)}; give one with `device`.")
    return Crew(
        {where: answer["host"] for where, answer in answers.items()},
        tuple(sorted({answer["processor"] for answer in answers.values()})),
        tuple(sorted({gpu for answer in answers.values() for gpu in answer["gpus"]})),
        kinds[0],
    )


def _answers(client: Client, needs: Needs, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each worker says of itself (`facts_here`), once all of them have what the job needs."""
    shared = needs.shared
    if shared is None:
        answers = cluster.asked_of_all(client, facts_here, needs, None)
        _refuse(_wrong(answers), asked)
        return answers
    with _marked(shared) as mark:
        answers = cluster.asked_of_all(client, facts_here, needs, mark)
        wrong = _wrong(answers)
        for where, answer in answers.items():
            if not wrong[where] and not _appears(shared, answer["file"]):
                place = shared.address
                wrong[where] = f"what it writes to {place} does not appear here: it is another place there"
    _refuse(wrong, asked)
    return answers


@contextmanager
def _marked(shared: Store) -> Iterator[str]:
    """The name of a file that workers should see; it and their answers are deleted at the end."""
    mark = new_mark()
    folder = shared.path if isinstance(shared, Folder) else None
    made = folder is not None and not folder.exists()
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        shared.put(mark, mark.encode())
    except OSError as error:
        raise error if folder is None else cannot_write(folder, error) from error
    try:
        yield mark
    finally:
        shared.delete(shared.names(mark))
        if folder is not None and made and not any(folder.iterdir()):
            folder.rmdir()  # where the job is refused nothing is left; else it is made again


def _wrong(answers: Mapping[str, Any]) -> dict[str, object]:
    return {w: a if isinstance(a, BaseException) else a["wrong"] for w, a in answers.items()}


def _versions() -> Callable[[tuple[str, ...]], dict[str, Any]]:
    # Nested, so that it is sent as code: a worker without Labelscape can answer too.
    def versions(packages: tuple[str, ...]) -> dict[str, Any]:
        import importlib
        import os
        import socket

        found: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
        for name in packages:
            try:
                found[name] = str(importlib.import_module(name).__version__)
                # Not of every version: one without it differs from this one in any case.
                module = importlib.import_module("labelscape.version") if name == "labelscape" else None
                of_code = getattr(module, "build", None)
                found[name] = of_code() if of_code else found[name]
            except ImportError:
                found[name] = None
        return found

    return versions


def _other_version(found: dict[str, Any] | BaseException, ours: Mapping[str, str]) -> object:
    if isinstance(found, BaseException):
        return found
    if (found["host"], found["pid"]) == (socket.gethostname(), os.getpid()):
        return "it is a thread of this process, a process of its own was expected (processes=True)"
    other = [
        f"it has {'no ' + name if found[name] is None else f'{name} {found[name]}'}, here is {version}"
        for name, version in ours.items()
        if found[name] != version
    ]
    return "; ".join(other)


def facts_here(needs: Needs, mark: str | None) -> dict[str, Any]:
    """On a worker: what it is, and what is wrong with it, as a part of a sentence. `mark` is a file in the
    place that workers share, beside which it writes its own.
    """
    from labelscape.errors import LabelscapeError

    found: dict[str, Any] = {"host": socket.gethostname(), "processor": "", "gpus": [], "wrong": ""}
    found |= {"device": "cpu", "file": f"{mark}-{socket.gethostname()}-{os.getpid()}"}
    try:
        found |= _network_facts(needs) if needs.models else {}
    except LabelscapeError as error:
        found["wrong"] = str(error)
    found["wrong"] = found["wrong"] or needs.seen.unlike()
    if mark is not None and not found["wrong"]:
        found["wrong"] = needs.shared.probe(mark, found["file"])
    return found


def _network_facts(needs: Needs) -> dict[str, Any]:
    from labelscape.scoring.devices import pick_device

    check_models(needs.models)
    device = pick_device(needs.device).type
    torch = sys.modules.get("torch")
    # Exported models alone are mapped without it.
    if torch is None:
        return {"processor": "", "gpus": [], "device": device}
    return {
        "processor": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "device": device,
    }


def check_models(models: Sequence[StoredAs]) -> None:
    """Raises BadFile where this machine lacks a checkpoint's file, BadInput where it is another one."""
    from labelscape.checkpoint import StoredAs

    for model in models:
        try:
            here = StoredAs.now(model.path)
        except OSError as error:
            raise BadFile(f"it lacks the checkpoint {model.path} ({error.strerror})") from error
        if here.sha256 != model.sha256:
            raise BadInput(f"its {model.path} is another checkpoint (SHA-256 differs)")


def _appears(shared: Store, name: str) -> bool:
    until = time.monotonic() + SEEN_WITHIN
    while not shared.has(name):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _refuse(wrong: Mapping[str, object], about: Mapping[str, Any]) -> None:
    """Raises BadInput where something is wrong with a worker."""
    lines = [
        f"{where} ({about[where]['host']}): {why}"
        if isinstance(about.get(where), dict)
        else f"{where}: {type(why).__name__}: {why}"
        if isinstance(why, BaseException)
        else f"{where}: {why}"
        for where, why in wrong.items()
        if why
    ]
    if lines:
        more = f"\n  and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
        listed = "".join(f"\n  - {line}" for line in lines[:MOST_NAMED])
        raise BadInput(f"{len(lines)} of {len(about)} workers cannot do this job:{listed}{more}")
