"""labelscape review: write the doubtful areas of a map to a file for QGIS, the most important first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labelscape.cli.options import AsJson, Overwrite, print_json
from labelscape.text import typed

NAME = "review"


Raster = Annotated[str, typer.Argument(help="Class map: one band of class values, 255 = nodata.")]
Out = Annotated[Path, typer.Argument(help="The review file, a GeoPackage (.gpkg).")]
Confidence = Annotated[
    str | None,
    typer.Option(
        "--confidence", help="The map's confidence in per cent.", show_default="NAME_confidence.tif"
    ),
]
Top = Annotated[int, typer.Option("--top", help="Number of areas to write.")]
Below = Annotated[
    int | None,
    typer.Option(
        "--below",
        metavar="PERCENT",
        help="Pixels with a confidence below this make the areas; 100: all that are not certain.",
        show_default="half way between chance and certainty",
    ),
]
MinArea = Annotated[
    float,
    typer.Option("--min-area", help="Leave out areas below this many hectares (pixels without coordinates)."),
]


def run(
    raster: Raster,
    out: Out,
    *,
    confidence: Confidence = None,
    top: Top = 200,
    below: Below = None,
    min_area: MinArea = 0.0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Rank the doubtful areas of a map for review: connected areas of one class, uncertain and large first.

    Open the file in QGIS over imagery. For each area choose the right class, or say that the map's class is
    right; new polygons may be drawn too. Then give it to labelscape train --corrections. Areas without an
    answer are ignored there.

    Examples:

      labelscape review map/scene_class.tif review.gpkg

      labelscape review map/scene_class.tif review.gpkg --top 50 --min-area 0.5
    """
    from labelscape.assessment.review import review
    from labelscape.progress import bar
    from labelscape.rasters.class_names import legend_of

    names, rows = legend_of(raster)
    with bar(f"review of {Path(raster).name}", rows, "rows") as tick:
        done = review(
            raster,
            out,
            confidence=confidence,
            top=top,
            below=below,
            min_area=min_area,
            legend=names,
            overwrite=overwrite,
            tick=tick,
        )
    if as_json:
        print_json(done.to_dict())
        return
    print(
        f"{done.written:,} of {done.found:,} areas with a confidence below {done.below} %, which hold "
        f"{100 * done.share:.0f} % of the doubt of all"
    )
    print(f"{'review':<11}{done.path}")
    print(
        f"after answering it in QGIS: labelscape train SCENE --labels OLD --corrections {typed(done.path)} "
        "--network NETWORK --start MODEL"
    )
