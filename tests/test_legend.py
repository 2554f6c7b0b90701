import numpy as np
import pytest

from labelscape.errors import BadInput, UnknownName
from labelscape.legend import IGNORE, Legend


def test_values_go_to_indices_and_back():
    legend = Legend.of_names(["water", "field", "forest"], values=[10, 3, 200])
    values = np.array([[10, 3], [200, 255]], np.uint8)
    indices = legend.encode(values)
    np.testing.assert_array_equal(indices, [[0, 1], [2, IGNORE]])
    np.testing.assert_array_equal(legend.decode(indices), values)
    np.testing.assert_array_equal(legend.paint(indices)[0, 0], legend.colors[0])
    assert Legend.from_json(legend.to_json()) == legend


def test_unknown_values_are_named_and_ignored_ones_are_not():
    legend = Legend.of_names(["a", "b"])
    with pytest.raises(BadInput, match=r"values 7, 9, which no class has \(known: 0 a, 1 b\)"):
        legend.encode(np.array([0, 1, 7, 9]))
    np.testing.assert_array_equal(legend.encode(np.array([0, 7]), ignore=[7]), [0, IGNORE])


def test_legends_that_cannot_be():
    with pytest.raises(BadInput, match="occur more than once"):
        Legend.of_names(["a", "a"])
    with pytest.raises(BadInput, match="occur more than once"):
        Legend.of_names(["a", "b"], values=[1, 1])
    with pytest.raises(BadInput, match="0..254"):
        Legend.of_names(["a"], values=[255])
    with pytest.raises(UnknownName, match="Did you mean 'forest'"):
        Legend.of_names(["forest", "water"]).index("forrest")


@pytest.mark.parametrize("count", [1, 2, 12, 30, 150])
def test_colours_are_all_different(count):
    names = ["water", "lake", "forest", *(f"class {i}" for i in range(count))]
    assert len({tuple(c) for c in Legend.of_names(names).colors.tolist()}) == len(names)


@pytest.mark.parametrize(
    "names",
    [
        ["farm", "forest", "grass", "meadow", "residential", "scrub", "water", "wetland"],
        ["forest", "water", "wheat", "barley", "maize", "rape", "potatoes", "beet"],
        ["lake", "river", "sea", "road", "roads", "building", "residential", "background"],
    ],
)
def test_classes_look_different_on_a_map(names):
    """Of two names with one usual colour the second gets a shade of it, the rest what is like no other."""
    colors = Legend.of_names(names).colors.astype(float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 999 * np.eye(len(names))
    assert apart.min() > 50, (names[apart.min(0).argmin()], apart.min())


def test_a_second_class_of_a_usual_colour_gets_a_shade_of_it():
    _, meadow, _, lake = Legend.of_names(["grass", "meadow", "water", "lake"]).colors.tolist()
    assert max(meadow) == meadow[1] and max(lake) == lake[2]
