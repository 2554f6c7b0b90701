"""What a bar says of work on workers: speed, failures, slow workers."""

from types import SimpleNamespace

import pytest

from labelscape.workers import pace
from labelscape.workers.pace import Pace


def test_a_worker_is_slow_that_takes_twice_as_long_as_usual(capfd):
    found = Pace()
    for _ in range(3):
        for worker, seconds in (("a", 1.0), ("b", 1.2), ("c", 1.9), ("d", 2.6)):
            assert found.slow() == {}  # two pieces of work say little
            found.took(worker, seconds, 10)
    assert found.slow() == {"d": pytest.approx(2.6 / 1.2)}
    said = "worker d is slow: it takes 2.2 times as long as the others"
    assert capfd.readouterr().err.splitlines() == [said]
    assert found.facts()["slow workers"] == 1
    for _ in range(16):  # later it keeps up with the others
        found.took("d", 1.0, 10)
    assert found.slow() == {} and "slow workers" not in found.facts()


def test_work_of_another_size_makes_no_worker_slow_and_one_alone_is_not():
    found = Pace()
    for _ in range(5):
        found.took("a", 100.0, 1000)
        assert found.slow() == {}
        found.took("b", 1.0, 10)
        found.took("c", 50.0, 0)  # nothing was missing there
    assert found.slow() == {}
    found.took("b", 300.0, 10)
    found.forget()
    assert found.slow() == {}


def test_the_faster_of_two_is_usual():
    found = Pace()
    for _ in range(3):
        found.took("a", 1.0, 1)
        found.took("b", 2.1, 1)
    assert found.slow() == {"b": pytest.approx(2.1)}


def test_speed_is_that_of_the_whole_job(monkeypatch):
    clock = iter((100.0, 104.0, 108.0))
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = Pace()
    found.pixels = 8e6
    assert found.facts() == {"Mpx/s": 2.0}
    found.failed = 1
    assert found.facts() == {"Mpx/s": 1.0, "failed": 1}
