"""labelscape data check: check images and labels before training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import AsJson, Labels, PublishedSet, as_options, grouped, print_json
from labelscape.cli.parsing import labelled_scenes, settings_of
from labelscape.errors import BadOption

if TYPE_CHECKING:
    from labelscape.datasets.doctor.check import Finding
    from labelscape.scenes.files import Source

NAME = "check"
Texts = list[str]
SHOWN = {"error": 10, "warning": 10, "info": 5}
"""Findings of one kind that are printed, by severity; the others are only counted."""


@grouped
def run_check(
    images: Annotated[
        Texts,
        typer.Argument(
            help=(
                "Scenes: files, folders (or a,b,c) of bands or tiles, STAC items; or one folder with images/ "
                "and labels/."
            )
        ),
    ],
    reading: Labels,
    dataset: PublishedSet = None,
    settings: Annotated[
        Texts, typer.Option("-o", "--set", help="Option of the published data set, KEY=VALUE. Repeat.")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Check images and labels: class values, sizes and georeferencing, misregistration, damaged files,
    duplicate images.

    Takes the options of `train`. Ends with exit code 1 if training would fail or its score would be wrong.
    Folders called train, val or test, or lists train.txt, val.txt and test.txt, give the split of their
    files.

    Examples:

      labelscape data check scene.tif --labels fields.gpkg --class-column crop

      labelscape data check ~/data/CamVid --dataset camvid
    """
    # A published set has its own readers of labels, and is checked with them.
    if dataset is not None:
        _print(*_check_published(dataset, images, settings), as_json)
    else:
        _print(*_check_own(labelled_scenes(images), reading), as_json)


def _check_own(scenes: Sequence[Source], reading: Labels) -> tuple[list[Finding], int]:
    """Findings in scenes of a user's own, and the number of scenes."""
    from labelscape.datasets.doctor.check import Finding, check_data
    from labelscape.datasets.pairs import pairs_of_folder, parts_given, split_unread
    from labelscape.labels.rules import SETTINGS, LabelRules
    from labelscape.progress import bar

    settings = reading.settings
    rules = LabelRules(**{name: settings[name] for name in SETTINGS if name in settings})
    labels, given, told = reading.files, None, ()
    if not labels:
        folder = scenes[0]
        found = pairs_of_folder(scenes)
        scenes, labels, told = found.images, found.labels, found.report
        given = parts_given(folder, scenes)
        told = (*told, *(split_unread(folder) if given is None else ()))
    splits = (
        list(given.part_of)
        if given
        else [part_of_path(s) if isinstance(s, (str, Path)) else None for s in scenes]
    )
    with bar("checking", len(scenes), "scenes", shown=len(scenes) > 1) as tick:
        findings = check_data(
            scenes,
            labels,
            spec=rules,
            nodata=reading.nodata,
            asset=reading.asset,
            band_names=settings.get("band_names"),
            bands=settings.get("bands"),
            part_of=splits,
            tick=tick,
        )
    return [*findings, *(Finding("pairs", "info", "all files", line) for line in told)], len(scenes)


def _check_published(name: str, folders: Texts, settings: Texts) -> tuple[list[Finding], int]:
    from labelscape.datasets.doctor.check import check_published
    from labelscape.datasets.published.catalog import find_published
    from labelscape.progress import bar

    if len(folders) != 1:
        raise BadOption(f"--dataset {name} takes one folder, but {len(folders)} paths were given.")
    found = find_published(name, folders[0], **settings_of(settings))
    with bar("checking", len(found.pairs), "images") as tick:
        return check_published(found, tick=tick), len(found.pairs)


def _print(findings: Sequence[Finding], scenes: int, as_json: bool) -> None:
    """The findings; ends with exit code 1 where one is an error."""
    errors = sum(f.severity == "error" for f in findings)
    if as_json:
        print_json({"errors": errors, "findings": [f.to_dict() for f in findings]})
    else:
        print(as_options(report(findings, scenes)))
    if errors:
        raise typer.Exit(1)


def part_of_path(file: str | Path) -> str | None:
    """The split named by the nearest of a file's folders: `images/val/a.png` -> "val"."""
    meant = {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "test": "test",
        "testing": "test",
    }
    return next((meant[p.lower()] for p in reversed(Path(file).parent.parts) if p.lower() in meant), None)


def report(findings: Sequence[Finding], scenes: int) -> str:
    """The findings as text, worst first; of many alike the first `SHOWN`."""
    counts = {s: sum(f.severity == s for f in findings) for s in ("error", "warning", "info")}
    lines, seen, folder = [], {}, _common_folder(findings)
    for finding in findings:
        key = finding.severity, finding.kind
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= SHOWN[finding.severity]:
            mark = {"error": "ERROR", "warning": "warn ", "info": "     "}[finding.severity]
            lines.append(f"{mark} {finding.where.removeprefix(folder)}: {finding.text}")
            if finding.cure:
                lines.append(f"      -> {finding.cure}")
    for (severity, kind), n in seen.items():
        if n > SHOWN[severity]:
            more = f"{n - SHOWN[severity]:,} more of the kind {kind} ({severity})"
            lines.append(f"      ... and {more}; --json lists all.")
    plural = {s: f"{n:,} {s}{'s' * (n != 1)}" for s, n in counts.items()}
    verdict = "" if counts["error"] else " Ready for training."
    return "\n".join(
        [*lines, f"{scenes:,} scene{'s' * (scenes != 1)}: {plural['error']}, {plural['warning']}.{verdict}"]
    )


def _common_folder(findings: Sequence[Finding]) -> str:
    """The folder that contains all files; left out of every line, so that the file names stand out."""
    places = {os.path.dirname(f.where) for f in findings if os.sep in f.where}
    try:
        return os.path.commonpath(places) + os.sep
    except ValueError:  # none, or some from the root and some from here
        return ""
