"""A disk that is too small is said before hours of mapping."""

import shutil
from collections import namedtuple

import pytest
import rasterio
import world

from labelscape.errors import BadFile
from labelscape.files import free_bytes
from labelscape.maps.plan import check
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_scene
from labelscape.maps.work import _room, scorer_of
from labelscape.scenes.raster import Scene
from labelscape.scoring.stitch import plan_for
from labelscape.workers.store import Folder

PIXELS, LAYERS = 96 * 128, 2
MOST = int(PIXELS * LAYERS * (1 + 4 / 3))


@pytest.fixture
def disk(monkeypatch):
    """A disk with so many free bytes."""
    usage = namedtuple("usage", "total used free")

    def has(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**12, 0, free))

    return has


@pytest.fixture
def case(tmp_path):
    w = world.make(tmp_path, 96, 128)
    return world.tiny_checkpoint(like=w.scene), w.scene, tmp_path / "new" / "map"


def mapped(case, **options):
    return map_scene(*case, device="cpu", report=False, polygons=False, **options)


def test_a_disk_that_may_be_too_small_is_noted(case, disk):
    disk(MOST - 1)
    assert any("may need up to 1 MiB before compression" in note for note in mapped(case).notes)
    disk(MOST)
    assert not any("before compression" in note for note in mapped(case, overwrite=True).notes)


def test_rejected_pixels_need_no_probabilities_of_their_own(case, disk):
    """The class "unknown" is one more in the legend, and none in the probabilities."""
    most = check(*case[:2], device="cpu", timing=False, out=case[2], proba=True, reject=0.5).plan.disk
    disk(most)
    done = mapped(case, proba=True, reject=0.5)
    assert not any("before compression" in note for note in done.notes)
    with rasterio.open(done.paths["proba"]) as file:
        assert most == int(file.width * file.height * (2 + file.count) * (1 + 4 / 3))


def test_a_disk_that_is_certainly_too_small_is_refused_before_any_work(case, disk):
    disk(MOST // 100)
    with pytest.raises(BadFile, match=r"^The map may need .* are free in .*map\. .*force=True"):
        mapped(case)
    assert not list(case[2].iterdir())
    assert mapped(case, force=True).paths["class"].exists()


def test_the_check_says_so_of_the_folder_that_is_named(case, disk):
    disk(MOST - 1)
    assert not any("compression" in w for w in check(*case[:2], device="cpu", timing=False).warnings)
    found = check(*case[:2], device="cpu", timing=False, out=case[2])
    assert found.plan.disk == MOST and "before compression" in found.warnings[-1]
    assert free_bytes(case[2]) == MOST - 1


def test_holes_of_a_sparse_scene_need_no_room(tmp_path, disk):
    options = {"sparse_ok": True, "tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": 0}
    path = tmp_path / "s.tif"
    profile = {"driver": "GTiff", "count": 3, "height": 2048, "width": 2048, "dtype": "uint16"}
    with rasterio.open(path, "w", crs=world.UTM, transform=world.NORTH_UP, **profile, **options) as file:
        some = world.spectra(world.paint(64, 64), 3, "uint16")
        file.write(some, window=rasterio.windows.Window(0, 0, 64, 64))
    checkpoint = world.tiny_checkpoint()
    most = int(2048 * 2048 * 2 * (1 + 4 / 3))
    disk(most // 100)
    settings = {"tile_size": 128, "overlap": 16, "report": False, "polygons": False}
    request = MapRequest(device="cpu", **settings)
    with Scene(path) as scene:
        plan = plan_for(scorer_of(request, [checkpoint]), scene, tile_size=128, overlap=16, blend=None)
        notes = _room(request, tmp_path, Folder(tmp_path / "none"), scene, plan, 2)
    assert len(notes) == 1
