"""Every verb with damaged files and odd options, drawn at random: done, or one sentence. Never a traceback, a
crash or a hang; no input is changed, and after a failure nothing half-written is left.

LABELSCAPE_FUZZ is the number of cases of each verb in the long suite (200), LABELSCAPE_SEED the seed. A case
runs in a process of its own, forked with everything imported, so that a crash of a library is seen.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import typing
import zlib
from multiprocessing import get_context
from urllib.parse import quote

import numpy as np
import pytest
import samples
import torch
import typer
import world
from affine import Affine
from caffe_weights import caffe_network, written
from processes import import_again, list_imports
from safetensors import SafetensorError, safe_open

from labelscape.checkpoint import save
from labelscape.cli import app, main

CASES = int(os.environ.get("LABELSCAPE_FUZZ", "200"))
SEED = int(os.environ.get("LABELSCAPE_SEED", "0"))
SECONDS = 600
MEMORY = 6 << 30
"""Address space of a case: a library that asks for all there is must end in a sentence."""

# ------------------------------------------------------------------------------------------------ what is run

LABELS = ("--labels", "labels.gpkg", "--class-column", "kind")
QUICK = ("--device", "cpu")
VERBS = {
    "info": [("info", "ANY")],
    "check": [("check", "m.safetensors", "scene.tif", "--out", "out")],
    "map": [
        ("map", "m.safetensors", "scene.tif", "--out", "out", "--tile-size", "256", *QUICK),
        ("map", "--rerun", "map/scene_run.json", "--out", "out"),
    ],
    "train": [
        ("train", "scene.tif", *LABELS, "--out", "out", "TINY", *QUICK),
        ("train", "scene.tif", "--labels", "labels.tif", "--out", "out", "TINY", *QUICK),
        (
            "train", "scene.tif", *LABELS, "--corrections", "review.gpkg", "--start", "run/fcn.safetensors",
            "--out", "out", "TINY", *QUICK,
        ),
    ],
    "tune": [
        (
            "tune", "scene.tif", *LABELS, "--out", "out", "TINY", "--trials", "2", "--over",
            "rate=1e-3:1e-2:log", *QUICK,
        ),
    ],
    "evaluate": [
        ("evaluate", "run/fcn.safetensors", "--out", "out", *QUICK),
        ("evaluate", "m.safetensors", "scene.tif", *LABELS, "--card", "--boundaries", *QUICK),
        ("evaluate", "map/scene_class.tif", "--labels", "labels.tif", "--counts", "out.json"),
        ("evaluate", "run/fcn_counts.json", "run/fcn_counts.json", "--counts", "out.json", "--out", "out"),
    ],
    "compare": [
        (
            "compare", "wide_class.tif", "wide_class2.tif", "--scenes", "wide.tif",
            "--labels", "wide_labels.tif", "--out", "out",
        ),
        ("compare", "run/fcn.safetensors", "m.safetensors", "--out", "out", *QUICK),
    ],
    "calibrate": [
        ("calibrate", "run/fcn.safetensors", *QUICK),
        ("calibrate", "run/fcn.safetensors", "--unfamiliar", *QUICK),
    ],
    "explain": [("explain", "m.safetensors", "scene.tif", "--out", "out", "--windows", "2", *QUICK)],
    "table": [
        (
            "table", "maggiori-2", "vaihingen", "--dataset", "vaihingen", "--rows", "4", "--dry-run",
            "-o", "batch=1", "-o", "crop=16", "-o", "options.widths=[2, 2, 2, 2]", *QUICK,
        ),
        ("table", "mswbn-1"),
        (
            "table", "maggiori-2", "vaihingen", "--dataset", "vaihingen", "--rows", "4", "--budget", "1e-9",
            "--out", "out", "-o", "batch=2", "-o", "crop=16", "-o", "options.widths=[2, 2, 2, 2]", *QUICK,
        ),
    ],
    "bench": [
        (
            "bench", "--networks", "fcn", "--quick", "--rounds", "1", "--side", "64", "--engines", "torch",
            *QUICK,
        ),
    ],
    "export": [
        ("export", "m.safetensors", "--size", "32", "--out", "out.onnx"),
        ("export", "run/fcn.safetensors", "--dynamic", "--out", "out.onnx"),
    ],
    "import-caffe": [
        (
            "import-caffe", "net.caffemodel", "--out", "out.safetensors", "--bands", "red,green,blue",
            "--classes", "a,b", "--pixel-size", "0.3",
        ),
    ],
    "serve": [
        ("serve", "map", "--port", "0"),
        ("serve", "map/scene_class.tif", "other.tif", "--scene", "scene.tif", "--port", "0"),
        ("serve", "map", "--judge", "review.gpkg", "--edit", "--port", "0"),
        ("serve", "run", "--port", "0"),
    ],
    "mosaic": [
        ("mosaic", "map/scene_class.tif", "other.tif", "--method", "last", "--out", "out.tif"),
        (
            "mosaic", "map/scene_class.tif", "east_class.tif", "--out", "out.tif", "--method", "first",
            "--crs", "EPSG:3035", "--pixel-size", "12",
        ),
        ("mosaic", "map/scene_class.tif", "map2/scene_class.tif", "--out", "out.tif"),
    ],
    "sieve": [("sieve", "map/scene_class.tif", "out.tif", "--min-area", "0.5")],
    "style": [("style", "map/scene_class.tif", "map/scene_confidence.tif", "--out", "out")],
    "polygonize": [
        ("polygonize", "map/scene_class.tif", "out.gpkg"),
        ("polygonize", "map/scene_class.tif", "out.geojson", "--min-area", "0.5"),
    ],
    "review": [("review", "map/scene_class.tif", "out.gpkg")],
    "sample": [
        ("sample", "map/scene_class.tif", "out.gpkg", "--size", "40", "--floor", "5", "--second"),
        ("sample", "map/scene_class.tif", "out.gpkg", "--strata", "other.tif", "--floor", "5"),
        ("sample", "map/scene_class.tif", "out.gpkg", "--confidence-bands", "40,60", "--floor", "5"),
        ("sample", "map/scene_class.tif", "out.gpkg", "--block", "16", "--per-block", "3", "--floor", "5"),
    ],
    "assess": [
        ("assess", "map/scene_class.tif", "points.gpkg", "--out", "out"),
        ("assess", "map/scene_class.tif", "points.gpkg", "--second", "points_second.gpkg"),
        ("assess", "other.tif", "points.gpkg", "--other-map", "--out", "out"),
    ],
    "data check": [
        ("data", "check", "scene.tif", *LABELS),
        ("data", "check", "scene.tif", "--labels", "labels.tif"),
        ("data", "check", "scene.tif", "--labels", "labels.geojson", "--class-column", "kind"),
    ],
}  # fmt: skip
HELD_OUT = ("--val", "0.2", "--holdout", "0.5")
"""So many that models can be compared: on five blocks at least."""
TINY = (
    "--network", "fcn", "-o", "options.widths=[4, 4, 4, 4]", "--steps", "2", "--batch", "2", "--crop", "32",
    "--block", "32", "-o", "measure_tile_sizes=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with an input of every kind, all of them whole."""
    folder = tmp_path_factory.mktemp("files")

    def prepare():
        w = world.make(folder, nodata=0)
        world.label_raster(w, folder / "labels.tif")
        for suffix in (".gpkg", ".geojson"):
            world.label_polygons(w, folder / f"labels{suffix}")
        save(world.tiny_checkpoint(scaling=(4500.0, 2000.0)), folder / "m.safetensors")
        samples.class_map(folder / "other.tif", world.paint(96, 128, seed=4))
        for argv in (
            ("train", "scene.tif", *LABELS, "--out", "run", *TINY, *QUICK, *HELD_OUT),
            ("map", "m.safetensors", "scene.tif", "--out", "map", "--tile-size", "256", *QUICK),
            ("review", "map/scene_class.tif", "review.gpkg", "--below", "100"),
            ("sample", "map/scene_class.tif", "points.gpkg", "--size", "40", "--floor", "5", "--second"),
        ):
            with contextlib.suppress(SystemExit):
                main(list(argv))
        for name in ("points.gpkg", "points_second.gpkg"):
            samples.answer(folder / name, w.classes)
        samples.edit(folder / "review.gpkg", "UPDATE review SET class_right = 'field' WHERE rank < 4")
        shutil.copytree(folder / "map", folder / "map2")
        # A map that overlaps the first, and one of as many blocks as models are compared on.
        samples.class_map(
            folder / "east_class.tif",
            world.paint(96, 128, seed=5),
            transform=world.NORTH_UP @ Affine.translation(100, 0),
        )
        wide = world.make(folder, 16, 1600, name="wide")
        world.label_raster(wide, folder / "wide_labels.tif")
        for number, name in enumerate(("wide_class", "wide_class2")):
            samples.class_map(folder / f"{name}.tif", np.roll(wide.classes, number + 1, 1))
        world.vaihingen(folder / "vaihingen", (1, 3, 11))
        written(caffe_network("fcn", bands=3, classes=2, downsample=1), folder)

    code, said = forked(prepare, folder)
    assert code == 0 and (folder / "points_second.gpkg").exists(), said
    return folder


def filled(words):
    """Words of a command with their short forms written out."""
    short = {"TINY": TINY, "ANY": ("scene.tif",)}
    return [one for word in words for one in short.get(word, (word,))]


def forked(function, folder, seconds=3000, imports=None):
    """(exit code or minus the signal, what was said) of a function, run in `folder` in its own process, which
    lists what it imported in `imports`.
    """
    log = folder.parent / f"{folder.name}.log"

    def run():
        os.setpgid(0, 0)
        os.chdir(folder)
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # Those of this process are pytest's.
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        torch.set_num_threads(1)
        # Threads that GDAL started for earlier tests are not forked: it would wait for them for ever.
        os.environ["GDAL_NUM_THREADS"] = "1"
        try:
            function()
        finally:
            if imports:
                list_imports(imports)

    process = get_context("fork").Process(target=run)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None, log.read_text("utf-8", "replace")
    return process.exitcode, log.read_text("utf-8", "replace")


# ------------------------------------------------------------------------------------------------ what is odd


def cut(data, rng):
    return data[: int(rng.integers(0, len(data) + 1))]


def flipped(data, rng):
    """Some bits the other way round, half of them in the first kilobyte."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 30)) if data else 0):
        place = int(rng.integers(0, min(len(data), 1024) if rng.random() < 0.5 else len(data)))
        data[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def overwritten(data, rng):
    """A stretch of other bytes, as a failing disk leaves it."""
    start, length = int(rng.integers(0, len(data) + 1)), int(rng.integers(1, 5000))
    return (data[:start] + rng.bytes(length) + data[start + length :])[: len(data)]


def reworded(data, rng):
    """A number or word of a text (JSON, CSV) becomes another."""
    found = list(re.finditer(rb'-?\d+(\.\d+)?|"[^"]{0,40}"|true|false|null', data))
    if not found:
        return flipped(data, rng)
    others = (b"-1", b"0", b"1e400", b"NaN", b"null", b"[]", b"{}", b'""', b'"\\u0000"', b"9" * 30)
    one = found[int(rng.integers(len(found)))]
    return data[: one.start()] + others[int(rng.integers(len(others)))] + data[one.end() :]


DAMAGES = (cut, flipped, overwritten, reworded)

WHOLE = ("-1", "0", "1", "3", "99999999999999999999", "1.5", "nan", "", "two")
REAL = ("-1", "0", "0.5", "1", "1e308", "-inf", "nan", "1e-320", "", "half")
TEXT = (
    "", " ", "scene.tif", "labels.gpkg", "labels.tif", "m.safetensors", "points.gpkg", "map", "no/such",
    "a=b", "=", ",", "a,b", "1,2", "water", "water=0", "water=0,field=1", "\u00e4\u00f6 \U0001f600",
    "x" * 5000, "\x07\x1b[31m", "/dev/null", "../../..", "nan", "*", "[", "EPSG:4326", "EPSG:0", "kind",
)  # fmt: skip
LEFT_ALONE = {
    # Amounts of work, other machines, and what ends the process by itself.
    "steps", "base_steps", "map_steps", "batch", "crop", "tile_size", "replicates", "bootstrap", "tune",
    "curve", "curve_seeds", "seeds", "workers", "cluster", "device", "engine", "engines", "allow_remote",
    "help", "version", "out", "times", "budget", "rows", "networks", "quick", "rounds", "dry_run", "browse",
    "trials", "train_best",
}  # fmt: skip


def option_of(verb, rng):
    """An option of this verb with an odd value for its type."""
    command = typer.main.get_command(app)
    for word in verb.split():
        command = command.commands[word]
    # By the function, not by click: what typer makes of types is another in each of its versions.
    types = typing.get_type_hints(command.callback)
    chosen = [p for p in command.params if p.opts[0][0] == "-" and p.name not in LEFT_ALONE]
    one = chosen[int(rng.integers(len(chosen)))]
    kind = str(types[one.name])
    if "bool" in kind:
        return [one.opts[0]]
    values = WHOLE if "int" in kind else REAL if "float" in kind else TEXT
    return [one.opts[-1], values[int(rng.integers(len(values)))]]


def drawn(verb, folder, rng):
    """Words of a command; one of its files is damaged, or an odd option is added, or both."""
    words = list(VERBS[verb][int(rng.integers(len(VERBS[verb])))])
    inputs = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [path for path in inputs if str(path.relative_to(folder)) in words]
    if "ANY" in words:
        named = [inputs[int(rng.integers(len(inputs)))]]
        words[words.index("ANY")] = str(named[0].relative_to(folder))
    words = filled(words)
    how = rng.integers(3)
    done = []
    if how != 1:
        # What lies beside the files that are named is read too: side files, a map's confidence.
        among = named if named and rng.random() < 0.7 else inputs
        victim = among[int(rng.integers(len(among)))]
        text = victim.suffix in (".json", ".geojson", ".csv", ".xml")
        damage = reworded if text and rng.random() < 0.7 else DAMAGES[int(rng.integers(len(DAMAGES)))]
        victim.write_bytes(damage(victim.read_bytes(), rng))
        done.append(f"{damage.__name__} {victim.relative_to(folder)}")
    if how != 0:
        words += [word for _ in range(int(rng.integers(1, 3))) for word in option_of(verb, rng)]
    return words, done


# ---------------------------------------------------------------------------------------------- what is right

SENTENCE = re.compile(r"[.:?)\]'\"]$|: labelscape [^:]+$|^}$|^  - ")
"""The end of a sentence, a command that helps, of JSON, or of a list of names."""
KEPT = re.compile(r"(^|\/)tune\.(journal|json)$|\.unfinished(/|$)|\.state\.safetensors$|\.csv$|(^|/)events\.")
"""Of a run that failed half-way: what the same command continues from."""
TRAINED = re.compile(r"\.safetensors$|_times\.json$")
"""What a training leaves where only the score afterwards failed: hours of work, which stay."""


def started(words, rng):
    """Run a command. A page is served to a client in this process, which asks odd things."""
    if words[0] == "serve":
        import uvicorn

        uvicorn.Server.run = lambda server, sockets: visited(server.config.app, rng)
    main(words)


def visited(app, rng):
    """Ask a page for its addresses, with odd numbers and bodies. Every answer is one that a page can show."""
    from fastapi.testclient import TestClient

    page = TestClient(app, base_url="http://127.0.0.1:8765", raise_server_exceptions=False)
    home = {"origin": "http://127.0.0.1:8765"}
    for _ in range(ASKED):
        path = ADDRESSES[int(rng.integers(len(ADDRESSES)))]
        path = re.sub("N", lambda _: quote(ODD[int(rng.integers(len(ODD)))], safe=""), path)
        if rng.random() < 0.3:
            body = reworded(json.dumps(BODIES[int(rng.integers(len(BODIES)))]).encode(), rng)
            answer = page.post(path, content=body, headers=home)
        else:
            answer = page.get(path)
        if "json" in answer.headers.get("content-type", ""):
            answer.json()
        # 500 is for a file that is damaged, and says so.
        right = answer.status_code < 500 or (answer.status_code == 500 and answer.json()["error"])
        assert right and "Traceback" not in answer.text, f"{path}: {answer.status_code} {answer.text[:500]}"


ASKED = 40
"""Requests of each page."""
ODD = (
    "0", "0", "0", "1", "2", "-1", "99999999999999999999", "9" * 5000, "1.5", "nan", "", "a", "0,1,2",
    "0,0,0", "0,9,1", "1e400,0;1,2;0,9", "0,100;0,100;0,100", "5,5", "class", "scene", "confidence",
    "proba", "2-class", "differs", "../..", "%00", "\u00e4", "#ff0000", "1:#ff0000", "0:255-0-0",
)  # fmt: skip
ADDRESSES = (
    "/", "/N", "/api/map", "/api/run", "/api/places", "/api/places/N", "/api/corrections",
    "/api/corrections/N", "/api/point?row=N&column=N", "/api/stretch?bands=N",
    "/api/stretch?bands=0,1,2&top=N&left=N&height=N&width=N",
    "/tiles/class/N/N/N.png?hide=N&colors=N", "/tiles/scene/0/0/0.png?bands=0,1,2&stretch=N",
    "/tiles/confidence/N/N/N.png?bands=N", "/tiles/N/0/0/0.png", "/tiles/class/0/0/0.png",
)  # fmt: skip
BODIES = (
    {"class": "water", "ring": [[1, 1], [40, 1], [40, 40], [1, 1]]},
    {"class": "forest", "before": "water"},
    {"class": None, "before": "forest"},
    {"new": {"class": "water"}, "before": {"class": None}},
    {"new": {"word": "unclear"}, "before": {"word": None}},
)


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def is_whole(path):
    if path.suffix == ".json":
        return bool(json.loads(path.read_text()))
    try:
        with safe_open(path, framework="np") as file:
            return "labelscape" in file.metadata()
    except SafetensorError:
        return False


def case(verb, files, folder, number):
    rng = np.random.default_rng([SEED, zlib.crc32(verb.encode()), number])
    shutil.copytree(files, folder)
    words, done = drawn(verb, folder, rng)
    before = hashes(folder)
    code, said = forked(lambda: started(words, rng), folder, SECONDS)
    after = hashes(folder)
    typed = " ".join(repr(word if len(word) < 100 else f"{word[:9]}...") for word in words)
    told = f"case {number} (seed {SEED}): labelscape {typed}\n{done}\nexit {code}\n{said[-3000:]}"
    assert code is not None, f"hangs: {told}"
    assert code in (0, 1, 2), f"crashes: {told}"
    assert not re.search(r"Traceback|<class '|object at 0x", said), told
    new = {name for name in after if name not in before and not KEPT.search(name)}
    if verb in ("train", "table", "tune"):
        new -= {name for name in new if TRAINED.search(name) and is_whole(folder / name)}
    # The checkpoint that `calibrate` writes to is the one it read.
    mine = {words[1]} if verb == "calibrate" and code == 0 else set()
    if "--edit" in words:
        mine |= {
            name for name in before if name.endswith(("review.gpkg", "points.gpkg", "_corrections.gpkg"))
        }
    if "--overwrite" in words or verb == "calibrate":
        mine |= {name for name in before if name in words}
    changed = {name for name in before if after.get(name) != before[name]} - mine
    assert not changed, f"changed {changed}: {told}"
    assert not [name for name in new if "/.labelscape-" in f"/{name}"], f"{new}: {told}"
    if code:
        assert said.strip(), f"says nothing: {told}"
        assert verb == "check" or not new, f"half-written {new}: {told}"
        lines = [line for line in said.strip().splitlines() if line.strip()]
        assert len(said.strip()) > 12 and (code == 2 or SENTENCE.search(lines[-1])), told
    shutil.rmtree(folder)
    return code


@pytest.mark.parametrize("verb", ["info", "evaluate", "sieve", "review", "sample", "assess"])
def test_odd_inputs_end_in_a_sentence(verb, files, tmp_path):
    case(verb, files, tmp_path / "0", 0)


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_many_odd_inputs_end_in_a_sentence(verb, files, tmp_path):
    ends, wrong = {}, []
    for number, words in enumerate(VERBS[verb]):
        # Whole files first: where these are refused, no damage would ever be read.
        folder, whole = tmp_path / f"whole{number}", filled(words)
        shutil.copytree(files, folder)
        begin = functools.partial(started, whole, np.random.default_rng(number))
        code, said = forked(begin, folder, imports=tmp_path / "imports")
        assert code == 0, f"labelscape {words}: {code}\n{said}"
        import_again(tmp_path / "imports")
    for number in range(10, 10 + CASES):
        try:
            code = case(verb, files, tmp_path / str(number), number)
            ends[code] = ends.get(code, 0) + 1
        except AssertionError as error:
            wrong.append(str(error))
            # At once: the rest may take hours.
            print(f"WRONG {verb} {error}", flush=True)
    print(f"{verb}: {CASES} cases, exit codes {ends}, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(wrong[:20])
