"""labelscape sample: draw a sample of a class map for blind interpretation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelscape.cli.options import AsJson, Overwrite, print_json, talk
from labelscape.cli.parsing import accuracies_of, numbers_between

if TYPE_CHECKING:
    from labelscape.assessment.sample import SampleSummary

NAME = "sample"


Raster = Annotated[str, typer.Argument(help="Class map: one band of class values, 255 = nodata.")]
Out = Annotated[Path, typer.Argument(help="The sample, a GeoPackage (.gpkg).")]
Size = Annotated[
    int | None, typer.Option("--size", help="Number of points.", show_default="as --target-se needs")
]
TargetSe = Annotated[
    float | None,
    typer.Option(
        "--target-se",
        help="Standard error to reach: of the overall accuracy, or of the share of --target-class.",
        show_default="0.02",
    ),
]
TargetClass = Annotated[str | None, typer.Option("--target-class", help="Class whose area matters most.")]
Expect = Annotated[
    list[str],
    typer.Option(
        "--expect",
        help="User's accuracy you expect: 0.85, or by class, forest=0.9,water=0.95. Repeat.",
        show_default="0.8",
    ),
]
Allocation = Annotated[
    str, typer.Option("--allocation", help="Points by stratum: proportional, equal or neyman.")
]
Floor = Annotated[int, typer.Option("--floor", help="Points of every stratum at least, for rare classes.")]
StrataRaster = Annotated[
    str | None,
    typer.Option(
        "--strata",
        help="Class raster on the map's grid whose classes are the strata.",
        show_default="the map's classes",
    ),
]
SievedStrata = Annotated[
    float,
    typer.Option(
        "--sieve",
        metavar="HECTARES",
        help="Strata are the map's classes after sieving to this minimum mapping unit.",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        "--confidence-bands", help="Strata are bands of the map's confidence, cut at these per cents: 60,85."
    ),
]
Block = Annotated[
    int | None,
    typer.Option("--block", help="Draw squares of this many pixels a side first, then points in them."),
]
PerBlock = Annotated[int, typer.Option("--per-block", help="Points in each of those blocks.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed draws the same pixels.")]
Second = Annotated[
    bool, typer.Option("--second", help="Also write a copy for a second interpreter, in another order.")
]


def run(
    raster: Raster,
    out: Out,
    *,
    size: Size = None,
    target_se: TargetSe = None,
    target_class: TargetClass = None,
    expect: Expect = [],
    allocation: Allocation = "proportional",
    floor: Floor = 50,
    strata: StrataRaster = None,
    sieve: SievedStrata = 0.0,
    confidence_bands: Bands = None,
    block: Block = None,
    per_block: PerBlock = 10,
    seed: Seed = 0,
    second: Second = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw a stratified random sample of a class map, for an interpreter who does not see the map.

    Open the GeoPackage in QGIS over imagery, choose a class for each point, then run labelscape assess.

    Examples:

      labelscape sample map/scene_class.tif points.gpkg

      labelscape sample map/scene_class.tif points.gpkg --target-class forest --target-se 0.01
    """
    from labelscape.assessment.sample import sample
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of

    points = {"size": size, "target_se": target_se, "target_class": target_class, "floor": floor}
    # Left out where it is not given: the library's own default is the only one.
    points |= {"expect": accuracies_of(expect)} if expect else {}
    rows = legend_of(raster)[1]
    # One counts, one draws, one sieves. Blocks are drawn from the counts: only they are read again.
    passes = 1 + (block is None) + bool(sieve)
    with bar(f"sample of {Path(raster).name} (passes: {passes})", rows * passes, "rows") as tick:
        done = sample(
            raster,
            out,
            **points,
            allocation=allocation,
            strata=strata,
            sieve=sieve,
            confidence_bands=numbers_between(confidence_bands, "confidence-bands"),
            block=block,
            per_block=per_block,
            seed=seed,
            second=second,
            overwrite=overwrite,
            tick=tick,
        )
    if as_json:
        print_json(done.to_dict())
        return
    _print(done)


def _print(done: SampleSummary) -> None:
    wide = max(20, *(len(name) + 2 for name, *_ in done.strata))
    print(f"{'stratum':<{wide}}{'pixels':>16}{'share':>10}{'points':>9}")
    for name, pixels, points, weight in done.strata:
        print(f"{name:<{wide}}{pixels:>16,}{100 * weight:>8.2f} %{points:>9,}")
    inside = f" in {done.blocks:,} blocks" if done.blocks else ""
    of = f"the share of {done.target_class}" if done.target_class else "the overall accuracy"
    print(f"{done.points:,} points{inside}; expected standard error of {of}: {done.predicted_se:.4f}")
    for path, what in zip(done.paths, ("sample", "second")):
        print(f"{what:<11}{path}")
    for note in done.notes:
        talk(f"note: {note}")
