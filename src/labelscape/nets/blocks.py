"""What several papers' networks share: the network contract, padding, resizing, convolution-norm-activation.

Symbols   N images  B bands  C width  K classes  H x W pixels; x4 is a level at stride 4: (N, ., H/4, W/4)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from labelscape.errors import BadInput
from labelscape.nets.kernels.taps import DilatedConv2d

_recorded = ContextVar("recorded", default=False)


def is_recorded() -> bool:
    """Is the network being compiled, exported or traced? Forms that fill a tensor in place or loop over
    strips cannot be followed then.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or _recorded.get()


@contextmanager
def as_recorded() -> Iterator[None]:
    """Networks compute inside as when they are traced: what memory does that form take?"""
    token = _recorded.set(True)
    try:
        yield
    finally:
        _recorded.reset(token)


_any_size = ContextVar("any_size", default=False)


def is_any_size(side: int) -> bool:
    """Is the network recorded for images of any size? A loop whose length follows from a side would be fixed
    at the size of the example.
    """
    return isinstance(side, torch.SymInt) or _any_size.get()


@contextmanager
def at_any_size() -> Iterator[None]:
    """Networks compute inside in forms whose steps do not depend on the image's size."""
    token = _any_size.set(True)
    try:
        yield
    finally:
        _any_size.reset(token)


class Network(nn.Module):
    """The contract of every network in the catalogue.

    `net(image)`        (N, B, H, W) -> logits (N, K, H, W), any H and W from one stride up, in train and eval
                        mode
    `net.heads(image)`  the same logits under "logits" and, in train mode, the auxiliary output the loss needs
                        ("aux"), each of the image's size
    `net.heads(image, first=n)`  for a network that learns a second task: the first n images are of its own
                        task, the others of the second; that one's logits are under "mate"

    A network implements `scores`, which sees an image already padded to whole strides. Inputs are normalised
    float images.
    """

    in_channels: int
    classes: int
    stride: int
    """The image is padded at the right and bottom (edge pixels repeated) to a multiple of this."""
    reach: int | None
    """How far, in pixels, an output depends on the input; None where it depends on all of it (global
    pooling).
    """

    @property
    def pads_to(self) -> int:
        """An image gets the logits that it gets when it is padded at the right and bottom (edge pixels
        repeated) to a multiple of this.
        """
        return self.stride

    def scores(self, image: Tensor) -> dict[str, Tensor]:
        """(N, B, H, W), whole strides -> {"logits": (N, K, H, W), ...}."""
        raise NotImplementedError

    def heads(self, image: Tensor, first: int | None = None) -> dict[str, Tensor]:
        """Raises BadInput where images are of a second task that this network does not have."""
        if first not in (None, len(image)):
            raise BadInput(f"{type(self).__name__} has no second head; classmate and dfcnet have one.")
        height, width = image.shape[-2:]
        with enough_values(image):
            scores = self.scores(pad_to_multiple(image, self.pads_to))
        return {name: logits[..., :height, :width] for name, logits in scores.items()}

    def both(self, image: Tensor) -> dict[str, Tensor]:
        """Both tasks for every image: {"logits": ..., "mate": ...}. Raises BadInput where there is one."""
        raise BadInput(f"{type(self).__name__} has no second head; classmate and dfcnet have one.")

    def encoder_modules(self) -> list[tuple[str, nn.Module]]:
        """The modules that make up the encoder, by name, shallow to deep."""
        return [(name, part) for name, part in self.named_children() if name in ("encoder", "trunk")]

    def forward(self, image: Tensor) -> Tensor:
        return self.heads(image)["logits"]


@contextmanager
def enough_values(image: Tensor) -> Iterator[None]:
    """Inside, torch's error of batch normalisation about a single value per channel becomes a BadInput that
    says what to do.
    """
    try:
        yield
    except ValueError as error:
        # torch has no error of its own for this, only these words.
        if "more than 1 value per channel" not in str(error):
            raise
        count, size = len(image), " x ".join(map(str, image.shape[-2:]))
        raise BadInput(
            f"{count} image{'s' * (count > 1)} of {size} pixels leave batch normalisation one value per "
            "channel to learn from; it needs two. Give a larger crop, or more crops to a part of the batch."
        ) from error


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Inside: no autocast on the tensor's device, which may be one that has none (meta)."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column until H and W are multiples of `stride`; nothing is copied if they
    are.
    """
    # At the right and bottom only: the origin stays, so cropping is all that undoes it.
    down, right = -image.shape[-2] % stride, -image.shape[-1] % stride
    return F.pad(image, (0, right, 0, down), mode="replicate") if down or right else image


def resize_like(level: Tensor, other: Tensor, *, align_corners: bool = False) -> Tensor:
    """Resize bilinearly to the height and width of `other`. The papers differ in `align_corners`: pass
    theirs.
    """
    if level.shape[-2:] == other.shape[-2:]:
        return level
    return resize(level, other.shape[-2:], align_corners=align_corners)


def resize(level: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear, to `size` (height, width). Where `needs_order`, the gradient comes from `Resized`."""
    if needs_order(level):
        return Resized.apply(level, size, align_corners)
    return F.interpolate(level, size, mode="bilinear", align_corners=align_corners)


def needs_order(level: Tensor) -> bool:
    """Whether torch refuses gradients here that it adds up in the order in which threads happen to finish: on
    a CUDA device under `torch.use_deterministic_algorithms`. On a CPU its sums have a fixed order.
    """
    return level.is_cuda and torch.are_deterministic_algorithms_enabled()


class Resized(torch.autograd.Function):
    """Bilinear resizing with the exact gradient in a fixed order of sums (`separably`)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(level: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
        return F.interpolate(level, size, mode="bilinear", align_corners=align_corners)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, tuple[int, int], bool], output: Tensor) -> None:
        ctx.shape, ctx.align_corners = inputs[0].shape[-2:], inputs[2]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        def shares(small: int, large: int, like: Tensor) -> Tensor:
            return shares_of(small, large, ctx.align_corners, like)

        return separably(gradient, ctx.shape, shares), None, None


def separably(
    gradient: Tensor, shape: tuple[int, int], shares: Callable[[int, int, Tensor], Tensor]
) -> Tensor:
    """The gradient (N, C, H, W) of a linear map that treats rows and columns alike -> (N, C, *shape), as two
    matrix products, whose sums have a fixed order. `shares(before, after, like)` is the share (before, after)
    that each value had in each that was made of it.
    """
    with without_autocast(gradient):
        # In half precision the sums over rows and columns would each be rounded.
        half = gradient.dtype in (torch.float16, torch.bfloat16)
        full = gradient.float() if half else gradient
        rows, columns = (
            shares(before, after, full) for before, after in zip(shape, gradient.shape[-2:], strict=True)
        )
        return (rows @ full @ columns.mT).to(gradient.dtype)


def shares_of(small: int, large: int, align_corners: bool, like: Tensor) -> Tensor:
    """(small, large): the share that each of `small` values has in each of `large` interpolated ones."""
    # By interpolating unit vectors: whatever rule torch has for borders is then in the matrix.
    one_each = torch.eye(small, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(one_each, large, mode="linear", align_corners=align_corners)[0]


def unpool(level: Tensor, places: Tensor) -> Tensor:
    """`F.max_unpool2d` by two, which torch refuses under deterministic algorithms, because it cannot know
    that no place comes twice; with windows that do not overlap none does. ONNX has no form of it either.
    """
    if not (torch.are_deterministic_algorithms_enabled() or torch.onnx.is_in_onnx_export()):
        return F.max_unpool2d(level, places, 2)
    height, width = level.shape[-2:]
    # One place is written once, so the order of the writes does not matter.
    empty = torch.zeros_like(level).flatten(2).repeat(1, 1, 4)
    filled = empty.scatter(2, places.flatten(2), level.flatten(2))
    # -1: an exported network takes any number of images.
    return filled.reshape(-1, level.shape[1], 2 * height, 2 * width)


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias ("same" padding at stride 1), batch normalisation, ReLU."""
    kind = DilatedConv2d if dilation > 1 and stride == 1 else nn.Conv2d
    return nn.Sequential(
        kind(inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
