"""Can the workers of a cluster do a job? Asked of all of them before it begins: their versions, the
checkpoint, the shared folder. A job is refused by the worker's name, not after an hour by a missing file.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.checkpoint import StoredAs
from labelscape.errors import BadFile, BadInput
from labelscape.files import OURS, cannot_write
from labelscape.maps import cluster
from labelscape.version import __version__

if TYPE_CHECKING:
    from distributed import Client

SEEN_WITHIN = 15.0
"""Seconds within which a file that a worker writes has to be seen here: network file systems may be late
(ours).
"""
MOST_NAMED = 5


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

    @property
    def doubts(self) -> list[str]:
        """Why the map may differ in the last digit from that of a single process; empty where it does not."""
        found = []
        if len(self.processors) > 1:
            found.append(f"the workers' processors differ ({', '.join(self.processors)})")
        if self.device != "cpu":
            found.append("GPUs round in an order that depends on their kind and driver")
        return [f"{why}: values may differ by one step from those of a single process" for why in found]


def check_workers(client: Client, models: Sequence[StoredAs], out: Path, device: str) -> Crew:
    """Ask every worker. Raises BadInput that names the workers which cannot do the job, and why; BadFile
    where the folder `out` cannot be written here.
    """
    import torch

    ours = {"labelscape": __version__, "torch": torch.__version__}
    asked = cluster.asked_of_all(client, _versions())
    _refuse({where: _other_version(found, ours) for where, found in asked.items()}, asked)
    many = {where: count for where, count in cluster.workers_of(client).items() if count > 1}
    said = "it has {} threads, one was expected; start it with --nthreads 1 (and more workers)"
    _refuse({where: said.format(count) for where, count in many.items()}, asked)
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark = out / f"{OURS}{secrets.token_hex(8)}.probe"
        mark.write_text(mark.name)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        answers = cluster.asked_of_all(client, facts_here, tuple(models), str(mark), device)
        wrong = {w: a if isinstance(a, BaseException) else a["wrong"] for w, a in answers.items()}
        for where, answer in answers.items():
            if not wrong[where] and not _appears(Path(answer["file"])):
                wrong[where] = f"what it writes to {out} does not appear here: it is another folder there"
    finally:
        for file in [mark, *out.glob(f"{mark.name}-*")]:
            file.unlink(missing_ok=True)
        if made and not any(out.iterdir()):
            out.rmdir()  # where the job is refused nothing is left; else it is made again
    _refuse(wrong, asked)
    kinds = sorted({answer["device"] for answer in answers.values()})
    if len(kinds) > 1:
        raise BadInput(f"Some workers compute on {' and some on '.join(kinds)}; give one with `device`.")
    return Crew(
        {where: answer["host"] for where, answer in answers.items()},
        tuple(sorted({answer["processor"] for answer in answers.values()})),
        tuple(sorted({gpu for answer in answers.values() for gpu in answer["gpus"]})),
        kinds[0],
    )


def _versions() -> Callable[[], dict[str, Any]]:
    # Nested, so that it is sent as code: a worker without Labelscape can answer too.
    def versions() -> dict[str, Any]:
        import importlib
        import os
        import socket

        found: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
        for name in ("labelscape", "torch"):
            try:
                found[name] = str(importlib.import_module(name).__version__)
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


def facts_here(models: Sequence[StoredAs], mark: str, device: str) -> dict[str, Any]:
    """On a worker: what it is, and what is wrong with it, as a part of a sentence."""
    import torch

    from labelscape.errors import LabelscapeError
    from labelscape.scoring.engines import pick_device

    answer = Path(f"{mark}-{socket.gethostname()}-{os.getpid()}")
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "device": "",
        "file": str(answer),
        "wrong": "",
    }
    try:
        check_models(models)
        found["device"] = pick_device(device).type
    except LabelscapeError as error:
        found["wrong"] = str(error)
        return found
    folder = answer.parent
    try:
        if Path(mark).read_text() != Path(mark).name:
            raise OSError("another file is there")
        answer.write_text("")
    except OSError as error:
        why = error.strerror or error
        found["wrong"] = (
            f"it cannot {'write to' if Path(mark).is_file() else 'read'} the folder {folder} ({why})"
        )
    return found


def check_models(models: Sequence[StoredAs]) -> None:
    """Raises BadFile where this machine lacks a checkpoint's file, BadInput where it is another one."""
    for model in models:
        try:
            here = StoredAs.now(model.path)
        except OSError as error:
            raise BadFile(f"it lacks the checkpoint {model.path} ({error.strerror})") from error
        if here.sha256 != model.sha256:
            raise BadInput(f"its {model.path} is another checkpoint (SHA-256 differs)")


def _appears(file: Path) -> bool:
    until = time.monotonic() + SEEN_WITHIN
    while not file.exists():
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
