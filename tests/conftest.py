import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

# Before NumPy is imported, and for processes that tests start: last digits depend on the number of threads,
# which without it is that of the machine's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # tests share world.py

torch.set_num_threads(1)  # tensors here are tiny: more threads only wait for each other

# The same examples in every run, so that none fails by chance; `pytest --hypothesis-profile=default` looks
# for others. No deadline: a busy machine is no slow function.
settings.register_profile("repeated", derandomize=True, deadline=None)
settings.load_profile("repeated")


SEED = 20_251  # one that no test sets itself: weights and images drawn from one stream would be related


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before all fixtures, those of modules too: a test draws the same numbers whatever ran before it."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  scikit-learn and others draw from it
    random.seed(SEED)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Nothing that the user's cache holds, or that another run of the tests keeps there meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABELSCAPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever number a test leaves, the next begins with one thread: last digits depend on it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def run_cli(capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        from labelscape.cli import main

        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in argv])
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes (or resizes) a disk of so many bytes, and its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = (
            subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True)
            if shutil.which("mount")
            else None
        )
        if done is None or done.returncode:
            pytest.skip("mounting a small disk takes rights that this user lacks")

    def sized(size, *more):
        mount("-o", ",".join([*(["remount"] if folder.is_mount() else []), f"size={size}", *more]))

    yield sized, folder
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
