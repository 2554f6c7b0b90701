"""The figure of a benchmark: megapixels a second, and the share of the machine's matrix product."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from labelscape.benchmark.result import BenchResult
from labelscape.evaluation.figures import INK, LINES, blank, log_ticks, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bench_figure(result: BenchResult) -> Figure:
    """Bars for each network: what it predicts and trains in a second (logarithmic), with which share of the
    machine's matrix product.
    """
    done = [one for one in result.measured if one.seconds is not None]
    names = list(dict.fromkeys(one.network for one in done))
    kinds = list(dict.fromkeys((one.what, one.engine) for one in done))
    figure = blank(9, 1.3 + 0.2 * len(names) * max(1, len(kinds)))
    left, right = figure.subplots(1, 2, sharey=True)
    thick = 0.8 / max(1, len(kinds))
    for number, kind in enumerate(kinds):
        of_kind = {one.network: one for one in done if (one.what, one.engine) == kind}
        places = [
            n + (number - (len(kinds) - 1) / 2) * thick for n, name in enumerate(names) if name in of_kind
        ]
        mine = [of_kind[name] for name in names if name in of_kind]
        how = {"height": thick, "color": LINES[number % len(LINES)], "label": f"{kind[0]}, {kind[1]}"}
        left.barh(places, [one.megapixels_per_second for one in mine], **how)
        right.barh(places, [100 * one.share.median for one in mine], **how)
    left.set_xscale("log")
    log_ticks(left.xaxis)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("megapixels per second", fontsize=9, color=INK)
    rate = f"{result.machine.gflops.median:.0f} GFLOP/s"
    right.set_xlabel(f"% of the machine's matrix product ({rate})", fontsize=9, color=INK)
    for axes in (left, right):
        plain_axes(axes)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
    right.legend(fontsize=8, frameon=False)
    return figure


def drawn(result: BenchResult, kind: str) -> bytes:
    """The figure as "png" or "svg"; the same result gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    figure = bench_figure(result)
    # matplotlib would write the time, its version and random names.
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with matplotlib.rc_context({"svg.hashsalt": "labelscape"}):
        figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()
