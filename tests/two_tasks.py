"""A small DFCNet that learns the painted landscape and, beside it, roads of another painted scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import world

from labelscape.checkpoint import Checkpoint

SMALL = {
    "encoder": [1, 1, 1, 1],
    "decoder": [1, 1, 1, 1],
    "stem": 8,
    "growth": 4,
    "width": 8,
    "head_width": 8,
}


@dataclass(frozen=True)
class TwoTasks:
    """The two scenes with their labels, and the settings of a recipe that learns both."""

    land: world.World
    land_labels: Path
    roads: world.World
    road_labels: Path

    def fields(self, **changes: object) -> dict:
        """The settings; `mate` in the changes replaces single settings of the second task."""
        mate = {
            "data": {
                "images": [str(self.roads.scene)],
                "labels": [str(self.road_labels)],
                "classes": {"other": 0, "road": 1},
                "block": 32,
                "val": 0.25,
            },
            "batch": 2,
            "weight": 0.5,
            **changes.pop("mate", {}),
        }
        return {
            "data": {
                "images": [str(self.land.scene)],
                "labels": [str(self.land_labels)],
                "classes": {"water": 0, "field": 1, "forest": 2},
                "block": 32,
                "val": 0.25,
            },
            "network": "dfcnet",
            "options": SMALL,
            "mate": mate,
            "base_steps": 0,
            "steps": 40,
            "batch": 4,
            "crop": 33,
            "device": "cpu",
            **changes,
        }


def make(folder: Path) -> TwoTasks:
    """The roads' scene is brighter: each task has a scaling of its own."""
    for name in ("land", "roads"):
        (folder / name).mkdir(parents=True)
    land = world.make(folder / "land", 96, 128, seed=1, nodata=0)
    roads = world.make(folder / "roads", 96, 96, seed=5)
    pixels = (roads.pixels + 3000).astype("uint16")
    world.write(roads.scene, pixels)
    roads = world.World(roads.scene, roads.classes, pixels, roads.crs, roads.transform)
    return TwoTasks(
        land,
        world.label_raster(land, folder / "land.tif"),
        roads,
        world.label_raster(roads, folder / "roads.tif", values=(0, 1, 0)),
    )


def trained(folder: Path, **changes: object) -> tuple[TwoTasks, Checkpoint, list[str]]:
    """The scenes, the checkpoint with both tasks, written to `folder`/run, and what training said."""
    from labelscape.training.recipe import make_recipe
    from labelscape.training.run import train

    scenes, said = make(folder), []
    made = train(make_recipe(**scenes.fields(val_every=20, **changes)), folder / "run", say=said.append)
    return scenes, made, said
