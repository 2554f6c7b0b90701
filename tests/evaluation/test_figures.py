import warnings

import numpy as np
import pytest

from labelscape.evaluation.figures import confusion_figure, curve_figure, png, short


def test_confusion_figure_shows_counts_and_shares_of_rows():
    figure = confusion_figure(["a", "b", "c"], np.array([[75, 25, 0], [0, 123456, 0], [0, 0, 0]]))
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.75, 0.25, 0], [0, 1, 0], [np.nan] * 3])
    texts = {tuple(int(v) for v in t.get_position()[::-1]): t.get_text() for t in axes.texts}
    assert texts[0, 0] == "75\n75.0 %"
    assert texts[0, 1] == "25\n25.0 %"
    assert texts[1, 1] == "123k\n100.0 %"
    assert texts[2, 2] == "0"


def test_pixels_without_a_class_have_their_column_and_lower_the_shares():
    axes = confusion_figure(["a", "b"], np.array([[8, 0], [0, 5]]), np.array([2, 0])).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0, 0.2], [0, 1, 0]])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "no class"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert confusion_figure(["a", "b"], np.eye(2, dtype=int), np.array([0, 0])).axes[0].images[
        0
    ].get_array().shape == (2, 2)


@pytest.mark.parametrize(
    ("classes", "cells", "percents"),
    [(2, 4, True), (12, 144, True), (13, 169, False), (25, 625, False), (26, 0, False), (60, 0, False)],
)
def test_many_classes_drop_the_numbers(classes, cells, percents):
    figure = confusion_figure([f"class {i}" for i in range(classes)], np.eye(classes, dtype=int))
    assert len(figure.axes[0].texts) == cells
    assert any("%" in t.get_text() for t in figure.axes[0].texts) == percents
    width, height = figure.get_size_inches()
    assert max(width, height) < 16


def test_names_in_figures_are_no_formulas_and_no_boxes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that its font lacks
        png(confusion_figure(["$x^2", "$\\frac{$"], np.eye(2, dtype=int)))
        png(confusion_figure(["水体", "b"], np.eye(2, dtype=int)))
        png(curve_figure([("$\\frac{$", [1], [1]), ("_b", [1], [1])], "$\\frac{$"))
        png(curve_figure([("水体", [1], [1]), ("b", [1], [1])], "loss"))
    labels = [
        t.get_text() for t in confusion_figure(["水体", "b"], np.eye(2, dtype=int)).axes[0].get_yticklabels()
    ]
    assert labels == ["class 1", "class 2"]
    long = [f"a very long name of a class, number {i}" for i in (1, 2)]
    shown = [t.get_text() for t in confusion_figure(long, np.eye(2, dtype=int)).axes[0].get_yticklabels()]
    assert len(set(shown)) == 2
    assert max(map(len, shown)) <= 22


def test_curves_leave_gaps_where_nothing_was_measured():
    figure = curve_figure(
        [("fcn", [1, 2, 3], [1.0, None, 3.0]), ("_hidden", [1, 2, 3], [1.0, float("inf"), float("nan")])],
        "loss",
    )
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal(lines[0].get_ydata(), [1, np.nan, 3])
    np.testing.assert_array_equal(lines[1].get_ydata(), [1, np.nan, np.nan])
    assert [t.get_text().strip() for t in figure.axes[0].get_legend().get_texts()] == ["fcn", "_hidden"]
    assert figure.axes[0].get_ylabel() == "loss"
    png(figure)
    png(curve_figure([("", [], [])], "rate"))


def test_short_counts():
    numbers = (
        0,
        999,
        9_999,
        10_000,
        12_345,
        99_949,
        99_950,
        123_456,
        999_499,
        999_500,
        1_234_567,
        45_600_000_000,
        2**63 - 1,
    )
    assert [short(n) for n in numbers] == [
        "0",
        "999",
        "9,999",
        "10.0k",
        "12.3k",
        "99.9k",
        "100k",
        "123k",
        "999k",
        "1.00M",
        "1.23M",
        "45.6G",
        "9223372T",
    ]


def test_a_long_list_of_curves_stands_beside_them():
    def names_begin(count: int) -> bool:
        figure = curve_figure([(f"network {n}", [0, 1], [1, n]) for n in range(count)], "loss")
        png(figure)  # placed when it is drawn
        axes = figure.axes[0]
        return axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1

    assert names_begin(12) and not names_begin(3)
