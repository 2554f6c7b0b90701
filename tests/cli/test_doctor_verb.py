from types import SimpleNamespace

import pytest

from labelscape.cli import doctor


def test_systems_have_the_names_people_know(monkeypatch):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(doctor.platform, "mac_ver", lambda: ("15.1", (), ""))
    assert doctor._system().endswith(" on macOS 15.1, arm64")
    monkeypatch.setattr(doctor.platform, "system", lambda: "Windows")
    monkeypatch.setattr(doctor.platform, "release", lambda: "11")
    assert doctor._system().endswith(" on Windows 11, arm64")


def test_memory_where_the_system_tells_it_and_where_not(monkeypatch):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2 * 2**20}
    monkeypatch.setattr(doctor.os, "sysconf", pages.__getitem__)
    assert doctor._memory().startswith("8.0 GiB, ")
    monkeypatch.delattr(doctor.os, "sysconf")
    assert doctor._memory().startswith("unknown, ")


@pytest.mark.parametrize("answers", [True, False])
def test_memory_on_windows(monkeypatch, answers):
    import ctypes

    def fill(status):
        assert status[0] == 64  # dwLength: the size of MEMORYSTATUSEX in bytes
        assert ctypes.sizeof(status) == 64
        status[1] = 16 * 2**30
        return answers

    kernel = SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill))
    monkeypatch.setattr(ctypes, "windll", kernel, raising=False)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Windows")
    assert doctor._memory_bytes() == (16 * 2**30 if answers else None)
