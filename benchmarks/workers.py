"""Workers against one process: ratios measured side by side in one run.

    python benchmarks/workers.py --goals --network mlp
                                                 all of it on a quiet machine with two cores, about half an
                                                 hour: a scene of 8192 x 8192 and its blocks, small scenes,
                                                 memory at 100,000 blocks; then what was aimed at
    python benchmarks/workers.py                 4096 x 4096 in blocks: one process, 1 worker, 2 workers, and
                                                 the same blocks through `client.map` without our code
    python benchmarks/workers.py --size 8192 --network mlp --rounds 1 --ways "1 worker,2 workers"
    python benchmarks/workers.py --scenes 64     so many small scenes instead, one task a scene; beside it the
                                                 loop that people write: a pool of 2 processes over the scenes
    python benchmarks/workers.py --tasks 100000  memory of scheduler and client when so many blocks of no
                                                 work go through them

The overhead of a block is what one worker and the command take more than one process, in CPU seconds.

One thread each. CPU seconds are those of all processes together: other work on the machine changes them
little, wall times much; two workers need two quiet cores. Workers are started, and have imported torch,
before the clock; the scenes are those of benchmarks/mapping.py, the network has random weights. All ways have
to write the same bytes.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from distributed import Client, as_completed
from mapping import checkpoint, paint

import labelscape as ls
from labelscape.maps import crew
from labelscape.workers.calls import Call
from labelscape.workers.cluster import connected, outcomes

QUIET = {"polygons": False, "report": False, "device": "cpu"}


def cpu_seconds() -> float:
    """Of this process and all its children."""
    total = 0.0
    for one in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        times = one.cpu_times()
        total += times.user + times.system
    return total


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    start, before = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start, cpu_seconds() - before


def counting(numbers: set[int]) -> Callable[..., Iterator[tuple[Call, Any]]]:
    """`outcomes`, which adds the number of each call to those that are known."""

    def run(*arguments: Any, **options: Any) -> Iterator[tuple[Call, Any]]:
        for call, found in outcomes(*arguments, **options):
            numbers.add(call.number)
            yield call, found

    return run


def through_client_map(client: Client, calls: Iterable[Call], **_: object) -> Iterator[tuple[Call, Any]]:
    """The same calls as `outcomes` makes, submitted at once: what Dask alone costs."""
    calls = list(calls)
    futures = client.map(lambda call: call.function(*call.args), calls, pure=False)
    numbers = {future.key: call for future, call in zip(futures, calls)}
    for future in as_completed(futures):
        yield numbers[future.key], future.result()


def in_a_pool(pool: Any, model: Path, scenes: list[Path], out: Path) -> None:
    """Scenes in a hand-written loop: whoever is free takes the next one."""
    work = functools.partial(ls.map_scene, model, out=out, **QUIET)
    for _ in pool.imap_unordered(work, scenes):
        pass


def digest(folder: Path) -> str:
    """SHA-256 of the rasters in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.tif")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def times(
    folder: Path, scenes: list[Path], network: str, rounds: int, only: list[str]
) -> dict[str, tuple[float, float]]:
    """Print, and return, the median wall and CPU seconds of each way."""
    folder.mkdir()
    model = ls.save(checkpoint(network), folder / "model.safetensors")
    grain = "scene" if len(scenes) > 1 else "block"
    count = 0
    blocks: set[int] = set()

    def out() -> Path:
        nonlocal count
        count += 1
        return folder / f"maps{count}"

    def shared(client: Client, plain: bool = False) -> Callable[[list[Path]], Any]:
        def work(scenes: list[Path]) -> None:
            blocks.clear()
            crew.cluster.outcomes = through_client_map if plain else counting(blocks)
            made = ls.map_scenes(model, scenes, out(), cluster=client, grain=grain, **QUIET)
            assert made.is_whole, made.records

        return work

    with (
        connected(1) as one,
        connected(2) as two,
        multiprocessing.get_context("spawn").Pool(2, initializer=one_thread) as pool,
    ):
        ways = {
            "one process": lambda scenes: ls.map_scenes(model, scenes, out(), **QUIET),
            "1 worker": shared(one),
            "2 workers": shared(two),
            "2, client.map": shared(two, plain=True),
        }
        if len(scenes) > 1:
            ways["pool of 2"] = lambda scenes: in_a_pool(pool, model, scenes, out())
        (folder / "warm").mkdir()
        warm = [paint(folder / "warm" / f"scene{n}.tif", 512) for n in range(2)]
        ways = {way: work for way, work in ways.items() if not only or way in only}
        for way, work in ways.items():
            # Torch is imported on every worker. Calls of several scenes wait for each other: not all at once.
            if "client.map" not in way:
                work(warm)
        first = count
        measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        each = 0
        for _ in range(rounds):
            for way, work in ways.items():
                measured[way].append(timed(lambda work=work: work(scenes)))
                each = len(blocks) if way == "1 worker" else each
    assert len({digest(folder / f"maps{n + 1}") for n in range(first, count)}) == 1
    walls = {way: median(wall for wall, _ in found) for way, found in measured.items()}
    cpus = {way: median(cpu for _, cpu in found) for way, found in measured.items()}
    print(f"{network}, {len(scenes)} scenes by {grain}, median of {rounds}, interleaved")
    print(f"{'':<16}{'wall s':>9}{'CPU s':>9}{'times as fast as 1 worker':>28}{'CPU / the first':>20}")
    for way in ways:
        first_cpu = cpus["one process" if "one process" in cpus else "1 worker"]
        faster, more = walls["1 worker"] / walls[way], cpus[way] / first_cpu
        print(f"{way:<16}{walls[way]:>9.1f}{cpus[way]:>9.1f}{faster:>28.2f}{more:>20.3f}", flush=True)
    if grain == "block" and "one process" in ways and each:
        alone, more = cpus["one process"] / each, (cpus["1 worker"] - cpus["one process"]) / each
        print(f"{each} blocks of {alone:.2f} CPU s; overhead of a block {more:.3f} s, {more / alone:.1%}")
    return {way: (walls[way], cpus[way]) for way in ways}


def nothing(number: int) -> int:
    return number


def tasks(count: int) -> float:
    """Print, and return, the MiB by which scheduler and client grow: both are in this process."""
    with connected(2) as client:
        calls = (Call(number, "block", nothing, (number,)) for number in range(count))
        most = before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        for done, _ in enumerate(outcomes(client, calls), start=1):
            if done % 1000 == 0:
                most = max(most, psutil.Process().memory_info().rss)
            # Also on the way: does memory level off?
            if done % 10_000 == 0 or done == count:
                each = f"{1000 * (time.perf_counter() - start) / done:.2f} ms each on {os.cpu_count()} cores"
                grew = f"grew by {(most - before) / 2**20:.0f} MiB, from {before / 2**20:.0f} MiB"
                print(f"{done:,} blocks: {each}; scheduler and client {grew}", flush=True)
    return (most - before) / 2**20


def painted(folder: Path, count: int, size: int) -> list[Path]:
    return [paint(folder / f"{size}-{n}.tif", size) for n in range(count)]


def goals(folder: Path, network: str, rounds: int) -> None:
    """Measure all, and print what was aimed at beside it."""
    # First: memory that other work has given back would hide what grows.
    grew = tasks(100_000)
    one = times(folder / "large", painted(folder, 1, 8192), network, rounds, [])
    times(folder / "small", painted(folder, 64, 512), network, rounds, [])
    (alone, cpu), (wall, cpu_of_one), (two, _), (plain, _) = (
        one[way] for way in ("one process", "1 worker", "2 workers", "2, client.map")
    )
    print(f"2 workers, times as fast as 1: {wall / two:.2f} (aimed at: 1.85); client.map {wall / plain:.2f}")
    print(f"overhead of a block: {cpu_of_one / cpu - 1:.1%} (aimed at: 5 % at most)")
    print(f"1 worker, wall: {wall / alone:.2f} of one process")
    print(f"scheduler and client at 100,000 blocks: {grew:.0f} MiB more")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--scene-size", type=int, default=512, help="of each of several scenes")
    parser.add_argument("--network", default="fcn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--goals", action="store_true", help="all of it")
    parser.add_argument("--ways", default="", help="some of the lines, by comma; with 1 worker")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    one_thread()
    if arguments.tasks:
        tasks(arguments.tasks)
    elif arguments.goals:
        with tempfile.TemporaryDirectory() as name:
            goals(Path(name), arguments.network, arguments.rounds)
    else:
        with tempfile.TemporaryDirectory() as name:
            ways = [way for way in arguments.ways.split(",") if way]
            size = arguments.size if arguments.scenes == 1 else arguments.scene_size
            made = painted(Path(name), arguments.scenes, size)
            times(Path(name) / "maps", made, arguments.network, arguments.rounds, ways)


if __name__ == "__main__":
    main()
