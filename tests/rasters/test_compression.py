"""What each kind of raster is compressed with: differences only where values are smooth."""

import rasterio
import world

from labelscape.grid import Grid
from labelscape.legend import IGNORE
from labelscape.rasters import compression
from labelscape.rasters.write import MapWriter


def test_without_zstd_rasters_are_deflated(monkeypatch):
    kinds = compression.for_classes, compression.for_smooth_values, compression.for_journal
    monkeypatch.setattr(compression, "has", lambda codec: True)
    assert [kind().profile for kind in kinds] == [
        {"compress": "ZSTD", "zstd_level": 1, "predictor": 1},
        {"compress": "ZSTD", "zstd_level": 1, "predictor": 2},
        {"compress": "ZSTD", "zstd_level": 1},
    ]
    monkeypatch.setattr(compression, "has", lambda codec: codec != "ZSTD")
    assert [kind().profile for kind in kinds] == [
        {"compress": "DEFLATE", "zlevel": 1, "predictor": 1},
        {"compress": "DEFLATE", "zlevel": 1, "predictor": 2},
        {"compress": "DEFLATE", "zlevel": 1},
    ]


def test_a_class_map_may_be_compressed_otherwise_than_probabilities(tmp_path):
    grid = Grid(world.UTM, world.NORTH_UP, 40, 50)
    for name, how in (
        ("class", {"legend": world.LEGEND, "creation_options": ["COMPRESS=LZW"]}),
        ("proba", {}),
    ):
        with MapWriter(tmp_path / f"{name}.tif", grid, 1, IGNORE, **how) as writer:
            writer.write(grid.window, world.paint(40, 50))
    with rasterio.open(tmp_path / "class.tif") as classes, rasterio.open(tmp_path / "proba.tif") as smooth:
        assert classes.compression.name == "lzw"
        assert smooth.compression.name in ("zstd", "deflate")
        assert smooth.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert classes.tags(ns="IMAGE_STRUCTURE").get("PREDICTOR", "1") == "1"
        assert (classes.read() == smooth.read()).all()
