"""The pinned versions fit each other: a fresh machine can install them all."""

from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINS = {
    canonicalize_name(pin.name): next(iter(pin.specifier)).version
    for line in (Path(__file__).parent.parent / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
    for pin in [Requirement(line)]
}


def conflicts(pins: dict[str, str]) -> list[str]:
    """Requirements of the installed packages, without their extras, that the pins do not meet."""
    found = []
    for package in sorted(pins):
        try:
            asked = metadata.requires(package) or []
        except metadata.PackageNotFoundError:  # pinned for another extra
            continue
        for need in map(Requirement, asked):
            pin = pins.get(canonicalize_name(need.name))
            applies = need.marker is None or need.marker.evaluate({"extra": ""})
            if applies and pin is not None and not need.specifier.contains(pin, prereleases=True):
                found.append(f"{package} wants {need}, {pin} is pinned")
    return found


def test_pinned_versions_fit_each_other():
    assert conflicts(PINS) == []


def test_a_pin_that_another_package_refuses_is_named():
    assert conflicts({"pandas": "0", "python-dateutil": "1.5"}) == [
        f"pandas wants {need}, 1.5 is pinned"
        for need in metadata.requires("pandas")
        if need.startswith("python-dateutil")
    ]
