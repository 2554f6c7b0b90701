"""A published data set in numbers: images, sizes, and pixels per class, counted block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labelscape.datasets.published.catalog import labelled
from labelscape.datasets.published.layout import Pair, Published
from labelscape.datasets.split import PARTS


def chosen(pairs: Sequence[Pair], limit: int | None) -> list[Pair]:
    """At most `limit` pairs, spread evenly because names are often sorted by place."""
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, limit).round().astype(int)]


def describe_part(
    found: Published, part: str, *, limit: int | None = None, tick: Callable[[], None] | None = None
) -> dict[str, Any]:
    """One split in JSON values; reads the headers of images and all labels of at most `limit` of them.

    images, looked_at, sizes ("width x height" -> images), bands, dtypes, pixels, unlabelled, classes (name
    -> pixels and share of the labelled). Raises UnknownName for another split than train, val and test,
    BadFile where a file is damaged, BadInput for unknown values or labels that differ from their image in
    size.
    """
    pairs = found.part(part)
    looked_at = chosen(pairs, limit)
    counts = np.zeros(256, np.int64)
    sizes: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for pair in looked_at:
        one = labelled(found, pair)
        grid = one.scene.grid
        sizes[f"{grid.width} x {grid.height}"] += 1
        dtypes[one.scene.dtype.name] += 1
        # Scenes of tens of thousands of pixels a side are read in pieces.
        for window in grid.window.blocks(2048):
            counts += np.bincount(one.labels.read(window).ravel(), minlength=256)
        if tick:
            tick()
    # What lies above the classes is 255: not labelled, and in no share.
    classes = counts[: len(found.legend)]
    total = max(1, int(classes.sum()))
    return {
        "part": part,
        "images": len(pairs),
        "looked_at": len(looked_at),
        "sizes": dict(sizes.most_common()),
        "bands": list(found.bands),
        "dtypes": sorted(dtypes),
        "pixels": int(counts.sum()),
        "unlabelled": int(counts.sum() - classes.sum()),
        "classes": {
            name: {"pixels": int(n), "share": int(n) / total} for name, n in zip(found.legend.names, classes)
        },
    }


def describe(
    found: Published, *, limit: int | None = None, tick: Callable[[], None] | None = None
) -> dict[str, Any]:
    """All splits with images, and the notes of the data set. Raises BadFile or BadInput as
    `describe_part`.
    """
    parts = [describe_part(found, part, limit=limit, tick=tick) for part in PARTS if found.part(part)]
    absent = [
        name for name in found.legend.names if not any(part["classes"][name]["pixels"] for part in parts)
    ]
    notes = list(found.notes)
    # Of a sample nothing can be said about what is absent.
    if absent and limit is None:
        notes.append(
            f"no pixel of {', '.join(absent)} in any split: are these the files of {found.name}, or of "
            "another "
            "version?"
        )
    return {"name": found.name, "notes": notes, "parts": parts}
