"""Files that arguments name: what is certainly wrong is refused before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

from labelscape.cli.given_files import check_files, check_models
from labelscape.errors import BadFile, BadOption


def safetensors(path, header=b'{"__metadata__":{}}', length=None):
    path.write_bytes((length or len(header)).to_bytes(8, "little") + header)
    return path


def test_what_may_be_a_model_passes(tmp_path):
    check_models([None, safetensors(tmp_path / "a.safetensors"), str(tmp_path), "hf://owner/name"])
    (tmp_path / "b.ONNX").write_bytes(b"anything: onnxruntime says what is wrong")
    check_models([tmp_path / "b.ONNX", "s3://bucket/prefix", "https://host/m.safetensors#sha256=0"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "scene.tif",
            b"II*\0 and more than nine bytes",
            "not a Labelscape checkpoint but a raster: a .safet",
        ),
        (
            "roads.gpkg",
            b"SQLite format 3\0 and more",
            "not a Labelscape checkpoint but a vector file: a .saf",
        ),
        ("a.safetensors", b"", "a.safetensors is empty"),
        ("a.onnx", b"", "a.onnx is empty"),
        ("b.safetensors", (2**40).to_bytes(8, "little") + b"{}", "not a Labelscape checkpoint: a .safetens"),
        ("c.safetensors", (2).to_bytes(8, "little") + b"[]", "not a Labelscape checkpoint: a .safetensors"),
    ],
)
def test_what_cannot_be_a_checkpoint_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile, match=said):
        check_models([tmp_path / name])


def test_the_longest_header_that_fits_passes(tmp_path):
    check_models([safetensors(tmp_path / "whole.safetensors", b"{}")])
    with pytest.raises(BadFile, match="not a Labelscape checkpoint"):
        check_models([safetensors(tmp_path / "cut.safetensors", b"{}", length=3)])


def test_only_plain_paths_are_looked_for(tmp_path):
    there = tmp_path / "there.tif"
    there.touch()
    special = ["s3://b/a.tif", "/vsizip/a.zip/a.tif", "NETCDF:a.nc:red", "no*.tif", "a.tif,b.tif", "i.json#x"]
    check_files([None, there, tmp_path, *special, "fields.gpkg|layername=crops"])
    with pytest.raises(BadFile, match=r"^gone.tif does not exist\.$"):
        check_files([there, "gone.tif"])
    with pytest.raises(BadFile, match="(?s)do not exist:.*- gone.tif.*- lost.gpkg"):
        check_files(["gone.tif", there, "lost.gpkg"])


def test_a_model_among_the_scenes_is_a_matter_of_order():
    with pytest.raises(BadOption, match="checkpoint comes first"):
        check_models(["scene.tif"], ["model.safetensors"])


COMMANDS = [
    "map {none} {scene} --out m",
    "map {scene} {scene} --out m",
    "check {none} {scene}",
    "evaluate {none}",
    "evaluate {scene} --labels {none}",
    "compare {none} {none}",
    "calibrate {scene}",
    "explain {none} {scene} --out e",
    "export {none}",
    "push {scene} there",
    "train {scene} --labels {none} --out r",
]


def test_no_verb_imports_torch_or_gdal_to_refuse_a_path(tmp_path):
    (tmp_path / "scene.tif").write_bytes(b"II*\0 and more than nine bytes")
    commands = [c.format(none="none.safetensors", scene="scene.tif").split() for c in COMMANDS]
    # One process for all: each start costs half a second.
    code = f"""
import json, sys
from labelscape.cli import main
found = []
for command in json.loads({json.dumps(json.dumps(commands))}):
    try:
        main(command)
    except SystemExit as ended:
        found.append((ended.code, sorted({{"torch", "rasterio", "numpy"}} & sys.modules.keys())))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[1, []]] * len(COMMANDS), done.stderr
