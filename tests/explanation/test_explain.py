"""`explain` as a whole: which windows, what is written, what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pages
import pytest
import world
from inside import checkpoint_of, file_of, look_at

import labelscape as ls
from labelscape.errors import BadInput, BadOption, Refused, UnknownName
from labelscape.explanation.choosing import Wanted
from labelscape.scenes.scene_list import find_scenes


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("painted"), nodata=0)


@pytest.fixture(scope="module")
def mswbn(painted):
    return checkpoint_of("mswbn", painted.scene)


def test_page_numbers_and_arrays_are_written_and_agree(painted, mswbn, tmp_path):
    done = ls.explain(
        mswbn, painted.scene, tmp_path, windows=3, size=48, only=["branch-weights", "receptive-fields"]
    )
    assert {kind: path.name for kind, path in done.paths.items()} == {
        kind: f"mswbn_explained.{kind}" for kind in ("html", "json", "npz")
    }
    numbers = json.loads(done.paths["json"].read_text())
    assert numbers == json.loads(json.dumps(done.to_dict()))
    with np.load(done.paths["npz"]) as arrays:
        weights = arrays["branch-weights/weights"]
        assert weights.shape == (3, 3, 5)
        assert np.allclose(weights.mean(0), numbers["analyses"]["branch-weights"]["mean"])
    html = done.paths["html"].read_text()
    page = pages.Page(html)
    # Self-contained: nothing of the page is loaded from elsewhere.
    assert page.pictures() and not re.search(r"(?:src|href)=\"(?!data:)", html)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    explained = [text for text in captions if "Computed:" in text]
    assert len(explained) == sum(len(one.figures) for one in done.found.values()) == 4
    assert all("the paper:" in text or "No paper" in text for text in explained)
    assert "<iframe" in done._repr_html_() and "branch-weights" in repr(done)


def test_a_seed_draws_the_same_windows_and_another_seed_others(painted, mswbn):
    def places(seed):
        return look_at(mswbn, painted.scene, Wanted(number=4, side=32, seed=seed)).windows.places

    assert places(1) == places(1) != places(2)
    assert len(set(places(1))) == 4


def test_random_windows_lie_in_the_scene_and_have_data(painted, mswbn):
    for seen in look_at(mswbn, painted.scene, Wanted(number=12, side=40)).windows:
        window = seen.window
        assert (window.top >= 0) & (window.left >= 0) & (window.bottom <= 96) & (window.right <= 128)
        assert seen.valid.shape == (40, 40) and seen.valid.mean() >= 0.5
        assert (seen.classes[~seen.valid] == ls.IGNORE).all() and (seen.classes[seen.valid] < 3).all()


def test_fewer_windows_than_were_asked_for_are_named(painted, mswbn, tmp_path):
    done = ls.explain(mswbn, painted.scene, tmp_path, windows=3, size=1024, only=["branch-weights"])
    assert "only 1 of 3 windows were found that have data" in done.notes
    assert "of 1 window lie below" in done.found["branch-weights"].lead


def test_windows_of_a_class_hold_most_of_it(painted, mswbn):
    look = look_at(mswbn, painted.scene, Wanted(number=40, side=32))
    counts = np.stack([np.bincount(s.classes[s.valid], minlength=3) for s in look.windows])
    commonest = int(counts.sum(0).argmax())
    name = world.LEGEND.names[commonest]
    chosen = look_at(mswbn, painted.scene, Wanted(number=5, side=32, of_class=name)).windows
    shares = [(s.classes[s.valid] == commonest).mean() for s in chosen]
    assert len(shares) == 5 and np.mean(shares) >= (counts[:, commonest] / counts.sum(1)).mean()


def test_windows_beyond_the_memory_that_is_kept_are_read_again(painted, mswbn, monkeypatch):
    from labelscape.explanation import windows

    look = look_at(mswbn, painted.scene, Wanted(number=3, side=32))
    monkeypatch.setattr(windows, "HELD_BYTES", 0)
    first, second = list(look.windows), list(look.windows)
    assert look.windows._held is None and all(a is not b for a, b in zip(first, second))
    assert all(np.array_equal(a.image.numpy(), b.image.numpy()) for a, b in zip(first, second))
    monkeypatch.undo()
    third = list(look.windows)
    assert next(iter(look.windows)) is third[0]


def test_windows_of_several_scenes(painted, mswbn, tmp_path):
    scenes = [world.make(tmp_path, seed=n, name=f"s{n}").scene for n in range(3)]
    done = ls.explain(
        mswbn, find_scenes(scenes), tmp_path / "out", windows=5, size=32, force=True, only=["branch-weights"]
    )
    assert sorted(one["scene"] for one in done.windows).count("s0") >= 1
    assert len({one["scene"] for one in done.windows}) == 3
    with pytest.raises(BadOption, match="3 were given"):
        ls.explain(mswbn, find_scenes(scenes), tmp_path / "two", window=[(0, 0, 32)])


def test_a_scene_that_does_not_fit_is_refused_as_a_map_refuses_it(painted, mswbn, tmp_path):
    bright = world.write(tmp_path / "bright.tif", painted.pixels.astype(np.float32) / 10_000)
    with pytest.raises(Refused) as of_map:
        ls.map_scene(mswbn, bright, tmp_path / "map")
    with pytest.raises(Refused) as refused:
        ls.explain(mswbn, bright, tmp_path / "inside")
    assert str(refused.value) == str(of_map.value)
    assert not (tmp_path / "inside").exists()
    forced = ls.explain(mswbn, bright, tmp_path / "inside", windows=1, force=True, only=["branch-weights"])
    assert any("bright" in note for note in forced.notes)


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({"window": [(100, 0, 64)]}, BadOption, "not inside scene, which is 128 x 96"),
        ({"window": [(0, 0, 16)]}, BadInput, "no valid pixel"),
        ({"window": [(0, 0, 5000)]}, BadOption, "1 to 1024"),
        ({"windows": 0}, BadOption, "windows=0"),
        ({"seed": -1}, BadOption, "seed=-1"),
        ({"of_class": "feild"}, UnknownName, "Did you mean 'field'"),
        ({"only": ["branch-weight"]}, UnknownName, "Did you mean 'branch-weights'"),
        ({"window": [(64, 0, 32)], "of_class": "field"}, BadOption, "give one of them"),
    ],
)
def test_what_cannot_be_looked_at_is_said(painted, mswbn, tmp_path, wanted, error, said):
    with pytest.raises(error, match=re.escape(said)):
        ls.explain(mswbn, painted.scene, tmp_path / "out", **wanted)


def test_weights_that_give_no_finite_numbers_leave_no_page(painted, mswbn, tmp_path):
    # Each is finite, their products are not.
    damaged = replace(mswbn, weights={name: one * np.float32(1e30) for name, one in mswbn.weights.items()})
    with pytest.raises(BadInput, match="mswbn gives numbers that are not finite: its weights"):
        ls.explain(damaged, painted.scene, tmp_path / "out", windows=1)
    assert not list((tmp_path / "out").glob("*"))


def test_an_analysis_that_does_not_suit_is_named(painted, tmp_path, run_cli):
    model = file_of("skip", painted.scene, tmp_path)
    code, _, err = run_cli(
        "explain", model, painted.scene, "--out", tmp_path / "o", "--only", "branch-weights"
    )
    assert code == 1 and "only MSWBN has branches" in err


def test_the_command_line(painted, mswbn, tmp_path, run_cli):
    model = file_of("mswbn", painted.scene, tmp_path)
    command = [
        "explain",
        model,
        painted.scene,
        "--out",
        tmp_path / "o",
        "--window",
        "64,32,48",
        "--only",
        "branch-weights",
    ]
    code, out, _ = run_cli(*command)
    assert code == 0 and "% of the branch weights of 1 window lie" in out
    code, _, err = run_cli(*command)
    assert code == 1 and "pass --overwrite" in err
    code, out, _ = run_cli(*command, "--overwrite", "--json")
    assert code == 0 and json.loads(out)["windows"][0] == {
        "scene": "scene",
        "x": 64,
        "y": 32,
        "width": 48,
        "height": 48,
        "dominant_class": json.loads(out)["windows"][0]["dominant_class"],
    }
    code, _, err = run_cli(*command[:-4], "--window", "64;32", "--overwrite")
    assert code == 2 and "X,Y,SIZE" in err
