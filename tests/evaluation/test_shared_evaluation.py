"""Scenes scored by workers: the counts, and the bytes of every file, of a single process."""

import json
import os
import random
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import world
from processes import held, until

import labelscape as ls
from labelscape.checkpoint import save
from labelscape.errors import BadOption
from labelscape.evaluation import on_workers
from labelscape.evaluation.counts import Evaluation
from labelscape.scoring.openvino_engine import Converted, installed_version
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe_data import Data
from labelscape.workers.cluster import connected

TILES = {"device": "cpu", "tile_size": 64, "overlap": 8}


@pytest.fixture(scope="module")
def client():
    with connected(2) as client:
        yield client


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(world.ten_metre_fcn(), tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """Scenes and label rasters, of which two have one name, and three are of another size."""
    scenes, labels = [], []
    for n in range(5):
        folder = tmp_path_factory.mktemp(f"in{n}")
        w = world.make(folder, 96 + 32 * (n % 2), 128, seed=n, name=f"s{max(1, n)}", nodata=0)
        scenes.append(str(w.scene))
        labels.append(str(world.label_raster(w, folder / "labels.tif")))
    return scenes, labels


@pytest.fixture(autouse=True)
def one_moment(monkeypatch):
    """GeoPackages hold the time at which they were written."""
    monkeypatch.setenv("OGR_CURRENT_DATE", "2026-01-01T00:00:00.000Z")


def files_in(folder):
    """All but the date in the report."""
    found = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    return {n: re.sub(rb"\d{4}-\d\d-\d\d", b"", d) if n.endswith("html") else d for n, d in found.items()}


def shuffled(monkeypatch):
    """Results arrive in another order than scenes were given."""
    real = on_workers.on_workers

    def late(*args, **options):
        found = list(real(*args, **options))
        random.Random(1).shuffle(found)
        assert [call.number for call, _ in found] != sorted(call.number for call, _ in found)
        return iter(found)

    monkeypatch.setattr(on_workers, "on_workers", late)


def test_counts_and_files_are_those_of_a_single_process_in_whatever_order_results_arrive(
    client, model, five, tmp_path, monkeypatch
):
    names = ls.load(model).legend.names
    options = {**TILES, "boundaries": True, "objects": names[:1], "topology": names[1:2], "tolerance": 3}
    options["apls"] = names[1:2]
    options["creation_options"] = {"COMPRESS": "LZW"}
    alone = ls.evaluate(model, *five, out=tmp_path / "alone", **options)
    shuffled(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = ls.evaluate(model, *five, out="shared", cluster=client, **options)
    assert found.to_dict() == alone.to_dict() and list(found.per_scene) == ["s1", "s1 (2)", "s2", "s3", "s4"]
    assert found.failed == {} and found.confusion.labelled > 10_000
    one, other = files_in(tmp_path / "alone"), files_in(tmp_path / "shared")
    assert one.keys() == other.keys() and len(one) == 14
    for name in one:
        assert other[name] == one[name], name


@pytest.mark.skipif(installed_version() is None, reason="OpenVINO is not installed")
def test_the_engine_is_chosen_over_all_scenes_as_a_single_process_chooses_it(
    model, five, tmp_path, monkeypatch
):
    """Without a cluster: what a worker would do is done here."""
    monkeypatch.setenv("LABELSCAPE_CACHE", str(tmp_path / "cache"))

    def here(hands, needs, calls, count, **shown):
        return ((call, call.function(*call.args)) for call in calls)

    options = {**TILES, "engine": "openvino", "out": tmp_path / "alone"}
    alone = ls.evaluate(model, *five, **options)
    # From now on without images of the comparison, which is kept.
    real, shapes = Converted.__call__, []
    monkeypatch.setattr(Converted, "__call__", lambda self, x: shapes.append(tuple(x.shape)) or real(self, x))
    ls.evaluate(model, *five, **TILES, engine="openvino")
    of_one, shapes[:] = Counter(shapes), []
    monkeypatch.setattr(on_workers, "on_workers", here)
    found = ls.evaluate(model, *five, **{**options, "out": tmp_path / "shared"}, workers=2)
    # Scenes have two sizes; each alone would have other shapes of tiles converted.
    assert of_one == Counter(shapes) and len(of_one) > 1
    assert found.to_dict() == alone.to_dict() and files_in(tmp_path / "shared") == files_in(
        tmp_path / "alone"
    )
    shapes.clear()
    ls.evaluate(model, *five, **TILES, workers=2)  # too few tiles for a conversion to pay
    assert not shapes


def test_held_out_blocks_of_training_scenes_are_those_of_a_single_process(client, five, tmp_path):
    from labelscape.training.recipe import make_recipe

    checkpoint = world.ten_metre_fcn()
    data = {"images": five[0][1:], "labels": five[1][1:], "block": 32, "holdout": 0.3}
    recipe = make_recipe(data=data, network="fcn", seed=3).model_dump(mode="json")
    model = save(replace(checkpoint, recipe=recipe), tmp_path / "trained.safetensors")
    alone, found = ls.evaluate(model, **TILES), ls.evaluate(model, cluster=client, **TILES)
    assert found.to_dict() == alone.to_dict() and 0 < found.confusion.labelled < 5 * 96 * 128 * 0.5


def test_a_bad_scene_is_named_and_the_others_are_scored(client, model, five, tmp_path, run_cli):
    scenes, labels = list(five[0][1:]), list(five[1][1:])
    short, cut = tmp_path / "short.tif", tmp_path / "cut.tif"
    data = Path(scenes[0]).read_bytes()
    short.write_bytes(data[:200])  # cannot be opened
    cut.write_bytes(data[: len(data) * 2 // 3])  # is opened, and its last tiles are missing
    given = [scenes[0], short, cut, *scenes[1:]]
    words = [w for label in (labels[0], labels[0], labels[0], *labels[1:]) for w in ("--labels", label)]
    options = ("--device", "cpu", "--tile-size", "64", "--overlap", "8", "--out", tmp_path / "out")
    counts = tmp_path / "counts.json"
    code, out, err = run_cli(
        "evaluate", model, *given, *words, *options, "--counts", counts, "--cluster", client.scheduler.address
    )
    assert code == 1 and "mIoU" in out
    assert "2 of 6 scenes could not be scored, and the scores are of the others" in err
    assert f"short: {short} cannot be opened" in err and "the file is truncated or damaged" in err
    found = Evaluation.load(counts)
    assert sorted(found.failed) == ["cut", "short"]
    alone = ls.evaluate(model, scenes, labels, **TILES)
    assert {n: c.to_dict() for n, c in found.per_scene.items()} == {
        n: c.to_dict() for n, c in alone.per_scene.items()
    }
    assert "could not be scored" in (tmp_path / "out" / "report.html").read_text()
    assert "cut_errors.tif" not in files_in(tmp_path / "out")


def test_what_cannot_be_shared_is_refused_before_the_work(model, five, tmp_path, run_cli):
    options = ("--labels", five[1][0], "--workers", "2")
    for arguments, said in (
        ((five[1][0], *options), "options of tiles, averaging and workers mean nothing for a finished map"),
        ((model, five[0][0], *options, "--block-timeout", "0"), "--block-timeout 0.0 must be above 0"),
        ((model, five[0][0], *options[:2], "--workers", "0"), "--workers 0 must be"),
    ):
        code, _, err = run_cli("evaluate", *arguments)
        assert code == 2 and said in err, err
    with ls.open_dataset(five[0][:1], five[1][:1]) as dataset:
        held = replace(dataset.scenes[0], again=None)  # as of pixels in memory
        with pytest.raises(BadOption, match="s1 is in memory, and pixels are not sent to workers"):
            on_workers._sent("s1", held)


def test_the_order_of_halves_does_not_matter():
    from labelscape.evaluation.confusion import Confusion

    parts = [
        Evaluation({f"s{n}": Confusion(np.full((2, 2), n, np.int64), np.zeros(2, np.int64))}, ("a", "b"))
        for n in range(7)
    ]
    assert on_workers.total(parts).to_dict() == sum(parts).to_dict()
    failed = replace(parts[0], failed={"x": "is empty."})
    assert (failed + parts[1]).failed == {"x": "is empty."}
    assert json.loads(json.dumps(failed.to_dict()))["failed"] == {"x": "is empty."}
    assert Evaluation.from_dict(failed.to_dict()).failure == (
        "1 of 2 scenes could not be scored, and the scores are of the others: x: is empty."
    )


def test_a_worker_that_is_killed_loses_nothing(client, model, five, tmp_path, capfd):
    # After it: the scene's error map is begun, and not finished.
    where = "labelscape.evaluation.on_workers", "score_scene", tmp_path / "held"
    with ThreadPoolExecutor(1) as pool:
        with held(client, *where) as waiting:
            options = {**TILES, "out": tmp_path / "shared", "cluster": client}
            made = pool.submit(ls.evaluate, model, *five, **options)
            until(lambda: waiting() or made.done())
            os.kill(waiting()[0], signal.SIGKILL)
        found = made.result()
    assert "was lost; its work is given to another one" in capfd.readouterr().err
    alone = ls.evaluate(model, *five, out=tmp_path / "alone", **TILES)
    assert found.to_dict() == alone.to_dict()
    assert files_in(tmp_path / "shared") == files_in(tmp_path / "alone")


def test_scenes_of_a_published_set_are_sent_without_pixels(tmp_path):
    """They keep no file open; each is read again where it arrives."""
    world.deepglobe_land(tmp_path, 2)
    data = Data(images=(str(tmp_path),), dataset="deepglobe-land")
    with open_recipe_data(data, 0, hold=False) as dataset:
        for number, scene in enumerate(dataset.scenes):
            sent = cloudpickle.dumps(on_workers._sent(f"s{number}", scene))
            assert len(sent) < 20_000
            with cloudpickle.loads(sent).opened() as one:
                window = scene.scene.grid.window
                assert (one.scene.read(window).pixels == scene.scene.read(window).pixels).all()
                assert (one.read_labels(window) == scene.read_labels(window)).all()
