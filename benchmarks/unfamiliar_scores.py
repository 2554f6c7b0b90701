"""Would another score tell unfamiliar input better? Scores of the same features, on pictures of folders.

    python benchmarks/unfamiliar_scores.py run/mlp.safetensors other=town/images --windows 5

For each score and place: the share of pixels beyond the 99 % quantile of held-out pixels in per cent, and the
AUROC (0.5 is a guess) of held-out pixels against those of the place. The scores are

    mahalanobis  to the nearest class mean, as `map --unfamiliar` has it (Lee et al. 2018)
    relative     that less the distance to one Gaussian of all classes, squared (Ren et al. 2021)
    knn          distance to the 10th nearest of 1,024 training features of length 1 (Sun et al. 2022)
    energy       minus the logarithm of the sum of exp of the logits (Liu et al. 2020)
    softmax      1 less the largest probability (Hendrycks and Gimpel 2017)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from unfamiliar import window_of

from labelscape.checkpoint import Checkpoint, load
from labelscape.contract.familiarity import QUANTILE, Familiarity, Moments
from labelscape.evaluation.familiar import _features, chosen_units
from labelscape.scoring.familiar import features_of
from labelscape.scoring.scorer import Scorer
from labelscape.training.data import open_recipe_data
from labelscape.training.evaluate import training_data

PIXELS, EACH, BANK, NEIGHBOUR = 2**19, 4096, 1024, 10
Scores = dict[str, Callable[[np.ndarray], np.ndarray]]


def features_by_part(scorer: Scorer, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, C) and classes (N,) of labelled pixels of a part of the training data."""
    one = scorer.checkpoint
    with open_recipe_data(training_data(one), one.recipe.get("seed", 0), one.legend) as data:
        units = chosen_units(data, part, PIXELS)
        found = list(_features(scorer, one.familiarity.layer, units, part, lambda: None))
    return np.concatenate([f for f, _ in found]), np.concatenate([c for _, c in found])


def features_of_place(scorer: Scorer, place: Path, windows: int) -> np.ndarray:
    """Features (N, C) of pixels of some windows of a picture, or of the pictures of a folder."""
    files = sorted(p for p in place.iterdir() if p.is_file()) if place.is_dir() else [place]
    chosen = np.linspace(0, max(len(files), windows) - 1, windows, dtype=int) % len(files)
    one, net, found = scorer.checkpoint, scorer.members[0].engine.net, []
    for number, n in enumerate(chosen):
        pixels = window_of(files[n], len(one.contract.bands), number)
        if pixels is not None:
            (image,) = scorer.prepare(pixels, np.ones(pixels.shape[1:], bool))
            found.append(features_of(net, one.familiarity.layer, image)[0])
    return np.concatenate([f.reshape(len(f), -1).T for f in found])


def scores_of(one: Checkpoint, scorer: Scorer, learned: np.ndarray, classes: np.ndarray) -> Scores:
    head = scorer.members[0].engine.net.get_submodule(one.familiarity.layer)
    together = Moments(1)
    together.add(learned, np.zeros(len(learned), int))
    known: Familiarity = one.familiarity
    whole = replace(known, **together.fitted())
    bank = _unit(_some(learned, BANK))

    def logits(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return head(torch.from_numpy(x.astype(np.float32))[..., None, None])[..., 0, 0].double().numpy()

    def energy(x: np.ndarray) -> np.ndarray:
        return -np.logaddexp.reduce(logits(x), axis=1)

    def nearest(x: np.ndarray) -> np.ndarray:
        # Of length 1 both: the largest product is the smallest distance.
        return -np.partition(_unit(x) @ bank.T, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR]

    return {
        "mahalanobis": known.distances,
        "relative": lambda x: known.distances(x) ** 2 - whole.distances(x) ** 2,
        "knn": nearest,
        "energy": energy,
        "softmax": lambda x: 1 - np.exp(logits(x).max(axis=1) + energy(x)),
    }


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def _some(x: np.ndarray, most: int) -> np.ndarray:
    return x[np.random.default_rng(0).permutation(len(x))[:most]]


def auroc(own: np.ndarray, other: np.ndarray) -> float:
    """Probability that a score of `other` is above one of `own`."""
    return float((np.searchsorted(np.sort(own), other) / len(own)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("places", nargs="+", help="NAME=FOLDER or NAME=FILE")
    parser.add_argument("--windows", type=int, default=5)
    given = parser.parse_args()
    one = load(given.model)
    scorer = Scorer.of(one, device="cpu")
    learned, classes = features_by_part(scorer, "train")
    held = _some(features_by_part(scorer, one.familiarity.part)[0], EACH)
    places = {}
    for place in given.places:
        name, _, path = place.partition("=")
        places[name] = _some(features_of_place(scorer, Path(path), given.windows), EACH)
    print(f"{'':<12}" + "".join(f"{name:>16}" for name in places))
    for name, score in scores_of(one, scorer, learned, classes).items():
        own, found = score(held), {place: score(x) for place, x in places.items()}
        limit = np.quantile(own, QUANTILE)
        cells = (f"{100 * (x > limit).mean():.1f} % {auroc(own, x):.2f}" for x in found.values())
        print(f"{name:<12}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
