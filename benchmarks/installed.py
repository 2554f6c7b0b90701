"""What each dependency and extra takes on disk: itself, and with everything that nothing else brings.

    python benchmarks/installed.py

Sizes are those of the files that pip has recorded in this environment, compiled bytecode left out. "alone" is
what would be gone without it: the package, and what it brings that no other dependency of the core does.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"docs", "test", "all"}


@cache
def brought_by(package: str, extras: tuple[str, ...] = ()) -> frozenset[str]:
    """A package and all that it needs, of what is installed."""
    found, waiting = set(), [(package, extras)]
    while waiting:
        one, asked = waiting.pop()
        if (one, asked) in found:
            continue
        try:
            needs = metadata.requires(one) or []
        except metadata.PackageNotFoundError:
            continue
        found.add((one, asked))
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *asked)):
                waiting.append((canonicalize_name(need.name), tuple(sorted(need.extras))))
    return frozenset(name for name, _ in found)


@cache
def size_of(package: str) -> int:
    files = metadata.files(package) or []
    paths = (Path(file.locate()) for file in files if not str(file).endswith(".pyc"))
    return sum(path.stat().st_size for path in paths if path.is_file())


def named(requirement: str) -> tuple[str, tuple[str, ...]]:
    need = Requirement(re.sub(r"\s*#.*", "", requirement))
    return canonicalize_name(need.name), tuple(sorted(need.extras))


def row(what: str, own: set[str], others: set[str]) -> str:
    with_all = set().union(*(brought_by(*named(one)) for one in own))
    rest = set().union(*(brought_by(*named(one)) for one in others - own)) if others - own else set()
    itself = sum(size_of(named(one)[0]) for one in own if named(one)[0] in with_all)
    alone = sum(map(size_of, with_all - rest))
    sizes = f"{itself / 2**20:>9.1f} MiB{alone / 2**20:>9.1f} MiB alone"
    return f"{what:<30}{sizes}   {len(with_all - rest)} packages"


def main() -> None:
    core = set(PROJECT["dependencies"])
    everything = set().union(*(brought_by(*named(one)) for one in core))
    print(f"core: {sum(map(size_of, everything)) / 2**20:.0f} MiB in {len(everything)} packages")
    for one in sorted(core, key=lambda one: -size_of(named(one)[0])):
        print(row(named(one)[0], {one}, core))
    print("\nextras, beside the core")
    for extra, needs in PROJECT["optional-dependencies"].items():
        if extra not in FOR_DEVELOPERS:
            print(row(extra, set(needs), core))


if __name__ == "__main__":
    main()
