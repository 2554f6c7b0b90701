"""Where many workers stop scaling: a simulation, and arithmetic for a country.

    python benchmarks/scaling.py --record recorded
                          map a real scene in blocks, and keep the CPU seconds of its parts in the folder
    python benchmarks/scaling.py --simulate recorded --workers 1,8,64
                          a real scheduler, real workers that sleep for the recorded time, the code that hands
                          out and takes back the blocks, and the journal; with one writer, and with many
    python benchmarks/scaling.py --country recorded
                          arithmetic: 400 scenes of 20,000 x 20,000 pixels, up to 4096 workers
    python benchmarks/scaling.py --small-scenes 10000
                          memory of scheduler and command, job report included, for scenes of no work
    python benchmarks/scaling.py --sparse 200000
                          memory of scheduler and command, and of a worker, for one scene of this side that
                          holds four patches of 1800 x 1800, mapped with probabilities by two workers

The real scene are the pixels of the demo (Sentinel-2, 10 bands) repeated to the size, mapped with the demo's
checkpoint and all files that `map` writes by itself, on one thread. CPU seconds are recorded, because other
work on a machine changes them little; sleeping takes no CPU, so that 64 workers fit into two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mapping
import numpy as np
import psutil
import rasterio
import sleeping
from affine import Affine
from sleeping import RECORDED, TILE, Recorded, light_workers

import labelscape as ls
from labelscape.checkpoint import StoredAs, load
from labelscape.demo import demo_checkpoint, demo_data
from labelscape.grid import Window
from labelscape.maps import blocks, crew, run, shared
from labelscape.maps.job import Job, SceneRecord, map_one
from labelscape.maps.request import MapRequest
from labelscape.maps.work import MapWork, opened_for
from labelscape.progress import Tick
from labelscape.workers import cluster
from labelscape.workers.calls import Took
from labelscape.workers.pace import Pace

# ----------------------------------------------------------------------------------------------------- record


def real_scene(path: Path, size: int) -> Path:
    """The demo's pixels, mirrored at their borders until they fill the size."""
    model, source = load(demo_checkpoint()), demo_data()["images"][0]
    with opened_for(model, source, MapRequest()) as (scene, *_):
        pixels, grid, names = scene.read().pixels, scene.grid, scene.bands
    rows, columns = (np.pad(np.arange(n), (0, size), "symmetric")[:size] for n in pixels.shape[1:])
    profile = {"driver": "GTiff", "count": len(pixels), "height": size, "width": size, "dtype": pixels.dtype}
    profile |= {"crs": grid.crs, "transform": grid.transform, "compress": "ZSTD", "predictor": 2}
    with rasterio.open(path, "w", tiled=True, blockxsize=512, blockysize=512, **profile) as file:
        for number, (band, name) in enumerate(zip(pixels, names), start=1):
            file.write(band[np.ix_(rows, columns)], number)
            file.set_band_description(number, name)
    return path


def spent(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a function returns, and its CPU seconds, all threads together."""
    start = time.process_time()
    return function(*arguments, **options), time.process_time() - start


def record(folder: Path, size: int) -> Recorded:
    """Map a real scene as workers do by blocks, here, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    scene, out = real_scene(folder / "scene.tif", size), folder / "maps"
    shutil.rmtree(out, ignore_errors=True)
    job = Job((StoredAs.now(demo_checkpoint()),), str(out.absolute()), False)
    source = str(scene.absolute())
    request = MapRequest(device="cpu", scene=source)
    begun, begin = spent(shared.begin_here, job, source, request, 1, 1)
    assert isinstance(begun, shared.Begun), begun
    plan = blocks._ready(begun.task).plan  # opened once in the life of a worker: not a block's time
    _, scoring = spent(lambda: [blocks.score_block(begun.task, number) for number in begun.missing])
    tiles = sorted(Path(begun.task.journal).glob("[!.]*.tif"))
    shutil.copy(Path(begun.task.journal) / "0_0.tif", folder / TILE)
    kept = sum(tile.stat().st_size for tile in tiles)
    ended: list[float] = []
    polygons: list[float] = []
    real = run._write_polygons

    def timed_polygons(work: MapWork, task: str) -> Any:
        made, seconds = spent(real, work, task)
        polygons.append(seconds)
        return made

    def all_tiles(work: MapWork, tick: Tick) -> Iterator[Any]:
        ended.append(time.process_time())
        yield from blocks.kept_tiles(len(plan))(work, tick)
        ended.append(time.process_time())

    run._write_polygons = timed_polygons
    done = map_one(blocks.loaded(job.models), source, out, request, tiles=all_tiles)
    run._write_polygons = real
    finished, megapixels = time.process_time(), size**2 / 1e6
    assert done.state == "done", done
    files = sum(Path(file).stat().st_size for file in done.files.values())
    made = Recorded(
        "mlp",
        plan.core,
        plan.halo,
        begun.task.planes,
        begin,
        scoring / megapixels,
        (ended[1] - ended[0]) / megapixels,
        (finished - ended[1]) / megapixels,
        polygons[0] / megapixels,
        scene.stat().st_size / size**2,
        kept / size**2,
        files / size**2,
    )
    made.save(folder)
    return made


# --------------------------------------------------------------------------------------------------- simulate


@dataclass(frozen=True)
class Run:
    """A simulated job: seconds from its first call to its last, and its parts."""

    workers: int
    scenes: int
    way: str
    seconds: float
    about: Recorded

    @property
    def busy(self) -> float:
        """Share of the workers' time in which they score tiles."""
        scoring = self.scenes * self.about.megapixels * self.about.tile
        return scoring / self.workers / self.seconds


ONE, MANY, FEW = "one writer", "a writer per scene", 12


def simulate(client: Any, folder: Path, scenes: int, way: str) -> Run:
    """Map so many scenes on the workers of a client by `map_scenes`, every block of which sleeps."""
    about = Recorded.load(folder)
    count = len(client.nthreads())
    clock: list[float] = []

    def by_block(client: Any, work: crew.Work, job: Job, workers: int) -> Iterator[tuple[int, SceneRecord]]:
        def run(calls: Iterator, took: Took) -> Iterator:
            return cluster.outcomes(client, calls, limit=work.limit, took=took)

        clock.append(time.perf_counter())
        if way == ONE:
            yield from crew.one_after_another(run, work, job, workers, Pace())
        else:
            yield from shared.Shared(job, work.scenes, work.requests, workers).records(run, Pace(), unseen)
        clock.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=folder) as name, swapped(by_block):
        out = Path(name) / "maps"
        out.mkdir()
        sources = [Path(name) / f"scene{n}.tif" for n in range(scenes)]
        for source in sources:
            source.touch()
        for kept in (RECORDED, TILE):
            shutil.copy(folder / kept, out)
        made = ls.map_scenes(demo_checkpoint(), sources, out, cluster=client, grain="block", device="cpu")
        assert made.is_whole, made.records
        assert not list(out.glob(".scene*"))
    return Run(count, scenes, way, clock[1] - clock[0], about)


def unseen(done: int = 1, **facts: float | str) -> None:
    """Instead of a progress bar."""


class swapped:
    """While the block runs, workers sleep instead of working."""

    def __init__(self, by_block: Callable) -> None:
        self.places = (
            (crew, "_by_block", by_block),
            (crew, "map_one", sleeping.write_in_command),
            (blocks, "score_block", sleeping.score),
            (shared, "score_block", sleeping.score),
            (shared, "begin_here", sleeping.begin),
            (shared, "write_here", sleeping.write),
        )

    def __enter__(self) -> None:
        self.before = [getattr(module, name) for module, name, _ in self.places]
        for module, name, instead in self.places:
            setattr(module, name, instead)

    def __exit__(self, *_: object) -> None:
        for (module, name, _), before in zip(self.places, self.before):
            setattr(module, name, before)


def curve(folder: Path, counts: list[int], per_worker: float) -> list[Run]:
    """Simulate jobs with enough scenes for so many workers, and print them."""
    runs = []
    print(f"{'workers':>8}{'scenes':>8}  {'':<20}{'seconds':>9}{'Mpx/s':>9}{'workers score':>15}", flush=True)
    for count in counts:
        with light_workers(count) as client:
            for way in (ONE, MANY):
                scenes = max(2, int(count * per_worker))
                # One after another takes as long for each: a few of them show the pace.
                run = simulate(client, folder, min(scenes, FEW) if way == ONE else scenes, way)
                rate = run.scenes * run.about.megapixels / run.seconds
                told = f"{run.seconds:>9.1f}{rate:>9.2f}{100 * run.busy:>13.0f} %"
                print(f"{count:>8}{run.scenes:>8}  {way:<20}{told}", flush=True)
                runs.append(run)
    return runs


# ------------------------------------------------------------------------------------------------- arithmetic


def hours(about: Recorded, scenes: int, workers: int, way: str) -> float:
    """Arithmetic, not a measurement: of a job of so many scenes."""
    each = about.begin + about.write
    if way == MANY:
        # Every second is shared; at the end workers wait for the last block and the last map.
        total = scenes * (about.begin + about.megapixels * about.tile + each)
        return (total / workers + each) / 3600
    # The writer adds tiles while others are scored, and finishes when no worker has anything to do. A scene
    # has no more pieces of work than tiles.
    scored = about.megapixels * max(about.tile / min(workers, len(about.plan)), about.add)
    return scenes * (about.begin + scored + about.megapixels * about.finish) / 3600


def country(about: Recorded, scenes: int = 400, side: int = 20_000, per_call: float = 0.0) -> None:
    """Print the arithmetic of a country; `per_call` are the seconds that scheduler and command take for a
    call.
    """
    about = replace(about, side=-(-side // about.core))
    tiles = len(about.plan)
    one = about.megapixels * about.tile
    print(f"{scenes} scenes of {side:,} x {side:,}: {tiles} tiles, {one / 60:.1f} minutes of scoring each")
    last, polygons = about.megapixels * about.finish, about.megapixels * about.polygons
    print(f"writing a map: {about.write:.0f} s, {last:.0f} after its last tile ({polygons:.0f} its polygons)")
    print(
        f"{'':>8}{'hours':>14}{'hours, a':>18}{'shared':>10}\n{'workers':>8}{ONE:>14}{MANY[2:]:>18}", end=""
    )
    print(f"{'MB/s':>10}{'files/s':>9}{'calls/s':>9}")
    for workers in (1, 8, 64, 512, 4096):
        before, after = (hours(about, scenes, workers, way) for way in (ONE, MANY))
        rate = scenes * about.megapixels * 1e6 / (after * 3600)
        # Tiles are written and read, a scene is read and its map written.
        moved = about.scene_bytes_per_pixel + 2 * about.tile_bytes_per_pixel + about.map_bytes_per_pixel
        calls = scenes * (2 + len(blocks.blocks_for(about.plan, workers, scenes))) / (after * 3600)
        print(
            f"{workers:>8}{before:>14.2f}{after:>18.2f}{rate * moved / 1e6:>10.0f}"
            f"{scenes * tiles / (after * 3600):>9.1f}{calls:>9.2f}"
        )
    if per_call:
        print(f"the scheduler takes {1 / per_call:.0f} calls a second ({1000 * per_call:.1f} ms each)")


# ----------------------------------------------------------------------------------------------------- memory


def nothing(job: Job, source: str, request: MapRequest) -> SceneRecord:
    """In the place of mapping a scene."""
    return SceneRecord(source, "done", 1.0, 250_000)


class Memory:
    """The most memory that this process, and the largest of its children, held while the block ran; MiB."""

    def __enter__(self) -> Memory:
        self.before = self.here = psutil.Process().memory_info().rss / 2**20
        self.worker, self._over = 0.0, threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.here = max(self.here, psutil.Process().memory_info().rss / 2**20)
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.worker = max(self.worker, one.memory_info().rss / 2**20)


def small_scenes(count: int) -> None:
    """Scheduler and command are in this process: its memory is that of both."""
    with light_workers(2) as client, tempfile.TemporaryDirectory() as name:
        sources = [Path(name) / f"scene{n}.tif" for n in range(count)]
        for source in sources:
            source.touch()
        crew.map_here = nothing
        start = time.perf_counter()
        with Memory() as memory:
            made = ls.map_scenes(
                demo_checkpoint(), sources, Path(name) / "maps", cluster=client, device="cpu"
            )
        seconds = time.perf_counter() - start
    assert made.is_whole and made.grain == "scene"
    grew = f"grew by {memory.here - memory.before:.0f} MiB, from {memory.before:.0f} MiB"
    print(f"{count:,} scenes: {1000 * seconds / count:.1f} ms each; scheduler, command and report {grew}")


def sparse(side: int, patches: int = 4, size: int = 1800) -> None:
    """Memory of scheduler and command, and of a worker, for a scene of which little holds anything."""
    with tempfile.TemporaryDirectory() as name:
        scene, model = Path(name) / "scene.tif", Path(name) / "model.safetensors"
        profile = {"driver": "GTiff", "dtype": "uint16", "count": mapping.BANDS}
        profile |= {"height": side, "width": side, "nodata": 0}
        profile |= {"crs": "EPSG:32633", "transform": Affine(10, 0, 4e5, 0, -10, 5.8e6)}
        profile |= {"tiled": True, "compress": "deflate", "sparse_ok": True, "bigtiff": "IF_SAFER"}
        with rasterio.open(scene, "w", **profile) as file:
            for number in range(patches):
                place = int((side - size) * number / max(1, patches - 1))
                # Fields of 30 x 30 pixels: of noise every pixel would be a polygon.
                coarse = np.random.default_rng(number).integers(
                    1, 9000, (mapping.BANDS, size // 30, size // 30)
                )
                pixels = np.kron(coarse, np.ones((30, 30))).astype(np.uint16)
                file.write(pixels, window=Window(place, place, size, size).rio)
        ls.save(mapping.checkpoint("fcn", classes=12, widths=[4, 4, 8, 8]), model)
        start = time.perf_counter()
        with Memory() as memory:
            made = ls.map_scenes(
                model, [scene], Path(name) / "maps", workers=2, grain="block", proba=True, device="cpu"
            )
        assert made.is_whole, made.records
    print(
        f"{side:,} x {side:,}, {made.records[0].pixels:,} pixels with data, in "
        f"{time.perf_counter() - start:.0f} s: scheduler and command at most {memory.here:.0f} MiB, "
        f"from {memory.before:.0f} MiB; a worker at most {memory.worker:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, metavar="FOLDER")
    parser.add_argument("--size", type=int, default=3712, help="of the recorded scene; else 2 x 2 tiles")
    parser.add_argument("--simulate", type=Path, metavar="FOLDER")
    parser.add_argument("--workers", default="1,8,64")
    parser.add_argument("--scenes-per-worker", type=float, default=2.0)
    parser.add_argument("--country", type=Path, metavar="FOLDER")
    parser.add_argument("--ms-per-call", type=float, default=0.0, help="as workers.py --tasks prints it")
    parser.add_argument("--small-scenes", type=int)
    parser.add_argument("--sparse", type=int, metavar="SIDE")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if arguments.record:
        print(record(arguments.record, arguments.size))
    if arguments.simulate:
        counts = [int(count) for count in arguments.workers.split(",")]
        curve(arguments.simulate, counts, arguments.scenes_per_worker)
    if arguments.country:
        country(Recorded.load(arguments.country), per_call=arguments.ms_per_call / 1000)
    if arguments.small_scenes:
        small_scenes(arguments.small_scenes)
    if arguments.sparse:
        sparse(arguments.sparse)


if __name__ == "__main__":
    # Under its own name, so that workers find what they are sent in a module that they can import.
    sys.path.insert(0, str(Path(__file__).parent))
    import scaling

    scaling.main()
