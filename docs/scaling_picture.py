"""Paint docs/results/scaling.png from the tables of scaling.md beside it: python docs/scaling_picture.py"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE = Path(__file__).parent / "results" / "scaling.md"
COLORS = {"one writer": "#c8502d", "a writer per scene": "#28788c"}
Curves = dict[str, list[tuple[float, float]]]
"""Way of writing maps -> (workers, value)."""


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head line begins so, without bold marks and commas in numbers."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" *").replace(",", "") for cell in line.strip("|").split("|")] for line in lines]


def simulated(text: str) -> Curves:
    """Megapixels a second."""
    found: Curves = {way: [] for way in COLORS}
    for workers, _, way, _, speed, _ in rows(text, "| workers | scenes |"):
        found[way].append((float(workers), float(speed)))
    return found


def country(text: str) -> Curves:
    """Hours."""
    table = rows(text, "| workers | hours, one writer |")
    return {
        way: [(float(row[0]), float(row[column])) for row in table] for column, way in enumerate(COLORS, 1)
    }


def draw(axes: Axes, curves: Curves, ideal: int, title: str, unit: str) -> None:
    """Curves over workers, and the straight line of as many times as fast as there are workers; `ideal` is
    its slope, 1 or -1.
    """
    for way, points in curves.items():
        axes.plot(*zip(*points), marker="o", color=COLORS[way], label=way)
    first, *_, last = curves["a writer per scene"]
    ends = first[1], first[1] * (last[0] / first[0]) ** ideal
    axes.plot((first[0], last[0]), ends, "--", color="#999999", label="no limit", zorder=0)
    counts = [workers for workers, _ in curves["one writer"]]
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel=unit)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, simulated(text), 1, "simulated: real scheduler, recorded times", "Mpx/s")
    draw(right, country(text), -1, "arithmetic: 400 scenes of 20,000 x 20,000", "hours")
    left.legend(frameon=False)
    figure.savefig(PAGE.with_name("scaling.png"))


if __name__ == "__main__":
    main()
