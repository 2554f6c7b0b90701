"""How well unfamiliar input is told: shares of pixels beyond the limit, on pictures of several folders.

    python benchmarks/unfamiliar.py run/mlp.safetensors own=land/test other=town/images --windows 9

Of each folder (or file) some windows of 384 pixels are read, at places drawn with a fixed seed, their first
bands as the model's. `--match` gives each window the mean and deviation that the model knows of its bands, so
that only what is in the picture differs, not its brightness.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from labelscape.grid import Window
from labelscape.scenes.mosaic import open_scene
from labelscape.scoring.scorer import Scorer

SIDE = 384


def window_of(path: Path, bands: int, number: int) -> np.ndarray | None:
    """(bands, h, w) of a window of a picture; None where it has fewer bands."""
    with open_scene(path) as scene:
        if len(scene.bands) < bands:
            return None
        whole, rng = scene.grid.window, np.random.default_rng(number)
        height, width = min(SIDE, whole.height), min(SIDE, whole.width)
        top = int(rng.integers(0, whole.height - height + 1))
        left = int(rng.integers(0, whole.width - width + 1))
        return scene.read(Window(top, left, height, width), scene.bands[:bands]).pixels.astype(np.float32)


def matched(pixels: np.ndarray, normalisation: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The pixels with the mean and deviation of each band that the model was trained on."""
    mean, std = (np.array(column, np.float32)[:, None, None] for column in zip(*normalisation))
    own = pixels.mean(axis=(1, 2), keepdims=True), pixels.std(axis=(1, 2), keepdims=True)
    return (pixels - own[0]) / np.maximum(own[1], 1e-6) * std + mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("places", nargs="+", help="NAME=FOLDER or NAME=FILE")
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--match", action="store_true")
    given = parser.parse_args()
    scorer = Scorer.of(given.model, device="cpu", unfamiliar=True)
    contract = scorer.checkpoint.contract
    for place in given.places:
        name, _, path = place.partition("=")
        files = (
            sorted(p for p in Path(path).iterdir() if p.is_file()) if Path(path).is_dir() else [Path(path)]
        )
        chosen = [
            files[i % len(files)]
            for i in np.linspace(0, max(len(files), given.windows) - 1, given.windows, dtype=int)
        ]
        shares = []
        for number, file in enumerate(chosen):
            pixels = window_of(file, len(contract.bands), number)
            if pixels is not None:
                pixels = matched(pixels, contract.normalisation) if given.match else pixels
                ratio = scorer.logits(scorer.prepare(pixels, np.ones(pixels.shape[1:], bool)))[-1].exp()
                shares.append(float((ratio > 1).float().mean()))
        print(f"{name:<16}{len(shares):>3} windows, {100 * np.mean(shares):.1f} % unfamiliar")


if __name__ == "__main__":
    main()
