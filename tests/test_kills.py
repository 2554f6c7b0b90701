"""Random kills of map, polygonize, sieve, calibrate and train at any moment: what is left is whole, the same
command ends in the bytes of a run left alone, and nothing else remains in the folder.

LABELSCAPE_KILLS is the number of kills over all verbs (1,000), LABELSCAPE_SEED the seed of their moments.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import world
from processes import import_again, list_imports

from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile
from labelscape.evaluation.calibrate import calibrate
from labelscape.evaluation.familiar import measure_familiarity
from labelscape.maps.many import map_scenes
from labelscape.training.data import open_recipe_data
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train

KILLS = int(os.environ.get("LABELSCAPE_KILLS", "1000"))
SEED = int(os.environ.get("LABELSCAPE_SEED", "0"))
SHARES = {"map": 0.28, "polygonize": 0.18, "sieve": 0.18, "calibrate": 0.18, "train": 0.18}
IN_A_ROW = 4
"""Most kills of one run before it is left to end."""
TIMED = ("_run.json", "_stac.json", "_report.html", "_times.json", "job.html", "job.json", "job.gpkg")
"""Files that hold the time of the run."""
GROWING = (*TIMED, ".csv", ".state.safetensors", ".aux.xml")
"""Files that are whole at any moment, and not the same at all moments."""
EVENTS = ("open", "os.", "shutil.", "fcntl.", "tempfile.")
"""Python's audit events of work on files, by the start of their names."""


@dataclass(frozen=True)
class Work:
    """A verb as a function of its output folder, with the files that lie there before it (name -> bytes)."""

    run: object
    before: dict


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """Verb -> name of a variant -> Work."""
    folder = tmp_path_factory.mktemp("work")
    w = world.make(folder, 100, 130, nodata=0)
    labels = world.label_raster(w, folder / "labels.tif")
    second = world.make(folder, 60, 70, seed=1, name="second")
    speckle = np.random.default_rng(0).integers(0, 3, (2, 120, 90)).astype(np.uint8)
    classes, other = (
        world.write(folder / f"classes{n}.tif", s, nodata=255, tiled=True, blockxsize=64, blockysize=64)
        for n, s in enumerate(speckle)
    )
    model, model2, trained = folder / "m.safetensors", folder / "m2.safetensors", folder / "trained"
    recipe = {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "network": "skip",
        "options": {"widths": [2, 2, 2, 2]},
        **{"batch": 1, "crop": 32, "device": "cpu", "steps": 12, "save_every": 2, "base_steps": 4},
        "measure_tile_sizes": False,
    }
    plain = {"device": "cpu", "tile_size": 48, "overlap": 8, "force": True, "report": False}

    def mapped(*scenes, checkpoint=model, **options):
        def run(out):
            done = map_scenes(checkpoint, scenes, out, **plain | options)
            if not done.is_whole:
                raise BadFile(" ".join(record.cause for record in done.records))

        return run

    def refitted(change):
        def run(out):
            path = out / "skip.safetensors"
            checkpoint = load(path)
            with open_recipe_data(make_recipe(**recipe).data, 0) as dataset:
                save(change(checkpoint, dataset), path)

        return run

    def traced(name, source=classes, **options):
        return lambda out: polygonize(source, out / name, world.LEGEND, strip_rows=32, **options)

    def sieved(source=classes, **options):
        return lambda out: sieve(source, out / "s.tif", world.LEGEND, min_area=0.05, strip_rows=32, **options)

    def taught(**options):
        return lambda out: train(recipe | options.pop("recipe", {}), out, score=False, **options)

    def prepare(out):
        save(world.tiny_checkpoint(scaling=(4500.0, 2000.0)), model)
        save(world.tiny_checkpoint(scaling=(4500.0, 2000.0), seed=1), model2)
        train(recipe, trained, score=False)

    inside(prepare, folder)
    checkpoint = {"skip.safetensors": (trained / "skip.safetensors").read_bytes()}
    runs = {
        "map": {
            "planes": (mapped(w.scene, proba=True, sieve=1.0), {}),
            "report": (mapped(w.scene, report=True, entropy=True, reject=0.4, polygons=False), {}),
            "geojson": (mapped(w.scene, polygons_as="geojson", min_area=0.02), {}),
            "two scenes": (mapped(w.scene, second.scene), {}),
            "over another": (mapped(w.scene, overwrite=True, proba=True), mapped(w.scene, checkpoint=model2)),
        },
        "polygonize": {
            **{n: (traced(f"areas.{n}", min_area=0.02), {}) for n in ("gpkg", "geojson", "fgb", "parquet")},
            "sieved": (traced("areas.gpkg", sieve=0.05, simplify=15), {}),
            "over another": (traced("areas.gpkg", overwrite=True), traced("areas.gpkg", other)),
        },
        "sieve": {
            "new": (sieved(), {}),
            "over another": (sieved(overwrite=True), sieved(other)),
        },
        "calibrate": {
            "temperature": (refitted(_with_temperature), checkpoint),
            "features": (refitted(_with_features), checkpoint),
        },
        "train": {
            "new": (taught(), {}),
            "one network": (taught(recipe={"network": "fcn", "base_steps": 0}), {}),
            "over another": (taught(overwrite=True), taught(recipe={"seed": 1})),
        },
    }  # fmt: skip
    found = {}
    for verb, variants in runs.items():
        found[verb] = {}
        for name, (run, before) in variants.items():
            if callable(before):
                out = folder / f"before {verb} {name}"
                out.mkdir()
                inside(before, out)
                before = {path.name: path.read_bytes() for path in out.iterdir()}
            found[verb][name] = Work(run, before)
    return found


def _with_temperature(checkpoint, dataset):
    return calibrate(checkpoint, dataset, part="test", device="cpu").checkpoint


def _with_features(checkpoint, dataset):
    return replace(checkpoint, familiarity=measure_familiarity(checkpoint, dataset, device="cpu"))


def begun(verb, out, armed=lambda: None):
    """A process that works, in a group of its own, forked with everything imported. Nothing may work in this
    process itself: threads that torch starts here would be missing in those forked from it.
    """

    def run():
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        torch.set_num_threads(1)
        # Threads that GDAL started for earlier tests are not forked: it would wait for them for ever.
        os.environ["GDAL_NUM_THREADS"] = "1"
        try:
            armed()
            verb(out)
        except BaseException as error:
            (out.parent / f"{out.name}.failed").write_text(f"{type(error).__name__}: {error}")
            os._exit(1)
        list_imports(out.parent / f"{out.name}.modules")
        spent = resource.getrusage(resource.RUSAGE_SELF)
        (out.parent / f"{out.name}.cost").write_text(f"{spent.ru_utime + spent.ru_stime} {Counted.events}")
        os._exit(0)

    process = get_context("fork").Process(target=run)
    process.start()
    return process


def inside(verb, out):
    """Run to the end, and import here what was imported there: the next ones need not."""
    process = begun(verb, out, Counted().arm)
    process.join(3000)
    failed = out.parent / f"{out.name}.failed"
    assert process.exitcode == 0, failed.read_text() if failed.exists() else process.exitcode
    import_again(out.parent / f"{out.name}.modules")


class Counted:
    """A kill just before the file operation of this number; the number of operations so far."""

    events = 0

    def __init__(self, number=0):
        self.number = number

    def arm(self):
        Counted.events = 0
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if event.startswith(EVENTS) and not (event == "open" and arguments[1] == "r"):
            Counted.events += 1
            if Counted.events == self.number:
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Whole:
    """A run left alone: its files, and what it took."""

    files: dict
    wall: float
    cpu: float
    events: int

    def killed(self, verb, out, rng):
        """The exit code of a run that is killed at a random moment: of the clock, of its own computing (the
        same moments on a busy machine), or before one of its operations on files.
        """
        how, when = rng.choice(("wall", "cpu", "event")), rng.uniform(0, 1.05)
        # A little longer than the whole run takes: the last moments count as much as the others.
        if how == "event":
            process = begun(verb, out, Counted(1 + int(when * self.events)).arm)
            process.join(3000)
        elif how == "cpu":
            # The default action of this signal ends the process, as SIGKILL does.
            limit = max(when * self.cpu, 1e-4)
            process = begun(verb, out, lambda: signal.setitimer(signal.ITIMER_PROF, limit))
            process.join(3000)
        else:
            process = begun(verb, out)
            process.join(when * self.wall)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join(60)
        return process.exitcode, f"{how} {when:.4f}"


def contents(out):
    return {
        str(path.relative_to(out)): b"" if path.name.endswith(TIMED) else path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def fresh(out, work):
    out.mkdir()
    for name, data in work.before.items():
        (out / name).write_bytes(data)


def left_alone(work, out):
    fresh(out, work)
    inside(work.run, out)  # modules that only this one imports must not count as its time
    shutil.rmtree(out)
    fresh(out, work)
    start = time.monotonic()
    inside(work.run, out)
    wall = time.monotonic() - start
    cpu, events = (out.parent / f"{out.name}.cost").read_text().split()
    return Whole(contents(out), wall, float(cpu), int(events))


@pytest.mark.long
@pytest.mark.parametrize("name", SHARES)
def test_kills_at_random_moments_lose_nothing(name, works, tmp_path):
    rng = random.Random(f"{SEED} {name}")
    wholes = {
        variant: left_alone(work, tmp_path / f"w{n}") for n, (variant, work) in enumerate(works[name].items())
    }
    left, rounds, finished, wrong = max(1, round(KILLS * SHARES[name])), 0, 0, []
    while left > 0:
        rounds += 1
        out, variant = tmp_path / f"run{rounds}", rng.choice(list(wholes))
        work, whole = works[name][variant], wholes[variant]
        fresh(out, work)
        moments = []
        try:
            for _ in range(rng.randint(1, IN_A_ROW)):
                code, moment = whole.killed(work.run, out, rng)
                moments.append(moment)
                if code in (0, 1):
                    break
                left -= 1
                check_visible(out, work, whole)
            finished += code == 0
            if code != 0:
                ended(work.run, out)
            now = contents(out)
            assert list(now) == list(whole.files), "other files"
            assert not [file for file in now if now[file] != whole.files[file]], "other bytes"
            shutil.rmtree(out)
        except AssertionError as error:
            wrong.append(f"{variant} in {out}, killed at {moments}: {error}")
            print("WRONG", wrong[-1], flush=True)
    print(
        f"{name}: {KILLS * SHARES[name] - left:.0f} kills in {rounds} runs, {finished} ended before the kill"
    )
    assert not wrong, "\n\n".join(wrong)


def check_visible(out, work, whole):
    """What a user sees is whole files, in any state of the run: those before it, or its own."""
    for path in out.iterdir():
        if path.name[0] == ".":
            continue
        either = (whole.files.get(path.name), work.before.get(path.name))
        assert path.name.endswith(GROWING) or path.read_bytes() in either, f"{path.name} is neither"
        assert path.stat().st_size, f"{path.name} is empty"


def ended(verb, out: Path):
    """Run to the end. All files may have their names already, and are then not replaced unasked."""
    process = begun(verb, out)
    process.join(3000)
    failed = out.parent / f"{out.name}.failed"
    said = failed.read_text() if failed.exists() else ""
    failed.unlink(missing_ok=True)
    if process.exitcode == 1:
        assert said.startswith(BadFile.__name__) and "overwrite=True" in said, said
        return
    assert process.exitcode == 0, process.exitcode
