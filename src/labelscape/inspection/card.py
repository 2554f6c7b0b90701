"""`Info`, the result of `info`, and how facts become text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labelscape.errors import BadFile


@dataclass(frozen=True, repr=False)
class Info:
    """The result of `info`. `kind` is what the file or folder is: "checkpoint", "map", "class map", "scene",
    "polygons", "label raster", "data set", "folder", "sample", "assessed points", "assessment", "counts",
    "times", or one of the kinds in `beside.ENDINGS`; `facts` are
    JSON values, `text` is the same for people.
    """

    kind: str
    path: str
    facts: Mapping[str, Any]
    text: str

    def __repr__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": self.path, **self.facts}


def lines(card: Mapping[str, Any], table: Sequence[str] = ()) -> str:
    """Labels and values below each other, without empty ones; then a table."""
    rows = {label: _plain(value) for label, value in card.items()}
    wide = max(len(label) for label in rows) + 2
    shown = [f"{label:<{wide}}{value}" for label, value in rows.items() if value]
    return "\n".join([*shown, *(["", *table] if table else [])])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def size_text(size: int) -> str:
    """Bytes as text: 3.4 kB, 0.52 MB, 1.20 GB."""
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def json_number(value: float | None) -> float | str | None:
    """NaN is a frequent nodata value, and not valid JSON."""
    return value if value is None or value == value else "nan"


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Values of another type than the program writes, in a file that anybody may have changed, as BadFile."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{what} ({type(error).__name__}: {error}).") from error
