"""Other processes, as tests see them."""

import importlib
import os
import socket
import sys
import time
from contextlib import contextmanager

PATIENCE = 600
"""Seconds after which something counts as hung, however slow the machine: no test decides by it."""


def until(true, seconds=PATIENCE, every=0.01):
    """Wait until `true()`; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(every)


@contextmanager
def reserved_port():
    """A port of the loopback for a server that starts later, perhaps in another process. Nobody else is given
    it while the block lasts: it is bound here, and a server, which reuses addresses, may listen at it still.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def group_exists(number):
    """Is there a process of this group?"""
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def held(client, module, name, folder, *, free=0):
    """Let each worker of a Dask cluster wait in `module.name`, after so many calls that are free, until the
    block ends. Yields a function that gives the process numbers of those that wait. A worker that is
    started later does not wait.
    """

    def wait(module, name, folder, free):
        import importlib
        import os
        import time
        from pathlib import Path

        place, calls = importlib.import_module(module), []
        real = getattr(place, name)

        def waiting(*arguments, **options):
            found = real(*arguments, **options)
            calls.append(found)
            if len(calls) > free and not (Path(folder) / "on").exists():
                (Path(folder) / str(os.getpid())).touch()
                while not (Path(folder) / "on").exists():
                    time.sleep(0.02)
            return found

        setattr(place, name, waiting)

    folder.mkdir()
    client.run(wait, module, name, str(folder), free)
    try:
        yield lambda: sorted(int(path.name) for path in folder.glob("[0-9]*"))
    finally:
        (folder / "on").touch()


def wait_until_idle(client):
    """Wait until no thread of a Dask cluster's workers works: what is cancelled ends at its next sign of
    progress, when the scheduler has long forgotten it.
    """

    def busy(dask_worker):
        return len(dask_worker.state.all_running_tasks)

    until(lambda: not any(client.processing().values()) and not any(client.run(busy).values()))


def list_imports(path):
    """Write the names of all imported modules."""
    path.write_text("\n".join(list(sys.modules)))


def import_again(path):
    """Import what another process imported: those that are forked from this one need not. A process that does
    no more than a second of work spends most of it on imports.
    """
    for name in path.read_text().splitlines():
        try:
            importlib.import_module(name)
        except Exception:
            continue  # parts of other packages that cannot be imported alone
