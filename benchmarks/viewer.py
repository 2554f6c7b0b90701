"""How fast are the viewer's tiles, and does its memory stay? Clients ask a server for random tiles of a class
map of any size, on all levels; the latencies are theirs, connections are kept open.

    python benchmarks/viewer.py                                 # makes a map of 20,000 x 20,000 pixels
    python benchmarks/viewer.py map/scene_class.tif --clients 20 --tiles 10000
    python benchmarks/viewer.py --titiler /path/of/python       # the same file by titiler.core, too

titiler answers tiles of Web Mercator, which it warps to; these cover the same places on the same levels.
"""

from __future__ import annotations

import argparse
import http.client
import math
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import numpy as np
import rasterio

from labelscape.grid import Grid, Window
from labelscape.legend import Legend
from labelscape.rasters.write import MapWriter
from labelscape.scenes.georeference import grid_of
from labelscape.viewer.tiles import SIDE, levels

TITILER = """
import sys, uvicorn
from fastapi import FastAPI
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import TilerFactory
app = FastAPI()
add_exception_handlers(app, DEFAULT_STATUS_CODES)
app.include_router(TilerFactory().router)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map", nargs="?", type=Path)
    parser.add_argument("--side", type=int, default=20_000, help="of the map that is made")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--titiler", help="a Python with titiler.core and uvicorn")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = asked.map or made(Path(folder) / "large_class.tif", asked.side)
        with rasterio.open(path) as file:
            grid = grid_of(file)
        print(f"{path.name}: {grid.width:,} x {grid.height:,} pixels; {asked.clients} clients")
        print(f"{'server':<14}{'opens':>9}{'p50':>9}{'p99':>9}{'tiles/s':>9}{'before':>10}{'after':>10}")
        serve = [sys.executable, "-m", "labelscape", "serve", str(path), "--port"]
        measure("labelscape", serve, viewer_tiles(grid, asked), asked.clients)
        if asked.titiler:
            measure(
                "titiler", [asked.titiler, "-c", TITILER], titiler_tiles(path, grid, asked), asked.clients
            )


def made(path: Path, side: int) -> Path:
    """A class map of fields of 64 pixels, written block row by block row."""
    rng = np.random.default_rng(0)
    legend = Legend.of_names(("water", "field", "forest", "meadow", "town"))
    grid = Grid(rasterio.CRS.from_epsg(32633), rasterio.Affine(10, 0, 4e5, 0, -10, 5.8e6), side, side)
    with MapWriter(path, grid, 1, 255, legend=legend) as writer:
        for top in range(0, side, 2048):
            window = Window(top, 0, 2048, side) & grid.window
            coarse = rng.integers(5, size=(window.height // 64 + 1, side // 64 + 1), dtype=np.uint8)
            rows = np.repeat(np.repeat(coarse, 64, axis=0), 64, axis=1)
            writer.write(window, rows[: window.height, :side])
    return path


def viewer_tiles(grid: Grid, asked: argparse.Namespace) -> list[str]:
    """Addresses of tiles: a level, then a tile of it, each as likely as the others."""
    rng, deepest, found = random.Random(asked.seed), levels(grid), []
    for _ in range(asked.tiles):
        level = rng.randint(0, deepest)
        side = SIDE * 2 ** (deepest - level)
        column, row = (rng.randrange(math.ceil(n / side)) for n in (grid.width, grid.height))
        found.append(f"/tiles/class/{level}/{column}/{row}.png")
    return found


def titiler_tiles(path: Path, grid: Grid, asked: argparse.Namespace) -> list[str]:
    """The Web Mercator tiles around the centres of the viewer's, with pixels of about the same size."""
    from labelscape.crs import transformed

    deepest, found = levels(grid), []
    for address in viewer_tiles(grid, asked):
        level, column, row = (int(v) for v in address.removesuffix(".png").split("/")[3:])
        side = SIDE * 2 ** (deepest - level)
        place = min((column + 0.5) * side, grid.width - 1), min((row + 0.5) * side, grid.height - 1)
        lon, lat = (float(v) for v in transformed(*grid.transform @ place, grid.crs))
        metres = (grid.ground_pixel_size or 10) * 2 ** (deepest - level)
        zoom = round(math.log2(math.cos(math.radians(lat)) * 40_075_017 / SIDE / metres))
        x = int((lon + 180) / 360 * 2**zoom)
        y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom)
        found.append(f"/tiles/WebMercatorQuad/{zoom}/{x}/{y}.png?url={quote(str(path.absolute()), safe='')}")
    return found


def measure(name: str, command: list[str], addresses: list[str], clients: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL)
    try:
        while not answers(port):
            assert server.poll() is None, f"{name} ended"
            time.sleep(0.02)
        opened, before = time.perf_counter() - began, megabytes(server.pid)
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            parts = list(pool.map(lambda n: client(port, addresses[n::clients]), range(clients)))
        wall = time.perf_counter() - began
        times = np.concatenate(parts) * 1000
        p50, p99 = np.percentile(times, (50, 99))
        after = megabytes(server.pid)
        print(
            f"{name:<14}{opened:>7.2f} s{p50:>6.1f} ms{p99:>6.1f} ms{len(times) / wall:>9.0f}"
            f"{before:>7.0f} MB{after:>7.0f} MB"
        )
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def client(port: int, addresses: list[str]) -> np.ndarray:
    """Seconds of each request. Raises AssertionError where one is not answered."""
    connection, times = http.client.HTTPConnection("127.0.0.1", port), []
    for address in addresses:
        began = time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        body = answer.read()
        times.append(time.perf_counter() - began)
        assert answer.status == 200, f"{address}: {answer.status} {body[:200]!r}"
    return np.array(times)


def megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
