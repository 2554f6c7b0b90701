"""Workers against one process: ratios measured side by side in one run.

    python benchmarks/workers.py --goals --network mlp
                                                 all of it on a quiet machine with two cores, about a quarter
                                                 of an hour: a scene of 8192 x 8192 and its blocks, 32 small
                                                 scenes, memory at 100,000 blocks; then what was aimed at.
                                                 Stopped and started again it goes on (`--keep`)
    python benchmarks/workers.py                 4096 x 4096 in blocks: one process, 1 worker, 2 workers, and
                                                 the same blocks through `client.map` without our code
    python benchmarks/workers.py --size 8192 --network mlp --rounds 1 --ways "1 worker,2 workers"
    python benchmarks/workers.py --scenes 64     so many small scenes instead, one task a scene; beside it the
                                                 loop that people write: joblib with 2 processes over the
                                                 scenes; and 2 splits
    python benchmarks/workers.py --tasks 100000  memory of scheduler and client when so many blocks of no
                                                 work go through them

The overhead of a block is what one worker and the command take more than one process, in CPU seconds.
`blocks s` is the time from the first call to the end of the last: without the plan, and the end of the file.

Splits are what `rastervision run local ... --splits 2` does, done here with our maps, because Raster Vision
needs other versions of what is installed here: the list is cut into so many parts before the work begins, and
each part goes to a process that is started for it, which imports torch and loads the network. One scene is
never split: its line would be that of one process.

One thread each. CPU seconds are those of all processes together: other work on the machine changes them
little, wall times much; two workers need two quiet cores. Workers are started, and have imported torch,
before the clock; the scenes are those of benchmarks/mapping.py, the network has random weights. All ways have
to write the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from distributed import Client, as_completed
from joblib import Parallel, delayed
from mapping import checkpoint, paint

import labelscape as ls
from labelscape.maps import crew
from labelscape.workers.calls import Call
from labelscape.workers.cluster import connected, outcomes

QUIET = {"polygons": False, "report": False, "device": "cpu"}
LARGE = ("one process", "1 worker", "2 workers", "client.map of 2")
SMALL = (*LARGE, "joblib of 2", "2 splits")
ONCE = {"one process", "client.map of 2"}
"""Of a large scene these are beside the goal: measured in the first round only."""


def cpu_seconds() -> float:
    """Of this process and all its children, those that have ended too."""
    own = psutil.Process().cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


class Calls:
    """`outcomes`, and what is seen of it: the numbers of the calls, and the seconds that they took."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self.seconds = 0.0

    def run(self, *arguments: Any, **options: Any) -> Iterator[tuple[Call, Any]]:
        start = time.perf_counter()
        for call, found in outcomes(*arguments, **options):
            self.numbers.add(call.number)
            self.seconds = time.perf_counter() - start
            yield call, found

    def run_plain(self, client: Client, calls: Iterable[Call], **_: object) -> Iterator[tuple[Call, Any]]:
        """The same calls as `outcomes` makes, submitted at once: what Dask alone costs."""
        start, calls = time.perf_counter(), list(calls)
        futures = client.map(lambda call: call.function(*call.args), calls, pure=False)
        by_key = {future.key: call for future, call in zip(futures, calls)}
        for future in as_completed(futures):
            self.numbers.add(by_key[future.key].number)
            self.seconds = time.perf_counter() - start
            yield by_key[future.key], future.result()


def mapped_here(model: Path, scenes: list[Path], out: Path) -> None:
    """What a process of the peers' ways does."""
    one_thread()
    for scene in scenes:
        ls.map_scene(model, scene, out, **QUIET)


def with_joblib(model: Path, scenes: list[Path], out: Path) -> None:
    """The loop that people write: whoever is free takes the next scene."""
    Parallel(n_jobs=2, batch_size=1)(delayed(mapped_here)(model, [scene], out) for scene in scenes)


def in_splits(model: Path, scenes: list[Path], out: Path, count: int = 2) -> None:
    """The list cut into parts, each for a process of its own that is started for it."""
    each = -(-len(scenes) // count)
    parts = [scenes[first : first + each] for first in range(0, len(scenes), each)]
    start = multiprocessing.get_context("spawn").Process
    running = [start(target=mapped_here, args=(model, part, out)) for part in parts]
    for one in running:
        one.start()
    for one in running:
        one.join()
        assert one.exitcode == 0


def digest(folder: Path) -> str:
    """SHA-256 of the rasters in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.tif")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def measured(way: str, folder: Path, model: Path, scenes: list[Path]) -> dict[str, Any]:
    """Map the scenes in one way: wall and CPU seconds, number and seconds of the calls, the maps' digest."""
    out, warm = folder / "maps", [paint(folder / f"warm{n}.tif", 512) for n in range(2)]
    grain, calls = "scene" if len(scenes) > 1 else "block", Calls()
    count = 1 if way == "1 worker" else 2
    peers = {"joblib of 2": with_joblib, "2 splits": in_splits}

    def work(scenes: list[Path], out: Path, client: Client | None) -> None:
        if way in peers:
            peers[way](model, scenes, out)
            return
        shared = {} if client is None else {"cluster": client, "grain": grain}
        made = ls.map_scenes(model, scenes, out, **shared, **QUIET)
        assert made.is_whole, made.records

    # Calls of several scenes wait for each other: not all at once.
    run = calls.run_plain if "client.map" in way else calls.run
    before, crew.cluster.outcomes = crew.cluster.outcomes, run
    try:
        with contextlib.nullcontext() if way in {"one process", *peers} else connected(count) as client:
            # Torch is imported on every worker; processes of splits are new each time.
            for number in range(2 if client is not None else way != "2 splits"):
                crew.cluster.outcomes = calls.run
                work(warm, folder / f"warm{number}", client)
            crew.cluster.outcomes = run
            calls.numbers.clear()
            start, cpu = time.perf_counter(), cpu_seconds()
            work(scenes, out, client)
            wall = time.perf_counter() - start
            found = {"wall": wall, "cpu": cpu_seconds() - cpu, "digest": digest(out)}
    finally:
        crew.cluster.outcomes = before
        shutil.rmtree(out, ignore_errors=True)
        for number in range(2):
            shutil.rmtree(folder / f"warm{number}", ignore_errors=True)
    return found | {"blocks": len(calls.numbers), "seconds": calls.seconds or wall}


class Kept:
    """What was measured, in a file, by name: a run that was stopped goes on. Without a file nothing is
    kept.
    """

    def __init__(self, path: Path | None, about: list[Any]) -> None:
        self.path, self.values = path, {"about": about}
        if path is not None and path.is_file():
            found = json.loads(path.read_text())
            self.values = found if found.get("about") == about else self.values

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        if name not in self.values:
            self.values[name] = measure()
            if self.path is not None:
                self.path.write_text(json.dumps(self.values, indent=1))
        return self.values[name]


def times(
    folder: Path,
    scenes: Callable[[], list[Path]] | list[Path],
    network: str,
    rounds: int,
    ways: Iterable[str],
    kept: Kept,
    once: Iterable[str] = (),
) -> dict[str, dict[str, float]]:
    """Measure each way so often, those of `once` the first time only, and print each line as it is known.
    Returns the medians.
    """
    folder.mkdir()
    model, made = ls.save(checkpoint(network), folder / "model.safetensors"), scenes

    def painted_once() -> list[Path]:
        nonlocal made
        made = made() if callable(made) else made
        return made

    print(f"{network}: {folder.name}, times interleaved", flush=True)
    print(f"{'':<16}{'wall s':>9}{'blocks s':>9}{'CPU s':>9}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in found:
            if number and way in once:
                continue
            name = f"{folder.name}, {way}, {number}"
            one = kept.get(name, lambda way=way: measured(way, folder, model, painted_once()))
            print(f"{way:<16}{one['wall']:>9.1f}{one['seconds']:>9.1f}{one['cpu']:>9.1f}", flush=True)
            found[way].append(one)
    assert len({one["digest"] for each in found.values() for one in each}) == 1
    middle = {
        way: {key: median(one[key] for one in each) for key in ("wall", "seconds", "cpu", "blocks")}
        for way, each in found.items()
    }
    show(middle)
    return middle


def show(middle: dict[str, dict[str, float]]) -> None:
    """The medians beside each other."""
    print(f"{'median':<16}{'wall s':>9}{'CPU s':>9}{'times as fast as 1 worker':>28}{'its blocks':>12}")
    for way, one in middle.items():
        faster = middle["1 worker"]["wall"] / one["wall"]
        blocks = f"{middle['1 worker']['seconds'] / one['seconds']:>12.2f}" if one["blocks"] else ""
        print(f"{way:<16}{one['wall']:>9.1f}{one['cpu']:>9.1f}{faster:>28.2f}{blocks}", flush=True)
    each = middle["1 worker"]["blocks"]
    if "one process" in middle and each:
        alone, more = (
            middle["one process"]["cpu"] / each,
            (middle["1 worker"]["cpu"] - middle["one process"]["cpu"]) / each,
        )
        print(f"{each:.0f} calls of {alone:.2f} CPU s; overhead of a call {more:.3f} s, {more / alone:.1%}")


def nothing(number: int) -> int:
    return number


def tasks(count: int) -> float:
    """Print, and return, the MiB by which scheduler and client grow: both are in this process."""
    with connected(2) as client:
        calls = (Call(number, "block", nothing, (number,)) for number in range(count))
        most = before = psutil.Process().memory_info().rss
        start, cpu = time.perf_counter(), time.process_time()
        for done, _ in enumerate(outcomes(client, calls), start=1):
            if done % 1000 == 0:
                most = max(most, psutil.Process().memory_info().rss)
            # Also on the way: does memory level off?
            if done % 10_000 == 0 or done == count:
                each = f"{1000 * (time.perf_counter() - start) / done:.2f} ms each on {os.cpu_count()} cores"
                each += f", {1000 * (time.process_time() - cpu) / done:.2f} ms of CPU here"
                grew = f"grew by {(most - before) / 2**20:.0f} MiB, from {before / 2**20:.0f} MiB"
                print(f"{done:,} blocks: {each}; scheduler and client {grew}", flush=True)
    return (most - before) / 2**20


def painted(folder: Path, count: int, size: int) -> list[Path]:
    return [paint(folder / f"{size}-{n}.tif", size) for n in range(count)]


def goals(folder: Path, network: str, rounds: int, kept: Kept) -> None:
    """Measure all, and print what was aimed at beside it."""
    # First: memory that other work has given back would hide what grows.
    grew = kept.get("blocks of no work", lambda: tasks(100_000))
    print(f"scheduler and client at 100,000 blocks: {grew:.0f} MiB more", flush=True)
    large = times(
        folder / "a scene of 8192 x 8192",
        lambda: painted(folder, 1, 8192),
        network,
        rounds,
        LARGE,
        kept,
        ONCE,
    )
    times(folder / "32 scenes of 512 x 512", lambda: painted(folder, 32, 512), network, 1, SMALL, kept)
    alone, one, two, plain = (large[way] for way in LARGE)
    print(
        f"2 workers, times as fast as 1: {one['wall'] / two['wall']:.2f} (aimed at: 1.85), its blocks "
        f"{one['seconds'] / two['seconds']:.2f}; client.map {one['wall'] / plain['wall']:.2f}"
    )
    print(f"overhead of a block: {one['cpu'] / alone['cpu'] - 1:.1%} (aimed at: 5 % at most)")
    print(f"1 worker, wall: {one['wall'] / alone['wall']:.2f} of one process")
    print(f"scheduler and client at 100,000 blocks: {grew:.0f} MiB more")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--scenes", type=int, default=1)
    parser.add_argument("--scene-size", type=int, default=512, help="of each of several scenes")
    parser.add_argument("--network", default="fcn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--goals", action="store_true", help="all of it")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir()) / "labelscape-goals.json",
        help="what --goals has measured so far; delete it to measure again (%(default)s)",
    )
    parser.add_argument("--ways", default="", help="some of the lines, by comma; with 1 worker")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    one_thread()
    if arguments.tasks:
        tasks(arguments.tasks)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), arguments.scenes
        if arguments.goals:
            about = [arguments.network, arguments.rounds, ls.__version__]
            goals(folder, arguments.network, arguments.rounds, Kept(arguments.keep, about))
            return
        ways = [way for way in arguments.ways.split(",") if way] or (SMALL if count > 1 else LARGE)
        size = arguments.size if count == 1 else arguments.scene_size
        made = painted(folder, count, size)
        times(folder / "maps", made, arguments.network, arguments.rounds, ways, Kept(None, []))


if __name__ == "__main__":
    main()
