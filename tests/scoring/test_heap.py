"""Memory that one tile frees serves the next one, under Dask's settings too."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
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

tiles(1)
start = mebibytes()
with memory_kept() if sys.argv[1] == "kept" else nullcontext():
    tiles(12)  # until the heap has found its shape
    with memory_kept():  # a second scene of the same process
        pass
    before = faults()
    tiles(10)
    print(faults() - before)
print(mebibytes() - start)
"""


def measured(how, threshold):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environment |= {"MALLOC_TRIM_THRESHOLD_": threshold} if threshold else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, env=environment
    )
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(not hasattr(os, "confstr") or not sys.platform.startswith("linux"), reason="needs glibc")
def test_tiles_find_the_memory_of_those_before_and_the_system_gets_it_back():
    if "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""):
        pytest.skip("needs glibc")
    for threshold in ("", "65536"):  # Dask's nanny sets the second
        faults, left = measured("kept", threshold)
        assert faults < 1000, threshold
        assert left < 32, threshold
    assert measured("plain", "65536")[0] > 100_000
