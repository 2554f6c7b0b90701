"""How fast is the viewer's page in a browser? Two questions, each in headless Chromium by Playwright.

    python benchmarks/viewer_page.py open                      # a sparse COG of 100,000 x 100,000 pixels
    python benchmarks/viewer_page.py polygons                  # 184,184 polygons of 6,000 x 6,000 pixels
    python benchmarks/viewer_page.py polygons --map map/       # of a map's folder

`open` starts `labelscape serve` and takes the time until the page shows tiles. `polygons` draws a map's own
as vector tiles, as the page does, as vector tiles filled with colours, and as pictures made by the server:
the time until a view is drawn, then the times between frames (requestAnimationFrame) while the map is
moved by 9 pixels a frame.
"""

from __future__ import annotations

import argparse
import io
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import shapely

import labelscape as ls
from labelscape.grid import Grid, Window
from labelscape.legend import Legend
from labelscape.rasters.write import MapWriter
from labelscape.viewer import tiles, tiling
from labelscape.viewer.outlines import SMALLEST, Outlines, _shapes
from labelscape.viewer.shown import find

CHROMIUM = "/usr/bin/chromium"
NAMES = ("water", "field", "forest", "meadow", "town")
PAGE = '<!doctype html><link rel="stylesheet" href="static/leaflet.css">'
PAGE += '<link rel="stylesheet" href="static/viewer.css">'
PAGE += '<main><section id="stage"><div id="map"></div></section></main>'
PAGE += '<script type="module" src="bench.js"></script>'
CODE = """
import { makeMap, tileLayer } from "./static/map.js";
import { polygonLayer } from "./static/polygons.js";
const facts = await (await fetch("api/map")).json();
const map = makeMap(facts);
window.measure = async (kind, zoom) => {
  map.setView([facts.height / 2, facts.width / 2], zoom, { animate: false });
  const polygons = kind === "pictures" ? null : polygonLayer(facts, () => undefined);
  const colors = { water: "#36c", field: "#c63", forest: "#063" };
  if (kind === "filled") polygons.show({ colors, hidden: [], fill: 0.6 });
  const pictures = "pictures/{z}/{x}/{y}.png";
  const layer = polygons ? polygons.layer : tileLayer(facts, "outlines").setUrl(pictures, true);
  const began = performance.now();
  await new Promise((done) => { layer.on("load", done); layer.addTo(map); });
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const drawn = performance.now() - began;
  const frames = [];
  for (let n = 0, last = await new Promise(requestAnimationFrame); n < 240; n++) {
    map.panBy([n % 120 < 60 ? 8 : -8, n < 120 ? 4 : -4], { animate: false });
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  layer.remove();
  return [drawn, frames];
};
document.body.dataset.ready = "yes";
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("open", "polygons", "pictures"))
    parser.add_argument("--map", type=Path)
    parser.add_argument("--side", type=int, help="of the map that is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", help="of `polygons`; all where it is left out")
    parser.add_argument("--port", type=int, default=0, help="`pictures` alone, which `polygons` starts")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        if asked.what == "pictures":
            serve_both(asked.map, asked.port)
        elif asked.what == "open":
            opened(asked.map or sparse(Path(folder) / "large_class.tif", asked.side or 100_000), asked.rounds)
        else:
            moved(asked.map or fields(Path(folder), asked.side or 6000), asked.rounds, asked.levels)


# ------------------------------------------------------------------------------------------ large rasters


def sparse(path: Path, side: int) -> Path:
    """A COG of classes with data in a few of its blocks, all the others are not stored."""
    legend = Legend.of_names(NAMES)
    grid = Grid(rasterio.CRS.from_epsg(32633), rasterio.Affine(10, 0, 2e5, 0, -10, 5.8e6), side, side)
    rng = np.random.default_rng(0)
    place = {"crs": grid.crs, "transform": grid.transform, "width": side, "height": side, "nodata": 255}
    how = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
    }
    plain = path.with_name("plain.tif")
    with rasterio.Env(GDAL_CACHEMAX=512, SPARSE_OK_OVERVIEW=True):
        with rasterio.open(
            plain, "w", **how, **place, compress="zstd", sparse_ok=True, bigtiff="yes"
        ) as file:
            for _ in range(60):
                top, left = (int(v) * 512 for v in rng.integers(side // 512 - 4, size=2))
                block = rng.integers(1, 6, (64, 64)).astype(np.uint8).repeat(32, axis=0).repeat(32, axis=1)
                file.write(block[None], window=Window(top, left, 2048, 2048).rio)
            file.write_colormap(1, {one.value: one.color for one in legend.classes})
        with rasterio.open(plain, "r+") as file:
            file.build_overviews([2**k for k in range(1, 10)], rasterio.enums.Resampling.nearest)
    return plain.rename(path)


def opened(path: Path, rounds: int) -> None:
    with rasterio.open(path) as file:
        print(f"{path.name}: {file.width:,} x {file.height:,} pixels, {path.stat().st_size / 1e6:.0f} MB")
    with browser() as chromium:
        for _ in range(rounds):
            began = time.perf_counter()
            with served([sys.executable, "-m", "labelscape", "serve", str(path), "--port"]) as address:
                answering = time.perf_counter() - began
                page = chromium.new_page(viewport={"width": 1600, "height": 900})
                page.goto(address)
                page.wait_for_selector("body[data-ready]")
                page.wait_for_selector("#map img.leaflet-tile-loaded")
                shown = time.perf_counter() - began
                page.close()
                print(
                    f"the server answers after {answering:.2f} s, the page shows the map after {shown:.2f} s"
                )


# ---------------------------------------------------------------------------------------------- polygons


def fields(folder: Path, side: int) -> Path:
    """A class map of round shapes, smoothed noise, and its polygons."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    best, classes = np.full((side, side), -9, np.float32), np.zeros((side, side), np.uint8)
    for k in range(len(NAMES)):
        noise = ndimage.gaussian_filter(rng.standard_normal((side, side), dtype=np.float32), 5)
        classes[noise > best] = k
        np.maximum(best, noise, out=best)
    legend = Legend.of_names(NAMES)
    grid = Grid(rasterio.CRS.from_epsg(32633), rasterio.Affine(10, 0, 4e5, 0, -10, 5.8e6), side, side)
    with MapWriter(folder / "fields_class.tif", grid, 1, 255, legend=legend) as writer:
        writer.write(grid.window, legend.decode(classes)[None])
    ls.polygonize(folder / "fields_class.tif", folder / "fields_polygons.gpkg")
    return folder


def moved(folder: Path, rounds: int, levels: list[int] | None) -> None:
    shown = find(folder)
    side, count = tiles.SIDE * 2 ** tiles.levels(shown.grid), shown.outlines
    whole = count._largest(Window(0, 0, side, side), Window(0, 0, side, side), np.inf)[0]
    print(f"{shown.title}: {whole:,} polygons; a window of 1600 x 900 pixels, the median of {rounds} rounds")
    print(f"{'level':>5}{'drawn by':>10}{'polygons':>10}{'until drawn':>13}{'p50':>9}{'p95':>9}{'worst':>9}")
    command = [sys.executable, __file__, "pictures", "--map", str(folder), "--port"]
    with served(command) as address, browser() as chromium:
        for zoom in levels or range(1, tiles.levels(shown.grid) + 2):
            for kind in ("vector", "filled", "pictures"):
                taken = [measured(chromium, address, kind, zoom) for _ in range(rounds)]
                until, middle, high, worst = np.median(taken, axis=0)
                held = in_view(shown.outlines, zoom) if kind == "vector" else ""
                print(
                    f"{zoom:>5}{kind:>10}{held:>10}{until:>10.0f} ms"
                    f"{middle:>6.1f} ms{high:>6.1f} ms{worst:>6.1f} ms",
                    flush=True,
                )
    shown.close()


def measured(chromium: object, address: str, kind: str, zoom: int) -> tuple[float, ...]:
    """Milliseconds until a view is drawn, and p50, p95 and the longest of the frames while it is moved."""
    # A new context: the browser has kept no tile.
    context = chromium.new_context(viewport={"width": 1600, "height": 900})
    page = context.new_page()
    page.goto(f"{address}bench.html")
    page.wait_for_selector("body[data-ready]")
    drawn, frames = page.evaluate("([kind, zoom]) => measure(kind, zoom)", [kind, zoom])
    context.close()
    return (drawn, *np.percentile(frames, (50, 95)), max(frames))


def in_view(outlines: Outlines, zoom: int) -> str:
    """How many polygons a window of 1600 x 900 in the middle of the map draws."""
    grid = outlines.grid
    scale = 2.0 ** (tiles.levels(grid) - zoom)
    view = Window(
        int(grid.height / 2 - 450 * scale),
        int(grid.width / 2 - 800 * scale),
        int(900 * scale),
        int(1600 * scale),
    )
    least = SMALLEST * max(scale, 1) * outlines._pixel
    rows = outlines._largest(view, view, least)[1]
    return f"{len(rows):,}"


def serve_both(folder: Path, port: int) -> None:
    """The viewer's server with the page of this benchmark, and pictures of outlines."""
    import uvicorn
    from fastapi import Response

    from labelscape.viewer.app import create_app

    # Of what was made before nothing is kept: each round is as the first.
    tiling.MOST_KEPT = 0
    shown = find(folder)
    guard = create_app(shown)
    app = guard._app

    @app.get("/bench.html")
    def page() -> Response:
        return Response(PAGE, media_type="text/html")

    @app.get("/bench.js")
    def code() -> Response:
        return Response(CODE, media_type="text/javascript")

    @app.get("/pictures/{level}/{column}/{row}.png")
    def outlines(level: int, column: int, row: int) -> Response:
        window, _ = tiles.tile_window(shown.grid, level, column, row)
        return Response(
            picture(shown.outlines, window, 2 ** (tiles.levels(shown.grid) - level)), media_type="image/png"
        )

    uvicorn.run(guard, host="127.0.0.1", port=port, log_level="error")


def picture(outlines: Outlines, window: Window, scale: float) -> bytes:
    """A tile of outlines as PNG, drawn here."""
    from PIL import Image, ImageDraw

    grown = window.grown(int(2 * scale))
    rows = outlines._largest(window, grown, SMALLEST * scale * outlines._pixel)[1]
    rings = shapely.get_rings(shapely.get_parts(_shapes(rows)))
    xy, number = shapely.get_coordinates(rings, return_index=True)
    places = outlines._places(xy, window) / scale
    # Corners in one pixel of the screen are one corner.
    pixels = np.round(places)
    kept = np.ones(len(pixels), bool)
    kept[1:] = (pixels[1:] != pixels[:-1]).any(axis=1) | (number[1:] != number[:-1])
    parts = np.split(places[kept], np.flatnonzero(np.diff(number[kept])) + 1)
    image = Image.new("RGBA", (tiles.SIDE, tiles.SIDE))
    pen = ImageDraw.Draw(image)
    for color, width in (((255, 255, 255, 150), 3), ((22, 25, 29, 255), 1)):
        for part in parts:
            pen.line(part.ravel().tolist(), fill=color, width=width)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


# ------------------------------------------------------------------------------------- servers, browsers


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """The address of a server that a command starts with a port as its last word, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL)
    try:
        while True:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the server ended"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = CHROMIUM if Path(CHROMIUM).exists() else None
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


if __name__ == "__main__":
    main()
