"""The papers' training and test settings, one function each. Numbers carry their source, or "(ours: ...)"
where the paper does not say. A function takes the data and returns a `Setting`; a row of a table is a setting
with the row's own changes.

Of all papers ours: 8-bit colours under ImageNet weights are scaled as these were trained, other input by the
data's own mean and deviation; crops that are reduced to scale are antialiased, as pictures tested at scales
below 1 are: else a network would learn from noise that it never sees in the test. No paper says how it
resamples.

    setting = mswbn_gid({"dataset": "gid-5", "images": ["GID"]})
    train(setting.recipe, "runs/mswbn")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from labelscape.datasets.published.isprs import BANDS
from labelscape.nets.catalog import entry, options_of
from labelscape.nets.tables import Row
from labelscape.training.recipe import Recipe, exact_recipe
from labelscape.training.recipe_data import Data, make_data

OHEM_DGCW = {"ohem": 1.0}
"""Threshold 0.7, at least 100,000 pixels (DGCWNet sec. 4.4.1); on the main head alone (ours: OCNet's notes
say that OHEM on both heads hurts).
"""
OHEM_IFBF = {"hardest": 1.0}
"""The hardest three quarters (IFBFNet eq. 7), on both heads (sec. 4.3.4: the auxiliary loss is "identical"),
of the whole batch (ours: eq. 7 sorts the pixels of one picture, which is the loss "hardest-per-image").
Sec. 4.3.4's other rule, all pixels below a
probability of 0.7, is the loss "ohem-hardest".
"""
MS_DGCW = (0.75, 1.0, 1.25, 1.5)
"""DGCWNet sec. 4.4.1."""
MS_IFBF = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""IFBFNet sec. 4.3.4, MS."""
DA_IFBF = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""IFBFNet sec. 4.3.4, DA."""


Tiles = int | Literal["crop", "whole"]
"""How a picture is tested: in tiles of this side, in tiles of the training crop's side, or whole."""
MODELS_MERGED = 3
"""DFCNet sec. 3.3 merges "some models" (ours: three, which differ in their seed)."""


@dataclass(frozen=True)
class Setting:
    """How a network is trained and how it is scored; `why_not` gives the reason why a row cannot be run here.

    scales, tta, average  the test's, as `scoring.protocol.Protocol` has them
    tiles      how pictures are cut at the test, and `tiles_from`: who says so
    blend      as `evaluate` has it; "exact": overlaps as wide as the network's reach, cropped
    scored_on  the data of the score, where it is not the recipe's own: other labels of the same pictures
    part       the part that is scored; None: test, or val where test has no labels
    models     how many networks, of as many seeds, are merged into one prediction
    resampled  train and test on the class shares of MSWBN's table 6
    """

    recipe: Recipe | None
    scales: tuple[float, ...] = (1.0,)
    tta: str = "none"
    average: str = "probabilities"
    tiles: Tiles = "crop"
    blend: str | None = None
    tiles_from: str = ""
    scored_on: Data | None = None
    part: str | None = None
    models: int = 1
    resampled: bool = False
    why_not: str = ""


def mswbn_gid(data: Mapping[str, Any], network: str = "mswbn", **options: Any) -> Setting:
    """MSWBN sec. 4: SGD, rate 0.007, poly 0.9, batch 10, 20 epochs of 22,560 patches of 512, flips, scales
    0.5 to 2. Tested on single patches of 512 (sec. 4.1), nothing blended between them.

    (ours: ImageNet weights, which the paper does not name; crops anywhere in the scenes, not the patches.)
    """
    return Setting(
        exact_recipe(
            data=data,
            network=network,
            options=_pretrained(network, options),
            rate=0.007,
            schedule="poly",
            power=0.9,
            momentum=0.9,
            weight_decay=1e-4,
            batch=10,
            steps=45_120,  # 20 epochs of 22,560 patches in batches of 10
            crop=512,
            augment="mirror",  # "random flip" (ours: left-right, as in the DeepLabV3+ it refers to)
            scale_range=(0.5, 2.0),
            resampling="antialiased",
            sampling="uniform",
        ),
        tiles=512,
        blend="none",
        tiles_from="single patches, MSWBN sec. 4.1",
    )


def dfcnet_deepglobe(
    data: Mapping[str, Any], network: str = "dfcnet", mate: Mapping[str, Any] | None = None, **options: Any
) -> Setting:
    """DFCNet sec. 3.2: SGD, rate 0.001, poly, 80,000 steps, crops of 1025; batch 32 for the baseline, 16 for
    the others, which start from "the DenseNet model": the baseline, trained by its own recipe.

    (ours: poly 0.9; 8 land and 8 road crops, equal loss weights; no flips; scaling of land in the baseline
    too; tested in tiles of 1025, blended; the merged row has three models, averaged over 0.75, 1, 1.25 and
    flips.) The others have thus seen land for 160,000 steps, the baseline for 80,000: rows of controls say
    what that alone is worth.
    """
    baseline = network == "fc-densenet"
    second = (
        None
        if mate is None or baseline
        else {"data": mate, "batch": 8, "weight": 1.0, "scale_range": (0.5, 1.5)}
    )
    return Setting(
        exact_recipe(
            data=data,
            network=network,
            options=options,
            rate=0.001,
            schedule="poly",
            power=0.9,
            momentum=0.9,
            weight_decay=5e-4,
            batch=32 if baseline else 8 if second else 16,
            mate=second,
            steps=80_000,
            base_steps=0 if baseline else 80_000,
            base_rate=0.001,
            base_batch=None if baseline else 32,
            # 32 m + 1, like every side in the paper: Caffe's layers halve and double it exactly.
            crop=1025,
            augment="none",
            scale_range=(0.8, 1.25),  # of land; roads 0.5 to 1.5 (sec. 3.2)
            resampling="antialiased",
            sampling="uniform",
        ),
        tiles_from="ours: the paper does not say how pictures of 2448 are tested",
    )


def dgcwnet(
    data: Mapping[str, Any],
    network: str = "dgcwnet",
    *,
    rate: float,
    batch: int,
    crop: int,
    steps: int,
    **options: Any,
) -> Setting:
    """DGCWNet sec. 4.3: SGD, poly 0.9, weight decay 5e-4, scales 0.5 to 2, flips, synchronised batch norm,
    auxiliary loss 0.4 (eq. 7).

    Test scales are averaged as logits (ours: sec. 4.4.1 sums "prediction maps", and the code of OCNet and
    CCNet sums logits). Tested in tiles of the training crop's side, cut from the picture at each scale (ours:
    the paper does not say; the module sums over all pixels of a tile, so whole pictures, tiles="whole", give
    it sums it was not trained with).
    """
    return Setting(
        exact_recipe(
            data=data,
            network=network,
            options=_pretrained(network, options),
            rate=rate,
            schedule="poly",
            power=0.9,
            momentum=0.9,
            weight_decay=5e-4,
            batch=batch,
            steps=steps,
            crop=crop,
            augment="mirror",
            scale_range=(0.5, 2.0),
            resampling="antialiased",
            sampling="uniform",
            sync_bn=True,
            aux_weight=0.4,
            aux_losses={"cross-entropy": 1.0},  # rows with OHEM change `losses` alone (see OHEM_DGCW)
        ),
        average="logits",
        tiles_from="ours: as trained, since the context is a sum over the tile",
    )


def dgcwnet_cityscapes(data: Mapping[str, Any], network: str = "dgcwnet", **options: Any) -> Setting:
    """Rate 0.01, batch 8, crops of 769 (sec. 4.3); 40,000 steps (ours: as OCNet)."""
    return dgcwnet(data, network, rate=0.01, batch=8, crop=769, steps=40_000, **options)


def dgcwnet_pascal_context(data: Mapping[str, Any], network: str = "dgcwnet", **options: Any) -> Setting:
    """Rate 0.005, batch 16, crops of 513 (sec. 4.3); 30,000 steps (ours)."""
    return dgcwnet(data, network, rate=0.005, batch=16, crop=513, steps=30_000, **options)


def dgcwnet_ade20k(data: Mapping[str, Any], network: str = "dgcwnet", **options: Any) -> Setting:
    """Rate 0.02, batch 16, crops of 513 (sec. 4.3); 150,000 steps (ours)."""
    return dgcwnet(data, network, rate=0.02, batch=16, crop=513, steps=150_000, **options)


def maggiori(
    data: Mapping[str, Any],
    network: str,
    *,
    crop: int,
    tenth_every: float,
    base_steps: int,
    steps: int,
    **options: Any,
) -> Setting:
    """Maggiori et al. sec. V-C: batches of 5 patches, flips and transposition; rate 0.1 for the base FCN,
    0.01 for the networks that start from it. Tested in tiles that overlap by the network's reach (sec. V-F:
    by its padding, which is less), so that their size has no effect.
    """
    derived = (
        entry(network).start is not None
    )  # the second phase retrains the whole network, encoder included
    data, scored_on, part = _isprs(data)
    return Setting(
        exact_recipe(
            data=data,
            network=network,
            options=options,
            batch=5,
            crop=crop,
            schedule="exponential",
            tenth_every=tenth_every,
            momentum=0.9,
            weight_decay=5e-4,
            # Flips and transposition (sec. V-C) generate all eight symmetries of the square.
            augment="dihedral",
            sampling="uniform",
            rate=0.01 if derived else 0.1,
            steps=steps if derived else base_steps,
            base_steps=base_steps if derived else 0,
            base_rate=0.1,
        ),
        scored_on=scored_on,
        part=part,
        # Any size gives the same map; a larger one spends less on overlaps.
        tiles=1152,
        blend="exact",
        tiles_from="sec. V-F: the overlap makes tiles equal to whole pictures",
    )


def _isprs(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Data | None, str | None]:
    """The paper trains on full labels and scores the validation tiles on eroded ones (sec. V-A); of Vaihingen
    without clutter (sec. V-B). All with the four bands of sec. V-B.

    Other data is trained and scored as it is.
    """
    name = (data.get("dataset") or "").removesuffix("-eroded")
    if name not in ("vaihingen", "potsdam"):
        return data, None, None
    # Other bands may be asked for. Clutter may not: the claims are of five classes.
    options = {"bands": BANDS, **data.get("dataset_options", {})}
    if name == "vaihingen":
        options["clutter"] = False
    data = {**data, "dataset": name, "dataset_options": options}
    return data, make_data({**data, "dataset": f"{name}-eroded"}), "val"


def maggiori_vaihingen(data: Mapping[str, Any], network: str = "mlp", **options: Any) -> Setting:
    """Patches of 256; the rate falls to a tenth every 10,000 steps; 45,000 steps, then 30,000 (sec. V-C)."""
    return maggiori(data, network, crop=256, tenth_every=10_000, base_steps=45_000, steps=30_000, **options)


def maggiori_potsdam(data: Mapping[str, Any], network: str = "mlp", **options: Any) -> Setting:
    """Patches of 512, halved by the network (sec. V-B); the rate falls to a tenth every 20,000 steps; 90,000
    steps, then 65,000 (sec. V-C).
    """
    return maggiori(
        data,
        network,
        crop=512,
        tenth_every=20_000,
        base_steps=90_000,
        steps=65_000,
        **{"downsample": 2, **options},
    )


def ifbfnet_cityscapes(data: Mapping[str, Any], network: str = "ifbfnet", **options: Any) -> Setting:
    """IFBFNet sec. 4.1: rate 0.01, poly 0.9, 81,000 steps with 1,000 of warm-up, crops of 876, seven scales
    (sec. 4.3.4), flips, OHEM, auxiliary loss 0.4.

    Ten times the rate for the auxiliary branch and the balanced fusions (sec. 4.1). Tested at six scales
    (sec. 4.3.4) on "the original test set images", whole (sec. 4.5).

    (ours: batch 4, two on each of the paper's two GPUs of 11 GB; a linear warm-up, which counts towards the
    poly schedule; weight decay on batch normalisation and biases too; scales averaged as probabilities; the
    auxiliary branch in the rows of baselines too; DeepLabV3+ by the same recipe, in table 6 without flips.)
    """
    # Prefixes of parameter names: "balance" is balance1 and balance2, which rows without fusion do not have.
    factors = {"aux": 10.0} if network == "ifbfnet" else {}
    if network == "ifbfnet" and options.get("skip", "balanced") == "balanced":
        factors["balance"] = 10.0
    return Setting(
        exact_recipe(
            data=data,
            network=network,
            options=_pretrained(network, options),
            rate=0.01,
            schedule="poly",
            power=0.9,
            momentum=0.9,
            weight_decay=5e-4,
            batch=4,
            steps=81_000,
            warmup=1_000,
            crop=876,
            augment="mirror",
            scale_set=DA_IFBF,
            resampling="antialiased",
            sampling="uniform",
            sync_bn=True,
            losses=OHEM_IFBF,
            aux_weight=0.4,
            rate_factors=factors,
        ),
        MS_IFBF,
        tiles="whole",
        tiles_from="IFBFNet sec. 4.5: original images",
    )


def setting_of(
    row: Row,
    data: Mapping[str, Any],
    mate: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Setting:
    """The setting of a row of a paper's table; `why_not` is filled in where the row cannot be trained.

    `data` and `mate` are the fields of a recipe's data set, as `recipe_data.Data` has them. `options` replace
    the row's own where its network has them; what follows from options (rate factors) follows from these.
    """
    if row.quoted or row.network is None:
        return Setting(None, why_not="quoted in the paper from another one")
    if not row.is_scored:
        return Setting(None, why_not=f"times: labelscape table {row.table} --times measures them here")
    known = options_of(row.network)
    # Only where the network has them: a backbone for all rows must not refuse those without one.
    own = {**row.options, **{key: value for key, value in (options or {}).items() if key in known}}
    if "trained on the validation images too" in row.note:
        # Unless the data names its parts itself.
        data = {"train_on": ("train", "val"), **data}
    paper = row.table.split("-")[0]
    if paper == "mswbn":
        setting = mswbn_gid(data, row.network, **own)
        return replace(setting, resampled=row.table == "mswbn-7")
    if paper == "maggiori":
        make = maggiori_potsdam if row.table in ("maggiori-3", "maggiori-5") else maggiori_vaihingen
        return make(data, row.network, **own)
    if paper == "dfcnet":
        return _dfcnet_row(row, data, mate, own)
    if paper == "dgcwnet":
        make = {"dgcwnet-5": dgcwnet_pascal_context, "dgcwnet-6": dgcwnet_ade20k}.get(
            row.table, dgcwnet_cityscapes
        )
        return _as_noted(make(data, row.network, **own), row, OHEM_DGCW, MS_DGCW)
    setting = ifbfnet_cityscapes(data, row.network, **own)
    if row.table == "ifbfnet-4":
        setting = _ifbfnet_4(setting, row.label)
    if row.table == "ifbfnet-5":
        setting = replace(setting, recipe=setting.recipe.replace(aux_weight=float(row.label.split()[-1])))
    return replace(setting, tta="mirror") if "flipped" in row.note else setting


def _dfcnet_row(
    row: Row, data: Mapping[str, Any], mate: Mapping[str, Any] | None, own: Mapping[str, Any]
) -> Setting:
    """A row of DFCNet's table, or a control: land alone, with the other networks or for as many steps."""
    if row.control:
        setting = dfcnet_deepglobe(data, row.network, None, **own)
        # The others see land for two phases: this control is what the second one alone is worth.
        steps = setting.recipe.steps * (2 if row.network == "fc-densenet" else 1)
        return replace(setting, recipe=setting.recipe.replace(steps=steps))
    if row.network != "fc-densenet" and mate is None:
        return Setting(None, why_not="needs the data set of the second task: `mate`")
    setting = dfcnet_deepglobe(data, row.network, mate, **own)
    if "merged" in row.label:
        setting = replace(setting, scales=(0.75, 1.0, 1.25), tta="flips", models=MODELS_MERGED)
    return setting


def _as_noted(setting: Setting, row: Row, ohem: dict, scales: tuple[float, ...]) -> Setting:
    """A row of DGCWNet's tables: OHEM, test scales and flips as its note has them. Tables 5 and 6 are trained
    and tested like table 4 (sec. 4.5 for table 5; ours for table 6).
    """
    full = row.table in ("dgcwnet-5", "dgcwnet-6")
    if full or "OHEM" in row.note:
        setting = replace(setting, recipe=setting.recipe.replace(losses=ohem))
    if full or "scales" in row.note:
        setting = replace(setting, scales=scales)
    return replace(setting, tta="mirror") if full or "flipped" in row.note else setting


def _ifbfnet_4(setting: Setting, label: str) -> Setting:
    """IFBFNet table 4 adds OHEM, random scaling (DA) and multi-scale testing (MS) one after another."""
    if "OHEM" not in label:
        setting = replace(setting, recipe=setting.recipe.replace(losses={"cross-entropy": 1.0}))
    if "DA" not in label:
        setting = replace(setting, recipe=setting.recipe.replace(scale_set=()))
    return setting if "MS" in label else replace(setting, scales=(1.0,))


def _pretrained(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network, with ImageNet weights where it has a ResNet (ours for MSWBN, whose paper does
    not say).
    """
    # Options that are given come after it: pretrained=False starts from random weights.
    return {"pretrained": True, **options} if "pretrained" in options_of(network) else dict(options)
