"""rio labelscape: the verbs beneath rasterio's own command line, found by its entry point."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
import rasterio
import world
from click.testing import CliRunner

from labelscape.cli import app
from labelscape.version import __version__

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def rio():
    """A group as rasterio's, with the plug-in that pyproject.toml declares."""
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["rasterio.rio_plugins"]
    assert list(declared) == ["labelscape"]

    @click.group()
    @click.option("--ground", default=None)
    @click.pass_context
    def group(ctx, ground):
        ctx.obj = {"env": rasterio.Env(LABELSCAPE_TEST=ground)}

    group.add_command(EntryPoint("labelscape", declared["labelscape"], "rasterio.rio_plugins").load())
    return lambda *words: CliRunner().invoke(group, [str(w) for w in words])


def test_one_line_among_rasterios(rio):
    listed = rio("--help").output
    assert sum("labelscape" in line for line in listed.splitlines()) == 1 and "Map land cover" in listed


def test_all_verbs_beneath_with_their_options(rio):
    result = rio("labelscape", "--help")
    assert result.exit_code == 0 and "Usage: rio labelscape" in result.stdout
    for command in app.registered_commands:
        assert command.name in result.stdout
    assert "--rerun" in rio("labelscape", "map", "--help").stdout
    assert rio("labelscape", "--version").stdout == f"labelscape {__version__}\n"


def test_errors_end_as_everywhere(rio, tmp_path):
    scene = world.make(tmp_path, 20, 20).scene
    result = rio("labelscape", "check", tmp_path / "gone.safetensors", scene)
    assert (
        result.exit_code == 1
        and "gone.safetensors does not exist" in result.stderr
        and "Traceback" not in result.output
    )
    assert rio("labelscape", "no-such-verb").exit_code == 2
    words = sys.argv
    assert (
        "labelscape train scene.tif --out run"
        in rio("labelscape", "train", "scene.tif", "--out", "run", "--slurm", "1x2").stdout
    )
    assert sys.argv is words


def test_what_is_said_to_rio_holds(rio, monkeypatch):
    """Its GDAL settings, such as --aws-no-sign-requests, are in force while a verb runs."""
    seen = []
    monkeypatch.setattr(
        "labelscape.cli.main",
        lambda words, name: seen.append((words, rasterio.env.getenv().get("LABELSCAPE_TEST"))),
    )
    assert rio("--ground", "7", "labelscape", "models", "-x").exit_code == 0
    assert seen == [(["models", "-x"], "7")]


def test_loading_it_loads_nothing_heavy():
    code = (
        "import sys, labelscape.cli.rio; assert not {'torch', 'rasterio', 'pydantic', 'numpy'} & "
        "set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
