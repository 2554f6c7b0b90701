"""labelscape models: list the networks, their options, size and cost, and what their papers claim."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelscape.cli.options import AsJson, print_json, talk

if TYPE_CHECKING:
    from labelscape.nets.blocks import Network

NAME = "models"
SIDE = 512
"""Multiply-accumulates are counted for an image of this side."""


def run(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one network: options, size, cost, its rows in the papers' tables."),
    ] = None,
    in_channels: Annotated[int, typer.Option("--in-channels", help="Bands to count parameters for.")] = 4,
    classes: Annotated[int, typer.Option("--classes", help="Classes to count parameters for.")] = 5,
    with_macs: Annotated[
        bool, typer.Option("--macs/--no-macs", help=f"Count multiply-accumulates at {SIDE} x {SIDE} too.")
    ] = True,
    smp: Annotated[
        bool, typer.Option("--smp", help="List the architectures of segmentation-models-pytorch too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the networks with their size and cost, or show one with its options.

    Examples:

      labelscape models

      labelscape models smp/Unet
    """
    from labelscape.nets.catalog import list_models
    from labelscape.progress import bar

    if name is not None:
        show(about(name, in_channels, classes), as_json)
        return
    names, rows = list_models(smp=smp), []
    with bar("models", len(names), "networks") as tick:
        # Each is built: its size depends on bands and classes, and is stored nowhere.
        for network in names:
            rows.append(summary(network, in_channels, classes, with_macs=with_macs))
            tick()
    if as_json:
        print_json(rows)
        return
    starts = ["; or ".join(row["needs"]) for row in rows]
    wide, deep = (max(map(len, column)) + 2 for column in ([row["name"] for row in rows], starts))
    costs = f"{'GMACs':>9}" if with_macs else ""
    print(
        f"{'name':<{wide}}{'parameters':>12}{costs}  {'starts from':<{deep}}paper      ({in_channels} bands, "
        f"{classes} classes)"
    )
    for row, start in zip(rows, starts):
        costs = f"{in_billions(row['macs']):>9}" if with_macs else ""
        print(f"{row['name']:<{wide}}{counted(row['parameters']):>12}{costs}  {start:<{deep}}{row['paper']}")
    if not smp:
        # Not on stdout, where each line is a network.
        talk("also: smp/<Name>, such as smp/Unet, of segmentation-models-pytorch (--smp lists all)")


def summary(name: str, in_channels: int, classes: int, *, with_macs: bool) -> dict[str, Any]:
    """A line of the list as JSON values. Sizes are None for a network whose defaults do not make one."""
    from labelscape.errors import BadOption
    from labelscape.nets.catalog import SMP, entry
    from labelscape.nets.count import macs, parameters

    found = entry(name)
    row = {
        "name": name,
        "parameters": None,
        "starts_from": found.start.base if found.start else None,
        "needs": needs(name),
        "paper": found.paper,
    }
    try:
        net = without_weights(name, in_channels, classes)
    except BadOption:
        # Some architectures of SMP refuse their own default encoder; ours fail only for impossible sizes.
        if not name.startswith(SMP):
            raise
        return row | {"macs": None} if with_macs else row
    row["parameters"] = parameters(net)
    return row | {"macs": macs(net, SIDE, SIDE, in_channels)} if with_macs else row


def about(name: str, in_channels: int, classes: int) -> dict[str, Any]:
    """Options, size, cost and table rows of one network as JSON values. Raises UnknownName with the
    nearest name.
    """
    from labelscape.nets.catalog import SMP, entry, options_of
    from labelscape.nets.option_words import words_of
    from labelscape.nets.tables import rows_of

    found = summary(name, in_channels, classes, with_macs=True)
    build = entry(name).build
    text = (
        f"{name.removeprefix(SMP)} of segmentation-models-pytorch, with its own defaults."
        if name.startswith(SMP)
        else build.__doc__
    )
    options = {
        key: None if p.default is inspect.Parameter.empty else p.default
        for key, p in options_of(name).items()
    }
    about_it = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split()).replace("`", "")
    rows = [
        {
            "table": row.table,
            "shows": table.title,
            "data": table.data,
            "bands": table.in_channels,
            "classes": table.classes,
            "row": row.label,
            "options": dict(row.options),
            "claimed": dict(row.claimed),
            "note": row.note,
        }
        for table, row in rows_of(name)
    ]
    size = {"in_channels": in_channels, "classes": classes, "side": SIDE}
    return (
        found
        | size
        | {
            "about": about_it,
            "options": options,
            "meanings": {key: words_of(name, key) for key in options},
            "claims_of_the_paper": rows,
        }
    )


def show(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print(f"{found['name']}: {found['paper']}\n\n{textwrap.fill(found['about'], 100)}\n")
    print(
        f"{counted(found['parameters'])} parameters with {found['in_channels']} bands and "
        f"{found['classes']} classes."
    )
    print(f"{in_billions(found['macs'])} billion multiply-accumulates for an image of {SIDE} x {SIDE}.")
    if found["needs"]:
        print(f"Starts from: {'; or '.join(found['needs'])}.")
    # Of options alone, as `-o options.KEY=VALUE` takes them: bands and classes follow from the data.
    print("\noptions and their defaults (-o options.KEY=VALUE):")
    defaults = {key: as_typed(value) for key, value in found["options"].items()}
    wide, deep = (max(map(len, column), default=0) + 2 for column in (defaults, defaults.values()))
    for key, value in defaults.items():
        print(f"  {key:<{wide}}{value:<{deep}}{found['meanings'][key]}".rstrip())
    if found["name"].startswith("smp/"):
        print("\nencoder_name and encoder_weights are understood too, as encoder and pretrained.")
    if found["claims_of_the_paper"]:
        print("\nrows of the papers' tables. The numbers are the papers' claims, not measured by Labelscape:")
    before = None
    for row in found["claims_of_the_paper"]:
        # Rows of one table stand together: its title is printed once.
        if row["table"] != before:
            print(f"\n  {row['table']}: {row['shows']}. {row['data']}")
            before = row["table"]
        # "mean_iou" has a column of its own in the papers; "iou/water" would make lines of many numbers.
        claimed = ", ".join(
            f"{metric} {value:g}" for metric, value in row["claimed"].items() if "/" not in metric
        )
        print(f"    {row['row']:<46}{claimed}")
        for line in (
            " ".join(f"-o options.{key}={as_typed(value)}" for key, value in row["options"].items()),
            row["note"],
        ):
            if line:
                print(f"        {line}")


def without_weights(name: str, in_channels: int, classes: int) -> Network:
    """The network on torch's "meta" device: shapes only, which takes no memory."""
    from labelscape.nets.catalog import create_model
    from labelscape.nets.shapes import shapes_alone

    with shapes_alone():
        return create_model(name, in_channels=in_channels, classes=classes)


def needs(name: str) -> list[str]:
    """What a network may start from: a base network, ImageNet weights."""
    from labelscape.nets.catalog import entry, options_of

    options, found = options_of(name), []
    if (start := entry(name).start) is not None:
        found.append(f"{start.base}, which is trained first")
    if "pretrained" in options:
        found.append("random weights, or ImageNet (pretrained=true)")
    return found or ["random weights"]


def as_typed(value: object) -> str:
    """A value as `-o` reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def counted(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def in_billions(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 1e9:.2f}"
