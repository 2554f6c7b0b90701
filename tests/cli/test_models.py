"""`labelscape models`: the list, one network, what its paper claims, and mistakes."""

from __future__ import annotations

import json
import re

import pytest

from labelscape.cli.parsing import settings_of
from labelscape.nets.catalog import list_models
from labelscape.nets.tables import rows_of


@pytest.fixture
def one(run_cli):
    def found(*arguments: str) -> dict:
        code, out, err = run_cli("models", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return found


def test_the_list_says_what_each_needs(run_cli):
    code, out, _ = run_cli("models")
    head, *lines = out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert code == 0 and list(rows) == list_models()
    assert "GMACs" in head
    costs = {name: float(line.split()[2]) for name, line in rows.items()}
    assert (
        costs["fcn"] == 2.56
        and costs["skip"] == 2.57
        and costs["deeplabv3plus"] == 88.76
        and costs["mlp"] == 24.36
    )
    assert "929,957" in rows["unpooling"] and "fcn, which is trained first" in rows["mlp"]
    assert (
        "random weights, or ImageNet (pretrained=true)" in rows["mswbn"]
        and "2017, The One Hundred Layers" in rows["tiramisu"]
    )
    assert not any(word in rows["tiramisu"] for word in ("timm", "trained", "ImageNet"))


def test_one_network_shows_cost_options_and_claims(run_cli, one):
    found = one("mlp")
    assert found["parameters"] == 798_469
    assert found["macs"] / 1e9 == pytest.approx(24.36, abs=0.005)
    assert found["options"]["variant"] == "paper" and found["options"]["hidden"] is None
    vaihingen = next(row for row in found["claims_of_the_paper"] if row["table"] == "maggiori-2")
    assert vaihingen["claimed"]["mean_f1"] == 86.58 and vaihingen["claimed"]["f1/car"] == 78.42
    assert found["needs"] == ["fcn, which is trained first"]
    code, out, _ = run_cli("models", "mlp")
    assert code == 0
    assert (
        "798,469 parameters with 4 bands and 5 classes" in out and "24.36 billion multiply-accumulates" in out
    )
    assert "the papers' claims, not measured" in out and "86.58" in out and "f1/car" not in out
    assert (
        re.search(r"variant +paper +paper \(1024 hidden units, ReLU\) or released", out)
        and "-o options.downsample=2" in out
    )


def test_bands_and_classes_are_counted(one):
    found = one("fcn", "--in-channels", "3", "--classes", "6")
    # one band less in the first 5 x 5 of 32 kernels; one class more in the score and its learned
    # deconvolution
    assert found["parameters"] == 470_405 - 25 * 32 + (128 + 1) + 32 * 32
    assert found["in_channels"] == 3 and found["classes"] == 6


def test_options_of_a_row_can_be_typed_as_shown(run_cli):
    code, out, err = run_cli("models", "mswbn")
    assert code == 0, err
    shown = [line.split() for line in out.splitlines() if line.startswith("        -o ")]
    read = [settings_of([word for word in words if word != "-o"])["options"] for words in shown]
    assert read == [dict(row.options) for _, row in rows_of("mswbn") if row.options]


def test_a_network_without_a_table_claims_nothing(run_cli):
    code, out, _ = run_cli("models", "tiramisu")
    assert code == 0 and "claims" not in out and "lengths" in out


def test_architectures_of_segmentation_models_pytorch(one):
    names = [row["name"] for row in one("--smp", "--no-macs")]
    assert names[: len(list_models())] == list_models()
    assert {"smp/Unet", "smp/FPN", "smp/DPT"} <= set(names)
    found = one("smp/Unet")
    assert found["options"]["encoder"] == "resnet34" and found["parameters"] > 20e6 and found["macs"] > 1e9
    assert "ImageNet" in found["needs"][0] and found["claims_of_the_paper"] == []


def test_networks_of_smp_are_mentioned_with_their_names_of_options(run_cli):
    assert "smp/<Name>" in run_cli("models", "--no-macs")[2] and "smp/<Name>" in list_models.__doc__
    _, out, _ = run_cli("models", "smp/Unet")
    assert "encoder_name and encoder_weights are understood" in out
    assert "encoder_name" not in run_cli("models", "mlp")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dgcwnett"], "Did you mean 'dgcwnet'"),
        (["smp/Unett"], "Did you mean 'Unet'"),
        (["mlp", "--classes", "0"], "at least 1"),
        (["--in-channels", "0"], "at least 1"),
    ],
)
def test_mistakes(run_cli, arguments, said):
    code, out, err = run_cli("models", *arguments)
    assert code == 2 and said in err and not out


@pytest.mark.parametrize("name", [*list_models(), "smp/Unet"])
def test_one_network_is_shown_to_users_not_to_developers(run_cli, name):
    code, out, _ = run_cli("models", name)
    head = out.partition("\noptions and")[0]
    assert code == 0 and "Raises" not in head and "backbones." not in head and "`" not in head
    assert "partial(" not in head
    options = out.partition("KEY=VALUE):\n")[2].partition("\n\n")[0].splitlines()
    assert options and all(len(re.split(r" {2,}", line.strip())) == 3 for line in options), options
