"""Other processes, as tests see them."""

import importlib
import os
import sys
import time
from contextlib import contextmanager


def until(true, seconds=120, every=0.01):
    """Wait until `true()`; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(every)


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
