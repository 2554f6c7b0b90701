"""The page of an explanation: what was looked at, then each analysis with its figures and captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelscape.evaluation.report import Report
from labelscape.evaluation.sections import Picture, Section, Table
from labelscape.explanation.analysis import Analysis, Explanation, Look
from labelscape.explanation.drawing import marked
from labelscape.explanation.windows import Seen

SHOWN = 8
"""Windows whose pictures are on the page: hundreds would make it too large to open."""
GAP = 6
"""White pixels between a window and its classes."""


def page_of(made: Explanation, look: Look, analyses: Sequence[Analysis]) -> Report:
    """The report of an explanation."""
    titles = {one.name: one.title for one in analyses}
    sections = [
        Section(
            titles[name],
            tuple(filter(None, (found.lead, found.about))),
            found.pictures,
            found.figures,
            found.tables,
        )
        for name, found in made.found.items()
    ]
    if made.not_suited:
        rows = tuple((titles[name], reason) for name, reason in made.not_suited.items())
        table = Table(("analysis", "why"), rows, texts=(1,))
        sections.append(Section("What is not shown", tables=(table,)))
    scenes = {one["scene"] for one in made.windows}
    count = f"{len(made.windows)} window{'s' * (len(made.windows) != 1)}"
    ran = f"{len(made.found)} analys{'i' if len(made.found) == 1 else 'e'}s"
    return Report(
        title=f"Inside {look.checkpoint.network}{_task(look)}",
        subtitle=made.facts["software"],
        lead=f"{ran} on {count} of {_named(sorted(scenes))}.",
        notes=made.notes[:20],
        sections=(_windows(look), *sections),
        provenance={
            "Model": (made.facts["model"] or {}).get("path") or "in memory",
            "Network options": made.facts["options"],
            "Windows (x, y, width, height)": [
                f"{one['scene']} {one['x']},{one['y']},{one['width']},{one['height']}"
                for one in made.windows[:100]
            ],
            "Seed": made.facts["seed"],
            "Numbers": made.paths["json"].name,
            "Arrays": made.paths["npz"].name,
        },
    )


def _task(look: Look) -> str:
    whole = look.checkpoint.whole
    return "" if whole is None else f", second task {whole.mate.name}"


def _named(scenes: Sequence[str]) -> str:
    return ", ".join(scenes) if len(scenes) <= 5 else f"{len(scenes)} scenes"


def _windows(look: Look) -> Section:
    """The first windows beside what the network predicts there."""
    chips = tuple((one.name, one.color) for one in look.checkpoint.legend.classes)
    # Evenly over all: they are in the order of the scenes, which is often that of the classes.
    shown = set(np.linspace(0, len(look.windows) - 1, min(SHOWN, len(look.windows))).round().astype(int))
    pictures = [
        _pair(look, seen, number + 1, chips) for number, seen in enumerate(look.windows) if number in shown
    ]
    text = "Each window beside the classes that the network predicts in it."
    if len(look.windows) > SHOWN:
        text += f" {SHOWN} of {len(look.windows)} are shown."
    return Section("What was looked at", (text,), tuple(pictures))


def _pair(look: Look, seen: Seen, number: int, chips: tuple) -> Picture:
    height, width = seen.valid.shape
    pair = np.full((height, 2 * width + GAP, 3), 255, np.uint8)
    pair[:, :width] = seen.picture
    for x, y in look.pixels:
        pair[:, :width] = marked(pair[:, :width], y - seen.window.top, x - seen.window.left)
    pair[:, width + GAP :] = look.checkpoint.legend.paint(seen.classes)
    place = f"{seen.scene}, x {seen.window.left}, y {seen.window.top}, {width} x {height} pixels"
    present = np.unique(seen.classes[seen.valid])
    return Picture(
        f"Window {number}", pair, place, f"Window {number} and its classes", tuple(chips[k] for k in present)
    )
