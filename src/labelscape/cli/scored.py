"""Print an evaluation, and write its counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from labelscape.cli.options import as_options, print_json, talk

if TYPE_CHECKING:
    from labelscape.evaluation.counts import Evaluation


@dataclass(frozen=True)
class Shown:
    """What is printed of an evaluation, and where its files go."""

    card: bool
    out: Path | None
    counts: Path | None
    overwrite: bool
    as_json: bool


def print_evaluation(
    found: Evaluation, shown: Shown, name: str, part: str | None, task: str | None = None
) -> None:
    """Print the scores of the model or map `name` on a `part` of the labels, and write the counts where they
    are asked for. The exit code is 1 where scenes could not be scored.
    """
    for note in found.notes:
        talk(f"warning: {note}")
    if found.failure:
        talk(f"warning: {as_options(found.failure)}")
    # A score of nothing is NaN in every column; the reason is what helps.
    if not found.confusion.labelled:
        where = "any split" if part in (None, "all") else f"the {part} split"
        talk(f"no score: there are no labels in {where}")
    elif shown.as_json:
        print_json(
            {**({"task": task} if task else {}), **({"part": part} if part else {}), **as_values(found)}
        )
    else:
        _print(found, shown, f"{name}: {task}" if task else name, part)
    if shown.out:
        talk(f"where it is wrong: {shown.out / 'report.html'}")
    if shown.counts:
        # After the scores, which would be lost where it fails.
        found.save(shown.counts, overwrite=shown.overwrite)
        talk(f"counts: {shown.counts}")
    if found.failed:
        raise typer.Exit(1)


def as_values(found: Evaluation) -> dict[str, Any]:
    """JSON values: scores, and the counts that they come from."""
    rings = [counts.to_dict() for counts in found.per_ring]
    return {
        **found.metrics,
        "per_scene": {name: counts.to_dict() for name, counts in found.per_scene.items()},
        "per_block": [block.to_dict() for block in found.per_block],
        "card": [asdict(line) for line in found.card],
        **({"objects": [one.to_dict() for one in found.objects]} if found.objects else {}),
        **({"topology": [one.to_dict() for one in found.topology]} if found.topology else {}),
        **({"paths": [one.to_dict() for one in found.paths]} if found.paths else {}),
        **({"reliability": [one.to_dict() for one in found.reliability]} if found.reliability else {}),
        **({"per_ring": rings, "trimap": found.trimap} if rings else {}),
        "notes": list(found.notes),
        **({"failed": dict(found.failed)} if found.failed else {}),
    }


def _print(found: Evaluation, shown: Shown, name: str, part: str | None) -> None:
    from labelscape.evaluation.printed import print_matrix, print_scenes
    from labelscape.evaluation.text import (
        percent,
        print_card,
        print_objects,
        print_paths,
        print_scores,
        print_topology,
    )

    scenes = list(found.per_scene)
    more = f" and {len(scenes) - 5:,} more" if len(scenes) > 5 else ""
    print(f"{part or 'all'} labels of {', '.join(scenes[:5])}{more}")
    print_scores({name: found.metrics}, found.names)
    print_matrix(found.confusion, found.names)
    print_scenes(found.per_scene)
    if shown.card:
        print_card(found.card, found.trimap)
    print_objects(found.objects)
    print_topology(found.topology)
    print_paths(found.paths)
    for one in found.reliability:
        print(f"expected calibration error, {one.called}: {percent(one.ece)} %")
