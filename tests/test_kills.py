"""Random kills (SIGKILL) of map, polygonize, sieve, calibrate and train at any moment, also while files get
their names: what is left is whole, the same command ends in the bytes of a run left alone, and nothing else
remains in the folder.

LABELSCAPE_KILLS is the number of kills over all verbs (1,000), LABELSCAPE_SEED the seed of their moments.
Processes are forked with everything imported, so that a kill costs a second or less.
"""

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import world

from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile
from labelscape.evaluation.calibrate import calibrate
from labelscape.maps.run import map_scene
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

KILLS = int(os.environ.get("LABELSCAPE_KILLS", "1000"))
SEED = int(os.environ.get("LABELSCAPE_SEED", "0"))
SHARES = {"map": 0.4, "polygonize": 0.2, "sieve": 0.2, "calibrate": 0.05, "train": 0.15}
IN_A_ROW = 4
"""Most kills of one run before it is left to end."""
TIMED = ("_run.json", "_stac.json", "_report.html", "_times.json")
"""Files that hold the time of the run."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Verb -> a function of its folder."""
    folder = tmp_path_factory.mktemp("work")
    w = world.make(folder, 200, 260, nodata=0)
    labels = world.label_raster(w, folder / "labels.tif")
    speckle = np.random.default_rng(0).integers(0, 3, (300, 260)).astype(np.uint8)
    classes = world.write(folder / "classes.tif", speckle, nodata=255, tiled=True)
    model, trained = folder / "m.safetensors", folder / "trained"
    recipe = {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "network": "skip",
        "options": {"widths": [4, 4, 4, 4]},
        **{"batch": 2, "crop": 32, "device": "cpu", "steps": 20, "save_every": 2, "base_steps": 8},
        "measure_tile_sizes": False,
    }

    def prepare(out):
        save(world.tiny_checkpoint(scaling=(4500.0, 2000.0)), model)
        train(recipe, trained, score=False)

    # In a process of its own: threads that torch starts in this one would be missing in those forked from it.
    process = begun(prepare, trained)
    process.join(3000)
    assert process.exitcode == 0

    def calibrated(out):
        out.mkdir(exist_ok=True)
        checkpoint = load(trained / "skip.safetensors")
        with open_recipe_data(make_recipe(**recipe).data, 0) as dataset:
            found = calibrate(checkpoint, dataset, part="test", device="cpu")
        save(found.checkpoint, out / "calibrated.safetensors")

    return {
        "map": lambda out: map_scene(
            *(model, w.scene, out),
            **{"device": "cpu", "tile_size": 96, "overlap": 8, "proba": True, "sieve": 1.0, "report": False},
            force=True,
        ),
        "polygonize": lambda out: polygonize(classes, out / "areas.gpkg", world.LEGEND, strip_rows=64),
        "sieve": lambda out: sieve(classes, out / "sieved.tif", world.LEGEND, min_area=0.5, strip_rows=64),
        "calibrate": calibrated,
        "train": lambda out: train(recipe, out, score=False),
    }


def begun(verb, out):
    """A process that works, in a group of its own."""

    def run():
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        torch.set_num_threads(1)
        try:
            verb(out)
        except BaseException as error:
            (out.parent / f"{out.name}.failed").write_text(f"{type(error).__name__}: {error}")
            os._exit(1)
        os._exit(0)

    process = get_context("fork").Process(target=run)
    process.start()
    return process


def contents(out):
    return {
        str(path.relative_to(out)): b"" if path.name.endswith(TIMED) else path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def visible(out):
    """What a user sees: whole files, in any state of the run."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name[0] != "."}


@pytest.mark.long
@pytest.mark.parametrize("name", SHARES)
def test_kills_at_random_moments_lose_nothing(name, work, tmp_path):
    verb, rng = work[name], random.Random(f"{SEED} {name}")
    start = time.monotonic()
    process = begun(verb, tmp_path / "whole")
    process.join(3000)
    seconds = time.monotonic() - start
    assert process.exitcode == 0
    expected = contents(tmp_path / "whole")
    left, rounds, finished = max(1, round(KILLS * SHARES[name])), 0, 0
    while left > 0:
        rounds += 1
        out = tmp_path / f"run{rounds}"
        out.mkdir()
        for _ in range(rng.randint(1, IN_A_ROW)):
            process = begun(verb, out)
            # A little longer than the whole run takes: the last moments count as much as the others.
            process.join(rng.uniform(0, 1.05) * seconds)
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            left -= 1
            for file, content in visible(out).items():
                timed = file.endswith((*TIMED, ".csv", ".state.safetensors", ".aux.xml"))
                assert timed or content == expected[file], f"{file} is neither whole nor absent"
        finished += process.exitcode == 0
        if process.exitcode != 0:
            ended(verb, out, expected)
        assert contents(out) == expected
        assert not [path for path in out.iterdir() if path.name[0] == "."]
    print(f"{name}: {KILLS * SHARES[name]:.0f} kills in {rounds} runs, {finished} ended before the kill")


def ended(verb, out: Path, expected):
    """Run to the end. All files may have their names already, and are then not replaced unasked."""
    process = begun(verb, out)
    process.join(3000)
    failed = out.parent / f"{out.name}.failed"
    if process.exitcode == 1 and failed.exists():
        said = failed.read_text()
        assert said.startswith(BadFile.__name__) and "overwrite=True" in said, said
        failed.unlink()
        return
    assert process.exitcode == 0, process.exitcode
