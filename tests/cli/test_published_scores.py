"""Published data sets from the command line: checked, and scored on other
labels of the same pictures.
"""

import json
from dataclasses import replace

import world

from labelscape.checkpoint import load, save

FAST = [
    "--network",
    "fcn",
    "--steps",
    "2",
    "--batch",
    "2",
    "--crop",
    "16",
    "-o",
    "options.widths=[4,4,4,4]",
    "--device",
    "cpu",
]


def test_a_model_is_scored_on_the_eroded_labels_of_a_part(tmp_path, run_cli):
    drawn = world.vaihingen(tmp_path / "v", (1, 3, 11))
    code, _, err = run_cli(
        "train", tmp_path / "v", "--dataset", "vaihingen", "--out", tmp_path / "run", *FAST
    )
    assert code == 0, err
    assert "the score will come from the part val; test has no labels here" in err
    model = tmp_path / "run" / "fcn.safetensors"
    code, out, err = run_cli("evaluate", model, tmp_path / "v", "--dataset", "vaihingen-eroded", "--json")
    assert code == 0, err
    assert (json.loads(out)["part"], json.loads(out)["labelled_pixels"]) == ("val", drawn[11][2:].size)
    code, out, _ = run_cli(
        "evaluate", model, tmp_path / "v", "--dataset", "vaihingen", "--part", "all", "--json"
    )
    assert json.loads(out)["labelled_pixels"] == 3 * 12 * 14
    code, out, _ = run_cli("evaluate", model, "--json")  # what was held out
    assert (code, json.loads(out)["part"]) == (0, "val")
    code, _, err = run_cli("evaluate", model, tmp_path / "v", "--dataset", "vaihingen", "-o", "clutter=false")
    assert code == 1
    assert "the model knows impervious surface" in err
    (tmp_path / "x.tif").touch()
    code, _, err = run_cli(
        "evaluate", model, tmp_path / "v", "--dataset", "vaihingen", "--labels", tmp_path / "x.tif"
    )
    assert code == 2
    assert "which has its own labels and classes" in err


def test_a_data_set_is_read_as_the_model_learned_it(tmp_path, run_cli):
    """Five classes, three bands: `-o` that training had need not be repeated."""
    drawn = world.vaihingen(tmp_path / "v", (1, 3, 11))
    options = ["-o", "data.dataset_options.clutter=false", "-o", "data.dataset_options.bands=nir,red,green"]
    words = ["train", tmp_path / "v", "--dataset", "vaihingen", "--out", tmp_path / "run", *FAST, *options]
    code, _, err = run_cli(*words)
    assert code == 0, err
    model = tmp_path / "run" / "fcn.safetensors"
    words = ["evaluate", model, tmp_path / "v", "--dataset", "vaihingen-eroded", "--part", "val", "--json"]
    code, out, err = run_cli(*words)
    assert code == 0, err
    assert json.loads(out)["labelled_pixels"] == (drawn[11][2:] < 5).sum()
    assert "vaihingen-eroded is read as the model learned it: -o clutter=false -o bands=nir,red,green" in err
    code, _, err = run_cli(*words, "-o", "clutter=true")
    assert code == 1 and "the model knows impervious surface" in err
    # A model that does not say what it learned, as one of Caffe's: by its classes.
    alone = save(replace(load(model), recipe={}), tmp_path / "alone.safetensors")
    code, out, err = run_cli("evaluate", alone, *words[2:])
    assert code == 0, err
    assert "as the model learned it: -o clutter=false\n" in err
    assert json.loads(out)["labelled_pixels"] == (drawn[11][2:] < 5).sum()


def test_labels_are_checked_in_a_published_set(tmp_path, run_cli):
    sides = {part: (part, f"{part}annot") for part in ("train", "val", "test")}
    world.pairs(tmp_path, sides, {"train": ["a", "b"], "val": ["c"], "test": ["d"]}, 10)
    code, out, err = run_cli("data", "check", tmp_path, "--dataset", "camvid")
    assert code == 0, err
    assert "all files: 11 classes, 396 labelled pixels" in out
    (tmp_path / "train" / "b.png").write_bytes((tmp_path / "train" / "b.png").read_bytes()[:60])
    world.codes(tmp_path / "testannot" / "d.png", world.draw(40, 9, 11, seed=9))
    code, out, _ = run_cli("data", "check", tmp_path, "--dataset", "camvid", "--json")
    assert code == 1
    errors = {f["where"]: f["text"] for f in json.loads(out)["findings"] if f["severity"] == "error"}
    assert "has values without a class" in errors["d"]
    assert "b" in errors
    code, _, err = run_cli("data", "check", tmp_path, tmp_path, "--dataset", "camvid")
    assert code == 2
    assert "camvid takes one folder, but 2 paths were given" in err


def test_patches_with_lists_are_not_taken_for_gid_of_other_numbers(tmp_path, run_cli):
    world.pairs(tmp_path, {"train": ("images", "labels")}, {"train": ["a", "b"]}, 4)
    (tmp_path / "train.txt").write_text("a\nb\n")
    assert run_cli("data", "describe", "gid-mtl5", tmp_path)[0] == 0
    code, _, err = run_cli("data", "describe", "gid-5", tmp_path)
    assert code == 1
    assert "Read them as the data set gid-mtl5" in err


def test_sizes_are_told_width_first(tmp_path, run_cli):
    world.pairs(tmp_path, {"train": ("images", "labels")}, {"train": ["a"]}, 4)
    (tmp_path / "train.txt").write_text("a\n")
    assert "train: 1 image, 1 of 11 x 9;" in run_cli("data", "describe", "gid-mtl5", tmp_path)[1]


def test_lists_made_by_resampling_are_trained_on_where_the_data_may_not_be_changed(tmp_path, run_cli):
    names = [f"p{n}" for n in range(8)]
    world.pairs(tmp_path / "set", {"test": ("images", "labels")}, {"test": names}, 4)
    (tmp_path / "set" / "train.txt").write_text("p0\np1\n")
    (tmp_path / "set" / "test.txt").write_text("\n".join(names[2:]) + "\n")
    shares = [f"--share={c}=20" for c in ("built-up", "farmland", "forest", "meadow", "water")]
    code, _, err = run_cli(
        "data",
        "resample",
        "gid-mtl5",
        tmp_path / "set",
        *shares,
        "--tolerance",
        "200",
        "--to",
        "val",
        "--out",
        tmp_path / "lists",
    )
    assert code == 0, err
    assert f"-o data.dataset_options.lists={tmp_path / 'lists'}" in err
    (tmp_path / "lists" / "test.txt").write_text("p5\n")
    code, out, err = run_cli(
        "data", "split", "gid-mtl5", tmp_path / "set", "-o", f"lists={tmp_path / 'lists'}", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["test"] == ["p5"]
    code, _, err = run_cli("data", "split", "gid-mtl5", tmp_path / "set", "-o", f"lists={tmp_path}")
    assert code == 1
    assert "contains none of the lists train.txt" in err
