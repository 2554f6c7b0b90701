"""One list of a scene's files: all that GDAL reads with it, through virtual rasters, archives and folders."""

import os
import zipfile

import numpy as np
import pytest
import rasterio
import world

from labelscape.errors import BadFile
from labelscape.scenes.mosaic import open_scene
from labelscape.scenes.stamps import Watched, changes, stamps


def names(rasters):
    return sorted(os.path.basename(name) for name in stamps(map(str, rasters)))


@pytest.fixture
def scene(tmp_path):
    return world.make(tmp_path, 96, 128).scene


def test_sources_of_virtual_rasters_with_their_side_files(tmp_path, scene):
    outer = world.virtual(tmp_path / "outer.vrt", world.virtual(tmp_path / "inner.vrt", "scene.tif").name)
    assert names([outer]) == ["inner.vrt", "outer.vrt", "scene.tif"]
    with rasterio.Env(TIFF_USE_OVR=True, GDAL_TIFF_INTERNAL_MASK=False):
        with rasterio.open(scene, "r+") as file:
            file.build_overviews([2])
            file.write_mask(np.ones(file.shape, bool))
    before = stamps([str(outer)])
    assert names([outer]) == ["inner.vrt", "outer.vrt", "scene.tif", "scene.tif.msk", "scene.tif.ovr"]
    (tmp_path / "scene.tif.msk").unlink()
    assert changes(before, stamps([str(outer)])) == [f"{tmp_path}/scene.tif.msk was removed"]


def test_members_of_archives_and_parts_of_shapefiles(tmp_path, scene):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(scene, "in/scene.tif")
    assert names([f"/vsizip/{tmp_path}/z.zip/in/scene.tif"]) == ["z.zip"]
    area = world.label_polygons(world.make(tmp_path, name="other"), tmp_path / "area.shp")
    assert names([area]) == ["area.cpg", "area.dbf", "area.prj", "area.shp", "area.shx"]
    assert stamps(["https://nowhere.invalid/a.tif", "/vsicurl/https://nowhere.invalid/a.tif"]) == {}


def test_all_of_a_stack_a_mosaic_and_a_stac_item(tmp_path):
    for number, name in enumerate(("a", "b")):
        place = world.NORTH_UP @ rasterio.Affine.translation(128 * number, 0)
        world.write(tmp_path / f"{name}.tif", np.ones((1, 96, 128), np.uint16), transform=place)
    with open_scene([str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]) as mosaic:
        assert names(mosaic.files) == ["a.tif", "b.tif"]
    world.write(tmp_path / "c.tif", np.ones((1, 96, 128), np.uint16))
    with open_scene([str(tmp_path / "a.tif"), str(tmp_path / "c.tif")]) as stack:
        assert names(stack.files) == ["a.tif", "c.tif"]


def test_a_viewers_statistics_change_nothing_and_a_nodata_value_does(tmp_path, scene):
    side = tmp_path / "scene.tif.aux.xml"
    watched = Watched.of([str(scene)])
    band = '<PAMDataset><PAMRasterBand band="1">{}</PAMRasterBand></PAMDataset>'
    statistics = '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata><Histograms><X>1</X></Histograms>'
    side.write_text(band.format(statistics))
    watched.check("it was mapped")
    for told in (band.format("<NoDataValue>3</NoDataValue>" + statistics), "<damaged"):
        side.write_text(told)
        with pytest.raises(BadFile, match=r"scene.tif.aux.xml was added while it was mapped.*not kept"):
            watched.check("it was mapped")


@pytest.mark.parametrize("size", [5_000, 5_000_000])
def test_a_copy_is_the_same_and_another_content_is_not_even_of_one_size_and_time(tmp_path, size):
    content = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    content.tofile(tmp_path / "a.dat")
    (tmp_path / "elsewhere").mkdir()
    content.tofile(tmp_path / "elsewhere" / "a.dat")
    other = content.copy()
    other[size // 2 :] = 0
    other.tofile(tmp_path / "b.dat")
    for path in (tmp_path / "a.dat", tmp_path / "elsewhere" / "a.dat", tmp_path / "b.dat"):
        os.utime(path, ns=(10**18, 10**18))
    (tmp_path / "link.dat").symlink_to("a.dat")
    here = Watched.of([str(tmp_path / "a.dat")])
    assert Watched.of([str(tmp_path / "link.dat")]).stamps == here.stamps
    assert Watched.of([str(tmp_path / "elsewhere" / "a.dat")]).named() == here.named()
    os.replace(tmp_path / "b.dat", tmp_path / "a.dat")
    with pytest.raises(BadFile, match=r"a.dat was changed"):
        here.check("it was mapped")
