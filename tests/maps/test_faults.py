"""Full disks, read-only folders, cut inputs, stops at every stage: one clear sentence, nothing
half-written, and the same bytes in the end.
"""

import numpy as np
import pytest
import torch
import world

import labelscape.areas.polygonize as vectors
import labelscape.maps.page as page
import labelscape.maps.rasters as rasters
import labelscape.maps.run as run
from labelscape.checkpoint import Checkpoint, save
from labelscape.contract.contract import Contract
from labelscape.errors import BadFile
from labelscape.maps.run import map_scene
from labelscape.nets.catalog import create_model
from labelscape.rasters.write import MapWriter
from labelscape.scoring.engines import state_arrays

QUICK = {"device": "cpu", "tile_size": 192, "overlap": 16, "proba": True, "entropy": True}


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    options = {"widths": [2, 2, 4, 4]}
    net = create_model("fcn", in_channels=3, classes=3, **options)
    for _ in range(5):
        net(torch.randn(2, 3, 32, 32))
    return Checkpoint(
        network="fcn",
        options=options,
        weights=state_arrays(net),
        legend=world.LEGEND,
        contract=Contract(bands=("1", "2", "3"), dtype="uint16", normalisation=((4500.0, 2000.0),) * 3),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Noise, which no compression makes small."""
    pixels = np.random.default_rng(0).integers(1, 9000, (3, 400, 500)).astype(np.uint16)
    return world.write(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, nodata=0)


@pytest.fixture(scope="module")
def undisturbed(checkpoint, scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    map_scene(checkpoint, scene, folder, **QUICK)
    return bytes_of(folder)


def bytes_of(folder):
    """The rasters of a map; polygons, report and run file carry the time."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".tif", ".xml") and not path.name.startswith(".")
    }


@pytest.fixture
def scored(monkeypatch):
    """The tiles that the network was asked for, in order."""
    cores, real = [], rasters.planes_of

    def counted(tile, *arguments, **options):
        planes = real(tile, *arguments, **options)
        cores.append(tile.window)
        return planes

    monkeypatch.setattr(rasters, "planes_of", counted)
    return cores


# ------------------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize("kilobytes", [16, 150, 400, 550, 700, 850, 1000, 1150])
def test_a_full_disk_is_said_and_the_map_goes_on_once_there_is_room(
    checkpoint, scene, undisturbed, small_disk, scored, kilobytes
):
    sized, folder = small_disk
    sized(kilobytes * 1024)
    with pytest.raises(BadFile, match=r"cannot be written") as told:
        # With force: else a map that may need more than is free is not begun.
        map_scene(checkpoint, scene, folder / "map", force=True, **QUICK)
    assert "full" in str(told.value) or "space" in str(told.value)
    assert str(told.value).count("cannot be written") == 1
    for name, content in bytes_of(folder / "map").items():
        assert content == undisturbed[name], f"{name} is only half a file"
    assert not [p for p in folder.glob("map/.*") if p.is_file()]
    kept = {p.name for p in folder.glob("map/.scene.unfinished/[!.]*.tif")}
    sized(20 * 2**20)
    scored.clear()
    map_scene(checkpoint, scene, folder / "map", **QUICK)
    assert bytes_of(folder / "map") == undisturbed
    assert not {f"{core.top}_{core.left}.tif" for core in scored} & kept
    assert not list(folder.glob("map/.*"))


def test_a_read_only_disk_and_a_file_in_the_way_are_said(checkpoint, scene, small_disk, tmp_path, run_cli):
    (tmp_path / "file").write_text("")
    model = save(checkpoint, tmp_path / "model.safetensors")
    sized, folder = small_disk
    sized(2**20)
    (folder / "old").mkdir()
    sized(2**20, "ro")
    for out in (tmp_path / "file", tmp_path / "file" / "map", folder / "new", folder / "old"):
        code, printed, err = run_cli("map", model, scene, "--out", out)
        assert (code, printed) == (1, "")
        assert str(out) in err
        assert "cannot be created" in err or "cannot be written" in err
        assert "Traceback" not in err
        assert err.count("labelscape:") == 1
    assert (tmp_path / "file").read_text() == ""


# ------------------------------------------------------------------------------------------------------ stops


STAGES = {
    "a raster": (MapWriter, "finish"),
    "marks": (run, "mark_forced"),
    "polygons": (vectors, "polygonize"),
    "report": (page, "write_map_report"),
    "run file": (run, "_write_run"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_map_stopped_while_it_is_finished_loses_nothing(
    checkpoint, scene, undisturbed, tmp_path, monkeypatch, scored, stage
):
    where, name = STAGES[stage]
    real = getattr(where, name)

    def stopped(first, *arguments, **options):
        if stage != "a raster" or "entropy" in first.path.name:
            raise KeyboardInterrupt
        return real(first, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(where, name, stopped)
        map_scene(checkpoint, scene, tmp_path / "map", **QUICK)
    assert scored
    scored.clear()
    result = map_scene(checkpoint, scene, tmp_path / "map", **QUICK)
    assert scored == []
    assert bytes_of(tmp_path / "map") == undisturbed
    assert all(path.exists() for path in result.paths.values())
    assert not list(tmp_path.glob("map/.*"))
    with pytest.raises(BadFile, match="overwrite=True"):  # whole now: nobody replaces it unasked
        map_scene(checkpoint, scene, tmp_path / "map", **QUICK)


@pytest.mark.parametrize("change", [{"nodata": 255}, {"reject": 0.5}, {"overlap": 32}])
def test_a_map_is_not_gone_on_with_under_other_options(
    checkpoint, scene, tmp_path, monkeypatch, scored, change
):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(vectors, "polygonize", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        map_scene(checkpoint, scene, tmp_path / "map", **QUICK)
    with pytest.raises(
        BadFile, match="overwrite=True"
    ):  # another map than the one that stands there half finished
        map_scene(checkpoint, scene, tmp_path / "map", **{**QUICK, **change})
    scored.clear()
    map_scene(checkpoint, scene, tmp_path / "map", overwrite=True, **{**QUICK, **change})
    assert len(scored) > 5
    map_scene(checkpoint, scene, tmp_path / "new", **{**QUICK, **change})
    again, new = bytes_of(tmp_path / "map"), bytes_of(tmp_path / "new")
    assert {name: again[name] for name in new} == new


@pytest.mark.parametrize(
    "change",
    [{"report": False}, {"polygons": False}, {"entropy": False}, {"polygons_as": "geojson"}, {"sieve": 2.0}],
)
def test_finished_tiles_are_kept_under_options_that_do_not_touch_them(
    checkpoint, scene, undisturbed, tmp_path, monkeypatch, scored, change
):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(vectors, "polygonize", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        map_scene(checkpoint, scene, tmp_path / "map", **QUICK)
    scored.clear()
    result = map_scene(checkpoint, scene, tmp_path / "map", **{**QUICK, **change})
    assert scored == []
    found = bytes_of(tmp_path / "map")
    assert {name: found[name] for name in undisturbed} == undisturbed
    assert all(path.exists() for path in result.paths.values())
    assert not list(tmp_path.glob("map/.*"))


# ----------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_scene_cut_in_the_middle_leaves_nothing_and_its_whole_copy_is_mapped(
    checkpoint, scene, undisturbed, tmp_path, share
):
    copy = tmp_path / "scene.tif"
    content = scene.read_bytes()
    copy.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        BadFile,
        match=r"scene.tif cannot be read at rows \d+-\d+, columns \d+-\d+: the file is truncated or damaged",
    ):
        map_scene(checkpoint, copy, tmp_path / "map", **QUICK)
    assert [p.name for p in (tmp_path / "map").iterdir()] in ([], [".scene.unfinished"])
    copy.write_bytes(content)
    if (tmp_path / "map").joinpath(".scene.unfinished").exists():
        with pytest.raises(BadFile, match=r"scene.tif has changed.*overwrite=True"):
            map_scene(checkpoint, copy, tmp_path / "map", **QUICK)
    map_scene(checkpoint, copy, tmp_path / "map", overwrite=True, **QUICK)
    assert bytes_of(tmp_path / "map") == undisturbed
