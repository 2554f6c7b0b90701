"""A small map with everything that the viewer shows, made without a network, and a server of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import world

from labelscape.grid import Grid
from labelscape.legend import IGNORE, Legend
from labelscape.rasters.write import MapWriter

HEIGHT, WIDTH = 300, 520
HOME = "http://127.0.0.1:8765"
HOSTILE = "<img src=x onerror=alert(1)>"


def raster(
    path: Path, planes: np.ndarray, *, legend: Legend | None = None, names: tuple = (), **place
) -> Path:
    grid = Grid(place.get("crs", world.UTM), place.get("transform", world.NORTH_UP), *planes.shape[1:])
    writer = MapWriter(path, grid, len(planes), IGNORE, legend=legend, descriptions=names, overwrite=True)
    with writer:
        writer.write(grid.window, planes)
    return path


def made(
    folder: Path, *, names: tuple[str, ...] = ("water", "field", "forest"), seed: int = 0, **place
) -> Path:
    """A map's folder: classes, confidence, probabilities, run file; the upper left corner has no data. The
    scene lies in it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    legend = Legend.of_names(names, values=(1, 4, 9))
    indices = world.paint(HEIGHT, WIDTH, seed=seed)
    # In squares like the classes: of pixels each for itself there would be as many areas to review.
    sure = (40 + 20 * world.paint(HEIGHT, WIDTH, seed=seed + 9, patch=20)).astype(np.uint8)
    sure[::50, ::50] = 99
    proba = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for k in range(3):
        proba[k] = np.where(indices == k, sure * 2.5, (250 - sure * 2.5) / 2)
    classes = legend.decode(indices)
    for plane in (classes, sure, *proba):
        plane[:20, :30] = IGNORE
    raster(folder / "place_class.tif", classes[None], legend=legend, names=("class",), **place)
    raster(folder / "place_confidence.tif", sure[None], names=("confidence (%)",), **place)
    raster(folder / "place_proba.tif", proba, names=names, **place)
    pixels = world.spectra(indices, 4, "uint16", seed=seed)
    scene = world.write(folder / "place.tif", pixels, **place)
    areas = [
        {"name": n, "pixels": int((classes == v).sum()), "hectares": None} for n, v in zip(names, (1, 4, 9))
    ]
    run = {"files": {}, "areas": areas, "software": "labelscape", "scene": scene.name}
    (folder / "place_run.json").write_text(json.dumps(run))
    return folder


def client(shown: object, *, own: bool = False, **how: object) -> object:
    """Asks the page's server without a network; `own`: as a page of its own does, which may write."""
    from fastapi.testclient import TestClient

    from labelscape.viewer.app import create_app

    page = TestClient(create_app(shown, **how), base_url=HOME, raise_server_exceptions=False)
    if own:
        page.headers["origin"] = HOME
    return page


@contextmanager
def server(shown: object, *, app: object = None, **how: object) -> Iterator[str]:
    """A page served by a thread of this process, and its address; `app` is served instead of the map's."""
    import socket

    import uvicorn

    from labelscape.viewer.app import create_app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app or create_app(shown, **how), log_level="error", timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            running.should_exit = True
            thread.join(10)
            shown.close()
