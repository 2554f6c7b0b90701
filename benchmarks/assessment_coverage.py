"""How often do the intervals of an assessment hold the truth on a real map? For maps whose reference is known
everywhere: samples are drawn again and again, and their answers are the reference.

    python benchmarks/assessment_coverage.py map/scene_class.tif fields.gpkg class=other area=east.geojson
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from labelscape.evaluation.accuracy import estimate
from labelscape.evaluation.predicted import map_classes
from labelscape.legend import IGNORE
from labelscape.training.data import open_recipe_data
from labelscape.training.map_data import data_of_maps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("map", type=Path)
    parser.add_argument("labels")
    parser.add_argument("settings", nargs="*", help="of the labels, KEY=VALUE as in LabelRules")
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rules = dict(one.split("=", 1) for one in asked.settings)
    mapped, truth, names = both(asked.map, asked.labels, rules)
    report(mapped, truth, names, asked.points, asked.samples, asked.seed)


def both(path: Path, labels: str, rules: dict[str, str]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Class indices (N,) of the map and of the reference where both are known, and the classes' names."""
    data, legend = data_of_maps([path], None, labels, rules)
    with open_recipe_data(data, 0, legend) as dataset:
        (scene,) = dataset.scenes
        whole = scene.scene.grid.window
        classes, opened = map_classes(path, scene, dataset.legend)
        mapped, truth = classes.read(whole).ravel(), scene.read_labels(whole).ravel()
        opened.close()
    known = (mapped != IGNORE) & (truth != IGNORE)
    return mapped[known].astype(int), truth[known].astype(int), dataset.legend.names


def report(
    mapped: np.ndarray, truth: np.ndarray, names: tuple[str, ...], points: int, samples: int, seed: int
) -> None:
    """Draw stratified samples, the map's classes as strata, and print how often 95 % intervals hold."""
    members = [np.flatnonzero(mapped == k) for k in range(len(names))]
    pixels = np.array([len(one) for one in members])
    drawn = np.maximum(2, np.round(points * pixels / pixels.sum()).astype(int))
    share, right = np.bincount(truth, minlength=len(names)) / len(truth), float((mapped == truth).mean())
    rng = np.random.default_rng(seed)
    held, held_oa, areas, halves = [], [], [], []
    for _ in range(samples):
        chosen = np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, drawn) if len(m)])
        strata = mapped[chosen]
        found = estimate(
            strata, strata, truth[chosen], stratum_area=pixels, stratum_units=pixels, names=names
        )
        low, high = (found.area_interval / len(truth)).T
        held.append((low <= share) & (share <= high))
        held_oa.append(found.oa_interval[0] <= right <= found.oa_interval[1])
        areas.append(found.area / len(truth))
        halves.append(found.area_ci95 / len(truth))
    print(
        f"{samples} samples of {drawn.sum()} points; overall accuracy {100 * right:.2f} %, held in "
        f"{100 * np.mean(held_oa):.1f} % of them"
    )
    print(f"{'class':<16}{'true %':>9}{'mapped %':>10}{'estimated %':>13}{'± 95 %':>9}{'held %':>9}")
    rows = zip(names, share, pixels / len(truth), np.mean(areas, 0), np.mean(halves, 0), np.mean(held, 0))
    for name, *values in rows:
        true, counted, guess, half, often = (100 * value for value in values)
        print(f"{name:<16}{true:>9.2f}{counted:>10.2f}{guess:>13.2f}{half:>9.2f}{often:>9.1f}")


if __name__ == "__main__":
    main()
