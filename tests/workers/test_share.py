"""What is said of work that ends early, and of pieces of it that fail."""

import signal
from types import SimpleNamespace

import pytest

from labelscape.errors import BadFile
from labelscape.workers import share
from labelscape.workers.calls import ClusterLost
from labelscape.workers.share import cause_of, said_where_stopped


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), SystemExit(128 + signal.SIGTERM), ClusterLost("gone")], ids=repr
)
def test_work_that_is_stopped_says_how_far_it_came(stop, capsys, monkeypatch):
    clock = iter((100.0, 112.0))
    monkeypatch.setattr(share, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = []
    with pytest.raises(type(stop)), said_where_stopped(lambda: f"{len(done)} of 3 are finished"):
        done.append(1)
        raise stop
    assert capsys.readouterr().err == "stopped after 12 s: 1 of 3 are finished\n"


def test_work_that_fails_or_ends_is_not_said_to_be_stopped(capsys):
    with pytest.raises(BadFile), said_where_stopped(lambda: "nothing"):
        raise BadFile("a.tif is damaged.")
    with said_where_stopped(lambda: "nothing"):
        pass
    assert capsys.readouterr().err == ""


def test_causes_are_sentences(capsys):
    assert cause_of(BadFile("a.tif is damaged.")) == "a.tif is damaged."
    assert cause_of(MemoryError(), "Use smaller tiles.") == "Use smaller tiles."
    full = OSError(28, "No space left on device", "maps/a.tif")
    assert cause_of(full) == "maps/a.tif: No space left on device."
    assert capsys.readouterr().err == ""
    # As torch raises it where a GPU has no memory left: no MemoryError.
    of_a_gpu = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert cause_of(of_a_gpu, "Use smaller tiles.") == "Use smaller tiles."


def test_a_fault_of_the_software_asks_for_a_report_and_shows_its_place(capsys):
    def faulty():
        nothing = None
        return nothing[0]

    try:
        faulty()
    except TypeError as error:
        cause = cause_of(error)
    assert cause == (
        "Ended by an error that Labelscape should have explained (TypeError: 'NoneType' object is not "
        "subscriptable). Please report it, with the traceback that was printed."
    )
    assert "in faulty" in capsys.readouterr().err
