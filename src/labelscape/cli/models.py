"""labelscape models: which networks there are, and what each can be asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from labelscape.cli.options import AsJson, print_json

NAME = "models"


def run(
    name: Annotated[str | None, typer.Argument(help="Show one network's options.")] = None,
    in_channels: Annotated[int, typer.Option("--in-channels", help="Bands to count parameters for.")] = 4,
    classes: Annotated[int, typer.Option("--classes", help="Classes to count parameters for.")] = 5,
    as_json: AsJson = False,
) -> None:
    """List the networks, or show the options of one.

    Example: labelscape models mlp
    """
    from labelscape.nets.catalog import create_model, entry, list_models, options_of

    def parameters(network: str) -> int:
        net = create_model(network, in_channels=in_channels, classes=classes)
        return sum(p.numel() for p in net.parameters())

    if name is None:
        rows = [{"name": n, "parameters": parameters(n), "starts_from": entry(n).start, "paper": entry(n).paper} for n in list_models()]
        if as_json:
            print_json(rows)
            return
        print(f"{'name':<12}{'parameters':>12}  {'starts from':<12}paper      ({in_channels} bands, {classes} classes)")
        for row in rows:
            print(f"{row['name']:<12}{row['parameters']:>12,}  {row['starts_from'] or '':<12}{row['paper']}")
        return
    found = {key: p.default for key, p in options_of(name).items()}
    about = (entry(name).build.__doc__ or "").strip()
    if as_json:
        print_json({"name": name, "paper": entry(name).paper, "about": about, "parameters": parameters(name), "options": found})
        return
    print(f"{name}: {entry(name).paper}\n\n{about}\n\n{parameters(name):,} parameters with {in_channels} bands and {classes} classes.")
    print("\noptions (-o options.KEY=VALUE):")
    for key, value in found.items():
        print(f"  {key:<14}{value!r}")
