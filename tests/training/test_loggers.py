"""The log of a training in TensorBoard, Weights & Biases and MLflow: what they hold is read back."""

import json
import os
import struct
import subprocess
import sys
import time

import pytest
import world
from processes import PATIENCE, until

from labelscape.checkpoint import load
from labelscape.errors import BadOption
from labelscape.training import logs
from labelscape.training.outputs import checkpoint_path, runs_path
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

ALL = tuple(logs.LOGGERS)
SETTINGS = ("WANDB_", "MLFLOW_")


@pytest.fixture(autouse=True, scope="module")
def unset():
    """Whatever this machine's user has set for the loggers is put aside."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(SETTINGS)}
    os.environ["WANDB_MODE"] = "offline"
    yield
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        del os.environ[name]
    os.environ.update(before)


def recipe_in(folder, **more):
    w = world.make(folder, 96, 128, bands=3, nodata=0)
    return make_recipe(
        data={
            "images": [str(w.scene)],
            "labels": [str(world.label_raster(w, folder / "labels.tif"))],
            "block": 32,
            "val": 0.25,
        },
        network="fcn",
        options={"widths": [4, 4, 4, 4]},
        **{
            **{"batch": 2, "crop": 32, "device": "cpu", "steps": 25, "val_every": 10, "save_every": 10},
            **{"measure_tile_sizes": False, "measure_unfamiliar": False, **more},
        },
    )


def interrupted_at(monkeypatch, step):
    """Training ends as by Ctrl-C in this many steps from now."""
    import labelscape.training.loop as loop

    real, count = loop.update, 0

    def breaking(*arguments):
        nonlocal count
        count += 1
        if count == step:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "update", breaking)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training in all loggers, stopped in its second ten steps after their log was written, and resumed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe, out, said = recipe_in(folder, save_every=12), folder / "out", []
    with pytest.MonkeyPatch.context() as patch:
        # Logged at steps 10, 12 (saved) and 20, which will be trained again.
        patch.setattr("labelscape.training.loop.SAVE_SECONDS", 1e9)
        interrupted_at(patch, 22)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, out, log=ALL, say=said.append)
    ids = json.loads(runs_path(out, "fcn").read_text())
    # W&B names folders by the second, and both parts of the run have one id.
    last = int(time.time())
    until(lambda: int(time.time()) > last)
    made = train(recipe, out, log=ALL, say=said.append)
    return recipe, out, made, ids, said


def expected(made):
    """Name -> its (step, value) in the checkpoint's own log."""
    found = {}
    for line in made.history:
        for name in line.keys() - {"step"}:
            found.setdefault(name, []).append((line["step"], pytest.approx(line[name], rel=1e-6)))
    return found


def held_out(made):
    scores = made.scores["fcn"]
    first = scores["classes"][0]
    return {"held_out/mean_iou": scores["mean_iou"], f"held_out/recall/{first['name']}": first["recall"]}


def test_mlflow_has_one_run_with_recipe_log_and_scores(trained):
    from mlflow import MlflowClient

    _, out, made, ids, _ = trained
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("labelscape")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == ids["mlflow"] and run.info.status == "FINISHED"
    for name, points in expected(made).items():
        found = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        assert sorted(found) == points, name
    for name, value in held_out(made).items():
        assert run.data.metrics[name] == pytest.approx(value)
    assert run.data.params["network"] == "fcn" and run.data.params["data.block"] == "32"
    assert json.loads(run.data.params["options.widths"]) == [4, 4, 4, 4]
    assert run.data.tags["checkpoint"] == str(checkpoint_path(out, "fcn"))


def blocks_of(data):
    """The records of LevelDB's log format, behind W&B's header of 7 bytes: parts in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:
            at += left
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def records_of(folder):
    """What W&B wrote offline into a run's folder: config, values by name, summary."""
    from wandb.proto.wandb_internal_pb2 import Record

    config, values, summary = {}, {}, {}
    for data in blocks_of(next(folder.glob("*.wandb")).read_bytes()):
        record = Record()
        record.ParseFromString(data)
        for item in (*record.run.config.update, *record.config.update):
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("history"):
            line = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            for name in line.keys() - {"_step", "_runtime", "_timestamp"}:
                values.setdefault(name, []).append((record.history.step.num or line["_step"], line[name]))
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return config, values, summary


def test_wandb_offline_has_recipe_log_and_scores_under_one_id(trained):
    _, out, made, ids, _ = trained
    first, last = sorted(out.glob("wandb/offline-run-*"))
    assert first.name.endswith(ids["wandb"]) and last.name.endswith(ids["wandb"])
    config, values, summary = records_of(last)
    assert config["network"] == "fcn" and config["data"]["block"] == 32
    assert {name: values[name] for name in expected(made)} == expected(made)
    for name, value in held_out(made).items():
        assert summary[name] == pytest.approx(value)
    assert summary["checkpoint"] == str(checkpoint_path(out, "fcn"))


def test_tensorboard_has_recipe_log_and_scores(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, out, made, _, _ = trained
    found = EventAccumulator(str(out / "fcn.tensorboard"))
    found.Reload()
    for name, points in expected(made).items():
        assert [(e.step, e.value) for e in found.Scalars(name)] == points
    for name, value in held_out(made).items():
        assert [(e.step, e.value) for e in found.Scalars(name)] == [(25, pytest.approx(value, rel=1e-6))]
    text = found.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text)["network"] == "fcn"


def test_it_is_said_where_a_log_is_and_no_id_is_left_behind(trained):
    _, out, _, _, said = trained
    for name, place in (
        ("MLflow", f"sqlite:///{out / 'mlflow.db'}"),
        ("Weights & Biases", str(out / "wandb")),
    ):
        assert sum(line.startswith(f"log: {name}, ") and place in line for line in said) == 2
    assert not runs_path(out, "fcn").exists()
    assert not [line for line in said if line.startswith("warning: ")]


class Fake:
    """A logger that keeps what it gets, and fails at the steps in `away`."""

    id, where, step = "1", "here", 0

    def __init__(self, away=()):
        self.away, self.kept, self.ended, self.well = set(away), [], None, None

    def rows(self, lines):
        for line in lines:
            if line["step"] in self.away:
                self.away.discard(line["step"])
                raise ConnectionError("the server is away\nlong story")
            self.kept.append(line["step"])
            self.step = line["step"]

    def end(self, scores, checkpoint):
        self.ended = scores, checkpoint

    def close(self, *, well):
        self.well = well


@pytest.mark.parametrize("away", [(), (5,), (5, 8)])
def test_a_logger_that_fails_is_named_once_and_training_goes_on(tmp_path, monkeypatch, away):
    """With `away` twice it is away still at the end."""
    recipe = recipe_in(tmp_path, steps=8, val_every=1, save_every=4)
    fake, said = Fake(away=away), []
    monkeypatch.setattr(logs, "_started", lambda *given: fake)
    made = train(recipe, tmp_path / "out", log="wandb", say=said.append)
    assert load(checkpoint_path(tmp_path / "out", "fcn")).history == made.history
    told = [line for line in said if "failed" in line]
    why = "warning: Weights & Biases failed (the server is away); training continues without it"
    assert told == [why] * bool(away)
    # What was missed is logged at the end, if the logger is back.
    whole = list(range(1, 9))
    assert fake.kept == (whole if len(away) < 2 else whole[:7])
    assert (fake.ended is not None) == (len(away) < 2)
    assert ("log: Weights & Biases works again, and has the whole log" in said) == (len(away) == 1)
    assert fake.well is True


def test_loggers_get_a_line_in_the_order_in_which_they_were_asked_for(tmp_path, monkeypatch):
    """Not in that of a set of names, which is another one in every process."""
    monkeypatch.setattr(logs, "LOGGERS", {f"logger {n}": f"Logger {n}" for n in range(8)})
    monkeypatch.setattr(logs, "_started", lambda *given: Fake())
    found = logs.Logs(tuple(logs.LOGGERS), tmp_path, recipe_in(tmp_path), say=str)
    found.begin(0, [])
    told = []
    monkeypatch.setattr(found, "_rows", lambda name, lines: told.append(name))
    found.row({"step": 1})
    assert told == list(logs.LOGGERS)


def test_a_logger_that_cannot_start_ends_a_new_training_alone(tmp_path, monkeypatch):
    recipe = recipe_in(tmp_path, steps=6, val_every=0, save_every=2)

    def away(*given):
        raise ConnectionError("no server")

    monkeypatch.setattr(logs, "_started", away)
    with pytest.raises(BadOption, match=r"MLflow cannot start a run \(no server\).*`log=mlflow`"):
        train(recipe, tmp_path / "out", log=["mlflow"])
    assert not list((tmp_path / "out").glob("*.state.*"))
    with monkeypatch.context() as patch:
        interrupted_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "out")
    said = []
    made = train(recipe, tmp_path / "out", log=["mlflow"], say=said.append)
    assert made.history[-1]["step"] == 6
    assert [line for line in said if "MLflow" in line] == [
        "warning: MLflow failed (no server); training continues without it"
    ]


def test_a_logger_asked_for_later_gets_what_was_logged_before(tmp_path, monkeypatch):
    recipe = recipe_in(tmp_path, steps=6, val_every=0, save_every=2)
    with monkeypatch.context() as patch:
        interrupted_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "out")
    fake = Fake()
    monkeypatch.setattr(logs, "_started", lambda *given: fake)
    made = train(recipe, tmp_path / "out", log="mlflow")
    assert fake.kept == [line["step"] for line in made.history] == [2, 4, 6]


def test_a_stopped_training_is_not_logged_as_a_finished_one(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setattr(logs, "_started", lambda *given: fake)
    interrupted_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_in(tmp_path), tmp_path / "out", log="mlflow")
    assert fake.well is False and fake.ended is None


@pytest.mark.parametrize("name", ALL)
def test_a_missing_package_is_one_sentence_before_the_first_step(tmp_path, monkeypatch, run_cli, name):
    recipe = recipe_in(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    words = ("train", *recipe.data.images, "--labels", *recipe.data.labels, "--out", tmp_path / "out")
    code, _, told = run_cli(*words, "--log", name)
    assert code == 2 and told.count("\n") == 1
    assert f"need the package {name}: pip install 'labelscape[{name}]'." in told
    assert not (tmp_path / "out").exists()


def test_reports_to_the_makers_of_loggers_are_off_before_their_import(monkeypatch):
    names = ("MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")  # what the user has set stays
    seen = {}

    def imported(package):
        seen[package] = [os.environ.get(name) for name in names]
        return json  # any module with a file

    monkeypatch.setattr(logs, "import_module", imported)
    assert logs.checked(["wandb", "mlflow", "wandb"]) == ("wandb", "mlflow")
    assert list(seen) == ["wandb", "mlflow", "sqlalchemy", "alembic"]
    assert all(values == ["false", "false"] for values in seen.values())


def test_an_unknown_logger_is_answered_with_the_nearest(tmp_path, run_cli):
    recipe = recipe_in(tmp_path)
    words = ("train", *recipe.data.images, "--labels", *recipe.data.labels, "--out", tmp_path / "out")
    code, _, told = run_cli(*words, "--log", "wanbd")
    assert code == 2 and "No logger is called 'wanbd'. Did you mean 'wandb'?" in told


def test_metric_names_are_those_that_mlflow_takes():
    from labelscape.training.mlflow_log import _name

    assert _name("held_out/iou/Cropland, rainfed (2)") == "held_out/iou/Cropland_ rainfed _2_"
    assert _name("held_out/iou/Äcker 1.5") == "held_out/iou/Äcker 1.5"


PROGRAM = """
import json, sys
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
if __name__ == "__main__":
    train(make_recipe(**json.loads(sys.argv[1])), sys.argv[2], log=["mlflow", "tensorboard"])
"""


@pytest.mark.long
def test_of_two_processes_the_first_one_logs(tmp_path):
    from mlflow import MlflowClient

    recipe, out = recipe_in(tmp_path), tmp_path / "out"
    (tmp_path / "program.py").write_text(PROGRAM)
    head = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "program.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, *head, recipe.model_dump_json(), str(out)],
        env=environment,
        check=True,
        timeout=PATIENCE,
    )
    made, client = load(checkpoint_path(out, "fcn")), MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("labelscape").experiment_id])
    for name, points in expected(made).items():
        found = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        assert sorted(found) == points, name
    assert len(list((out / "fcn.tensorboard").glob("events.*"))) == 1
