"""What is typed, with commas, blanks and signs in names and numbers."""

import pytest

from labelscape.cli.parsing import accuracies_of, names_of, numbers_of, pairs_of, scene_of, settings_of
from labelscape.errors import BadOption, joined


def test_classes_have_signs_and_commas():
    assert numbers_of(["void=-1,water=0", "Cropland, rainfed=10"], "classes") == {
        "void": -1,
        "water": 0,
        "Cropland, rainfed": 10,
    }
    assert numbers_of(["Tree cover, deciduous = 60 , b=+2"], "classes") == {
        "Tree cover, deciduous": 60,
        "b": 2,
    }


@pytest.mark.parametrize("text", ["water", "water=", "=3", "a=1,b", "a=x,b=3", "a=1.5", "a=1,a=2", ""])
def test_what_is_no_class_is_quoted(text):
    with pytest.raises(BadOption, match="--classes"):
        numbers_of([text], "classes")


def test_names_in_quotes_keep_their_commas():
    assert names_of('"Band 1, Blue",red, "Band 3, Red"') == ["Band 1, Blue", "red", "Band 3, Red"]
    assert pairs_of(['green="Cropland, rainfed",forest', "water"], "merge") == {
        "green": ("Cropland, rainfed", "forest"),
        "water": ("water",),
    }


def test_quotes_are_no_part_of_a_name_wherever_it_is_typed():
    assert numbers_of(['"Cropland, rainfed"=0,b=1'], "classes") == {"Cropland, rainfed": 0, "b": 1}
    assert accuracies_of(['"Cropland, rainfed"=0.8,b=0.9']) == {"Cropland, rainfed": 0.8, "b": 0.9}


def test_accuracies_of_classes_whose_names_have_commas():
    assert accuracies_of(["0.85"]) == 0.85
    assert accuracies_of(["forest=0.9, Cropland, rainfed = 1e-1", "c=d=1"]) == {
        "forest": 0.9,
        "Cropland, rainfed": 0.1,
        "c=d": 1.0,
    }


@pytest.mark.parametrize(
    "text", ["0.9,water=1", "water=0.9,0.8", "water", "water=", "=1", "a=1,a=1", "a=x", ""]
)
def test_what_is_no_accuracy_is_quoted(text):
    with pytest.raises(BadOption, match="--expect"):
        accuracies_of([text])


def test_names_are_put_together_where_only_the_whole_is_known():
    known = {
        "a",
        "b",
        "a,b",
        "Cropland, rainfed",
        "Cropland",
        "Tree cover, broadleaved, deciduous",
    }.__contains__
    assert joined(["a", "b"], known) == ("a", "b")
    assert joined(["Cropland", "rainfed", "a"], known) == ("Cropland, rainfed", "a")
    assert joined(["Tree cover", "broadleaved", "deciduous"], known) == (
        "Tree cover, broadleaved, deciduous",
    )
    assert joined(["a", "x"], known) == ("a", "x")


def test_a_file_with_a_comma_is_one_scene(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d,ir").mkdir()
    for name in ("a,b.tif", "c.tif", "d,ir/s.tif"):
        (tmp_path / name).touch()
    assert scene_of("a,b.tif") == "a,b.tif" and scene_of("d,ir/s.tif") == "d,ir/s.tif"
    assert scene_of("a,b.tif,c.tif") == ("a,b.tif", "c.tif")
    assert scene_of("missing.tif,c.tif") == ("missing.tif", "c.tif")


@pytest.mark.parametrize(
    "items", [("rate=1", "rate=2"), ("options=3", "options.width=8"), ("losses.dice=1", 'losses={"dice":2}')]
)
def test_a_setting_that_is_given_twice_is_refused(items):
    assert settings_of(["options.width=8", "options.depth=2"]) == {"options": {"width": 8, "depth": 2}}
    with pytest.raises(BadOption, match="sets again"):
        settings_of(items)
