"""What an analysis is given (`Look`), what it finds (`Found`), and what all find together (`Explanation`)."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from labelscape.checkpoint import Checkpoint
from labelscape.evaluation.sections import Figure, Picture, Section, Table, section_values
from labelscape.explanation.reference import Reference
from labelscape.explanation.windows import Windows
from labelscape.nets.blocks import Network

NOTEBOOK_WIDTH = 320
"""Screen pixels of a picture in a notebook."""


@contextmanager
def hooked(*hooks: RemovableHandle) -> Iterator[None]:
    """Remove hooks of modules at the end of a block: the next pass through the network must not run them."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, eq=False)
class Look:
    """What every analysis is given: a network in eval mode, its checkpoint, the windows, and what a user asks
    beside them.
    """

    net: Network
    checkpoint: Checkpoint
    windows: Windows
    over: Path | None = None
    layer: str | None = None
    pixels: tuple[tuple[int, int], ...] = ()
    """(x, y) of the scene, all inside every window that was chosen."""
    other: Checkpoint | None = None
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The classes, in index order."""
        return self.checkpoint.legend.names

    @property
    def reference(self) -> Reference | None:
        """The labels that were given."""
        return self.windows.reference

    @property
    def known_as(self) -> str:
        """What a class of a pixel is, in captions: "labelled" or "predicted"."""
        return "predicted" if self.reference is None else "labelled"

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device


@dataclass(frozen=True, eq=False)
class Found:
    """What an analysis found.

    lead     one or two sentences: the answer
    numbers  JSON values
    arrays   everything that figures were drawn from
    about    the caption of all pictures together: what is seen, the paper, how it was computed
    """

    lead: str
    numbers: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        captions = [self.about] * bool(self.pictures) + [figure.caption for figure in self.figures]
        assert all("Computed:" in text for text in captions), "every figure says how it was computed"

    def _repr_html_(self) -> str:
        """What notebooks show: the answer, tables, pictures and figures with their captions."""
        section = section_values(
            Section("", tuple(filter(None, (self.lead, self.about))), self.pictures, self.figures)
        )
        parts = [f"<p>{html.escape(text)}</p>" for text in section["text"]]
        for table in self.tables:
            rows = "".join(_row(row, "td") for row in table.rows)
            parts.append(
                f"<table><caption>{html.escape(table.title)}</caption>{_row(table.heads, 'th')}{rows}</table>"
            )
        for shown in (*section["pictures"], *section["figures"]):
            title, said, alt = (html.escape(shown[name], quote=True) for name in ("title", "caption", "alt"))
            width = shown.get("width", NOTEBOOK_WIDTH)
            image = f'<img src="{shown["source"]}" alt="{alt}" width="{width}">'
            parts.append(f"<figure>{image}<figcaption><b>{title}</b>: {said}</figcaption></figure>")
        return "".join(parts)


def _row(cells: tuple[str, ...], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


@dataclass(frozen=True)
class Analysis:
    """An analysis: its name in files and options, its title, why it does not suit what it is given ("" where
    it does), and the function that runs it.
    """

    name: str
    title: str
    why_not: Callable[[Look], str]
    run: Callable[[Look], Found]


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What `explain` found.

    paths       of the page ("html"), the numbers ("json") and the arrays ("npz")
    windows     what was looked at, as JSON values
    found       by the name of each analysis, its numbers and arrays
    not_suited  by the name of each analysis that this network or scene does not suit, why
    notes       what was found of the scenes
    """

    paths: dict[str, Path]
    windows: tuple[dict[str, Any], ...]
    found: dict[str, Found]
    not_suited: dict[str, str]
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = f"{len(self.windows)} window{'s' * (len(self.windows) != 1)}"
        return f"<Explanation of {self.facts.get('network')}: {', '.join(self.found)}; {count}>"

    def _repr_html_(self) -> str:
        """What notebooks show: the page, in a frame."""
        page = html.escape(self.paths["html"].read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="720" style="border:0"></iframe>'

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values; arrays are in the .npz file."""
        return {
            **self.facts,
            "notes": list(self.notes),
            "windows": list(self.windows),
            "analyses": {name: {"lead": one.lead, **one.numbers} for name, one in self.found.items()},
            "not_suited": self.not_suited,
        }


def caption(seen: str, paper: str, how: str) -> str:
    """What is seen, what the paper showed ("" where it has nothing of the kind), how it was computed."""
    paper = f" In the paper: {paper}" if paper else " No paper has this figure."
    return f"{seen}{paper} Computed: {how}"
