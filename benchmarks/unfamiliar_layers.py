"""Which layer's features tell unfamiliar input best? The distance of `map --unfamiliar` at several layers.

    python benchmarks/unfamiliar_layers.py run/mlp.safetensors home=town/val other=land/images

For each layer and place: the share of pixels beyond the limit in per cent, and the AUROC (0.5 is a guess) of
held-out pixels of the training data against those of the place. The features are the input of a layer:
without `--layers` of the one in the checkpoint, and of the last convolution of the encoder.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from unfamiliar import window_of
from unfamiliar_scores import auroc

from labelscape.contract.familiarity import QUANTILE, Familiarity, Moments
from labelscape.datasets.own import Dataset
from labelscape.evaluation.familiar import MOST_PIXELS, _features, chosen_units
from labelscape.nets.blocks import Network
from labelscape.scoring.familiar import features_of
from labelscape.scoring.scorer import Scorer
from labelscape.training.data import open_recipe_data
from labelscape.training.evaluate import training_data

CELLS = 2000
"""Features of each window, drawn with a fixed seed."""
ENCODERS = ("encoder", "trunk")
"""Names of the part of our networks that comes first."""


def deepest(net: Network) -> str:
    """The last convolution of the encoder that runs."""
    ran: list[str] = []
    with ExitStack() as undo:
        for name, module in net.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                hook = module.register_forward_hook(lambda *_, name=name: ran.append(name))
                undo.callback(hook.remove)
        with torch.inference_mode():
            net(torch.zeros(1, net.in_channels, 2 * net.stride, 2 * net.stride))
    return [name for name in ran if name.split(".")[0] in ENCODERS][-1]


def distance_at(scorer: Scorer, layer: str, data: Dataset) -> tuple[Familiarity, np.ndarray]:
    """The distance of a layer's features, as `labelscape train` measures it, and those of held-out pixels."""
    part = scorer.checkpoint.familiarity.part
    moments = Moments(len(scorer.checkpoint.legend))
    for features, classes in _features(
        scorer, layer, chosen_units(data, "train", MOST_PIXELS), "train", lambda: None
    ):
        moments.add(features, classes)
    known = Familiarity(layer, **moments.fitted(), limit=1.0, quantile=QUANTILE, part=part, pixels=(1, 1))
    held = _features(scorer, layer, chosen_units(data, part, MOST_PIXELS), part, lambda: None)
    return known, np.concatenate([known.distances(features) for features, _ in held])


def distances_of_place(scorer: Scorer, known: Familiarity, place: Path, windows: int) -> np.ndarray:
    """Distances of pixels of some windows of a picture, or of the pictures of a folder."""
    files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
    chosen = np.linspace(0, max(len(files), windows) - 1, windows, dtype=int) % len(files)
    net, found = scorer.members[0].engine.net, []
    for number, n in enumerate(chosen):
        pixels = window_of(files[n], len(scorer.checkpoint.contract.bands), number)
        if pixels is not None:
            (image,) = scorer.prepare(pixels, np.ones(pixels.shape[1:], bool))
            features = features_of(net, known.layer, image)[0]
            rows = features.reshape(len(features), -1).T
            found.append(known.distances(rows[np.random.default_rng(number).permutation(len(rows))[:CELLS]]))
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("places", nargs="+", help="NAME=FOLDER or NAME=FILE")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--layers", nargs="+", help="names of layers")
    given = parser.parse_args()
    scorer = Scorer.of(given.model, device="cpu")
    one = scorer.checkpoint
    layers = given.layers or [one.familiarity.layer, deepest(scorer.members[0].engine.net)]
    places = dict(place.split("=", 1) for place in given.places)
    print(f"{'':<32}" + "".join(f"{name:>16}" for name in places))
    with open_recipe_data(training_data(one), one.recipe.get("seed", 0), one.legend) as data:
        for layer in dict.fromkeys(layers):
            known, own = distance_at(scorer, layer, data)
            limit, cells = np.quantile(own, QUANTILE), []
            for place in places.values():
                far = distances_of_place(scorer, known, Path(place), given.windows)
                cells.append(f"{100 * (far > limit).mean():.1f} % {auroc(own, far):.2f}")
            print(f"{layer:<32}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
