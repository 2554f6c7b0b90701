"""One process works for a team: its results and errors reach all, and a dead process is named."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import world
from processes import PATIENCE, reserved_port

from labelscape.evaluation import measure
from labelscape.training.leader import Leader, leading
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.team import gather

SRC = Path(__file__).parents[2] / "src"
START = """
import datetime, os, sys, time
from pathlib import Path
from labelscape.errors import BadInput, LabelscapeError
from labelscape.files import written_whole
from labelscape.training import leader as module
from labelscape.training import team
from labelscape.training.team import gather
team.PATIENCE = datetime.timedelta(seconds=int(os.environ["PATIENCE"]))
module.BEAT, module.SILENCE = 0.1, float(os.environ["SILENCE"])
print("ready", flush=True)
sys.stdin.readline()
fabric = gather("cpu", "32")
rank = fabric.global_rank
with module.leading(fabric, Path(sys.argv[1])) as leader:
"""
END = """
sys.stdout.flush()
fabric.barrier()
os._exit(0)  # the first process holds the store: torch aborts others that leave after it
"""


def team(tmp_path, body, patience=1800, silence=60.0):
    """Run a program in two processes: (exit code, stdout) of each. `patience` in seconds is that of
    collective operations, `silence` that with a process without signs of life.
    """
    program = START + "\n".join(f"    {line}" for line in body.strip().splitlines()) + END
    shared = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"PATIENCE": str(patience), "SILENCE": str(silence)}
    shared |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(SRC)}
    with reserved_port() as port:
        shared |= {"MASTER_PORT": str(port)}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path)],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            # Both have imported everything: on a busy machine one is seconds behind the other.
            for one in started:
                assert one.stdout.readline() == "ready\n"
            for one in started:
                one.stdin.write("go\n")
                one.stdin.flush()
            return [(one.communicate(timeout=PATIENCE)[0], one.returncode) for one in started]
        finally:
            for one in started:
                one.kill()


def test_results_and_errors_of_the_first_process_reach_all(tmp_path):
    ended = team(
        tmp_path,
        """
print(leader(lambda: [7, rank]))
def fail():
    raise BadInput("no labels")
try:
    leader(fail)
except LabelscapeError as error:
    print(type(error).__name__, error)
""",
    )
    assert ended == [("[7, 0]\nBadInput no labels\n", 0)] * 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dies", "said"), [(0, "Process 0 of 2 has died while the others waited"), (1, "Process 1 has died.")]
)
def test_a_dead_process_is_named(tmp_path, dies, said):
    """The first dies at its work, or the second while the first works."""
    ended = team(
        tmp_path,
        f"""
if {dies} == 1 and rank == 1:
    os._exit(9)
try:
    leader(lambda: os._exit(9) if {dies} == 0 else time.sleep(1))
except LabelscapeError as error:
    print(error, flush=True)
os._exit(3)
""",
        silence=1.0,
    )
    assert ended[dies][1] == 9
    assert ended[1 - dies][1] == 3
    assert said in ended[1 - dies][0]


def test_waiting_for_the_first_process_takes_as_long_as_its_work(tmp_path):
    """Longer than a collective operation would wait."""
    ended = team(tmp_path, "print(leader(lambda: time.sleep(7) or rank))", patience=5)
    assert ended == [("0\n", 0)] * 2


def test_all_scores_of_a_training_are_waited_for_in_this_way(tmp_path, monkeypatch):
    scored, asked, real = [], [], Leader.__call__

    def watched(leader, do):
        asked.append(len(scored))
        found = real(leader, do)
        asked[-1] = len(scored) - asked[-1]
        return found

    evaluate = measure.evaluate
    monkeypatch.setattr(measure, "evaluate", lambda *a, **k: scored.append(1) or evaluate(*a, **k))
    monkeypatch.setattr(Leader, "__call__", watched)
    w = world.make(tmp_path, 64, 96, bands=3)
    data = {"images": [str(w.scene)], "labels": [str(world.label_raster(w, tmp_path / "l.tif"))]}
    data |= {"block": 32, "val": 0.25}
    small = {"options": {"widths": [4, 4, 4, 4]}, "batch": 2, "crop": 32, "device": "cpu"}
    train(make_recipe(data=data, network="fcn", steps=4, val_every=2, **small), tmp_path / "run")
    # Loggers are started in this way too, and score nothing.
    assert [scores for scores in asked if scores] == [1, 1, 1]  # twice while it trains, and the held-out part


def test_what_a_killed_team_left_is_removed_by_the_next_run(tmp_path):
    left, alive = tmp_path / ".team-1", tmp_path / ".team-2"
    for folder, age in ((left, 4000), (alive, 100)):
        folder.mkdir()
        for file in (folder / "alive-0", folder):
            if file != folder:
                file.touch()
            os.utime(file, (time.time() - age,) * 2)
    with leading(gather("cpu", "32"), tmp_path) as leader:
        assert leader(lambda: 7) == 7
    assert list(tmp_path.iterdir()) == [alive]


def test_processes_do_not_write_through_one_temporary_file(tmp_path):
    ended = team(
        tmp_path,
        """
with written_whole(Path(sys.argv[1]) / "a.txt", overwrite=True) as part:
    part.write_text("whole")
    fabric.barrier()
fabric.barrier()
print((Path(sys.argv[1]) / "a.txt").read_text())
""",
    )
    assert ended == [("whole\n", 0)] * 2
