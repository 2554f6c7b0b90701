"""Labelscape: from pictures of the ground to maps of classes.

    import labelscape as ls

    ls.list_models()                                     names of the networks
    net = ls.create_model("mlp", in_channels=4, classes=6) checkpoint =
    ls.train(ls.make_recipe(data={"images": ["scene.tif"], "labels": ["fields.gpkg"]}), out="runs/a")
    checkpoint = ls.load("runs/a/mlp.safetensors")
    probabilities = ls.predict(checkpoint, pixels)       (bands, H, W) -> (classes, H, W)
    evaluation = ls.evaluate(checkpoint, dataset)
    result = ls.map_scene(checkpoint, "scene.tif", out="map/")
    ls.sieve("map/scene_class.tif", "map/fields.tif", min_area=0.5)   areas below half a hectare go to their
                                                                      neighbours

Names are imported when first used: `import labelscape` is instant, torch comes with the first network.
"""

from labelscape.version import __version__

_PLACES = {
    "Checkpoint": "checkpoint",
    "Contract": "contract.contract",
    "load": "checkpoint",
    "save": "checkpoint",
    "list_models": "nets.catalog",
    "create_model": "nets.catalog",
    "predict": "scoring.scorer",
    "Scorer": "scoring.scorer",
    "Recipe": "training.recipe",
    "make_recipe": "training.recipe",
    "train": "training.loop",
    "open_dataset": "datasets.own",
    "open_published": "datasets.published.catalog",
    "check_data": "datasets.doctor.check",
    "LabelSpec": "labels.labels",
    "Scene": "scenes.raster",
    "evaluate": "evaluation.measure",
    "Evaluation": "evaluation.measure",
    "check": "maps.plan",
    "CheckResult": "maps.plan",
    "map_scene": "maps.run",
    "MapResult": "maps.run",
    "sieve": "areas.sieve",
    "SieveSummary": "areas.sieve",
    "polygonize": "areas.polygonize",
    "PolygonSummary": "areas.polygonize",
    "import_caffe": "export.from_caffe",
    "Legend": "legend",
    "IGNORE": "legend",
    "Grid": "grid",
    "Window": "grid",
    "LabelscapeError": "errors",
}

__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'labelscape' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"labelscape.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
