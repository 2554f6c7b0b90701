"""Memory that one tile frees serves the next one, under Dask's settings too."""

import os
import subprocess
import sys

import pytest

from labelscape.workers.cluster import ONE_ARENA

GLIBC = sys.platform.startswith("linux") and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
pytestmark = pytest.mark.skipif(not GLIBC, reason="needs glibc")

PROGRAM = """
import resource, sys, threading
import torch
from contextlib import nullcontext
from labelscape.scoring.heap import memory_kept

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def mebibytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

def tiles(count):
    for _ in range(count):
        one = torch.ones(16 << 20)  # 64 MiB: 16,384 pages
        other = one + 1
        del one, other

def read(count):
    tiles(count) if sys.argv[2] != "reader" else in_thread(tiles, count)

def in_thread(work, *given):
    other = threading.Thread(target=work, args=given)
    other.start()
    other.join()

def scene():
    tiles(1)
    start = mebibytes()
    with memory_kept() if sys.argv[1] == "kept" else nullcontext():
        read(12)  # until the heap has found its shape
        with memory_kept():  # a second scene of the same process
            pass
        before = faults()
        read(30)
        print((faults() - before) / 16384)
    print(mebibytes() - start)

in_thread(scene) if sys.argv[2] == "thread" else scene()
"""


# Of 60 tensors, which without memory_kept are all cleared anew. Where the system happens to put the heap, up
# to three were seen to find no hole of their size: the heap then grows once for each, for good.
MOST = 10


def measured(how, threshold, **where):
    """Tensors whose pages the system had to clear, and MiB that are left; in the main thread, or as `place`
    and `environment` say.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environment |= {"MALLOC_TRIM_THRESHOLD_": threshold} if threshold else {}
    environment |= where.get("environment", {})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, where.get("place", "main")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return [float(line) for line in done.stdout.split()]


def test_tiles_find_the_memory_of_those_before_and_the_system_gets_it_back():
    for threshold in ("", "65536"):  # Dask's nanny sets the second
        cleared, left = measured("kept", threshold)
        assert cleared < MOST, threshold
        assert left < 32, threshold
    assert measured("plain", "65536")[0] > 50


def test_on_a_worker_whose_work_runs_in_a_thread_too():
    cleared, left = measured("kept", "65536", place="thread", environment=ONE_ARENA)
    assert cleared < MOST
    assert left < 32


def test_in_a_thread_that_reads_ahead_too():
    """It is begun for each scene."""
    cleared, left = measured("kept", "", place="reader")
    assert cleared < MOST
    assert left < 32
