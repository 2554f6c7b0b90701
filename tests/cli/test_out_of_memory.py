"""No memory left is a sentence with what to do, whoever ran out of it."""

from __future__ import annotations

import pytest
import torch

import labelscape.cli as cli
from labelscape.errors import is_out_of_memory


def asked_for_too_much() -> None:
    torch.empty(2**50)  # torch's own error on a processor


def python_ran_out() -> None:
    raise MemoryError


def a_gpu_ran_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 128.50 GiB.")


@pytest.mark.parametrize("ends", [asked_for_too_much, python_ran_out, a_gpu_ran_out])
def test_it_is_said_without_a_traceback(monkeypatch, run_cli, ends) -> None:
    monkeypatch.setattr(cli, "app", lambda *given, **named: ends())
    code, _, err = run_cli("map")
    assert code == 1
    assert "out of memory" in err and "--tile-size" in err and "Traceback" not in err


def test_another_error_of_torch_is_no_lack_of_memory(monkeypatch, run_cli) -> None:
    def fails(*given: object, **named: object) -> None:
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(RuntimeError, match="cannot be multiplied") as raised:
        run_cli("map")
    assert not is_out_of_memory(raised.value)
