"""PyTorch and another engine on networks of the catalogue: processor time, largest difference, memory.

    python benchmarks/engines.py --side 384
    python benchmarks/engines.py --side 384 --engine onnxruntime

Each network runs in a process of its own for each engine, one thread; the least of three times counts. Time
is that of the processor: a machine that does something else stretches the clock's. Memory is what the process
takes beyond what it took before the network ran, converting and comparing included; planned is what `check`
counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version

NETWORKS = {
    "fcn": {},
    "skip": {},
    "mlp": {},
    "fc-densenet": {},
    "mswbn": {"backbone": "resnet18"},
    "deeplabv3plus": {"backbone": "resnet18"},
    "dgcwnet": {"backbone": "resnet18"},
    "ifbfnet": {"backbone": "resnet18"},
    "smp/Unet": {"encoder": "resnet18"},
    "unpooling": {},
}
BANDS, CLASSES, RUNS = 4, 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--side", type=int, default=384, help="of the tile, in pixels")
    parser.add_argument("--engine", default="openvino", choices=["openvino", "onnxruntime"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = asked.networks.split(",")
    if asked.child:
        print(json.dumps(measured(names[0], asked.side, asked.child)))
        return
    versions = ", ".join(f"{one} {version(one)}" for one in ("torch", asked.engine))
    print(f"{versions}, {asked.side} pixels, load {os.getloadavg()[0]:.1f}")
    print(
        f"network         torch s {asked.engine:>11} s  ratio  difference  torch MiB (planned)"
        f"{asked.engine:>14} MiB (planned)"
    )
    for name in names:
        torches, ours = (child(name, asked.side, engine) for engine in ("torch", asked.engine))
        if "error" in ours:
            print(f"{name:<16}{torches['seconds']:7.3f}  {ours['error']}", flush=True)
            continue
        memory = [f"{one['peak']:.0f} ({one['planned']:.0f})" for one in (torches, ours)]
        ratio = ours["seconds"] / torches["seconds"]
        print(
            f"{name:<16}{torches['seconds']:7.3f}{ours['seconds']:14.3f}{ratio:7.2f}{ours['difference']:12.0e}"
            f"{memory[0]:>21}{memory[1]:>28}",
            flush=True,
        )


def child(name: str, side: int, engine: str) -> dict:
    command = [sys.executable, __file__, "--networks", name, "--side", str(side), "--child", engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, side: int, engine: str) -> dict:
    """Seconds of the processor for a tile, and memory in MiB."""
    import torch

    from labelscape.checkpoint import Checkpoint
    from labelscape.contract.contract import Contract
    from labelscape.errors import LabelscapeError
    from labelscape.grid import Window
    from labelscape.legend import Legend
    from labelscape.nets.catalog import create_model
    from labelscape.scoring import engine_choice
    from labelscape.scoring.engines import state_arrays
    from labelscape.scoring.proof import proof_images
    from labelscape.scoring.scorer import Scorer
    from labelscape.scoring.tiles import TilePlan

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = create_model(name, in_channels=BANDS, classes=CLASSES, **NETWORKS[name])
    bands = tuple(f"b{n}" for n in range(BANDS))
    contract = Contract(bands=bands, dtype="uint16", normalisation=((1000.0, 500.0),) * BANDS)
    legend = Legend.of_names([f"c{n}" for n in range(CLASSES)])
    checkpoint = Checkpoint(name, NETWORKS[name], state_arrays(net), legend, contract)
    scorer, plan = Scorer.of(checkpoint, device="cpu"), TilePlan(Window(0, 0, side, side), side, 0)
    del net
    images = proof_images(checkpoint, (1, BANDS, side, side))
    weights = sum(array.nbytes for array in checkpoint.weights.values())
    planned = scorer.members[0].engine.peak_bytes(side, side) + engine_choice.extra_bytes(
        scorer, plan, engine
    )
    before = resident()
    answer = scorer.batch_logits([images]).softmax(1) if engine != "torch" else None
    try:
        settled = engine_choice.with_engine(scorer, [plan], engine).scorer
    except LabelscapeError as error:
        return {"error": str(error)}
    times = []
    for _ in range(RUNS + 1):
        start = time.process_time()
        found = settled.batch_logits([images])
        times.append(time.process_time() - start)
    difference = 0.0 if answer is None else float((found.softmax(1) - answer).abs().max())
    # The network in torch was there before.
    peak = peak_resident() - before + weights
    return {
        "seconds": min(times[1:]),
        "difference": difference,
        "peak": peak / 2**20,
        "planned": planned / 2**20,
    }


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
