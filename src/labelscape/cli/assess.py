"""labelscape assess: accuracy and areas of a map, with intervals, from an interpreted sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import AsJson, Overwrite, print_json, talk

if TYPE_CHECKING:
    from labelscape.assessment.result import Assessment

NAME = "assess"

Raster = Annotated[str, typer.Argument(help="The class map that was sampled.")]
Points = Annotated[Path, typer.Argument(help="The interpreted sample.")]
Second = Annotated[
    Path | None, typer.Option("--second", help="The second interpreter's file: report their agreement.")
]
DesignFile = Annotated[
    Path | None,
    typer.Option("--design", help="The GeoPackage that `sample` wrote, where POINTS is an export."),
]
Column = Annotated[str, typer.Option("--column", help="Column with the answers.")]
OtherMap = Annotated[
    bool, typer.Option("--other-map", help="Assess another map on the grid of the one that was sampled.")
]
Independent = Annotated[
    bool,
    typer.Option(
        "--independent",
        help="Points on training labels were interpreted without seeing these: do not refuse answers that "
        "equal them.",
    ),
]
Bootstrap = Annotated[
    int, typer.Option("--bootstrap", help="Replicates of a bootstrap beside the formulas, such as 2000.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the bootstrap.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Also write OUT.json, OUT.gpkg with the points, and OUT.html, a report."),
]


def run(
    raster: Raster,
    points: Points,
    *,
    second: Second = None,
    design: DesignFile = None,
    column: Column = "reference",
    other_map: OtherMap = False,
    independent: Independent = False,
    bootstrap: Bootstrap = 0,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Estimate accuracies and class areas of a map, with 95 % confidence intervals, from a sample.

    Areas are those of the classes on the ground, corrected for the map's errors (Olofsson et al. 2014;
    Stehman 2014 where strata are not the map's classes). Points that are no probability sample are refused.

    Example: labelscape assess map/scene_class.tif points.gpkg --out accuracy
    """
    from labelscape.assessment.assess import assess
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of

    # One pass over the map: its hash, or the mapped areas of another map.
    with bar(f"check of {Path(raster).name}", legend_of(raster)[1], "rows") as tick:
        done = assess(
            raster,
            points,
            second=second,
            design=design,
            column=column,
            other_map=other_map,
            independent=independent,
            bootstrap=bootstrap,
            seed=seed,
            out=out,
            overwrite=overwrite,
            tick=tick,
        )
    if as_json:
        print_json(done.to_dict())
        return
    _print(done)


def _print(done: Assessment) -> None:
    from labelscape.assessment.words import overall

    rows = done.table()
    widths = [max(map(len, column)) + 2 for column in zip(*rows)]
    for name, *cells in rows:
        print(f"{name:<{widths[0]}}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths[1:])))
    print(f"overall accuracy {overall(done.estimates)} %, {done.estimates.points:,} points, {done.estimator}")
    print("In brackets: 95 % confidence intervals.")
    between = done.agreement
    if between is not None:
        print(
            f"interpreters agree on {100 * between.agreement:.1f} % of {between.points:,} points, "
            f"kappa {between.kappa:.3f}"
        )
    _print_bootstrap(done)
    print(f"\n{done.sentence}")
    for kind, path in done.paths.items():
        print(f"{kind:<11}{path}")
    for note in done.notes:
        talk(f"note: {note}")


def _print_bootstrap(done: Assessment) -> None:
    found = done.estimates
    if found.bootstrap is None:
        return
    from labelscape.assessment.words import unit_of

    unit = unit_of(done.design)
    low, high = 100 * found.bootstrap["oa"][0]
    print(f"bootstrap: overall accuracy {low:.1f} to {high:.1f} %")
    for name, (least, most) in zip(found.names, found.bootstrap["area"] / unit.square_metres):
        print(f"bootstrap: area of {name} {least:,.{unit.digits}f} to {most:,.{unit.digits}f} {unit.name}")
