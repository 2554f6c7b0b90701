"""Mixed precision reaches the layers, in one process and in several."""

import json
import os
import subprocess
import sys

import pytest
import torch
import world
from lightning_fabric.accelerators import cuda as of_fabric
from processes import PATIENCE

import labelscape.training.loop as loop
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.team import told_of_precision

PROGRAM = """
import json, os, sys
import torch
import labelscape.training.loop as loop
from labelscape.training.recipe import make_recipe
from labelscape.training.run import train
from labelscape.training.team import told_of_precision

real, seen = loop.build_network, set()

def watched(*arguments):
    net = real(*arguments)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, given, out: seen.add(str(out.dtype)))
    return net

if __name__ == "__main__":
    loop.build_network = watched
    train(make_recipe(**json.loads(sys.argv[1])), sys.argv[2], score=False)
    with open(f"{sys.argv[2]}/dtypes{os.environ['RANK']}", "w") as file:
        file.write(" ".join(sorted(seen)))
"""


@pytest.fixture
def fields(tmp_path):
    w = world.make(tmp_path, 64, 96, bands=3, nodata=0)
    labels = world.label_raster(w, tmp_path / "labels.tif")
    return {
        "data": {"images": [str(w.scene)], "labels": [str(labels)], "block": 32},
        "options": {"widths": [4, 4, 4, 4]},
        "network": "fcn",
        "batch": 4,
        "crop": 32,
        "steps": 2,
        "device": "cpu",
    }


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_layers_of_one_process_work_in_the_recipes_precision(
    fields, tmp_path, monkeypatch, precision, dtype
):
    real, seen = loop.build_network, set()

    def watched(*arguments):
        net = real(*arguments)
        net.head.score.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
        return net

    monkeypatch.setattr(loop, "build_network", watched)
    trained = train(make_recipe(**fields, precision=precision), tmp_path / "out", score=False)
    assert seen == {dtype}
    assert {str(value.dtype) for value in trained.weights.values()} <= {"float32", "int64"}


@pytest.mark.long
def test_the_layers_of_two_processes_work_in_bfloat16(fields, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    fields["precision"] = "bf16"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    run = subprocess.run(
        [sys.executable, *torchrun, str(program), json.dumps(fields), str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    assert [(tmp_path / "out" / f"dtypes{rank}").read_text() for rank in (0, 1)] == ["torch.bfloat16"] * 2


def test_a_card_that_could_be_faster_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = torch.device("cuda")
    (line,) = told_of_precision("32", cuda)
    assert "tf32" in line and "bf16" in line
    assert not told_of_precision("bf16", cuda) and not told_of_precision("32", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not told_of_precision("32", cuda)


def test_fabric_gives_no_advice_on_precision(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "card")
    of_fabric._check_cuda_matmul_precision.cache_clear()  # it is said once
    with caplog.at_level("INFO"):
        of_fabric._check_cuda_matmul_precision(torch.device("cuda"))
        of_fabric.rank_zero_info("anything else")
    assert [record.getMessage() for record in caplog.records] == ["anything else"]
