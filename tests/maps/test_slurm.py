"""`map --slurm`: the script is bash that SLURM takes, it ends as the map ends, and the map it makes has the
bytes of a single process.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import slurm_stand_in
import world
from distributed import Client
from processes import PATIENCE, group_exists, until
from slurm_stand_in import fake_srun, job_environment, private_slurm, stub

import labelscape
from labelscape.checkpoint import save
from labelscape.errors import BadInput, BadOption
from labelscape.maps import slurm
from labelscape.maps.request import MapRequest
from labelscape.maps.run import map_scene
from labelscape.maps.slurm import map_script
from labelscape.scenes import scene_list
from labelscape.workers import at_work, cluster


@pytest.fixture
def model(tmp_path):
    return save(world.ten_metre_fcn(), tmp_path / "model.safetensors")


@pytest.fixture
def shared(monkeypatch):
    """pytest's folder counts as one that all nodes see."""
    monkeypatch.setattr(slurm, "NODES_OWN", ("/dev/shm",))


@pytest.fixture
def asked(run_cli, monkeypatch, capsys):
    """What `labelscape map ...` prints: exit code, script, messages."""

    def ask(*words):
        words = ["map", *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["labelscape", *words])
        return run_cli(*words)

    return ask


# ------------------------------------------------------------------------------------- what the script asks


def test_the_script_repeats_the_command_and_asks_for_what_it_needs(model, tmp_path, shared, asked):
    scene = world.make(tmp_path, 96, 128, name="a scene").scene
    out = tmp_path / "my maps"
    code, script, said = asked(
        model, scene, "--out", out, "--slurm", "2x8", "--hours=3", "--sieve", "0.5", "--grain", "block"
    )
    assert code == 0
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-e", "SC1091", "-"], input=script, text=True, check=True)
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --time=3:00:00",
        f'#SBATCH --output="{out}/slurm-%j.log"',
    ):
        assert line in script.splitlines()
    # SLURM reads directives up to the first command.
    assert script.rindex("#SBATCH") < re.search("^[^#]", script, re.M).start()
    (line,) = [line for line in script.splitlines() if line.startswith("labelscape map ")]
    words = shlex.split(line.removesuffix(" &"))
    assert words[2:6] == ["--cluster", "$own/scheduler.json", "--workers", "16"]
    assert words[6:] == [
        *(str(model), str(scene), "--out", str(out), "--sieve", "0.5", "--grain", "block", "--device", "cpu")
    ]
    each = float(re.search(r"2 x 8 workers, each with about ([\d.]+) GiB", said)[1])
    # Of a node: its eight workers, and on the first one the command and the scheduler.
    memory = int(re.search(r"--mem=(\d+)G", script)[1])
    assert 9 * each < memory < 9 * each + 2.1
    assert "gpus" not in script
    assert not out.exists()


OTHER = {
    "name": "a map",
    "task": "road",
    "tile_size": 96,
    "overlap": 8,
    "blend": "hann",
    "tta": "flips",
    "scales": (0.75, 1.0),
    "average": "logits",
    "reject": 0.4,
    "sieve": 0.5,
    "polygons_as": "fgb",
    "min_area": 0.1,
    "simplify": 2.0,
    "nodata": -9999.0,
    "band_names": ("red", "nir"),
    "area": "area.gpkg",
    "asset": "visual",
    "device": "cuda",
    "precision": "bf16",
    "engine": "torch",
    "creation_options": ("BLOCKSIZE=256", "COMPRESS=LZW"),
}
"""A value that is not the default, of each setting that is no switch."""


def test_the_script_of_the_function_has_the_command_line_of_its_settings(
    model, tmp_path, shared, asked, monkeypatch
):
    """Every setting: one that the script lacks would map with its default, a night later."""
    scenes = [world.make(tmp_path, 96, 128, name=f"s{n}").scene for n in range(2)]
    switches = {
        n: not about.default for n, about in MapRequest.model_fields.items() if about.annotation is bool
    }
    wanted = OTHER | switches
    assert wanted.keys() == MapRequest.model_fields.keys() - {"checkpoint", "scene"}
    monkeypatch.setattr(slurm, "bytes_a_worker", lambda *_: 2**30)  # no scene has these bands
    real = scene_list.find_scenes
    for place in (slurm, scene_list):  # these are no STAC items
        monkeypatch.setattr(place, "find_scenes", lambda given, *, asset=None, **how: real(given, **how))
    how = {"grain": "block", "block_timeout": 60.0, "journal": "s3://bucket/job", "overwrite": True}
    size = {"nodes": 2, "workers": 8, "hours": 3, "each": True}
    two = [model, shutil.copy(model, tmp_path / "also.safetensors")]
    script = labelscape.slurm_map_script(two, scenes, tmp_path / "maps", **size, **how, **wanted)
    (line,) = [line for line in script.splitlines() if line.startswith("labelscape map ")]
    words = shlex.split(line.removesuffix(" &"))[6:]
    called = []
    monkeypatch.setattr("labelscape.cli.map._map", lambda *arguments: called.append(arguments))
    monkeypatch.setattr("labelscape.cli.map.check_files", lambda given: None)  # there is no area.gpkg
    assert asked(*words)[0] == 0
    ((models, sources, out, workers, _, settings),) = called
    assert (models, [s.source for s in sources], out) == (two, list(map(str, scenes)), tmp_path / "maps")
    assert settings.pop("overwrite") and (workers.grain, workers.block_timeout) == ("block", 60.0)
    assert workers.journal == "s3://bucket/job"
    assert MapRequest(**settings) == MapRequest(**wanted)
    # And what is left out is left at its default.
    plain = labelscape.slurm_map_script(model, str(tmp_path / "s*.tif"), tmp_path / "maps")
    assert f"2 {model} '{tmp_path}/s*.tif' --out {tmp_path}/maps --device cpu &" in plain.replace(
        '"$own/scheduler.json" --workers 1', "2"
    )
    with pytest.raises(BadOption, match="save it"):
        labelscape.slurm_map_script(world.ten_metre_fcn(), scenes, tmp_path / "maps")


def test_each_worker_gets_a_gpu_where_they_are_asked_for(model, tmp_path, shared, asked):
    scene = world.make(tmp_path, 96, 128).scene
    words = (model, scene, "--out", tmp_path / "maps", "--slurm=1x4")
    code, script, _ = asked(*words, "--device", "cuda")
    assert code == 0
    assert "#SBATCH --gpus-per-node=4\n" in script and "#SBATCH --ntasks-per-node=4\n" in script
    assert "--device cuda &\n" in script and script.count("--device") == 1
    code, _, said = asked(*words, "--device", "cuda:1")
    assert (code, "--device cuda instead of cuda:1" in said) == (2, True)


def test_a_task_of_a_job_takes_the_gpu_of_its_number(monkeypatch):
    import torch

    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    at_work._take_gpu("tcp://10.0.0.1:5")  # a cluster of the user's own: left alone
    at_work._take_gpu(5)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    at_work._take_gpu("tcp://10.0.0.1:5")
    at_work._take_gpu(2)  # a local worker inside of a job
    assert taken == [1, 3, 2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # SLURM shows each task its own alone
    at_work._take_gpu("tcp://10.0.0.1:5")
    assert taken == [1, 3, 2]


def test_what_cannot_run_is_said_before_it_is_queued(model, tmp_path, monkeypatch, asked):
    fits, other = (world.make(tmp_path, 96, 128, bands=n, name=f"b{n}").scene for n in (4, 2))
    words = (model, fits, "--out", "maps")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "NODES_OWN", (str(tmp_path),))
    code, _, said = asked(*words, "--slurm", "1x2")
    assert code == 2 and f"{model} lies in a folder of this machine alone" in said
    monkeypatch.setattr(slurm, "NODES_OWN", (str(tmp_path / "own"),))
    (tmp_path / "own").mkdir()
    (tmp_path / "link.tif").symlink_to(shutil.copy(fits, tmp_path / "own"))
    code, _, said = asked(model, fits, "link.tif", "--out", "maps", "--slurm", "1x2")
    assert code == 2 and "link.tif lies in a folder of this machine alone" in said
    for more, expected in (
        (("--slurm", "1x2", "--workers", "2"), "--slurm 1x2 starts workers of its own; leave --workers out."),
        (("--slurm", "1x2", "--cluster", "tcp://a:1"), "leave --cluster out"),
        (("--slurm", "1x2", "--profile"), "leave --profile out"),
        (("--slurm", "8"), "--slurm '8' must read NODESxWORKERS, such as 1x4."),
        (("--slurm", "0x8"), "must read NODESxWORKERS"),
        (("--slurm", "1x2", "--hours", "0"), "--hours 0 must be at least 1"),
        (("--hours", "2"), "--hours is the time limit of a SLURM job; add --slurm"),
    ):
        code, script, said = asked(*words, *more)
        assert (code, script) == (2, "") and expected in said
    code, script, said = asked(model, other, "--out", "maps", "--slurm", "1x2")
    assert (code, script) == (1, "") and "does not fit this model" in said
    # Of several scenes one that fails does not stop the others.
    assert asked(model, other, fits, "--out", "maps", "--slurm", "1x2")[0] == 0
    run = tmp_path / "x_run.json"
    run.write_text("{}")
    assert asked("--rerun", run, "--out", "maps", "--slurm", "1x2")[0] == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, said = asked(*words, "--slurm", "1x2")
    assert code == 2 and "pip install 'labelscape[cluster]'" in said


# --------------------------------------------------------------------------------- how the script ends


SERVES = """trap 'rm -f "$file"; exit' TERM; echo {} > "$file"; while :; do sleep 0.1; done"""
WORKS = """until [ ! -e "$file" ]; do sleep 0.1; done"""


@pytest.fixture
def started():
    """Starts a job's script as SLURM does on the first node; what a failed test leaves is killed."""
    groups = []

    def start(words, environment):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        groups.append(subprocess.Popen(words, env=environment, start_new_session=True, **pipes))
        return groups[-1]

    yield start
    for one in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


@pytest.fixture
def job(tmp_path, monkeypatch, started):
    """Starts the script with stand-ins for Dask, SLURM and Labelscape."""
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)  # nothing to activate: the stand-ins come first
    stubs, out = tmp_path / "bin", tmp_path / "my maps"
    fake_srun(stubs)

    def start(labelscape, scheduler=SERVES, worker=WORKS):
        # The scheduler's file is the last word of both.
        stub(stubs, "dask", f'file="${{!#}}"\nif [ $1 = scheduler ]; then {scheduler}\nelse {worker}; fi')
        stub(stubs, "labelscape", f'own=$(dirname "$3")\n{labelscape}')
        script = map_script("m.safetensors s.tif", out, nodes=1, workers=2, hours=1, ram=2**30)
        return started(["bash", "-c", script], job_environment(stubs))

    return start


def ended(process):
    """Exit code, output and messages of a job, of which no process is left."""
    out, said = process.communicate(timeout=PATIENCE)
    until(lambda: not group_exists(process.pid))
    return process.returncode, out, said


def left_in(out):
    return sorted(p.name for p in out.iterdir())


def test_a_job_ends_as_its_map_ends_and_leaves_no_process_and_no_key(job, tmp_path):
    before = tmp_path / "my maps" / ".slurm-7"
    before.mkdir(parents=True)  # of the job that was requeued
    (before / "scheduler.json").write_text("of a scheduler that is gone")
    shows = """echo "$*"; stat -c %a "$own"; ls "$own"; env | grep -c "CERT=$own/cert.pem"; exit 3"""
    code, out, said = ended(job(shows))
    words, mode, *files, certificates = out.splitlines()
    assert code == 3
    own = tmp_path / "my maps" / ".slurm-7"
    assert words == f"map --cluster {own}/scheduler.json --workers 2 m.safetensors s.tif"
    assert (mode, files, certificates) == ("700", ["cert.pem", "key.pem", "scheduler.json"], "3")
    assert said == ""
    assert left_in(tmp_path / "my maps") == ["slurm-7-workers.log"]
    assert ended(job("exit 0"))[0] == 0


@pytest.mark.parametrize(
    ("scheduler", "worker", "said"),
    [
        ("exit 1", WORKS, "The scheduler did not start."),
        (SERVES, "echo no module >&2; exit 1", "The scheduler or all workers ended before the map; "),
        (
            SERVES.replace("while :", "for n in {1..20}"),
            f"exec sleep {PATIENCE}",
            "The scheduler or all workers ended",
        ),
    ],
    ids=["no scheduler", "no worker", "scheduler lost"],
)
def test_a_job_whose_cluster_ends_does_not_wait_for_its_time_limit(job, tmp_path, scheduler, worker, said):
    code, _, err = ended(job(f"exec sleep {PATIENCE}", scheduler, worker))
    assert code == 1 and said in err
    log = tmp_path / "my maps" / "slurm-7-workers.log"
    assert (str(log) in err and "no module" in log.read_text()) == ("no module" in worker)
    assert not (tmp_path / "my maps" / ".slurm-7").exists()


def test_a_job_that_is_cancelled_ends_its_processes(job, tmp_path):
    process = job(
        f"""touch {tmp_path}/begun
        trap 'until [ -e {tmp_path}/seen ]; do sleep 0.1; done; echo stopped; exit 143' TERM
        while :; do sleep 0.1; done"""
    )
    until(lambda: "begun" in left_in(tmp_path))
    process.terminate()
    # At once: SLURM kills what does not end soon.
    until(lambda: ".slurm-7" not in left_in(tmp_path / "my maps"))
    assert process.poll() is None
    (tmp_path / "seen").touch()
    assert ended(process)[:2] == (143, "stopped\n")
    assert left_in(tmp_path / "my maps") == ["slurm-7-workers.log"]


# ------------------------------------------------------------------------------------------ it makes the map


MAPPED = ("--tile-size", "96", "--overlap", "16", "--no-report", "--no-polygons", "--grain", "block")
WIDE = {"tile_size": 96, "overlap": 16, "report": False, "polygons": False, "device": "cpu"}


@pytest.fixture
def written(asked, shared, model, tmp_path):
    """The script that the command line prints for a scene of some 700 tiles."""
    scene = world.make(tmp_path, 1500, 1600, nodata=0).scene
    code, script, _ = asked(model, scene, "--out", tmp_path / "maps", "--slurm", "2x1", *MAPPED)
    assert code == 0
    (tmp_path / "maps").mkdir()
    (tmp_path / "job.sh").write_text(script)
    return tmp_path / "job.sh"


def rasters_in(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tif", ".xml")}


def tiles_in(folder):
    journal = folder / "maps" / ".scene.unfinished"
    return {p.name: p.stat().st_mtime_ns for p in journal.glob("[!.]*.tif")}


def assert_is_the_map_of_one_process(folder):
    map_scene(folder / "model.safetensors", folder / "scene.tif", folder / "alone", **WIDE)
    assert rasters_in(folder / "maps") == rasters_in(folder / "alone")
    assert [name for name in left_in(folder / "maps") if name.startswith(".")] == []


@pytest.mark.long
def test_a_job_killed_in_the_middle_maps_the_rest_when_it_is_submitted_again(written, started, tmp_path):
    fake_srun(tmp_path / "bin")

    words, environment = ["bash", str(written)], job_environment(tmp_path / "bin")
    process = started(words, environment)
    file = tmp_path / "maps" / ".slurm-7" / "scheduler.json"
    until(lambda: file.exists() and file.stat().st_size)
    # Whoever finds the scheduler's port has no way in without the job's key.
    place = json.loads(file.read_text())["address"]
    with pytest.raises(BadInput, match="asks for a certificate"), cluster.connected(cluster=str(file)):
        pass
    with pytest.raises(OSError):
        Client(place.replace("tls://", "tcp://"), timeout=2)
    until(lambda: len(tiles_in(tmp_path)) > 5)
    os.killpg(process.pid, signal.SIGKILL)
    kept = tiles_in(tmp_path)
    assert len(kept) > 5
    process = started(words, environment)
    until(lambda: len(tiles_in(tmp_path)) > len(kept))
    assert kept.items() <= tiles_in(tmp_path).items()  # with their times
    code, _, said = ended(process)
    assert code == 0, said
    assert re.search(r"1 scene, 2 workers of 1 thread on cpu", said)
    assert_is_the_map_of_one_process(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(not slurm_stand_in.is_installed(), reason="needs root, munge, slurmctld and slurmd")
def test_a_real_slurm_runs_the_job_and_after_its_time_limit_the_rest(written, tmp_path):
    import psutil

    def workers_of(job):
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # another user's, or gone
                if "spawn_main" in " ".join(one.cmdline()) and one.environ().get("SLURM_JOB_ID") == job:
                    found.append(one)
        return found

    with private_slurm(tmp_path / "slurm") as environment:
        environment = {**job_environment(tmp_path / "none"), **environment}

        def asks(*words):
            return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

        def state_of(job):
            return re.search(r"JobState=(\w+)", asks("scontrol", "show", "job", job))[1]

        job = asks("sbatch", "--parsable", str(written)).strip()
        until(lambda: len(tiles_in(tmp_path)) > 5)
        hung = workers_of(job)
        assert len(hung) == 2
        for one in hung:
            one.send_signal(signal.SIGSTOP)
        kept = tiles_in(tmp_path)
        asks("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        until(lambda: state_of(job) not in ("RUNNING", "COMPLETING"))
        assert state_of(job) == "TIMEOUT"
        until(lambda: not workers_of(job))
        assert kept.items() <= tiles_in(tmp_path).items()
        again = asks("sbatch", "--parsable", str(written)).strip()
        until(lambda: state_of(again) not in ("PENDING", "RUNNING", "COMPLETING"))
        said = (tmp_path / "maps" / f"slurm-{again}.log").read_text()
        assert state_of(again) == "COMPLETED", said
    assert "1 scene, 2 workers of 1 thread on cpu" in said
    assert_is_the_map_of_one_process(tmp_path)
