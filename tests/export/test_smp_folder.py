"""A folder as segmentation-models-pytorch saves its models: the library alone loads the same network."""

import json

import numpy as np
import pytest
import torch
from test_export_onnx import BANDS, made, scene

import labelscape as ls
from labelscape.checkpoint import load, save
from labelscape.errors import BadFile, BadOption, UnknownName
from labelscape.export.smp_folder import write_smp_folder
from labelscape.nets.libraries import import_smp
from labelscape.scoring.scorer import predict
from labelscape.training.foreign import load_start


def test_the_library_alone_gives_the_class_map(tmp_path, run_cli):
    checkpoint = made("smp/Unet", temperature=1.5)
    save(checkpoint, tmp_path / "unet.safetensors")
    code, out, err = run_cli("export", tmp_path / "unet.safetensors", "--to", "smp-folder")
    folder = tmp_path / "unet"
    assert code == 0 and f'smp.from_pretrained("{folder}")' in out, err
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "labelscape.json",
    }
    config = json.loads((folder / "config.json").read_text())
    # Nothing is downloaded where it is loaded.
    assert config["encoder_weights"] is None and config["in_channels"] == 3
    about = json.loads((folder / "labelscape.json").read_text())
    assert about["bands"] == list(BANDS) and about["classes"] == ["water", "field", "forest", "town"]
    mean, std = (np.array(column, np.float32).reshape(-1, 1, 1) for column in zip(*about["normalisation"]))
    pixels = scene(64, 64)
    with torch.no_grad():
        logits = (
            import_smp().from_pretrained(str(folder)).eval()(torch.from_numpy((pixels - mean) / std)[None])
        )
    found = (logits / about["temperature"]).softmax(1)[0].numpy()
    np.testing.assert_allclose(found, predict(checkpoint, pixels), atol=1e-4)


def test_the_folder_is_a_start_and_no_checkpoint(tmp_path):
    checkpoint = made("smp/Unet")
    write_smp_folder(checkpoint, tmp_path / "unet", overwrite=False)
    found = load_start(str(tmp_path / "unet")).state
    assert {f"net.{key}" for key in found} == checkpoint.weights.keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value.numpy(), checkpoint.weights[f"net.{key}"])
    with pytest.raises(BadFile, match="saves it, which that library loads .*`train --start` takes it"):
        load(tmp_path / "unet")


def test_from_python_it_is_a_format_like_the_others(tmp_path):
    checkpoint = made("smp/Unet")
    save(checkpoint, tmp_path / "unet.safetensors")
    done = ls.export_model(tmp_path / "unet.safetensors", to="smp-folder")
    assert done.path == tmp_path / "unet" and done.format == "smp-folder" and done.size is None
    assert done.difference <= 1e-4 and done.compared[0][:2] == (1, 3)
    assert done.bytes == sum(file.stat().st_size for file in done.path.iterdir())
    with pytest.raises(BadOption, match="writes the network as it is: leave `size`"):
        ls.export_model(checkpoint, tmp_path / "b", to="smp-folder", size=64)
    with pytest.raises(BadOption, match="`out` is needed"):
        ls.export_model(checkpoint, to="smp-folder")
    with pytest.raises(UnknownName, match="smp-folder"):
        ls.export_model(checkpoint, tmp_path / "b", to="smp")


def test_other_networks_and_full_folders_are_refused(tmp_path):
    with pytest.raises(BadOption, match="is for networks of segmentation-models-pytorch"):
        write_smp_folder(made(), tmp_path / "a", overwrite=False)
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(BadFile, match="holds a model already"):
        write_smp_folder(made("smp/Unet"), tmp_path, overwrite=False)
    assert (tmp_path / "config.json").read_text() == "mine"
