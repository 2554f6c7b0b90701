"""A job builds its network once, not for every scene, and keeps nothing when it has ended."""

import numpy as np
import pytest
import world

from labelscape.checkpoint import save
from labelscape.maps.check_many import check_scenes
from labelscape.maps.many import map_scenes
from labelscape.maps.run import map_scene
from labelscape.scoring import kept
from labelscape.scoring.engines import TorchEngine
from labelscape.workers.cluster import connected
from labelscape.workers.share import Hands

QUICK = {"device": "cpu", "report": False, "polygons": False}


@pytest.fixture
def built(monkeypatch):
    """What was asked of each network that was built."""
    found, real = [], TorchEngine.of.__func__

    def of(cls, checkpoint, **how):
        found.append(how)
        return real(cls, checkpoint, **how)

    monkeypatch.setattr(TorchEngine, "of", classmethod(of))
    return found


@pytest.fixture
def scenes(tmp_path):
    (tmp_path / "in").mkdir()
    return [world.make(tmp_path / "in", 90, 110, seed=n, name=f"s{n}").scene for n in range(3)]


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tif"))}


def test_scenes_of_a_job_share_a_network_and_have_the_maps_of_one_each(scenes, tmp_path, built):
    model = world.ten_metre_fcn()
    assert map_scenes(model, scenes, tmp_path / "job", **QUICK).is_whole
    assert len(built) == 1 and not kept._networks
    for scene in scenes:
        map_scene(model, scene, tmp_path / "alone", **QUICK)
    assert len(built) == 4 and not kept._networks
    assert rasters_in(tmp_path / "job") == rasters_in(tmp_path / "alone")
    found = [*check_scenes([model], scenes, {"timing": False, "device": "cpu"}, Hands())]
    assert [one.verdict for one in found] == ["FITS"] * 3 and len(built) == 5 and not kept._networks


def test_other_settings_and_other_weights_have_networks_of_their_own(tmp_path, built):
    one, other = world.ten_metre_fcn(), world.ten_metre_fcn()
    with kept.networks_kept():
        made = [
            kept.kept_scorer([checkpoint], device="cpu", precision=precision)
            for checkpoint, precision in ((one, "32"), (one, "bf16"), (other, "32"), (other, "32"))
        ]
        assert len(built) == 3 and made[2] is made[3] and len(kept._networks) == kept.MOST
        assert len({id(scorer) for scorer in made}) == 3
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 32, 32)).astype(np.uint16)
    assert made[0].dtype is None and made[1].dtype is not None
    assert made[0].prepare(pixels)[0].shape == (1, 3, 32, 32)  # still whole after the job


def test_a_worker_keeps_it_for_its_life(scenes, tmp_path):
    model = save(world.ten_metre_fcn(), tmp_path / "model.safetensors")

    def networks():
        from labelscape.scoring import kept

        return [id(one) for one in kept._networks.values()]

    with connected(1) as client:
        ids = []
        for grain in ("scene", "block"):
            done = map_scenes(model, scenes, tmp_path / grain, cluster=client, grain=grain, **QUICK)
            assert done.is_whole
            ids += [*client.run(networks).values()]
    assert len(ids[0]) == 1 and ids[0] == ids[1]
    assert rasters_in(tmp_path / "scene") == rasters_in(tmp_path / "block")
    assert not kept._networks
