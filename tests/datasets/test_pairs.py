"""Folders of pairs: no file is lost to another of its name, and parts that a folder says itself are kept."""

import json

import numpy as np
import pytest
import world

from labelscape.datasets.own import open_dataset
from labelscape.datasets.pairs import find_pairs
from labelscape.errors import BadInput
from labelscape.labels.rules import LabelRules

HALVES = {"train": 0.5, "test": 0.5}


def pair(folder, image, label, seed):
    for name in (image, label):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    classes = world.paint(40, 50, seed=seed)
    world.write(folder / image, world.spectra(classes, 3, "uint8", seed=seed), crs=None, driver="PNG")
    world.write(folder / label, classes, crs=None, driver="PNG")


def test_files_of_one_name_in_several_folders_are_all_there(tmp_path):
    for i, place in enumerate(("rural", "urban")):
        pair(tmp_path, f"images/{place}/0.png", f"labels/{place}/0_mask.png", i)
    images, labels = find_pairs([tmp_path])
    assert [f.parent.name for f in images] == [f.parent.name for f in labels] == ["rural", "urban"]


def test_a_name_that_two_files_have_is_refused_where_folders_do_not_tell(tmp_path):
    pair(tmp_path, "images/rural/0.png", "labels/0.png", 0)
    pair(tmp_path, "images/urban/0.png", "labels/1.png", 1)
    with pytest.raises(BadInput, match="have the same name, so their pair is ambiguous"):
        find_pairs([tmp_path])


@pytest.mark.parametrize("layout", ["sides first", "parts first", "lists"])
def test_parts_that_the_folder_says_are_kept(tmp_path, layout):
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    for part, names in parts.items():
        for name in names:
            image, label = {
                "sides first": (f"images/{part}/{name}.png", f"labels/{part}/{name}.png"),
                "parts first": (f"{part}/img/{name}.png", f"{part}/gt/{name}.png"),
                "lists": (f"images/{name}.png", f"labels/{name}.png"),
            }[layout]
            pair(tmp_path, image, label, ord(name))
        if layout == "lists":
            (tmp_path / f"{part}.txt").write_text("".join(f"{name}.png\n" for name in names))
    if layout == "lists":
        pair(tmp_path, "images/e.png", "labels/e.png", 5)
    with open_dataset([tmp_path], shares=HALVES) as dataset:
        assert {part: [s.name for s in dataset.part(part)] for part in parts} == parts
        assert f"2 train, 1 val, 1 test{', 1 left out' if layout == 'lists' else ''}" in dataset.report[-1]
    with open_dataset([tmp_path], shares=HALVES, split="random") as dataset:
        assert "val" not in dataset.part_of
    with open_dataset([tmp_path]) as dataset:
        assert set(dataset.part_of) == {None}


def test_a_folder_with_a_training_part_alone_is_split(tmp_path):
    for i in range(4):
        pair(tmp_path, f"images/train/{i}.png", f"labels/train/{i}.png", i)
    with open_dataset([tmp_path], shares=HALVES) as dataset:
        assert sorted(dataset.part_of) == ["test", "test", "train", "train"]


def test_greys_of_a_smoothed_mask_are_no_classes(tmp_path, run_cli):
    pair(tmp_path, "images/a.png", "labels/a.png", 0)
    soft = np.where(world.paint(40, 50) == 1, 255, 0).astype(np.uint8)
    soft[::9, ::9] = np.arange(30, dtype=np.uint8).reshape(5, 6) + 100
    soft[1::9, 1::9] = 240
    world.write(tmp_path / "labels" / "a.png", soft, crs=None, driver="PNG")
    with pytest.raises(BadInput, match="grey values.*`threshold=128`, `classes={'other': 0, 'road': 1}`"):
        open_dataset([tmp_path])
    with open_dataset([tmp_path], spec=LabelRules(threshold=128)) as dataset:
        assert dataset.class_counts().tolist() == [int((soft < 128).sum()), int((soft >= 128).sum())]
    code, out, _ = run_cli("data", "check", tmp_path)
    assert code == 1
    assert "--threshold 128" in out
    code, out, _ = run_cli(
        "data", "check", tmp_path, "--threshold", "128", "--classes", "other=0,road=1", "--json"
    )
    assert code == 0, out
    assert any("2 classes, 2000 labelled pixels" in f["text"] for f in json.loads(out)["findings"])
