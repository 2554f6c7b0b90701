"""The plug-in for QGIS: it calls the command line with progress and cancel. Its last test runs in a real QGIS
and is skipped where there is none.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import world
from test_opens_in_qgis import ENVIRONMENT, python_of_qgis

from labelscape.errors import BadFile
from labelscape.export.push import push
from labelscape.qgis_install import NAME, SOURCE, install, plugins_folder
from labelscape.qgis_plugin import command

TALK = """
import sys, time
print("map scene: 3 of 12 tiles 4 min left", file=sys.stderr, flush=True)
print("a line of results: 7 of nothing")
print("map scene: 12 tiles in 3.1 s", file=sys.stderr)
"""


def ran(code, **more):
    told, shares = [], []
    settings = {"progress": shares.append, "say": told.append, "cancelled": lambda: False, **more}
    command.run([sys.executable, "-c", code], **settings)
    return told, shares


def test_messages_are_shown_and_their_counts_are_progress():
    told, shares = ran(TALK)
    assert "map scene: 3 of 12 tiles 4 min left" in told and len(told) == 3
    assert shares == [25.0]


def test_a_command_that_fails_is_told_by_its_own_last_words():
    code = "import sys; print('labelscape: the scene has no band nir.', file=sys.stderr); sys.exit(1)"
    with pytest.raises(command.Failed, match=r"^labelscape: the scene has no band nir\.$"):
        ran(code)


def test_cancelling_ends_the_process(tmp_path):
    told = []
    code = f"import os, time; print(os.getpid(), flush=True); time.sleep(600); open({str(tmp_path / 'a')!r})"
    with pytest.raises(command.Cancelled):
        ran(code, say=told.append, cancelled=lambda: bool(told))
    with pytest.raises(ProcessLookupError):
        os.kill(int(told[0]), 0)


def test_qgis_own_python_and_gdal_stay_behind(monkeypatch):
    names = ("PYTHONPATH", "PYTHONHOME", "GDAL_DATA", "PROJ_LIB")
    for name in names:
        monkeypatch.setenv(name, "/qgis")
    code = f"import os; print([k for k in {names} if k in os.environ])"
    assert ran(code)[0] == ["[]"]


def test_the_words_of_the_command():
    words = command.arguments("hf://owner/name", "a b.tif", "out", "flips", True)
    alone = ["--no-polygons", "--no-report"]
    assert words == ["map", "hf://owner/name", "a b.tif", "--out", "out", *alone, "--tta", "flips", "--force"]
    assert command.arguments("m", "s", "o") == ["map", "m", "s", "--out", "o", *alone]


def test_an_installed_plug_in_knows_its_installation(tmp_path, monkeypatch):
    folder = install(tmp_path)
    assert folder == tmp_path / NAME
    assert {"__init__.py", "algorithm.py", "provider.py", "command.py", "metadata.txt"} <= {
        file.name for file in folder.iterdir()
    }
    assert json.loads((folder / command.PROGRAM).read_text()) == [sys.executable, "-m", "labelscape"]
    monkeypatch.setattr(command, "__file__", str(folder / "command.py"))
    assert command.program() == [sys.executable, "-m", "labelscape"]
    assert command.program("/opt/labelscape") == ["/opt/labelscape"]
    with pytest.raises(BadFile, match="pass `overwrite=True` to replace the plug-in"):
        install(tmp_path)
    install(tmp_path, overwrite=True)
    monkeypatch.setattr(command, "__file__", str(tmp_path / "command.py"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(command.Failed, match="pip install labelscape"):
        command.program()


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_folder_of_plug_ins_is_that_of_qgis_default_profile(system, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("APPDATA", "/roaming")
    found = plugins_folder(system).as_posix()
    assert found.endswith("/QGIS/QGIS3/profiles/default/python/plugins")
    assert found.startswith({"linux": "/data", "win32": "/roaming"}.get(system, str(Path.home().as_posix())))


def test_the_class_map_comes_with_its_names(tmp_path):
    for name in (
        "scene_class.tif",
        "scene_class.tif.aux.xml",
        "scene_confidence.tif",
        "scene_road_class.tif",
    ):
        (tmp_path / name).write_text(name)
    found = command.class_map(str(tmp_path))
    assert os.path.basename(found) == "scene_class.tif"
    command.moved(found, str(tmp_path / "out.tif"))
    assert (tmp_path / "out.tif").read_text() == "scene_class.tif"
    assert (tmp_path / "out.tif.aux.xml").read_text() == "scene_class.tif.aux.xml"
    with pytest.raises(command.Failed, match="wrote no class map"):
        command.class_map(str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["out.tif", "OUT.TIFF", "a.b/c d.tif"])
def test_a_class_map_has_the_name_of_a_geotiff(name):
    command.check_target(f"/maps/{name}")
    with pytest.raises(command.Failed, match=r"png is no name .* a GeoTIFF: end it with \.tif"):
        command.check_target(f"/maps/{name}.png")


def test_metadata_are_those_of_a_plug_in_with_algorithms():
    text = (SOURCE / "metadata.txt").read_text()
    fields = dict(line.split("=", 1) for line in text.splitlines()[1:])
    assert text.startswith("[general]\n") and fields["hasProcessingProvider"] == "yes"
    assert fields["qgisMinimumVersion"] == "3.22"


@pytest.mark.long
def test_cancel_in_qgis_ends_the_command_and_leaves_nothing(tmp_path):
    install(tmp_path / "plugins")
    scene = world.make(tmp_path, 16, 16, bands=3).scene
    program = tmp_path / "never"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys, time\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "print('map scene: 3 of 12 tiles', flush=True)\ntime.sleep(600)\n"
    )
    program.chmod(0o755)
    (tmp_path / "maps").mkdir()
    words = [tmp_path / "plugins", scene, program, tmp_path / "maps" / "out.tif"]
    done = subprocess.run(
        [python_of_qgis(), str(Path(__file__).with_name("cancel_in_qgis.py")), *map(str, words)],
        env=ENVIRONMENT | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "FOUND" in done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("FOUND")[2])
    assert found["asked"][:3] == ["INPUT", "MODEL", "TTA"] and found["asked"][-1] == "OUTPUT"
    assert found["shares"] == [25.0] and found["lines"] == ["map scene: 3 of 12 tiles"]
    assert found["results"] == {}
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list((tmp_path / "maps").iterdir()) == []


@pytest.mark.long
def test_a_map_is_made_in_qgis_itself(tmp_path):
    # Debian's wrapper adds options that the program refuses.
    program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    if program is None:
        pytest.skip("needs QGIS (apt-get install qgis)")
    from labelscape.checkpoint import Checkpoint, save
    from labelscape.contract.contract import Contract
    from labelscape.nets.catalog import create_model
    from labelscape.scoring.engines import state_arrays

    options = {"widths": (4, 6, 8, 10)}
    net = create_model("fcn", in_channels=3, classes=3, **options)
    contract = Contract(("1", "2", "3"), "uint16", ((1000.0, 500.0),) * 3, pixel_size=10.0)
    model = Checkpoint("fcn", options, state_arrays(net), world.LEGEND, contract)
    save(model, tmp_path / "fcn.safetensors")
    scene = world.make(tmp_path, 64, 96, bands=3).scene
    install(tmp_path / "plugins")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GDAL", "PROJ"))}
    environment = kept | {
        "HOME": str(tmp_path),
        "QGIS_PLUGINPATH": str(tmp_path / "plugins"),
        "QT_QPA_PLATFORM": "offscreen",
    }

    def qgis(*words):
        done = subprocess.run(
            [program, *map(str, words)], env=environment, capture_output=True, text=True, timeout=500
        )
        return done.stdout + done.stderr

    assert NAME in qgis("plugins", "enable", NAME)
    assert "Map a raster with a model" in qgis("list")
    settings = [f"--INPUT={scene}", f"--MODEL={tmp_path / 'fcn.safetensors'}", "--FORCE=true"]
    told = qgis("run", "labelscape:map", *settings, f"--OUTPUT={tmp_path / 'out.tif'}")
    assert (tmp_path / "out.tif").exists(), told
    assert (tmp_path / "out.tif.aux.xml").exists() and "map scene: " in told.replace(scene.stem, "scene")
    # Files of the map that are not kept are not shown as if they were there.
    assert "_confidence.tif" not in told and "_polygons" not in told
    told = qgis("run", "labelscape:map", *settings, f"--OUTPUT={tmp_path / 'out.png'}")
    assert not (tmp_path / "out.png").exists() and "a GeoTIFF: end it with .tif" in told, told
    # A folder that `push` wrote, which no filter of file names may refuse.
    push(tmp_path / "fcn.safetensors", tmp_path / "fields")
    told = qgis(
        "run",
        "labelscape:map",
        settings[0],
        f"--MODEL={tmp_path / 'fields'}",
        settings[2],
        f"--OUTPUT={tmp_path / 'same.tif'}",
    )
    assert (tmp_path / "same.tif").read_bytes() == (tmp_path / "out.tif").read_bytes(), told
    # As QGIS loads it: the colours and names of the model's classes.
    opened = subprocess.run(
        [python_of_qgis(), str(Path(__file__).with_name("in_qgis.py")), str(tmp_path / "out.tif")],
        env=ENVIRONMENT | {"QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "FOUND" in opened.stdout, opened.stderr[-3000:]
    layer = json.loads(opened.stdout.partition("FOUND")[2])["out.tif"]
    assert layer["renderer"] == "paletted" and layer["crs"] == "EPSG:32633"
    paints = ["#{:02x}{:02x}{:02x}".format(*one.color) for one in world.LEGEND.classes]
    assert layer["classes"][:3] == [
        [one.value, one.name, paint] for one, paint in zip(world.LEGEND.classes, paints, strict=True)
    ]
    # A raster that does not fit is refused, and QGIS shows why.
    told = qgis(
        "run", "labelscape:map", *settings[:1], "--MODEL=/none.safetensors", f"--OUTPUT={tmp_path / 'no.tif'}"
    )
    assert "/none.safetensors does not exist" in told and not (tmp_path / "no.tif").exists()
