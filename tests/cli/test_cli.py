import json

import numpy as np
import pytest
import rasterio
import world

FAST = ["--steps", 8, "--batch", 2, "--crop", 32, "--device", "cpu", "-o", "options.widths=[4,4,4,4]"]


@pytest.fixture
def w(tmp_path):
    return world.make(tmp_path, 96, 128, bands=4, nodata=0)


def test_from_polygons_to_a_map(w, tmp_path, run_cli):
    fields = world.label_polygons(w, tmp_path / "fields.gpkg")
    code, out, err = run_cli(
        "train",
        w.scene,
        "--labels",
        fields,
        "--class-column",
        "kind",
        "--out",
        tmp_path / "run",
        "--block",
        32,
        "--network",
        "skip",
        "--base-steps",
        4,
        "--forest",
        *FAST,
    )
    assert code == 0, err
    assert "random forest" in out
    assert "field: " in err
    model = tmp_path / "run" / "skip.safetensors"
    code, out, err = run_cli("evaluate", model, "--json")
    assert code == 0, err
    scored = json.loads(out)
    from labelscape.checkpoint import load

    assert scored["part"] == "test"
    assert scored["confusion"] == load(model).scores["skip"]["confusion"]
    code, out, err = run_cli("evaluate", model, w.scene, "--labels", fields, "--json")
    whole = json.loads(out)
    assert whole["part"] == "all"
    code, out, err = run_cli("map", model, w.scene, "--out", tmp_path / "map", "--json", "--no-report")
    assert code == 0, err
    files = json.loads(out)["files"]
    with rasterio.open(files["class"]) as file:
        mapped = file.read(1)
    # The very counts of evaluate, from the file on the disk.
    truth = np.array([2, 0, 1], np.uint8)[w.classes]
    truth[:32, :42] = 255
    counts = np.bincount(truth[truth != 255].astype(int) * 3 + mapped[truth != 255], minlength=9).reshape(
        3, 3
    )
    assert counts.tolist() == whole["confusion"]["counts"]


@pytest.mark.parametrize(
    ("network", "options"),
    [("ifbfnet", ["-o", "options.backbone=resnet10t"]), ("smp/Unet", ["-o", "options.encoder=resnet18"])],
)
def test_any_network_trains_and_maps(w, tmp_path, run_cli, network, options):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    code, out, err = run_cli(
        "train",
        w.scene,
        "--labels",
        labels,
        "--out",
        tmp_path / "run",
        "--block",
        32,
        "--network",
        network,
        "--steps",
        2,
        "--batch",
        2,
        "--crop",
        64,
        "--device",
        "cpu",
        *options,
    )
    assert code == 0, err
    model = tmp_path / "run" / f"{network.replace('/', '-').lower()}.safetensors"
    assert str(model) in out
    code, out, err = run_cli(
        "map", model, w.scene, "--out", tmp_path / "map", "--json", "--no-report", "--no-polygons"
    )
    assert code == 0, err
    assert sum(a["pixels"] for a in json.loads(out)["areas"]) == 96 * 128 - 32 * 42


def test_a_folder_of_pairs(tmp_path, run_cli):
    for side in ("images", "labels"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
    for i in range(4):
        classes = world.paint(40, 48, seed=i)
        world.write(
            tmp_path / "pairs" / "images" / f"{i}.png",
            world.spectra(classes, 3, "uint8"),
            crs=None,
            driver="PNG",
        )
        world.write(tmp_path / "pairs" / "labels" / f"{i}.png", classes, crs=None, driver="PNG")
    code, out, err = run_cli(
        "train",
        tmp_path / "pairs",
        "--classes",
        "water=0,field=1,forest=2",
        "--network",
        "fcn",
        "--out",
        tmp_path / "run",
        *FAST,
    )
    assert code == 0, err
    assert "forest" in out
    code, out, err = run_cli("evaluate", tmp_path / "run" / "fcn.safetensors", tmp_path / "pairs", "--json")
    assert code == 0, err
    assert len(json.loads(out)["per_scene"]) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "{scene}", "--out", "{tmp}/r", "--network", "mpl"], 2, "Did you mean 'mlp'"),
        (["train", "{tmp}/none.tif", "--labels", "{labels}", "--out", "{tmp}/r"], 1, "does not exist"),
        (
            ["train", "{scene}", "--labels", "{labels}", "--out", "{tmp}/r", "-o", "batsh=3"],
            2,
            "Did you mean 'batch'",
        ),
        (
            ["train", "{scene}", "--labels", "{labels}", "--out", "{tmp}/r", "-o", "batch"],
            2,
            "must read KEY=VALUE",
        ),
        (
            ["train", "{scene}", "--labels", "{labels}", "--out", "{tmp}/r", "--bands", "nir"],
            2,
            "Known: 1, 2, 3, 4",
        ),
        (
            ["train", "{scene}", "--labels", "{labels}", "--out", "{tmp}/r", "--classes", "water=0,field=1"],
            1,
            "value 2, which no class has",
        ),
        (
            ["train", "{scene}", "--labels", "{scene}", "--out", "{tmp}/r"],
            1,
            "4 bands; a label raster has one",
        ),
        (["train", "{scene}", "--out", "{tmp}/r"], 1, "Labels are missing"),
        (["map", "{labels}", "{scene}", "--out", "{tmp}/m"], 1, "not a Labelscape checkpoint"),
        (["map", "{tmp}/none.safetensors", "{scene}", "--out", "{tmp}/m"], 1, "does not exist"),
        (["evaluate", "{labels}"], 2, "not a Labelscape checkpoint; to score it as a finished map"),
        (["import-caffe", "{labels}", "--out", "{tmp}/c.safetensors"], 1, "labels.tif"),
        (["models", "fcnn"], 2, "Did you mean 'fcn'"),
        (["map"], 2, "Missing option"),
        (["map", "--out", "{tmp}/m"], 2, "needs a checkpoint and a scene"),
    ],
)
def test_mistakes_get_one_sentence_and_no_traceback(w, tmp_path, run_cli, arguments, code, said):
    labels = world.label_raster(w, tmp_path / "labels.tif")
    filled = [a.format(scene=w.scene, labels=labels, tmp=tmp_path) for a in arguments]
    ended, out, err = run_cli(*filled)
    assert ended == code, err
    assert said in err
    assert "Traceback" not in err
    assert not out


def test_models_lists_and_explains(run_cli):
    code, out, _ = run_cli("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["mlp"]["parameters"] == 798_469  # the paper's network: 4 bands, 5 classes
    assert rows["mlp"]["starts_from"] == "fcn"
    code, out, _ = run_cli("models", "mlp")
    assert "hidden" in out


def test_doctor_finds_this_installation_well(run_cli):
    _, out, _ = run_cli("doctor", "--json")
    found = {row["check"]: row["ok"] for row in json.loads(out)}
    assert all(ok for check, ok in found.items() if check != "demo data"), out


def test_version_and_help(run_cli):
    from labelscape import __version__

    assert run_cli("--version")[1].strip() == f"labelscape {__version__}"
    assert "import-caffe" in run_cli("--help")[1]


def test_examples_in_the_help_are_commands_without_holes(run_cli):
    """Indentation of a continued line would stand in the middle of the wrapped one."""
    from labelscape.cli import VERBS

    for verb in VERBS:
        lines = [line[4:] for line in run_cli(verb.NAME, "--help")[1].splitlines() if line[:4] == " " * 4]
        example = [line for line in lines if line[0] != " "]  # what options are about stands farther right
        assert not [line for line in example if "  " in line], verb.NAME


def test_arguments_in_the_help_are_bracketed_once(run_cli):
    from labelscape.cli import VERBS

    # Typer brackets an argument's name and adds the dots, so a name of its own has neither.
    for verb in VERBS:
        usage = run_cli(verb.NAME, "--help")[1].split("\n\n")[0]
        assert "[[" not in usage and "...}" not in usage and "...]" not in usage, usage


def test_a_target_among_the_inputs_is_told_its_option(run_cli):
    code, _, talk = run_cli("export", "m.safetensors", "m.onnx")
    assert code == 2 and "(m.onnx). What is written is named with --out" in talk
