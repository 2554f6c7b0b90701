"""Lists of names, such as train.txt: which image each line means, however the file was written."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from labelscape.errors import BadFile, BadInput

HEADINGS = {"name", "names", "file", "files", "filename", "image", "images", "image_id", "id", "path"}
"""What the first line of a table may say instead of a name."""


def lines_in(file: Path, *, comments: bool = False) -> list[str]:
    """The lines of a list without blanks at their ends, without empty ones and, unless asked for, comments
    (#). Byte-order marks and UTF-16, which Windows writes, are understood. Raises BadFile where it is not
    text.
    """
    data = file.read_bytes()
    # UTF-16 only where a mark says so: without one nearly any file of even length decodes.
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(f"{file} must be a text file with one name per line (UTF-8).") from error
    # NFC: macOS writes accents as characters of their own, and such a name equals no other's.
    lines = [unicodedata.normalize("NFC", line.strip()) for line in text.lstrip("\ufeff").splitlines()]
    return [line for line in lines if line and (comments or not line.startswith("#"))]


def readings(line: str) -> Iterator[tuple[str, ...]]:
    """The names that a line may mean, as folders and a file name: the whole line, which may have blanks; else
    its first column, where others give the class or the label file. Both kinds of slashes separate folders.
    """
    # The whole line first: a name may have blanks and commas.
    for text in dict.fromkeys((line, *(line.split(mark)[0] for mark in ("\t", ",", ";", None)))):
        parts = text.strip().strip("\"'").replace("\\", "/").split("/")
        yield tuple(part for part in parts if part not in ("", "."))


def named_in(file: Path, known: Mapping[str, object], stem: Callable[[Path], str]) -> list[str]:
    """The stems that a list names, those in `known` where a line can be read so."""
    found = []
    for line in lines_in(file):
        stems = [stem(Path(parts[-1])) for parts in readings(line) if parts]
        found.append(next((name for name in stems if name in known), stems[-1]))
    return found


def parts_listed(
    lists: Mapping[Path, str],
    places: Sequence[tuple[tuple[str, ...], str]],
    sides: Sequence[str],
    stem: Callable[[Path], str],
) -> list[str | None]:
    """The split of every image by lists of names; None for images in no list.

    lists   list -> the split it gives
    places  the folders and the stem of every image
    sides   folder names that say nothing, such as images
    stem    a file's name as it is in `places`

    Raises BadInput for names that are no image, that may be several, or that are in two splits; BadFile
    where a list is not text.
    """
    of_stem: dict[str, list[int]] = {}
    for n, (_, name) in enumerate(places):
        of_stem.setdefault(name, []).append(n)
    found: list[str | None] = [None] * len(places)
    source: dict[int, Path] = {}
    for file, part in lists.items():
        strange = []
        # Comments too: a file may be called `#1.tif`.
        for number, line in enumerate(lines_in(file, comments=True)):
            meant = _meant(line, of_stem, places, sides, stem)
            if len(meant) > 1:
                both = " or ".join("/".join((*places[n][0], places[n][1])) for n in meant[:2])
                raise BadInput(f"{line!r} in {file} may be {both}. Write the folder before the name.")
            if not meant:
                # A table's first line may be its heading; anywhere else it would be a missing image.
                heading = number == 0 and _first(line) in HEADINGS
                strange += [] if heading or line.startswith("#") else [line]
                continue
            if found[meant[0]] not in (None, part):
                raise BadInput(
                    f"{line!r} is in {source[meant[0]]} and in {file}: an image in two splits makes the "
                    "score optimistic. Remove it from one of them."
                )
            found[meant[0]], source[meant[0]] = part, file
        if strange:
            raise BadInput(
                f"{file} lists {len(strange)} name{'s' * (len(strange) > 1)} that no image has: "
                f"{', '.join(map(repr, strange[:5]))}{' ...' * (len(strange) > 5)}. One name per line was "
                "expected, with or without folder and suffix. Correct the list, or pass `split='random'` to "
                "do without it."
            )
    return found


def _first(line: str) -> str:
    *_, parts = readings(line)
    return parts[-1].lower() if parts else ""


def _meant(
    line: str,
    of_stem: Mapping[str, list[int]],
    places: Sequence[tuple[tuple[str, ...], str]],
    sides: Sequence[str],
    stem: Callable[[Path], str],
) -> list[int]:
    """The images that a line may mean, by its first reading that means any."""
    for *folders, name in filter(None, readings(line)):
        own = [f for f in folders if f.lower() not in sides]
        near = [
            n
            for n in of_stem.get(stem(Path(name)), ())
            # From the file upwards, as far as both say: lists may have absolute paths.
            if all(a == b for a, b in zip(reversed(own), reversed(places[n][0])))
        ]
        if near:
            return near
    return []
