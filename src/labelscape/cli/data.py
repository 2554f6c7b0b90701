"""labelscape data: list, describe, prepare (cut into patches), split and resample published data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, Overwrite, as_options, print_json, talk
from labelscape.cli.parsing import settings_of
from labelscape.errors import BadOption
from labelscape.text import typed

if TYPE_CHECKING:
    from labelscape.datasets.published.layout import Published

NAME = "data"
app = typer.Typer(
    help="Published data sets: list, describe, prepare, split, resample; check any training data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="Name of the data set; labelscape data list shows them.")]
Root = Annotated[Path, typer.Argument(help="Folder of the unpacked data set.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "-o",
        "--set",
        help="Option of the data set, KEY=VALUE, such as bands=nir,red,green or seed=1. Repeat.",
    ),
]
Tolerance = Annotated[
    float, typer.Option("--tolerance", min=0, help="Allowed difference of a share, in per mille.")
]
Shares = Annotated[
    list[str],
    typer.Option(
        "--share", help="CLASS=SHARE, in per cent or per mille; classes that are not named get 0. Repeat."
    ),
]


@app.command("list")
def run_list(as_json: AsJson = False) -> None:
    """List the published data sets and their options.

    Example: labelscape data list
    """
    from labelscape.datasets.published.catalog import PUBLISHED, SUMMARY, options_of

    rows = [{"name": name, "about": SUMMARY[name], "options": options_of(name)} for name in PUBLISHED]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        options = "  ".join(f"{key}={_said(value)}" for key, value in row["options"].items())
        print(f"{row['name']:<19}{row['about']:<58}{options}".rstrip())


@app.command("describe")
def run_describe(
    name: Name,
    path: Root,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            help="Read at most this many images per split, spread evenly.",
            show_default="all",
        ),
    ] = None,
    settings: Settings = [],
    as_json: AsJson = False,
) -> None:
    """Count images, image sizes and pixels per class in every split.

    Example: labelscape data describe camvid ~/data/CamVid --limit 50
    """
    from labelscape.datasets.published.catalog import find_published
    from labelscape.datasets.published.describe import chosen, describe
    from labelscape.datasets.split import PARTS
    from labelscape.progress import bar

    found = find_published(name, path, **settings_of(settings))
    with bar("counting", sum(len(chosen(found.part(part), limit)) for part in PARTS), "images") as tick:
        description = describe(found, limit=limit, tick=tick)
    if as_json:
        print_json(description)
    else:
        print(as_text(description))


@app.command("prepare", short_help="Cut the images into patches and list their splits.")
def run_prepare(
    name: Name,
    path: Root,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder to write: images/, labels/, train.txt, val.txt, test.txt, classes.json."
        ),
    ],
    size: Annotated[int, typer.Option("--size", min=1, help="Side of a patch in pixels.")] = 512,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            help=(
                "How patches cover an image: floor (whole patches only), ceil (all pixels, with overlap), "
                "cut (all pixels once, smaller patches at the edge), 188 (GID in the MSWBN paper)."
            ),
            show_default="floor for GID, else ceil",
        ),
    ] = None,
    settings: Settings = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cut the images into patches: a folder of image and label pairs with a list of names per split.

    Example: labelscape data prepare gid-5 ~/data/GID --out gid512 --size 512
    """
    from labelscape.datasets.published.catalog import find_published
    from labelscape.datasets.published.prepare import write_patches
    from labelscape.progress import bar

    found = find_published(name, path, **settings_of(settings))
    _talk_notes(found)
    with bar("cutting", len(found.pairs), "images") as tick:
        patches = write_patches(found, out, size=size, grid=grid, overwrite=overwrite, tick=tick)
    if as_json:
        print_json({"out": str(out), "patches": patches})
        return
    print(f"{out}: " + ", ".join(f"{n} {split} patches" for split, n in patches.items()))
    talk(f"Use it as the data set 'prepared', for example: labelscape data describe prepared {typed(out)}")


@app.command("split", short_help="Show or write the splits: train, val, test.")
def run_split(
    name: Name,
    path: Root,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder to write train.txt, val.txt, test.txt into.", show_default="print them"
        ),
    ] = None,
    settings: Settings = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show the train, val and test split of a data set, or write its lists.

    Example: labelscape data split deepglobe-land ~/data/land -o seed=1 --out lists
    """
    from labelscape.datasets.published.catalog import find_published
    from labelscape.datasets.published.prepare import write_lists
    from labelscape.datasets.split import PARTS

    found = find_published(name, path, **settings_of(settings))
    _talk_notes(found)
    names = {part: [p.name for p in found.part(part)] for part in PARTS if found.part(part)}
    if out is not None:
        written = write_lists(names, out, overwrite=overwrite)
        talk(", ".join(f"{file}: {len(listed)}" for file, listed in zip(written, names.values())))
    if as_json:
        print_json(names)
    # The lists themselves go to stdout only where no folder takes them.
    elif out is None:
        for part, listed in names.items():
            print("\n".join(f"{part}\t{one}" for one in listed))


@app.command("resample", short_help="Choose images with given class proportions.")
def run_resample(
    name: Name,
    path: Root,
    share: Shares = [],
    table_6: Annotated[
        bool,
        typer.Option(
            "--table-6",
            help="The class shares of MSWBN's table 6: of its resampled test set and training set.",
        ),
    ] = False,
    part: Annotated[str, typer.Option("--part", help="Split to choose from.")] = "test",
    to: Annotated[
        str, typer.Option("--to", help="Split that gets the other images; none leaves them out.")
    ] = "train",
    tolerance: Tolerance = 2.0,
    seed: Annotated[int, typer.Option("--seed", help="Picks among equally large sets.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder to write train.txt, val.txt, test.txt into.", show_default="print only"
        ),
    ] = None,
    settings: Settings = [],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Choose the largest set of images with given class proportions, like the extremely imbalanced test set
    of the MSWBN paper. Ends with exit code 1 if no set comes within the tolerance, which for a rare class is
    half its share.

    Examples:

      labelscape data resample gid-mtl5 ~/data/gid-mtl5 --table-6 --out lists

      labelscape data resample prepared patches --share water=50 --share field=30 --share forest=20
    """
    from labelscape.datasets.published.catalog import open_published
    from labelscape.datasets.published.prepare import write_lists
    from labelscape.datasets.resample import resampled
    from labelscape.datasets.resample import table_6 as as_table_6
    from labelscape.datasets.split import PARTS

    if bool(share) == table_6:
        raise BadOption("Pass either --share CLASS=SHARE for each class, or --table-6.")
    # Per mille on the command line, a share in the library.
    how = {"part": part, "to": None if to == "none" else to, "tolerance": tolerance / 1000, "seed": seed}
    with open_published(name, path, **settings_of(settings)) as dataset:
        found = as_table_6(dataset, **how) if table_6 else resampled(dataset, _shares_of(share), **how)
        # The data set's own lines come first and are not about the choice.
        lines = found.report[len(dataset.report) :]
    names = {p: [s.name for s, own in zip(found.scenes, found.part_of) if own == p] for p in PARTS}
    if out is not None:
        # An empty list would stand for a split without images.
        write_lists({split: n for split, n in names.items() if n}, out, overwrite=overwrite)
        _talk_training(name, path, out)
    _print_chosen(lines, names, as_json)
    # After printing and writing: what was found is of use all the same, but a script must not go on.
    if any("NOT reached" in line for line in lines):
        raise typer.Exit(1)


def _talk_training(name: str, path: Path, lists: Path) -> None:
    """How to train on the lists just written; only these data sets read lists from another folder."""
    # Other data sets have no option `lists` and would refuse it.
    if name in ("gid-mtl5", "prepared"):
        talk(
            f"Train on it: labelscape train {typed(path)} --dataset {name} "
            f"-o {typed(f'data.dataset_options.lists={lists}')} --out run"
        )


def _print_chosen(lines: Sequence[str], names: dict[str, list[str]], as_json: bool) -> None:
    """What was chosen, and how many images each split has now."""
    if as_json:
        print_json({"report": lines, "parts": names})
    else:
        print(as_options("\n".join(lines)))
        print(", ".join(f"{split}: {len(listed)} images" for split, listed in names.items() if listed))


def _shares_of(items: list[str]) -> dict[str, float]:
    """`water=50` -> {"water": 50.0}."""
    found = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise BadOption(f"--share {item!r} must be CLASS=NUMBER, such as water=50.") from error
    return found


def as_text(description: dict[str, Any]) -> str:
    """What `describe` found as text, one table of classes per split."""
    lines = [description["name"], *(f"  {note}" for note in description["notes"])]
    for part in description["parts"]:
        sizes = list(part["sizes"].items())
        # Collections of photographs have hundreds of sizes.
        shown = ", ".join(f"{n} of {size}" for size, n in sizes[:3]) + (
            f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        )
        looked = "" if part["looked_at"] == part["images"] else f" ({part['looked_at']} read)"
        images = f"{part['images']} image{'s' * (part['images'] != 1)}"
        lines.append(
            f"\n{part['part']}: {images}{looked}, {shown}; {' '.join(part['bands'])}; "
            f"{' '.join(part['dtypes'])}"
        )
        wide = max(len(name) for name in part["classes"]) + 2
        lines += [
            f"  {name:<{wide}}{c['pixels']:>15,}{c['share']:>8.1%}" for name, c in part["classes"].items()
        ]
        # Collections without a label in a part have a share of 0 / 0.
        share = part["unlabelled"] / max(1, part["pixels"])
        lines.append(
            f"  {'(not labelled)':<{wide}}{part['unlabelled']:>{15 - max(0, 14 - wide)},}{share:>8.1%} of all"
        )
    return "\n".join(lines)


# Notes are not results: on stderr, so that a pipe gets the lists alone.
def _talk_notes(found: Published) -> None:
    for note in found.notes:
        talk(note)


def _said(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else "auto" if value is None else str(value)
