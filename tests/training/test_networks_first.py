"""What is wrong with a network is said before its data is read."""

import functools
import ssl
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

import labelscape.training.data as opening
import labelscape.training.run as running
from labelscape.errors import BadFile, BadOption, NoWeights, UnknownName
from labelscape.nets import backbones
from labelscape.nets.catalog import NETWORKS, check_model, options_of
from labelscape.nets.option_words import words_of
from labelscape.training.beforehand import check_beforehand
from labelscape.training.recipe import make_recipe
from labelscape.training.team import gather


@pytest.mark.parametrize(
    ("network", "options", "error", "said"),
    [
        ("smp/Unet", {"encoder": "resnet19"}, UnknownName, "resnet18"),
        ("mswbn", {"backbone": "resnet19"}, UnknownName, "resnet18"),
        ("mswbn", {"output_stride": 7}, UnknownName, "7"),
        ("mlp", {"variant": "papre"}, UnknownName, "paper"),
        ("mlp", {"widths": [1, 2]}, BadOption, "four whole numbers"),
        ("mswbn", {"weights": "gone.pth"}, BadFile, "gone.pth"),
        ("mswbn", {"weights": "gone.pth", "pretrained": True}, BadOption, "pass one of them"),
    ],
)
def test_values_of_options_are_refused_before_data_is_read(
    tmp_path, monkeypatch, network, options, error, said
):
    monkeypatch.setattr(opening, "open_recipe_data", lambda *a: pytest.fail("the data was read"))
    recipe = make_recipe(data={"images": ["gone.tif"]}, network=network, options=options, device="cpu")
    with pytest.raises(error, match=said):
        running.train(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights in a cache, and no server that answers; the errors that a request ends with."""
    failures = [urllib.error.URLError(OSError("Name or service not known"))]

    def refuse(*arguments, **settings):
        raise failures[-1]

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    return failures


@pytest.mark.parametrize("network", ["mswbn", "smp/Unet", "smp/FPN"])
def test_weights_out_of_reach_are_said_in_the_words_of_the_surface(offline, run_cli, tmp_path, network):
    file = network == "mswbn"
    with pytest.raises(NoWeights) as caught:
        check_model(network, pretrained=True)
    assert "does not answer: Name or service not known)" in str(caught.value)
    assert ("Pass pretrained=False and weights=FILE for" in str(caught.value)) == file
    # The weights are asked for before the scene is opened; that it exists is seen earlier.
    scene = tmp_path / "scene.tif"
    scene.touch()
    code, _, err = run_cli(
        "train", scene, "--network", network, "-o", "options.pretrained=true", "--out", tmp_path
    )
    assert code == 1 and err.count("\n") == 1
    assert ("-o options.pretrained=false -o options.weights=FILE" in err) == file
    assert "-o options.pretrained=false" in err


def test_a_server_that_answers_is_left_to_the_download(offline):
    offline.append(urllib.error.HTTPError("https://huggingface.co", 405, "no", None, None))
    check_model("mswbn", pretrained=True)
    offline.append(urllib.error.URLError(ssl.SSLError("self-signed certificate of a proxy")))
    check_model("mswbn", pretrained=True)


def test_an_inner_error_is_quoted_by_its_whole_first_line():
    long = f"We couldn't connect to {'x' * 300}.co and found no files.\nCheck it."
    assert backbones.first_line(OSError(long)).endswith(".co and found no files")


@pytest.mark.parametrize("network", [*NETWORKS, "smp/Unet"])
def test_every_option_has_a_meaning(network):
    assert not [option for option in options_of(network) if not words_of(network, option)]


@pytest.mark.parametrize(
    ("typed", "meant"), [("--lr", "--rate"), ("--patch-size", "--crop"), ("--epochs", "--steps")]
)
def test_options_of_other_software_are_answered_with_ours(run_cli, typed, meant):
    code, _, err = run_cli("train", "scene.tif", "--out", "x", typed, "3")
    assert code == 2 and meant in err


@pytest.mark.parametrize(
    ("network", "encoder"), [("smp/Segformer", "mit_b0"), ("smp/DPT", "tu-vit_tiny_patch16_224")]
)
def test_networks_that_compute_in_building_are_not_refused(network, encoder):
    check_model(network, encoder=encoder)


def test_each_network_is_built_once_before_data_is_read(monkeypatch):
    built = []
    for name in ("mlp", "fcn"):
        own = NETWORKS[name].build

        @functools.wraps(own)
        def counting(*, own=own, name=name, **options):
            built.append(name)
            return own(**options)

        monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], build=counting))
    recipe = make_recipe(data={"images": ["gone.tif"]}, network="mlp", crop=64, device="cpu")
    check_beforehand(recipe, running.base_recipe(recipe), gather("cpu", "32"))
    assert sorted(built) == ["fcn", "mlp"]
