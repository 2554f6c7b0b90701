"""Labelscape: land-cover maps from satellite and aerial scenes.

    import labelscape as ls

    ls.info("scene.tif")                                     # size, bands, CRS; also of checkpoints and maps
    ls.list_models()                                         # names of the networks
    net = ls.create_model("mlp", in_channels=4, classes=6)   # a torch module
    recipe = ls.make_recipe(data={"images": ["scene.tif"], "labels": ["fields.gpkg"]})
    checkpoint = ls.train(recipe, out="runs/a")              # or ls.train(**ls.read_config("train.yaml"))
    tuning = ls.tune(recipe, "search", over={"rate": "1e-4:1e-2:log"})   # hyper-parameter search
    checkpoint = ls.load("runs/a/mlp.safetensors")
    probabilities = ls.predict(checkpoint, pixels)           # (bands, H, W) -> (classes, H, W)
    evaluation = ls.evaluate(checkpoint, dataset)
    comparison = ls.compare(["old.safetensors", "new.safetensors"])   # is the new model better?
    result = ls.map_scene(checkpoint, "scene.tif", out="map/")
    ls.export_model(checkpoint, "model.onnx")                # for QGIS Deepness, GeoDeep, onnxruntime
    ls.mosaic("maps", "country.tif")                         # the maps of many scenes as one
    ls.sieve("map/scene_class.tif", "map/fields.tif", min_area=0.5)   # minimum mapping unit: half a hectare
    ls.review("map/scene_class.tif", "review.gpkg")                   # to be corrected in QGIS, for training
    ls.sample("map/scene_class.tif", "points.gpkg")                   # to be interpreted in QGIS, then
    ls.assess("map/scene_class.tif", "points.gpkg")                   # accuracy and areas with intervals

Names are imported when first used: `import labelscape` is instant, torch is loaded with the first network.
"""

from typing import TYPE_CHECKING

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
    "Protocol": "scoring.protocol",
    "Recipe": "training.recipe",
    "make_recipe": "training.recipe",
    "read_config": "cli.config",
    "train": "training.run",
    "rehearse": "training.rehearse",
    "find_rate": "training.rate_search",
    "learning_curve": "training.curve",
    "LearningCurve": "training.curve",
    "RateSearch": "training.rate_search",
    "tune": "training.tune",
    "Tuning": "training.tune_result",
    "slurm_script": "training.slurm",
    "run_table": "training.reproduce",
    "bench": "benchmark.run",
    "BenchResult": "benchmark.result",
    "open_dataset": "datasets.own",
    "open_published": "datasets.published.catalog",
    "check_data": "datasets.doctor.check",
    "LabelRules": "labels.rules",
    "LabelSpec": "labels.rules",
    "Scene": "scenes.scene",
    "ArrayScene": "scenes.array",
    "open_scene": "scenes.mosaic",
    "find_scenes": "scenes.scene_list",
    "SceneList": "scenes.scene_list",
    "evaluate": "training.evaluate",
    "Evaluation": "evaluation.counts",
    "compare": "training.compare",
    "Comparison": "evaluation.compare",
    "calibrate": "evaluation.calibrate",
    "Calibration": "evaluation.calibrate",
    "check": "maps.plan",
    "CheckResult": "maps.plan",
    "map_scene": "maps.run",
    "map_scenes": "maps.many",
    "slurm_map_script": "maps.slurm",
    "JobResult": "maps.job",
    "SceneRecord": "maps.job",
    "rerun": "maps.rerun",
    "MapRequest": "maps.request",
    "MapResult": "maps.result",
    "mosaic": "maps.mosaic",
    "MosaicSummary": "areas.mosaic",
    "sieve": "areas.sieve",
    "SieveSummary": "areas.sieve",
    "sieve_maps": "areas.many",
    "write_styles": "rasters.style",
    "polygonize": "areas.polygonize",
    "PolygonSummary": "areas.polygonize",
    "polygonize_maps": "areas.many",
    "RasterRecord": "areas.many",
    "review": "assessment.review",
    "ReviewSummary": "assessment.review",
    "sample": "assessment.sample",
    "SampleSummary": "assessment.sample",
    "assess": "assessment.assess",
    "Assessment": "assessment.result",
    "estimate_areas": "evaluation.accuracy",
    "AreaEstimates": "evaluation.accuracy",
    "explain": "explanation.run",
    "Explanation": "explanation.analysis",
    "export_model": "export.model",
    "push": "export.push",
    "Exported": "export.model",
    "import_caffe": "export.from_caffe",
    "serve": "viewer.serve",
    "show_map": "viewer.notebook",
    "MapView": "viewer.notebook",
    "info": "inspection",
    "Info": "inspection",
    "Legend": "legend",
    "IGNORE": "legend",
    "Grid": "grid",
    "Window": "grid",
    "LabelscapeError": "errors",
}
"""Public name -> the module that holds it."""

# Type checkers and editors do not run `__getattr__`: they read this list, which a test holds equal to the one
# above.
if TYPE_CHECKING:
    from labelscape.areas.many import RasterRecord as RasterRecord
    from labelscape.areas.many import polygonize_maps as polygonize_maps
    from labelscape.areas.many import sieve_maps as sieve_maps
    from labelscape.areas.mosaic import MosaicSummary as MosaicSummary
    from labelscape.areas.polygonize import PolygonSummary as PolygonSummary
    from labelscape.areas.polygonize import polygonize as polygonize
    from labelscape.areas.sieve import SieveSummary as SieveSummary
    from labelscape.areas.sieve import sieve as sieve
    from labelscape.assessment.assess import assess as assess
    from labelscape.assessment.result import Assessment as Assessment
    from labelscape.assessment.review import ReviewSummary as ReviewSummary
    from labelscape.assessment.review import review as review
    from labelscape.assessment.sample import SampleSummary as SampleSummary
    from labelscape.assessment.sample import sample as sample
    from labelscape.benchmark.result import BenchResult as BenchResult
    from labelscape.benchmark.run import bench as bench
    from labelscape.checkpoint import Checkpoint as Checkpoint
    from labelscape.checkpoint import load as load
    from labelscape.checkpoint import save as save
    from labelscape.cli.config import read_config as read_config
    from labelscape.contract.contract import Contract as Contract
    from labelscape.datasets.doctor.check import check_data as check_data
    from labelscape.datasets.own import open_dataset as open_dataset
    from labelscape.datasets.published.catalog import open_published as open_published
    from labelscape.errors import LabelscapeError as LabelscapeError
    from labelscape.evaluation.accuracy import AreaEstimates as AreaEstimates
    from labelscape.evaluation.accuracy import estimate_areas as estimate_areas
    from labelscape.evaluation.calibrate import Calibration as Calibration
    from labelscape.evaluation.calibrate import calibrate as calibrate
    from labelscape.evaluation.compare import Comparison as Comparison
    from labelscape.evaluation.counts import Evaluation as Evaluation
    from labelscape.explanation.analysis import Explanation as Explanation
    from labelscape.explanation.run import explain as explain
    from labelscape.export.from_caffe import import_caffe as import_caffe
    from labelscape.export.model import Exported as Exported
    from labelscape.export.model import export_model as export_model
    from labelscape.export.push import push as push
    from labelscape.grid import Grid as Grid
    from labelscape.grid import Window as Window
    from labelscape.inspection import Info as Info
    from labelscape.inspection import info as info
    from labelscape.labels.rules import LabelRules as LabelRules
    from labelscape.labels.rules import LabelSpec as LabelSpec
    from labelscape.legend import IGNORE as IGNORE
    from labelscape.legend import Legend as Legend
    from labelscape.maps.job import JobResult as JobResult
    from labelscape.maps.job import SceneRecord as SceneRecord
    from labelscape.maps.many import map_scenes as map_scenes
    from labelscape.maps.mosaic import mosaic as mosaic
    from labelscape.maps.plan import CheckResult as CheckResult
    from labelscape.maps.plan import check as check
    from labelscape.maps.request import MapRequest as MapRequest
    from labelscape.maps.rerun import rerun as rerun
    from labelscape.maps.result import MapResult as MapResult
    from labelscape.maps.run import map_scene as map_scene
    from labelscape.maps.slurm import slurm_map_script as slurm_map_script
    from labelscape.nets.catalog import create_model as create_model
    from labelscape.nets.catalog import list_models as list_models
    from labelscape.rasters.style import write_styles as write_styles
    from labelscape.scenes.array import ArrayScene as ArrayScene
    from labelscape.scenes.mosaic import open_scene as open_scene
    from labelscape.scenes.scene import Scene as Scene
    from labelscape.scenes.scene_list import SceneList as SceneList
    from labelscape.scenes.scene_list import find_scenes as find_scenes
    from labelscape.scoring.protocol import Protocol as Protocol
    from labelscape.scoring.scorer import Scorer as Scorer
    from labelscape.scoring.scorer import predict as predict
    from labelscape.training.compare import compare as compare
    from labelscape.training.curve import LearningCurve as LearningCurve
    from labelscape.training.curve import learning_curve as learning_curve
    from labelscape.training.evaluate import evaluate as evaluate
    from labelscape.training.rate_search import RateSearch as RateSearch
    from labelscape.training.rate_search import find_rate as find_rate
    from labelscape.training.recipe import Recipe as Recipe
    from labelscape.training.recipe import make_recipe as make_recipe
    from labelscape.training.rehearse import rehearse as rehearse
    from labelscape.training.reproduce import run_table as run_table
    from labelscape.training.run import train as train
    from labelscape.training.slurm import slurm_script as slurm_script
    from labelscape.training.tune import tune as tune
    from labelscape.training.tune_result import Tuning as Tuning
    from labelscape.viewer.notebook import MapView as MapView
    from labelscape.viewer.notebook import show_map as show_map
    from labelscape.viewer.serve import serve as serve

__all__ = ["__version__", *_PLACES]

if not TYPE_CHECKING:  # to a type checker this would make every misspelt name an object

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module 'labelscape' has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"labelscape.{_PLACES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
