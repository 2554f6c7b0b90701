"""What workers do in the simulation of scaling.py: they sleep for the recorded time of a block, and write the
bytes of a recorded tile into the real journal.

    python benchmarks/sleeping.py ADDRESS COUNT     so many workers of a scheduler, threads of one process
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from labelscape.grid import Window
from labelscape.maps.blocks import BlockTask, Scored
from labelscape.maps.job import Job, SceneRecord
from labelscape.maps.journal import Journal
from labelscape.maps.layout import Blocks, blocks_for
from labelscape.maps.request import MapRequest
from labelscape.maps.shared import Begun
from labelscape.progress import bar
from labelscape.scoring.tiles import TilePlan
from labelscape.workers.store import store_at, store_for

RECORDED, TILE = "recorded.json", "recorded-tile.tif"


@dataclass(frozen=True)
class Recorded:
    """CPU seconds of one thread for the parts of a map, and bytes.

    begin     to open and check a scene, plan it and open its journal
    tile      to read, score and keep a megapixel of tiles
    add       to load a megapixel of them from the journal and write it to the rasters
    finish    of a megapixel, when all tiles are written: overviews, COGs, polygons, report
    polygons  of a megapixel, part of `finish`
    side      tiles along a simulated scene
    """

    network: str
    core: int
    halo: int
    planes: tuple[str, ...]
    begin: float
    tile: float
    add: float
    finish: float
    polygons: float
    scene_bytes_per_pixel: float
    tile_bytes_per_pixel: float
    map_bytes_per_pixel: float
    side: int = 3

    @property
    def plan(self) -> TilePlan:
        return TilePlan(Window(0, 0, self.core * self.side, self.core * self.side), self.core, self.halo)

    @property
    def megapixels(self) -> float:
        return self.plan.whole.pixels / 1e6

    @property
    def write(self) -> float:
        """Seconds to write the map of a scene whose tiles are in the journal."""
        return self.megapixels * (self.add + self.finish)

    def of_a_tile(self, seconds: float) -> float:
        """Of a tile, from those of a megapixel."""
        return self.core**2 / 1e6 * seconds

    def save(self, folder: Path) -> None:
        (folder / RECORDED).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Recorded:
        found = json.loads((Path(folder) / RECORDED).read_text())
        return cls(**{**found, "planes": tuple(found["planes"])})


@lru_cache
def recorded(folder: str) -> tuple[Recorded, bytes]:
    """What is recorded in a folder of maps, and the file of a tile."""
    return Recorded.load(folder), (Path(folder) / TILE).read_bytes()


def _journal(out: str, scene: str, planes: tuple[str, ...]) -> Journal:
    return Journal(store_for(Path(out), Path(scene).stem, None), {"scene": str(scene)}, planes)


# ------------------------------------------------------------------ in the place of what labelscape.maps does


def begin(job: Job, source: str, request: MapRequest, workers: int, scenes: int) -> Begun:
    """As `maps.shared.begin_here`."""
    about, _ = recorded(job.out)
    time.sleep(about.begin)
    blocks = blocks_for(about.plan, workers, scenes)
    folder = _journal(job.out, source, about.planes).store.address
    task = BlockTask((), source, request, folder, about.planes, 1, blocks.rows, blocks.columns)
    missing: dict[int, int] = {}
    for tile in about.plan:
        number = blocks.of(tile.answers)
        missing[number] = missing.get(number, 0) + tile.answers.pixels
    return Begun(task, missing, 0, Path(source).stem)


def score(task: BlockTask, number: int) -> Scored:
    """As `maps.blocks.score_block`."""
    about, tile_file = recorded(str(Path(task.journal).parent))
    blocks = Blocks(about.plan, task.rows, task.columns)
    tiles = [tile.answers for tile in about.plan if blocks.of(tile.answers) == number]
    journal = Journal.of_another(store_at(task.journal), {}, about.planes)
    with bar(f"block {number}", len(tiles), "tiles") as tick:
        for tile in tiles:
            time.sleep(about.of_a_tile(about.tile))
            journal.store.put(journal._name(tile), tile_file)
            tick()
    return Scored(len(tiles), tuple((tile.top, tile.left) for tile in tiles))


def write(job: Job, source: str, request: MapRequest, least: int, spent: float | None) -> SceneRecord:
    """As `maps.shared.write_here`."""
    about, tile_file = recorded(job.out)
    journal = _journal(job.out, source, about.planes)
    time.sleep(about.begin)
    for tile in about.plan:
        assert journal.store.get(journal._name(tile.answers)) == tile_file
        time.sleep(about.of_a_tile(about.add))
    time.sleep(about.megapixels * about.finish)
    journal.close()
    return SceneRecord(source, "done", pixels=about.plan.whole.pixels)


def write_in_command(
    models: Any, source: str, out: Path, request: MapRequest, *, tiles: Callable, **options: Any
) -> SceneRecord:
    """As `maps.job.map_one`, with the tiles that arrive from workers."""
    about, _ = recorded(str(out.absolute()))
    time.sleep(about.begin)
    journal = _journal(str(out), source, about.planes)
    everywhere = SimpleNamespace(may_hold=lambda window: True)
    scorer = SimpleNamespace(device=SimpleNamespace(type="cpu"), engine="torch")
    work = SimpleNamespace(plan=about.plan, journal=journal, scene=everywhere, scorer=scorer)
    work.request, work.stem = request, Path(source).stem
    for _ in tiles(work, lambda done=1, **facts: None):
        time.sleep(about.of_a_tile(about.add))
    time.sleep(about.megapixels * about.finish)
    journal.close()
    return SceneRecord(source, "done", pixels=about.plan.whole.pixels)


# ---------------------------------------------------------------------------------------------------- workers


async def serve(address: str, count: int) -> None:
    """So many workers, until the scheduler ends them."""
    from distributed import Worker

    async with contextlib.AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(Worker(address, nthreads=1, memory_limit=0, dashboard=False))
            for _ in range(count)
        ]
        await asyncio.gather(*(worker.finished() for worker in workers))


@contextlib.contextmanager
def light_workers(count: int, each: int = 16) -> Iterator[Any]:
    """A client of a scheduler in this process, and so many workers, up to `each` of them in a process."""
    import subprocess

    from distributed import Client, LocalCluster

    processes = []
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        try:
            for first in range(0, count, each):
                many = str(min(each, count - first))
                command = [sys.executable, __file__, cluster.scheduler_address, many]
                processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            client.wait_for_workers(count, timeout=300)
            yield client
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
