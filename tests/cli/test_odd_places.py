"""Places that are no files, or files that never end: a sentence from every verb, at once."""

import os
import threading
import zipfile

import numpy as np
import pytest
import rasterio
import world

from labelscape.assessment.review import review
from labelscape.checkpoint import load, save
from labelscape.datasets.own import open_dataset
from labelscape.errors import BadFile, BadInput
from labelscape.evaluation.metrics import overall_accuracy
from labelscape.grid import Grid, Window
from labelscape.inspection import info
from labelscape.labels.labels import open_labels
from labelscape.maps.mosaic import mosaic
from labelscape.rasters.write import MapWriter
from labelscape.scenes.files import as_path, sibling
from labelscape.scenes.georeference import grid_of
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.vectors import is_vector, layers_of
from labelscape.training.compare import compare
from labelscape.training.evaluate import evaluate

ODD = {
    "a name that is too long": ("x" * 5000 + ".tif", "does not exist|cannot be"),
    "a path that is too long": ("/".join(["y" * 200] * 30) + ".tif", "does not exist|cannot be|too long"),
    "an address that is none": ("http://[::1/a.tif", "Invalid IPv6|no valid address"),
}


@pytest.mark.parametrize("place", [*ODD, "a pipe"])
def test_every_verb_refuses_what_is_no_file(tmp_path, run_cli, place):
    odd, said = ODD.get(place, (str(tmp_path / "pipe.tif"), "is a pipe, a socket or a device|is empty"))
    if place == "a pipe":
        os.mkfifo(odd)
    w = world.make(tmp_path, 64, 64)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    model = save(world.tiny_checkpoint(like=w.scene), tmp_path / "m.safetensors")
    for number, verb in enumerate(
        (
            ["info", odd],
            ["check", model, odd, "--no-timing"],
            ["map", model, odd, "--out", tmp_path / "a"],
            ["map", model, w.scene, "--out", tmp_path / "b", "--area", odd, "--force"],
            ["polygonize", odd, tmp_path / "c.gpkg"],
            ["sieve", odd, tmp_path / "d.tif", "--min-area", "1"],
            ["sample", odd, tmp_path / "e.gpkg"],
            ["assess", labels, odd],
            ["data", "check", w.scene, "--labels", odd],
            ["train", w.scene, "--labels", odd, "--out", tmp_path / "f"],
            ["evaluate", model, odd, "--labels", labels],
        )
    ):
        code, _, err = run_cli(*verb)
        assert code in (1, 2) and "Traceback" not in err, number
    with pytest.raises((BadFile, OSError), match=said):
        open_scene(odd)


def test_devices_and_pipes_are_not_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ended = threading.Event()

    def read_all():
        for read in (open_scene, load, layers_of, info):
            for place in (pipe, "/dev/zero"):
                with pytest.raises(BadFile, match="pipe, a socket or a device|no valid|is a folder|not"):
                    read(place)
        ended.set()

    reader = threading.Thread(target=read_all, daemon=True)
    reader.start()
    reader.join(60)
    assert ended.is_set()
    assert not is_vector(tmp_path / "nothing")


def test_info_of_places_without_a_ground(tmp_path, run_cli):
    moon = 'GEOGCS["Moon",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["0",0],UNIT["Degree",0.0174532925]]'
    site = 'LOCAL_CS["site",UNIT["metre",1]]'
    for number, crs in enumerate((moon, site)):
        path = tmp_path / f"{number}.tif"
        world.write(
            path, np.ones((3, 9, 9), np.uint16), crs=rasterio.crs.CRS.from_wkt(crs), transform=world.DEGREES
        )
        assert "on the ground" not in info(path).text and "pixel size" in info(path).text


def test_info_of_a_virtual_raster_whose_source_is_gone_and_of_a_huge_one(tmp_path):
    band = '<VRTRasterBand dataType="Byte" band="1">{}</VRTRasterBand>'
    source = '<SimpleSource><SourceFilename relativeToVRT="1">gone.tif</SourceFilename></SimpleSource>'
    for side, inside in ((20, source), (2**31 - 1, "")):
        path = tmp_path / f"{side}.vrt"
        path.write_text(
            f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{band.format(inside)}</VRTDataset>'
        )
        assert f"{side:,} x {side:,} pixels" in info(path).text


def test_class_maps_inside_archives_have_gdals_names(tmp_path, run_cli):
    classes = world.write(tmp_path / "m.tif", world.paint(30, 30))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(classes, "m.tif")
    inside = f"/vsizip/{tmp_path}/z.zip/m.tif"
    assert "//" in inside
    for verb in (["polygonize", inside, tmp_path / "p.gpkg"], ["sample", inside, tmp_path / "s.gpkg"]):
        code, _, err = run_cli(*verb)
        assert code == 0, err


def test_labels_in_a_local_crs_that_is_written_in_another_way(tmp_path):
    """GeoPackages write it as GDAL does; nothing is transformed between equal ones."""
    site = rasterio.crs.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    path = world.write(tmp_path / "a.tif", world.paint(20, 20), crs=site)
    with rasterio.open(path) as file:
        grid = grid_of(file)
    from labelscape.crs import transformed

    x, y = transformed(np.ones(1), np.ones(1), site.to_wkt(), grid.crs)
    assert (x[0], y[0]) == (1, 1)
    open_labels(path, grid).close()


@pytest.mark.parametrize(
    "place",
    [(0, 0, 5, 0, 0, 5), (10, 0, float("nan"), 0, -10, 5), (10, 20, 0, 5, 10, 0)],
    ids=["no size", "nowhere", "flat"],
)
def test_a_damaged_transform_is_no_place(tmp_path, run_cli, place):
    w = world.make(tmp_path, 64, 64, transform=rasterio.Affine(*place))
    labels = world.label_raster(w, tmp_path / "labels.tif")
    with open_scene(w.scene) as scene:
        assert not scene.grid.is_georeferenced and "damaged transform" in scene.notes[0]
    model = save(world.tiny_checkpoint(), tmp_path / "m.safetensors")
    for verb in (
        ["info", w.scene],
        ["check", model, w.scene, "--no-timing"],
        ["map", model, w.scene, "--out", tmp_path / "map", "--force", "--no-report", "--device", "cpu"],
        ["data", "check", w.scene, "--labels", labels],
        ["polygonize", labels, tmp_path / "p.gpkg"],
    ):
        code, _, err = run_cli(*verb)
        assert code == 0, (verb[0], err)


def test_warnings_of_gdal_about_a_list_are_not_printed(tmp_path, recwarn):
    import contextlib
    import sqlite3

    from labelscape.scenes.scene_tables import tile_index

    path = tmp_path / "plain.gpkg"
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute("CREATE TABLE t (a)")
    assert tile_index(str(path)) is None
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


@pytest.fixture(scope="module")
def in_archive(tmp_path_factory):
    """GDAL's name of an archive with a scene, its map with confidence and names, another map, and labels."""
    folder = tmp_path_factory.mktemp("archive")
    w = world.make(folder, 48, 1536)
    world.label_raster(w, folder / "labels.tif")
    other = np.where(np.arange(1536) < 384, (w.classes + 1) % 3, w.classes).astype(np.uint8)
    for name, values in (("scene", w.classes), ("other", other)):
        with MapWriter(
            folder / f"{name}_class.tif", Grid(w.crs, w.transform, 48, 1536), 1, 255, legend=world.LEGEND
        ) as file:
            file.write(Window(0, 0, 48, 1536), values)
        sure = np.full((48, 1536), 90, np.uint8)
        sure[:, :384] = 20 if name == "other" else 60
        world.write(folder / f"{name}_confidence.tif", sure, nodata=255)
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for file in sorted(folder.glob("*.*")):
            if file.suffix != ".zip":
                archive.write(file, file.name)
                file.unlink()
    return f"/vsizip/{folder}/all.zip"


def test_class_maps_in_archives_are_scored_and_compared(in_archive):
    labels = f"{in_archive}/labels.tif"
    for scenes in (None, f"{in_archive}/scene.tif"):
        found = evaluate(f"{in_archive}/other_class.tif", scenes, labels, show=False)
        assert overall_accuracy(found.confusion) == 0.75
    sides = [f"{in_archive}/{name}_class.tif" for name in ("scene", "other")]
    done = compare(sides, labels=labels, show=False)
    assert [overall_accuracy(done.confusions(name)[0]) for name in done.per_block] == [1, 0.75]


def test_what_lies_beside_a_map_in_an_archive_is_found(in_archive, tmp_path):
    maps = [f"{in_archive}/{name}_class.tif" for name in ("other", "scene")]
    made = mosaic(maps, tmp_path / "mosaic.tif")
    assert made.method == "confidence"
    with rasterio.open(tmp_path / "mosaic.tif") as file, rasterio.open(maps[1]) as better:
        assert (file.read(1) == better.read(1)).all()
    assert review(maps[0], tmp_path / "review.gpkg", below=50).found > 0
    with pytest.raises(BadInput, match=f"^{in_archive}/scene_class.tif has no scene_proba.tif beside it"):
        mosaic(maps[::-1], tmp_path / "two.tif", method="proba")


def test_siblings_of_places(tmp_path):
    assert sibling(tmp_path / "a.tif", "b.tif") == tmp_path / "b.tif"
    for place, other in (
        ("/vsizip//data/a.zip/in/x.tif", "/vsizip//data/a.zip/in/b.tif"),
        ("/vsicurl/https://host//x.tif", "/vsicurl/https://host//b.tif"),
        ("https://host/maps/x.tif?key=1/2", "https://host/maps/b.tif?key=1/2"),
    ):
        assert sibling(place, "b.tif") == other and as_path(place) == place


def test_one_path_is_a_list_of_one(in_archive):
    scene, labels = f"{in_archive}/scene.tif", f"{in_archive}/labels.tif"
    with open_dataset(scene, labels) as one, open_dataset([scene], [labels]) as same:
        assert [s.name for s in one.scenes] == [s.name for s in same.scenes] == ["scene"]
