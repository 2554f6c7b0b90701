"""What a GPU does to predictions, and what it does for DGCW's kernel.

    python benchmarks/gpu.py                 # both
    python benchmarks/gpu.py --only numbers  # or --only kernel

numbers  every network with random weights on one image: the largest difference of a probability from the
         CPU's, the share of pixels with another class, and milliseconds, with convolutions of all digits
         (32), rounded ones (tf32) and mixed precision
kernel   the sum over pairs of pixels in one Triton kernel beside the torch form: milliseconds, memory,
         deviation from float64, and the forward and backward pass of training
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from labelscape.benchmark.machine import Clock
from labelscape.benchmark.run import RIVALS
from labelscape.benchmark.subjects import BANDS, blank_checkpoint, without_weights
from labelscape.nets.catalog import list_models
from labelscape.nets.kernels.distance import CHUNK_BYTES, EPS, _forward, relation_sum
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.proof import proof_images

PRECISIONS = ("32", "tf32", "bf16", "16")
SHAPES = ((1, 625), (1, 1024), (1, 2048), (8, 1024))
"""Images and pixels; 128 channels, as the paper's."""
CHANNELS = 128


def milliseconds(run: Callable[[], object], clock: Clock, turns: int) -> float:
    """The median, after three that are not counted."""

    def seconds():
        while True:
            start = clock.wall()
            run()
            yield clock.wall() - start

    return 1e3 * statistics.median(list(islice(seconds(), turns + 3))[3:])


@torch.inference_mode()
def numbers(side: int, turns: int, clock: Clock) -> None:
    print(f"{side} x {side} pixels, random weights, median of {turns}")
    columns = "".join(f"{f'{p}: most':>12}{'classes':>10}{'ms':>8}" for p in PRECISIONS)
    print(f"{'network':<18}{columns}")
    for name in (*list_models(), *RIVALS):
        made = blank_checkpoint(name, without_weights(name, {}))
        images = proof_images(made, (1, BANDS, side, side))
        wanted = TorchEngine.of(made, device="cpu").forward(images).softmax(1)
        cells = []
        for precision in PRECISIONS:
            engine = TorchEngine.of(made, device="cuda", precision=precision)
            given = images.to(engine.device)
            found = engine.forward(given).float().softmax(1).cpu()
            most = float((found - wanted).abs().max())
            changed = float((found.argmax(1) != wanted.argmax(1)).double().mean())
            took = milliseconds(lambda e=engine, i=given: e.forward(i), clock, turns)
            cells.append(f"{most:>12.1e}{100 * changed:>8.3f} %{took:>8.2f}")
        print(f"{name:<18}{''.join(cells)}", flush=True)


def kernel(turns: int, clock: Clock) -> None:
    from labelscape.nets.kernels.distance_triton import fits, fused_sum

    print(f"\nsum over pairs of pixels, {CHANNELS} channels, median of {turns}")
    print(
        f"{'images':>6}{'pixels':>8} {'weighting':<10}{'Triton ms':>10}{'torch ms':>10}{'ratio':>7}{'MiB':>7}"
        f"{'torch':>7}{'error':>9}{'torch':>9}{'step ms':>9}  used"
    )
    for images, pixels in SHAPES:
        for weighting in ("dbs", "softmax", "tanh"):
            draw = [torch.randn(images, CHANNELS, pixels, device="cuda") for _ in range(3)]
            weight = torch.randn(CHANNELS, CHANNELS, device="cuda") * CHANNELS**-0.5
            given = [*draw, weight, torch.randn(CHANNELS, device="cuda")]
            queries = max(1, CHUNK_BYTES["cuda"] // (images * CHANNELS * pixels * 4))

            def plain(*tensors: Tensor, w: str = weighting, q: int = queries) -> Tensor:
                return _forward(*tensors, w, q)

            def fused(*tensors: Tensor, w: str = weighting) -> Tensor:
                return fused_sum(*tensors, w, EPS)

            with torch.no_grad():
                used = fits(given[1], weight, weighting, EPS, plain)
                wanted = plain(*(tensor.double() for tensor in given))
                found = [_measured(run, given, wanted, clock, turns) for run in (fused, plain)]
            learned = [tensor.clone().requires_grad_() for tensor in given]

            def step(w: str = weighting, tensors: list[Tensor] = learned) -> None:
                relation_sum(*tensors, weighting=w).sum().backward()

            took = milliseconds(step, clock, turns)
            (own, its_mib, its_error), (other, mib, error) = found
            print(
                f"{images:>6}{pixels:>8} {weighting:<10}{own:>10.2f}{other:>10.2f}{own / other:>7.2f}"
                f"{its_mib:>7.0f}{mib:>7.0f}{its_error:>9.1e}{error:>9.1e}{took:>9.2f}  {used}",
                flush=True,
            )


def _measured(
    run: Callable[..., Tensor], given: list[Tensor], wanted: Tensor, clock: Clock, turns: int
) -> tuple[float, float, float]:
    """Milliseconds, MiB at the peak, and the largest deviation as a share of the largest sum."""
    error = float((run(*given).double() - wanted).abs().max() / wanted.abs().max())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    took = milliseconds(lambda: run(*given), clock, turns)
    return took, (torch.cuda.max_memory_allocated() - before) / 2**20, error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["numbers", "kernel"])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--turns", type=int, default=12)
    a = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    torch.manual_seed(0)
    clock = Clock(torch.device("cuda"))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if a.only != "kernel":
        numbers(a.side, a.turns, clock)
    if a.only != "numbers":
        kernel(a.turns, clock)


if __name__ == "__main__":
    main()
