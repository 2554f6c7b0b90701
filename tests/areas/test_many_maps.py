"""Many class maps sieved or polygonized in one command, on workers too: the files of a single process."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import world
from processes import held, until, wait_until_idle

from labelscape.areas.many import class_maps, polygonize_maps, sieve_maps
from labelscape.areas.polygonize import polygonize
from labelscape.areas.sieve import sieve
from labelscape.errors import BadFile, BadOption
from labelscape.scenes.vectors import read_features
from labelscape.workers.cluster import connected
from labelscape.workers.pace import Pace


@pytest.fixture(scope="module")
def client():
    with connected(2) as client:
        yield client


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """A folder of four class maps, and what `map` writes beside them."""
    folder = tmp_path_factory.mktemp("maps")
    for n in range(4):
        speckle = np.random.default_rng(n).integers(0, 3, (70 + 10 * n, 90)).astype(np.uint8)
        world.write(folder / f"s{n}_class.tif", speckle, nodata=255)
    world.write(folder / "s0_confidence.tif", speckle, nodata=255)
    return folder


def files_in(folder):
    """Beside what is finished lies a list of it."""
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.suffix != ".jsonl"}


def sieved_alone(maps, out):
    out.mkdir()
    for raster in sorted(maps.glob("*_class.tif")):
        sieve(raster, out / raster.name, min_area=0.05)
    return files_in(out)


def test_a_folder_on_workers_gives_the_files_of_a_single_process(client, maps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers have another working folder
    records = sieve_maps(maps, "sieved", min_area=0.05, cluster=client)
    assert [(r.state, r.raster, r.out) for r in records] == [
        ("done", str(maps / f"s{n}_class.tif"), f"sieved/s{n}_class.tif") for n in range(4)
    ]
    assert [r.pixels for r in records] == [(70 + 10 * n) * 90 for n in range(4)]
    assert files_in("sieved") == sieved_alone(maps, tmp_path / "alone")
    one = sieve(maps / "s2_class.tif", tmp_path / "again.tif", min_area=0.05)
    assert records[2].summary == one
    settings = {"sieve": 0.05, "simplify": 10.0}
    records = polygonize_maps([f"{maps}/*_class.tif"], "areas", polygons_as="fgb", cluster=client, **settings)
    for raster in sorted(maps.glob("*_class.tif")):
        polygonize(raster, tmp_path / "one" / f"{raster.stem}.fgb", **settings)
    assert files_in("areas") == files_in("one")
    assert sum(r.summary.written for r in records) > 10
    # No worker had to import torch for that.
    assert not any(client.run(lambda: "torch" in __import__("sys").modules).values())


def test_the_command_reports_a_bad_raster_and_finishes_the_rest(client, maps, tmp_path, run_cli):
    bad = tmp_path / "bad.tif"
    bad.write_bytes((maps / "s0_class.tif").read_bytes()[:700])
    floats = world.write(tmp_path / "floats.tif", np.full((8, 8), 0.5, np.float32))
    given = (bad, maps, floats)
    options = ("--min-area", "0.05", "--cluster", client.scheduler.address)
    code, out, err = run_cli("sieve", *given, "--out", tmp_path / "sieved", *options)
    lines = out.splitlines()
    assert code == 1 and lines[-1] == "6 rasters: 4 done, 2 failed"
    assert [line.split()[0] for line in lines[:-1]] == ["failed", *["done"] * 4, "failed"]
    assert lines[0].startswith(f"failed  {bad}: {bad} ") and lines[5].startswith(f"failed  {floats}: ")
    assert "6 rasters, 2 workers of 1 thread on cpu: each takes whole rasters" in err
    assert "failed 1" in err or "sieve 6 rasters: 6 rasters in" in err
    assert files_in(tmp_path / "sieved") == sieved_alone(maps, tmp_path / "alone")
    # By other settings: nothing is replaced unasked.
    code, out, err = run_cli("sieve", maps, "--out", tmp_path / "sieved", "--min-area", "0.06", "--json")
    assert code == 1 and "sieve 1 of 4: " in err
    assert all("exists" in one["cause"] and one["summary"] is None for one in json.loads(out))
    code, out, _ = run_cli("polygonize", maps / "s1_class.tif", "--out", tmp_path / "p", "--legend", bad)
    assert code == 1 and not (tmp_path / "p").exists()  # the checkpoint is wrong of all
    code, out, _ = run_cli("polygonize", f"{maps}/*_class.tif", "--out", tmp_path / "p", "--min-area", "0.02")
    assert code == 0 and "dropped, leaving gaps" in out and out.endswith("4 rasters: 4 done\n")
    assert sorted(files_in(tmp_path / "p")) == [f"s{n}_class.gpkg" for n in range(4)]


@pytest.mark.parametrize("verb", ["sieve", "polygonize"])
def test_a_second_start_makes_only_what_is_missing_or_has_changed(maps, tmp_path, monkeypatch, verb):
    given = tmp_path / "maps"
    shutil.copytree(maps, given)
    make, settings, end = {
        "sieve": (sieve_maps, {"min_area": 0.05}, "tif"),
        "polygonize": (polygonize_maps, {"sieve": 0.05}, "gpkg"),
    }[verb]
    first = make(given, tmp_path / "out", **settings)
    before = files_in(tmp_path / "out")
    again = make(given, tmp_path / "out", **settings)
    assert [record.state for record in again] == ["skipped"] * 4
    assert [(r.summary, r.pixels, r.out) for r in again] == [(r.summary, r.pixels, r.out) for r in first]
    (tmp_path / "out" / f"s1_class.{end}").unlink()
    (tmp_path / "out" / f"s2_class.{end}").write_bytes(b"cut")
    world.write(given / "s3_class.tif", np.zeros((60, 60), np.uint8), nodata=255)
    # As a run leaves it that is killed while it writes its line.
    with (tmp_path / "out" / f".{verb}.jsonl").open("a") as file:
        file.write('{"out": "s0_cl')
    states = [(r.state, "exists" in r.cause) for r in make(given, tmp_path / "out", **settings)]
    assert states == [("skipped", False), ("done", False), ("failed", True), ("failed", True)]
    states = [r.state for r in make(given, tmp_path / "out", **settings, overwrite=True)]
    assert states == ["done"] * 4
    assert [r.state for r in make(given, tmp_path / "out", **settings)] == ["skipped"] * 4
    after = files_in(tmp_path / "out")
    if verb == "sieve":  # a GeoPackage holds the time at which it was written
        assert {name.split(".")[0] for name in after if after[name] != before[name]} == {"s3_class"}
    other = {name: 2 * value for name, value in settings.items()}
    assert [r.state for r in make(given, tmp_path / "out", **other)] == ["failed"] * 4
    monkeypatch.setattr("labelscape.areas.many.build", lambda: "0.1.0 (code 0123456789)")
    assert [r.state for r in make(given, tmp_path / "out", **settings)] == ["failed"] * 4


def test_out_may_name_the_file_of_one_map(maps, tmp_path, run_cli):
    """As in GDAL's own commands; of several maps such a name is refused."""
    one, folder = maps / "s1_class.tif", tmp_path / "areas.d.gpkg"
    assert run_cli("polygonize", one, "--out", tmp_path / "new" / "s1.gpkg")[0] == 0
    assert run_cli("polygonize", one, tmp_path / "same.gpkg")[0] == 0
    layers = [read_features(tmp_path / name).columns["pixels"] for name in ("new/s1.gpkg", "same.gpkg")]
    assert len(layers[0]) > 100 and (layers[0] == layers[1]).all()
    assert run_cli("sieve", one, "--out", tmp_path / "s1.tif", "--min-area", "0.05")[0] == 0
    sieve(one, tmp_path / "again.tif", min_area=0.05)
    assert (tmp_path / "s1.tif").read_bytes() == (tmp_path / "again.tif").read_bytes()
    for verb, name, options in (("polygonize", "all.gpkg", ()), ("sieve", "all.tif", ("--min-area", "0.05"))):
        code, _, err = run_cli(verb, maps, "--out", tmp_path / name, *options)
        assert code == 2 and f"has the name of a file, {name}" in err and not (tmp_path / name).exists()
    # A folder that is there already is one, whatever it is called.
    folder.mkdir()
    assert run_cli("polygonize", one, "--out", folder)[0] == 0 and (folder / "s1_class.gpkg").is_file()


def test_what_is_wrong_of_all_maps_is_said_before_the_first(maps, tmp_path, run_cli):
    assert [one.name for one in class_maps(maps)] == [f"s{n}_class" for n in range(4)]
    (tmp_path / "empty").mkdir()
    for verb, arguments, said in (
        ("sieve", (maps, "--min-area", "1"), "found one argument"),
        ("sieve", (maps, maps, maps, "--min-area", "1"), "give a folder for the results: --out FOLDER"),
        ("sieve", (maps, "--out", "a.db", "--min-area", "0"), "a number above 0 was expected"),
        ("sieve", (maps, tmp_path / "a.tif", "--min-area", "1", "--workers", "2"), "for many class maps"),
        ("polygonize", (maps, "--out", tmp_path / "p", "--polygons-as", "shp"), "cut column names"),
        ("polygonize", (maps, "--out", tmp_path / "p", "--simplify", "-1"), "--simplify -1 must be"),
        ("polygonize", (maps, "--out", tmp_path / "p", "--workers", "0"), "--workers 0 must be"),
        ("polygonize", (maps, "--out", tmp_path / "p", "--workers", "2", "--block-timeout", "0"), "above 0"),
        ("polygonize", (maps, "--out", "postgresql://a@b/c", "--workers", "2"), "written to a folder"),
    ):
        code, _, err = run_cli(verb, *arguments)
        assert code == 2 and said in err, arguments
    with pytest.raises(BadFile, match="holds no rasters"):
        class_maps(tmp_path / "empty")
    with pytest.raises(BadFile, match="1 of 5 scenes are missing"):
        sieve_maps([maps, tmp_path / "none.tif"], tmp_path / "out", min_area=1.0)
    with pytest.raises(BadOption, match="No class map is given"):
        sieve_maps([], tmp_path / "out", min_area=1.0)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_is_killed_loses_nothing(maps, tmp_path, capfd):
    where = "labelscape.areas.many", "reading", tmp_path / "held"
    with connected(2) as client, ThreadPoolExecutor(1) as pool:
        with held(client, *where) as waiting:
            options = {"min_area": 0.05, "cluster": client}
            made = pool.submit(sieve_maps, maps, tmp_path / "sieved", **options)
            until(lambda: waiting() or made.done())
            os.kill(waiting()[0], signal.SIGKILL)
        assert [record.state for record in made.result()] == ["done"] * 4
    assert files_in(tmp_path / "sieved") == sieved_alone(maps, tmp_path / "alone")
    assert "was lost; its work is given to another one" in capfd.readouterr().err


def test_ctrl_c_cancels_what_was_not_begun_and_says_how_far_it_came(
    client, maps, tmp_path, monkeypatch, capfd
):
    asked = []

    def facts(pace):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(Pace, "facts", facts)
    with pytest.raises(KeyboardInterrupt):
        sieve_maps(maps, tmp_path / "sieved", min_area=0.05, cluster=client)
    assert "s: 1 of 4 rasters are finished; repeat the command for the others" in capfd.readouterr().err
    wait_until_idle(client)
    whole = sieved_alone(maps, tmp_path / "alone")
    left = files_in(tmp_path / "sieved")
    assert left and all(whole[name] == data for name, data in left.items())  # whole files, no rests
