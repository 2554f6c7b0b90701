"""Labels whose names differ from their images' in one constant way: `scene_1.tif`, `mask_1_gt.png`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

Key = tuple[tuple[str, ...], str]
"""The folders below a side's own, and the name without suffix."""


def constant_pairs(images: Sequence[Key], labels: Sequence[Key]) -> list[tuple[tuple[int, ...], str]]:
    """Every way to give each image a label of its own such that names differ in one constant way: positions
    in `labels`, and the difference in words.

    Names of images share their beginning and end; what is between names the image, and must stand between
    another beginning and end, the same for all, in the names of labels. Folders must be equal, or differ in
    one constant way too; where they do neither, names alone decide.
    """
    for like in (_folders_alike, _folders_changed, _folders_ignored):
        if (renamed := like(images, labels)) is None:
            continue
        found = {}
        for mapped, words in _ways(*renamed):
            found.setdefault(mapped, words)
        if found:
            return list(found.items())
    return []


def _folders_alike(images: Sequence[Key], labels: Sequence[Key]) -> tuple[Sequence[Key], Sequence[Key]]:
    return images, labels


def _folders_changed(
    images: Sequence[Key], labels: Sequence[Key]
) -> tuple[Sequence[Key], Sequence[Key]] | None:
    """The images with the folders of their labels, where these have another constant beginning or end."""
    mine, theirs = (sorted({"/".join(folders) for folders, _ in keys}) for keys in (images, labels))
    ways = {mapped for mapped, _ in _ways([((), f) for f in mine], [((), f) for f in theirs])}
    if len(ways) != 1:
        return None
    (way,) = ways
    other = {folder: theirs[n] for folder, n in zip(mine, way)}
    return [(tuple(other["/".join(folders)].split("/")), name) for folders, name in images], labels


def _folders_ignored(images: Sequence[Key], labels: Sequence[Key]) -> tuple[Sequence[Key], Sequence[Key]]:
    return [((), name) for _, name in images], [((), name) for _, name in labels]


def _ways(images: Sequence[Key], labels: Sequence[Key]) -> Iterator[tuple[tuple[int, ...], str]]:
    places = {key: n for n, key in enumerate(labels)}
    # Two images of one name, or two labels, leave open which is whose.
    if len(set(images)) < len(images) or len(places) < len(labels):
        return
    names = [name for _, name in images]
    if len(names) == 1:
        yield from _only(images[0], labels)
        return
    start = _common(names)
    end = _common([name[len(start) :][::-1] for name in names])[::-1]
    cores = [name[len(start) : len(name) - len(end)] for name in names]
    # The longest, which is found in the fewest names.
    probe = max(range(len(cores)), key=lambda n: len(cores[n]))
    tried = set()
    for folders, label in labels:
        at = label.find(cores[probe]) if folders == images[probe][0] else -1
        while at >= 0:
            before, after = label[:at], label[at + len(cores[probe]) :]
            at = label.find(cores[probe], at + 1)
            if (before, after) in tried:
                continue
            tried.add((before, after))
            wanted = ((folders, f"{before}{core}{after}") for (folders, _), core in zip(images, cores))
            mapped = []
            for key in wanted:
                if key not in places:
                    break
                mapped.append(places[key])
            if len(mapped) == len(images):
                yield tuple(mapped), f"{start}*{end} with {before}*{after}"


def _common(names: Sequence[str]) -> str:
    """The characters that all names begin with."""
    # First and last in order: what these two share, all between them share.
    first, last = min(names), max(names)
    same = next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
    return first[:same]


def _only(image: Key, labels: Sequence[Key]) -> Iterator[tuple[tuple[int, ...], str]]:
    """A single image: of its label's name and its own, one has the other among its words."""
    folders, name = image
    for n, (others, label) in enumerate(labels):
        short, long = sorted((name, label), key=len)
        # Between separators: `a` is in `zebra` too.
        word = rf"(?<![^\W_]){re.escape(short)}(?![^\W_])"
        if folders == others and short and re.search(word, long):
            yield (n,), f"{name} with {label}"
