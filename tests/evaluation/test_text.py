import io

import numpy as np
import pytest
from rich.console import Console

from labelscape.evaluation.confusion import count
from labelscape.evaluation.metrics import DEFINITIONS, summary
from labelscape.evaluation.text import percent, print_scores, score_table


def scores_of(names, seed=0, wrong=0.2):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(names), 500).astype(np.uint8)
    predicted = np.where(rng.random(500) < wrong, rng.integers(0, len(names), 500), truth).astype(np.uint8)
    return summary(count(truth, predicted, len(names)), names)


def printed(scores, names=None, **console):
    out = Console(file=io.StringIO(), **console)
    print_scores(scores, names, console=out)
    return out.file.getvalue()


def test_percent():
    assert [percent(v) for v in (None, 0.0, 1.0, 0.12345, 0.999999)] == [
        "-",
        "0.00",
        "100.00",
        "12.35",
        "100.00",
    ]


def test_rows_hold_every_class_and_the_means():
    forest, mlp = scores_of(["water", "land"]), scores_of(["water", "land"], seed=1)
    rows = score_table({"forest": forest, "mlp": mlp})
    assert rows[0] == ("class", "forest IoU", "forest F1", "mlp IoU", "mlp F1")
    assert [row[0] for row in rows[1:]] == ["water", "land", "mean (mIoU, mean F1)", "OA", "kappa x 100"]
    assert rows[1][3:] == (percent(mlp["classes"][0]["iou"]), percent(mlp["classes"][0]["f1"]))
    assert rows[3][1:] == tuple(percent(m[key]) for m in (forest, mlp) for key in ("mean_iou", "mean_f1"))
    assert rows[4][1:] == (percent(forest["overall_accuracy"]), "", percent(mlp["overall_accuracy"]), "")


def test_models_are_matched_by_class_name_not_by_place():
    one, other = scores_of(["water", "land"]), scores_of(["land", "snow"], seed=1)
    rows = {row[0]: row[1:] for row in score_table({"one": one, "other": other})}
    assert rows["land"] == tuple(
        percent(entry[key]) for entry in (one["classes"][1], other["classes"][0]) for key in ("iou", "f1")
    )
    assert rows["water"][2:] == ("-", "-")
    assert rows["snow"][:2] == ("-", "-")
    assert [row[0] for row in score_table({"one": one}, ["land"])][1] == "land"


def test_a_pipe_loses_nothing_however_many_models():
    names = ["a class with quite a long name", "b"]
    scores = {f"model number {i}": scores_of(names, seed=i) for i in range(9)}
    text = printed(scores, names, width=40)
    lines = [line for line in text.splitlines() if line.startswith(names[0])]
    assert len(lines) == 1
    assert lines[0].split()[-18:] == list(score_table(scores)[1][1:])
    assert all(name in text for name in scores)
    assert all(DEFINITIONS[key] in text for key in ("mean_iou", "mean_f1", "overall_accuracy"))


def test_a_narrow_terminal_gets_models_below_each_other():
    scores = {f"model {i}": scores_of(["water", "land"], seed=i) for i in range(5)}
    text = printed(scores, width=60, force_terminal=True, color_system=None)
    blocks = [line for line in text.splitlines() if line.startswith("water")]
    assert len(blocks) == 3
    assert all(len(line) <= 60 for line in text.splitlines())
    assert [cell for line in blocks for cell in line.split()[1:]] == list(score_table(scores)[1][1:])


def test_overall_accuracy_stands_below_the_iou_column():
    lines = printed({"mlp": scores_of(["water", "land"])}).splitlines()
    head = next(line for line in lines if "IoU" in line and "F1" in line)
    accuracy = next(line for line in lines if line.startswith("OA"))
    assert len(accuracy.rstrip()) == head.index("IoU") + 3


@pytest.mark.parametrize("name", ["[red]grass[/red]", "[/]", "50 % [bold]", "\x1b[31mtrees\x07", "水体"])
def test_names_are_shown_not_obeyed(name):
    text = printed({name: scores_of([name, "land"])}, force_terminal=True, color_system=None, width=200)
    shown = name.replace("\x1b", "?").replace("\x07", "?")
    assert text.count(shown) == 2
    assert "\x1b[31m" not in text
    assert "\x07" not in text


def test_no_model_prints_nothing(capsys):
    print_scores({})
    assert capsys.readouterr().out == ""
    print_scores({"mlp": scores_of(["water", "land"])}, ["land"], definitions=False)
    out = capsys.readouterr().out
    assert "land" in out
    assert "water" not in out
