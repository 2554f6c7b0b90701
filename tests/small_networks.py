"""Small variants of every network of the catalogue, and the second heads that they have."""

WIDTHS = {"widths": (4, 6, 8, 10)}
DENSE = {
    "encoder": (1, 2, 1, 1),
    "decoder": (1, 1, 2, 1),
    "stem": 8,
    "growth": 4,
    "width": 8,
    "head_width": 8,
}
SMALL: dict[str, dict] = {
    "fcn": WIDTHS,
    "unpooling": WIDTHS,
    "skip": WIDTHS,
    "mlp": {**WIDTHS, "hidden": 16},
    "fc-densenet": DENSE,
    "classmate": DENSE,
    "dfcnet": DENSE,
    "mswbn": {"backbone": "resnet10t", "reduce": 8, "width": 4, "operations": 5},
    "dgcwnet": {"backbone": "resnet10t", "width": 8, "head_width": 8, "aux_width": 8},
    "ifbfnet": {"backbone": "resnet10t", "spatial": 8},
    "deeplabv3plus": {"backbone": "resnet10t", "width": 8, "low_width": 8},
    "pspnet": {"backbone": "resnet10t", "width": 8, "aux_width": 8},
    "tiramisu": {"lengths": (1,) * 11, "growth": 4, "stem": 8},
    "smp/Unet": {"encoder": "resnet18", "decoder_channels": (16, 8, 8, 8, 8)},
}
HEADS = {
    "dgcwnet": {"aux": 4},
    "ifbfnet": {"aux": 4},
    "pspnet": {"aux": 4},
    "classmate": {"mate": 2},
    "dfcnet": {"mate": 2},
}
