"""The confusion matrix and the scenes of an evaluation as text."""

import io

from rich.console import Console

from labelscape.evaluation.confusion import Confusion
from labelscape.evaluation.printed import MOST_SCENES, matrix_rows, print_matrix, print_scenes, scene_rows

COUNTS = Confusion([[30, 5, 5], [0, 1200, 0], [10, 0, 0]], [0, 0, 6])
NAMES = ("water", "field", "[red]forest\x1b[31m")


def printed(what, *arguments, **console):
    out = Console(file=io.StringIO(), **console)
    what(*arguments, console=out)
    return out.file.getvalue()


def test_the_matrix_has_both_accuracies_of_every_class_by_hand():
    rows = matrix_rows(COUNTS, NAMES)
    assert rows[0] == ("truth \\ predicted", "water", "field", "[red]forest?[31m", "none", "PA %")
    assert rows[1] == ("water", "30", "5", "5", "0", "75.00")
    assert rows[2] == ("field", "0", "1,200", "0", "0", "100.00")
    # Of 16 pixels 6 have no prediction: they count in PA, and in nobody's UA.
    assert rows[3] == ("[red]forest?[31m", "10", "0", "0", "6", "0.00")
    assert rows[4] == ("UA %", "75.00", "99.59", "0.00", "", "")
    whole = matrix_rows(Confusion([[3, 0], [0, 0]], [0, 0]), ("a", "b"))
    assert whole[0] == ("truth \\ predicted", "a", "b", "PA %"), "nothing is without a prediction"
    assert whole[2][-1] == whole[3][2] == "-", "nothing is or was called b"


def test_a_pipe_has_the_whole_matrix_and_a_narrow_terminal_says_where_it_is(capsys):
    text = printed(print_matrix, COUNTS, NAMES, width=20)
    assert "1,200" in text and "[red]forest?[31m" in text and "\x1b" not in text
    lines = [line for line in text.splitlines() if line.startswith(("water", "field", "UA %"))]
    assert [line.split()[-1] for line in lines] == ["75.00", "100.00", "0.00"]
    narrow = {"force_terminal": True, "color_system": None}
    assert printed(print_matrix, COUNTS, NAMES, width=40, **narrow) == ""
    assert "3 classes are" in capsys.readouterr().out
    assert "1,200" in printed(print_matrix, COUNTS, NAMES, width=120, **narrow)


def test_the_worst_scenes_come_first():
    scenes = {f"s{n}": Confusion([[n, 20 - n], [0, 5]], [0, 0]) for n in range(MOST_SCENES + 3)}
    scenes["empty"] = Confusion.empty(2)
    rows = scene_rows(scenes)
    assert len(rows) == MOST_SCENES + 4, "a scene without labels has no score"
    assert rows[1] == ("s0", "20.00", "10.00", "25") and rows[2] == ("s1", "24.00", "12.92", "25")
    text = printed(print_scenes, scenes, width=100)
    assert f"the worst {MOST_SCENES} of {MOST_SCENES + 3}" in text
    assert f"s{MOST_SCENES - 1} " in text and f"s{MOST_SCENES} " not in text
    assert printed(print_scenes, {"one": COUNTS}, width=100) == ""
