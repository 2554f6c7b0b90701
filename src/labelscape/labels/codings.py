"""Label rasters that are written in two ways: classes by small numbers, and by greys to be looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from labelscape.legend import IGNORE

ONE_WAY = "Write all label files with the same values."


def two_codings(found: Mapping[str, Collection[int]]) -> str:
    """A sentence where some label rasters number their classes (0, 1, 2) and others stretch the numbers over
    the greys (0, 127, 255), as programs write masks to be looked at: classes of one file would be others',
    or, as 255, unlabelled. Empty where none seem to be.

    found  file -> all values in it, 255 among them
    """
    numbered, stretched = {}, {}
    for file, own in found.items():
        values = sorted(own)
        if len(values) < 2 or values[0] != 0:
            continue
        if values[-1] < 16:
            numbered[file] = values
        elif values[-1] >= 250 and len(values) < 16 and not set(values[1:-1]) & set(range(1, 16)):
            stretched[file] = values
    # 0 and 255 beside files of three classes is a file of one class and what is not labelled.
    if not numbered or _most(numbered) != _most(stretched):
        return ""
    # Where 255 is beside small numbers in any file, it means "not labelled" there, and probably in all.
    if any(1 in values and IGNORE in values for values in found.values()):
        return ""
    few, far = (
        f"{file}: {', '.join(map(str, values))}" for file, values in (_first(numbered), _first(stretched))
    )
    return (
        f"Of the label files {len(numbered)} hold small numbers ({few}) and {len(stretched)} greys far apart "
        f"({far}): these seem to be two ways of writing the same classes."
    )


def _first(files: Mapping[str, list[int]]) -> tuple[str, list[int]]:
    return next(iter(files.items()))


def _most(files: Mapping[str, list[int]]) -> int:
    return max(map(len, files.values()), default=0)
