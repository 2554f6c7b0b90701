"""What the options of the networks mean, in one line each, with the values they take."""

from __future__ import annotations

WORDS: dict[str, str] = {
    "abn_act": "activation after added normalisation layers: leaky or relu",
    "affine": "batch normalisation learns a scale and an offset: true or false",
    "agg": "how weights are gathered over pixels: sum or mean (independent of the image's size)",
    "align_corners": "resize with aligned corners: true or false",
    "aspp": "atrous spatial pyramid pooling: reduced, stage4 or none",
    "aux": "auxiliary head during training: true or false",
    "aux_width": "channels of the auxiliary head",
    "backbone": "trunk by its name in timm: resnet18, resnet50, resnet101, densenet121, ...",
    "base": "base network: plain, ppm (pyramid pooling) or aspp",
    "base_width": "channels of each pyramid or ASPP branch of the base network",
    "bins": "grid sizes of pyramid pooling, such as [1,2,3,6]",
    "bn_momentum": "momentum of batch normalisation, above 0 up to 1",
    "branch": "what follows the convolution of a branch: bn, bn_relu or linear (nothing)",
    "checkpointing": "compute activations again to save memory in training: true or false",
    "context": "context module: dgcw, gap, se, nl-h, nl-d or none",
    "decoder": "layers of each dense block of the decoder, such as [24,12,6,3]",
    "decoder_attention_type": "attention in the decoder: scse or null (none)",
    "decoder_channels": "channels of the decoder's blocks, coarse to fine; as many as encoder_depth",
    "decoder_interpolation": "upsampling in the decoder: nearest, bilinear, ...",
    "decoder_use_norm": "normalisation in the decoder: batchnorm, instancenorm, layernorm, or false (none)",
    "depth": "3x3 convolutions before the classifier, at least 1",
    "downsample": "factor by which the image is reduced first, 1 or more",
    "dropout": "share of channels dropped in training, 0 up to (not including) 1",
    "encoder_depth": "levels of the encoder, 3 to 5",
    "first_conv": "how 3-band weights are adapted to other bands: repeat, mean, zero-new or random",
    "fuse": "how the context joins the finer level: concat, upsample or none",
    "fused": "fused levels are joined to (concat) or take the place of (replace) the decoder's",
    "fusion": "channels of a fused level: growth (as a dense layer) or proj256 (256)",
    "gate_hwm": "gate the weights of the parallel branches: true or false",
    "gate_lbm": "gate the weights of the two levels: true or false",
    "growth": "channels added by each dense layer",
    "head_width": "channels of the head before the classifier; 0 where that may be left out",
    "hidden": "hidden units of the classifier; null: as the variant says",
    "lbm": "weigh the coarse and the fine level for each image: true or false",
    "layers": "56, 67 or 103 layers",
    "lengths": "layers of each of the eleven dense blocks; null: as `layers` says",
    "levels": "the trunk's levels that give the weights: three of layer1 to layer4",
    "low_width": "channels kept of the fine level",
    "mate_classes": "classes of the second task; 0: none",
    "mlp_input": "weights that the level weighting reads: raw or gated",
    "nl_scaled": "divide the non-local product by the root of the channels: true or false",
    "operations": "number of parallel branches: 5 or 8",
    "order": "order of the fusion's steps: eq (as the equations) or text (as the text)",
    "output_stride": "reduction of the coarsest level: 8, 16 or 32; smaller is finer and slower",
    "predict_at": "reduction at which classes are predicted: 1, 2 or 4",
    "pretrained": "start from ImageNet weights, fetched once from the internet: true or false",
    "rate_semantics": "dilation of a branch: its rate, or holes (rate + 1)",
    "rates": "dilations of the ASPP branches, such as [6,12,18]",
    "reduce": "channels that the trunk's output is reduced to; null: not reduced",
    "reduce_kernel": "kernel of the channel reduction: 1 or 3",
    "relu": "ReLU in the classifier: true or false; null: as the variant says",
    "skip": "how fine levels are joined: balanced, concat or none",
    "slice_at": "block after which the two tasks part: block9 or block5",
    "spatial": "channels of the branch of fine detail; 0: none",
    "theta_hwm": "least gated weight of a branch; null: 1 / number of branches",
    "theta_lbm": "least gated weight of a level",
    "upsampled": "what a decoder block passes upwards: all levels, or the new ones",
    "upsampling": "how scores are enlarged: deconv (learned) or interpolate (bilinear)",
    "variant": "paper (1024 hidden units, ReLU) or released (128, linear)",
    "weighting": "how channels are weighted by distance: dbs, softmax, tanh, conv or conv-input",
    "weights": "local file with the trunk's weights (.safetensors, .pth), instead of pretrained",
    "width": "channels of the network's own layers",
    "widths": "channels of the encoder's four levels, such as [32,64,96,128]",
}
"""Option -> its meaning."""

OF_ONE: dict[tuple[str, str], str] = {
    ("stem", "dense"): "channels of the first convolution",
    ("stem", "trunk"): "first layers of a ResNet: standard (7x7) or deep (three 3x3)",
    ("encoder", "dense"): "layers of each dense block of the encoder, such as [6,12,24,16]",
    (
        "encoder",
        "smp",
    ): "encoder by its name in segmentation-models-pytorch: resnet34, or tu- and a timm name",
    ("downsample", "trunk"): "how the context's input is reduced: bilinear, max or avg",
}
"""Options that mean something else in different kinds of networks."""


def words_of(network: str, option: str) -> str:
    """The meaning of a network's option; "" for one of another library without a description."""
    dense = network in ("fc-densenet", "classmate", "dfcnet")
    kind = "smp" if network.startswith("smp/") else "dense" if dense else "trunk"
    if network in ("fcn", "unpooling", "skip", "mlp"):
        kind = "own"
    return OF_ONE.get((option, kind)) or WORDS.get(option, "")
