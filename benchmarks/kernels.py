"""The exact fast forms against the plain ones: process CPU time and memory, in turn in one run.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/kernels.py            every case
    python benchmarks/kernels.py mlp --side 512 --rounds 9                     one

Prints, for a forward pass in evaluation and for a training step, the medians of both forms, the median of the
ratios of neighbouring runs with its quartiles, and the memory that each adds at its peak (Linux, in a process
of its own). Other load on the machine makes times worse for both: ratios of runs side by side still hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from distance_tried import sum_from_product
from torch import Tensor, nn

import labelscape as ls
from labelscape.nets.blocks import Network, conv_bn_relu
from labelscape.nets.ifbfnet import BalancedFusion, fused
from labelscape.nets.kernels.distance import relation_sum
from labelscape.nets.kernels.folding import fold_normalisations
from labelscape.nets.kernels.taps import DilatedConv2d
from labelscape.nets.smp_blocks import BLOCKS
from labelscape.scoring.heap import memory_kept

BANDS, CLASSES = 3, 6


def mlp() -> tuple[Network, Network]:
    def classify(levels: tuple[Tensor, ...]) -> Tensor:
        framed = (F.pad(levels[0], (1, 1, 1, 1), mode=head.border), *levels[1:])
        return head.classify(framed) if torch.is_grad_enabled() else head.classify_in_strips(framed)

    plain, kernel = (ls.create_model("mlp", in_channels=BANDS, classes=CLASSES) for _ in range(2))
    head = plain.head
    head.classify_in_chunks = classify
    return plain, kernel


def mswbn() -> tuple[Network, Network]:
    plain, kernel = (ls.create_model("mswbn", in_channels=BANDS, classes=CLASSES, **RIVALS) for _ in range(2))
    for hierarchy in plain.hwm.hierarchies:
        hierarchy.is_linear = lambda: False
        hierarchy.weights = lambda level, own=hierarchy: own.generator(level).mean((2, 3)).softmax(1)
    return plain, kernel


def rivals() -> tuple[Network, Network]:
    """The paper compares itself with DeepLabV3+: here in place of the plain form."""
    names = ("deeplabv3plus", "mswbn")
    made = [ls.create_model(name, in_channels=BANDS, classes=CLASSES, **RIVALS) for name in names]
    return made[0], made[1]


def dfcnet() -> tuple[Network, Network]:
    """Dense blocks: all kept for the gradient, or recomputed."""
    how = {"in_channels": BANDS, "classes": CLASSES}
    return ls.create_model("dfcnet", **how), ls.create_model("dfcnet", **how, checkpointing=True)


def dilated(network: str) -> Callable[[], tuple[Network, Network]]:
    """Weights of dilated kernels: gradients by torch, and by tap on small maps (`--side 128 --batch 8`)."""

    def make() -> tuple[Network, Network]:
        made = [
            ls.create_model(network, in_channels=BANDS, classes=CLASSES, **RIVALS).to(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        ]
        for module in made[0].modules():
            if type(module) is DilatedConv2d:
                module.__class__ = nn.Conv2d
        return made[0], made[1]

    return make


def folded() -> tuple[Network, Network]:
    """Normalisations folded, in evaluation alone: a training step has none to compare."""
    made = [ls.create_model("ifbfnet", in_channels=BANDS, classes=CLASSES, **RIVALS).eval() for _ in range(2)]
    fold_normalisations(made[1], lambda net: net(torch.zeros(1, BANDS, 64, 64)))
    return made[0], made[1]


def upsampled(network: str) -> Callable[[], tuple[Network, Network]]:
    """Blocks that double a map, join another one and convolve: as the library has them, and as a map is made
    with.
    """

    def make() -> tuple[Network, Network]:
        how = {"in_channels": BANDS, "classes": CLASSES, "encoder": "resnet18"}
        one, other = (ls.create_model(network, **how).eval() for _ in range(2))
        for block in one.net.decoder.modules():
            if type(block).__name__ in BLOCKS:
                block.__class__ = type(block).__bases__[0]
        for net in (one, other):
            fold_normalisations(net, lambda net: net(torch.zeros(1, BANDS, 64, 64)))
            net.to(memory_format=torch.channels_last)
        return one, other

    return make


class Fusion(nn.Module):
    """Levels at a quarter of the image, joined, weighed and convolved as IFBFNet does it: `form` is "plain",
    "used", or "kernels", which was tried: a kernel for each image and part, no weighed or joined map.
    """

    def __init__(self, widths: tuple[int, ...], outputs: int, kernel: int, form: str) -> None:
        super().__init__()
        self.widths, self.form, self.levels = widths, form, []
        self.balance = BalancedFusion(sum(widths))
        self.after = nn.Sequential(conv_bn_relu(sum(widths), outputs, kernel))

    def forward(self, image: Tensor) -> Tensor:
        if not self.levels:
            shape = image.shape[-2] // 4, image.shape[-1] // 4
            self.levels = [torch.randn(len(image), width, *shape) for width in self.widths]
            # As maps are made.
            self.levels = [level.contiguous(memory_format=torch.channels_last) for level in self.levels]
        if self.form == "used":
            return fused(self.balance, [*self.levels], self.after)
        if self.form == "plain":
            return self.after(self.balance(torch.cat(self.levels, dim=1)))
        return self.after[0][1:](self.by_kernels())

    def by_kernels(self) -> Tensor:
        conv, made = self.after[0][0], []
        means = torch.cat([level.mean((2, 3), keepdim=True) for level in self.levels], dim=1)
        for n, factors in enumerate(1 + self.balance.weights_of(means)):
            total = None
            kernels = (conv.weight * factors).split(self.widths, dim=1)
            for level, kernel in zip(self.levels, kernels, strict=True):
                term = F.conv2d(level[n : n + 1], kernel, padding=conv.padding)
                total = term if total is None else total.add_(term)
            made.append(total)
        return torch.cat(made) if len(made) > 1 else made[0]


def fusion(*how: object, forms: tuple[str, str]) -> Callable[[], tuple[nn.Module, nn.Module]]:
    def make() -> tuple[nn.Module, nn.Module]:
        one, other = (Fusion(*how, form).to(memory_format=torch.channels_last) for form in forms)
        return one, other

    return make


class Pairs(nn.Module):
    """DGCW's sum over all pairs of pixels at 1/32 of the image, by `form`."""

    def __init__(self, channels: int, form: Callable[..., Tensor]) -> None:
        super().__init__()
        self.channels, self.form, self.maps = channels, form, []
        self.first = nn.Conv2d(channels, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        if not self.maps:
            pixels = -(-image.shape[-2] // 32) * -(-image.shape[-1] // 32)
            shape = len(image), self.channels, pixels
            with torch.inference_mode(False):  # a step needs them too
                self.maps = [torch.randn(shape).requires_grad_() for _ in range(3)]
        return self.form(*self.maps, self.first.weight.flatten(1), self.first.bias)


def pairs(channels: int) -> Callable[[], tuple[nn.Module, nn.Module]]:
    """What is used beside what was tried."""
    return lambda: (Pairs(channels, relation_sum), Pairs(channels, sum_from_product))


RIVALS = {"pretrained": False}

CASES: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "mlp": mlp,
    "mswbn": mswbn,
    "mswbn/deeplabv3plus": rivals,
    "dfcnet": dfcnet,
    "dilated mswbn": dilated("mswbn"),
    "dilated deeplabv3plus": dilated("deeplabv3plus"),
    "folded ifbfnet": folded,
    "upsampled smp/Unet": upsampled("smp/Unet"),
    "upsampled smp/UnetPlusPlus": upsampled("smp/UnetPlusPlus"),
    "fusion 1x1": fusion((256, 128), 128, 1, forms=("plain", "used")),
    "fusion 3x3": fusion((256, 64), 256, 3, forms=("plain", "used")),
    "dgcw 128": pairs(128),
    "dgcw 16": pairs(16),
    "fusion 3x3 kernels": fusion((256, 64), 256, 3, forms=("used", "kernels")),
}
"""(plain form, fast form) of the same network or layers, or two that are compared."""
INFERENCE = ("folded", "fusion", "upsampled")
"""Beginnings of cases whose forms differ in inference alone."""


def forward(net: nn.Module, image: Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def run() -> None:
        net.eval()(image)

    return run


def step(net: nn.Module, image: Tensor) -> Callable[[], object]:
    label = torch.randint(0, CLASSES, (len(image), *image.shape[-2:]))

    def run() -> None:
        net.train().zero_grad()
        if not isinstance(net, Network):
            net(image).square().mean().backward()
            return
        F.cross_entropy(net.heads(image)["logits"], label).backward()

    return run


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def peak_bytes(work: Callable[[], object]) -> int:
    """What `work` adds to the memory of a child of this process at its peak."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # The threads of this process are not the child's: it would wait for them for ever.
        torch.set_num_threads(1)
        # What earlier cases have freed goes back, or it would be had for nothing.
        with memory_kept():
            pass
        # Afterwards the "high water mark" counts from the present size.
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        os.write(writing, str(_status("VmHWM") - before).encode())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 100)
    os.waitpid(child, 0)
    return int(found)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def compare(name: str, what: str, plain: Callable, fast: Callable, rounds: int) -> None:
    memory = [peak_bytes(work) / 2**20 for work in (plain, fast)]
    plain(), fast()
    times = [(seconds(plain), seconds(fast)) for _ in range(rounds)]
    ratios = [two / one for one, two in times]
    one, two = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
    print(
        f"{name:26} {what:8} {one:8.0f} ms {two:8.0f} ms   ratio {middle:.3f} ({low:.3f} to {high:.3f})   "
        f"memory {memory[0]:5.0f} MiB {memory[1]:5.0f} MiB   ratio {memory[1] / max(memory[0], 1):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--what", choices=["forward", "step"], help="by default both")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(f"side {asked.side}, batch {asked.batch}, threads {torch.get_num_threads()}: plain, fast")
    for name in asked.cases or CASES:
        if name not in CASES:
            parser.error(f"there is no case {name!r}; there are {', '.join(CASES)}")
        torch.manual_seed(0)
        nets = CASES[name]()
        image = torch.randn(asked.batch, BANDS, asked.side, asked.side)
        for what, make in (("forward", forward), ("step", step)):
            if (name.startswith(INFERENCE) and what == "step") or asked.what not in (None, what):
                continue
            compare(name, what, *(make(net, image) for net in nets), asked.rounds)


if __name__ == "__main__":
    main()
