"""Gather the pages: what is written by hand in docs/, and what the package says of itself.

    python docs/generate.py build/pages

Lists of the papers' rows and of where we differ, the help of every verb, the public names and the picture of
the rooms are made here from the package, so that they cannot fall behind it. Nothing needs Sphinx.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "labelscape"
SECTIONS = ("Paper", "Papers", "Reads as", "Differs", "Symbols")
"""What the header of a network's module is made of."""

PAPERS = {
    "maggiori": ("fcn", "unpooling", "skip", "mlp"),
    "dfcnet": ("fc-densenet", "classmate", "dfcnet"),
    "mswbn": ("mswbn",),
    "dgcwnet": ("dgcwnet",),
    "ifbfnet": ("ifbfnet",),
}
"""Module in `nets` and names in the catalogue; tables are called MODULE-NUMBER."""

DATA = (
    ("GID, five classes, test patches resampled", "gid512 --dataset prepared"),
    ("GID", "GID --dataset gid-5"),
    ("DeepGlobe", "land --dataset deepglobe-land --mate road --mate-dataset deepglobe-road"),
    ("Cityscapes", "Cityscapes --dataset cityscapes"),
    ("PASCAL Context", "VOC --dataset pascal-context-60"),
    ("ADE20K", "ADE20K --dataset ade20k"),
    ("ISPRS Potsdam", "Potsdam --dataset potsdam"),
    ("ISPRS Vaihingen", "Vaihingen --dataset vaihingen"),
)
"""How a table's data begins -> the folder and the data set of its command."""

LABELS = {"mean_iou": "mIoU", "overall_accuracy": "OA", "mean_f1": "mean F1", "seconds_per_step": "s a step"}


def main(out: Path) -> None:
    """Write all pages into `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(HERE, out, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for paper in PAPERS:
        page = out / "papers" / f"{paper}.md"
        page.write_text(page.read_text() + paper_page(paper))
    reference = out / "reference"
    reference.mkdir(exist_ok=True)
    (reference / "command-line.md").write_text(command_line())
    (reference / "python.md").write_text(python_names())
    (out / "rooms.svg").write_text(rooms_svg(floors()))
    architecture = out / "architecture.md"
    architecture.write_text(architecture.read_text() + rooms_table())


# ------------------------------------------------------------------------------------------------ the papers


def header(source: str) -> dict[str, list[str]]:
    """A network module's header by section: "about" is its first sentence; under "Differs" and "Reads as"
    one string an entry.
    """
    about, *rest = re.split(
        rf"^({'|'.join(SECTIONS)})  +", ast.get_docstring(ast.parse(source)) or "", flags=re.M
    )
    found = {"about": [_one_line(about.split("\n\n")[0])]}
    for name, text in zip(rest[::2], rest[1::2]):
        lines = text.split("\n")
        if name == "Differs":
            entries = re.split(r"^\s*- ", "\n".join(lines), flags=re.M)[1:]
        elif name == "Reads as":
            entries = [entry for line in lines for entry in re.split(r"\s{3,}", line.strip())]
        else:
            entries = [text]
        found[name] = [_one_line(entry) for entry in entries if entry.strip()]
    return found


def paper_page(paper: str) -> str:
    """What is implemented, where it differs, and every row of the paper's tables with its command."""
    from labelscape.nets.tables import TABLES

    told = header((PACKAGE / "nets" / f"{paper}.py").read_text())
    parts = [
        "\n## What is implemented\n",
        f"{text(' '.join(told['Paper']))}\n",
        f"`src/labelscape/nets/{paper}.py`: {text(told['about'][0])}\n",
        bullets(told["Reads as"]),
        *(network_options(network) for network in PAPERS[paper]),
        "\n## Where this differs from the paper\n",
        "Every place where the paper is silent or contradicts itself and a choice had to be made. Options in "
        "brackets give the other reading.\n",
        bullets(told["Differs"]),
        "\n## The tables\n",
        "*Claimed* are the paper's printed numbers, in per cent. *Measured* are runs of the row's command "
        "whose result is kept in `docs/results`; a row without one says so. "
        "[How to run a table](../how-to/tables.md) has budgets, seeds and smaller backbones.\n",
        *(table_section(name) for name in TABLES if name.split("-")[0] == paper),
        measured_elsewhere(PAPERS[paper]),
    ]
    return "\n".join(parts)


def network_options(network: str) -> str:
    """The options of a network with their defaults, and what it starts from."""
    from labelscape.nets.catalog import entry, options_of

    start = entry(network).start
    lines = [f"\n### `{network}`\n"]
    if start:
        lines.append(
            f"Starts from a trained `{start}`: `train` trains that one first, unless `--start` is given.\n"
        )
    lines += ["| option | default |", "|---|---|"]
    lines += [f"| `{name}` | `{_default(p.default)}` |" for name, p in options_of(network).items()]
    return "\n".join(lines) + "\n"


def table_section(name: str) -> str:
    """One table: its rows claimed beside measured, and the command of each row that can be run."""
    from labelscape.nets.tables import TABLES

    table, results = TABLES[name], kept_results(name)
    lines = [f"\n### {name}\n", f"{text(table.title)}. Data: {text(table.data)}.\n"]
    lines += ["| row | | claimed | measured | note |", "|---:|---|---|---|---|"]
    for number, row in enumerate(table.rows, start=1):
        why_not = not_run(row)
        measured = results.get(row.label, "not measured") if row.network and not row.quoted else "quoted"
        note = "; ".join(filter(None, (row.note, "" if row.quoted else why_not)))
        lines.append(f"| {number} | {text(row.label)} | {claims(row.claimed)} | {measured} | {text(note)} |")
    commands = row_commands(name)
    if not commands:
        return "\n".join([*lines, "\nNo row of this table can be trained here.\n"])
    block = "\n".join(f"# {label}\n{command}" for command, label in commands)
    return "\n".join([*lines, f"\n```console\n{block}\n```\n"])


def row_commands(name: str) -> list[tuple[str, str]]:
    """(command, label) of every row that can be trained."""
    from labelscape.nets.tables import TABLES

    table = TABLES[name]
    where = next(folder for start, folder in DATA if table.data.startswith(start))
    return [
        (f"labelscape table {name} {where} --rows {number}", row.label)
        for number, row in enumerate(table.rows, start=1)
        if not not_run(row)
    ]


def not_run(row: Any) -> str:
    """Why a row has no command; "" where it has one."""
    from labelscape.training.papers import setting_of

    data = {"images": ["DATA"]}
    return setting_of(row, data, {"images": ["MATE"]}).why_not


def claims(claimed: Mapping[str, float]) -> str:
    """`mIoU 90.13, OA 96.34`; classes apart, behind the means."""
    means = [f"{LABELS.get(m, text(m))} {value:g}" for m, value in claimed.items() if "/" not in m]
    return ", ".join(means)


def kept_results(name: str) -> dict[str, str]:
    """Label -> what was measured, from docs/results/NAME.json (`labelscape table NAME ... --json`)."""
    path = HERE / "results" / f"{name}.json"
    if not path.is_file():
        return {}
    found = {}
    for result in json.loads(path.read_text()):
        scores = [
            f"{LABELS.get(metric, metric)} "
            + " / ".join(f"{run[metric]:.2f}" for run in result["measured"] if run.get(metric) is not None)
            for metric in result["claimed"]
            if any(run.get(metric) is not None for run in result["measured"])
        ]
        if scores:
            found[result["row"]] = (
                f"{', '.join(scores)} ({result['steps']:,} steps; {text(result['scored_on'])})"
            )
    return found


def measured_elsewhere(networks: Iterable[str]) -> str:
    """Lines of the comparisons in docs/results that are about these networks: other data, other recipe."""
    lines = []
    for page in sorted((HERE / "results").glob("*.md")):
        for row in page.read_text().splitlines():
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            if len(cells) == 6 and cells[0] in networks:
                lines.append(
                    f"| [{page.stem}](../results/{page.name}) | `{cells[0]}` | {' | '.join(cells[3:])} |"
                )
    if not lines:
        return ""
    return "\n".join(
        [
            "\n## Measured on other data\n",
            "One recipe for all networks, few steps, small backbones, 2 CPU cores: how fast each learns from "
            "this start. They are not comparable with the paper's tables.\n",
            "| comparison | network | mIoU % | mean F1 % | OA % |",
            "|---|---|---:|---:|---:|",
            *lines,
            "",
        ]
    )


# ------------------------------------------------------------------------------------------- the references


def command_line() -> str:
    """The help of every verb, as the program prints it."""
    parts = [
        "# Command line\n",
        "Results go to stdout, messages and progress bars to stderr. Exit codes: 0 done, 1 the work failed "
        "or a check refused, 2 the command was wrong.\n",
        f"```text\n{help_of([])}\n```\n",
    ]
    parts += [f"## {' '.join(verb)}\n\n```text\n{help_of(verb)}\n```\n" for verb in verbs()]
    return "\n".join(parts)


def verbs() -> Iterator[list[str]]:
    """["map"], ["data", "check"], ... in the order of the help."""
    for name, command in _root().commands.items():
        yield [name]
        yield from ([name, below] for below in getattr(command, "commands", {}))


def help_of(verb: list[str]) -> str:
    command, context = _root(), None
    for word in [None, *verb]:
        command = command.commands[word] if word else command
        name = word or "labelscape"
        context = type(command).context_class(
            command, info_name=name, parent=context, terminal_width=96, max_content_width=96
        )
    return command.get_help(context).rstrip()


def _root() -> Any:
    import typer

    from labelscape.cli import app

    return typer.main.get_command(app)


TASKS = {
    "Train": ("make_recipe", "train", "tune", "learning_curve", "rehearse", "run_table", "slurm_script"),
    "Map": ("check", "map_scene", "map_scenes", "slurm_map_script", "rerun", "predict"),
    "Measure": ("evaluate", "compare", "calibrate"),
    "After the map": (
        "sieve",
        "polygonize",
        "sieve_maps",
        "write_styles",
        "polygonize_maps",
        "review",
        "sample",
        "assess",
        "estimate_areas",
    ),
    "Scenes and labels": (
        "open_scene",
        "Scene",
        "ArrayScene",
        "open_dataset",
        "open_published",
        "LabelRules",
    ),
    "Look before you start": ("info", "check_data"),
    "Models and checkpoints": ("list_models", "create_model", "load", "save", "import_caffe"),
}
"""What people come for -> the functions that do it, on top of the Python reference."""


def by_task() -> str:
    """A line of links for every task."""
    import labelscape

    lines = ["| task | names |", "|---|---|"]
    for task, names in TASKS.items():
        assert set(names) <= set(labelscape.__all__)
        kinds = {name: "class" if inspect.isclass(getattr(labelscape, name)) else "func" for name in names}
        links = [f"{{py:{kind}}}`~labelscape.{name}`" for name, kind in kinds.items()]
        lines.append(f"| {task} | {' '.join(links)} |")
    return "\n".join(lines) + "\n"


def python_names() -> str:
    """Directives for every public name, grouped by the room it lives in; the main functions by task first."""
    import labelscape

    rooms: dict[str, list[str]] = {}
    for name in labelscape.__all__:
        value = getattr(labelscape, name)
        kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
        if name.startswith("__"):
            continue
        module = getattr(value, "__module__", None) or "labelscape"
        room = module.split(".")[1] if kind != "data" and "." in module else "constants"
        members = "\n   :members:\n   :exclude-members: model_config" if kind == "class" else ""
        rooms.setdefault(room, []).append(f".. auto{kind}:: labelscape.{name}{members}\n")
    parts = [
        "# Python\n",
        "Everything is reached as `import labelscape as ls`. Names are imported when first used: the import "
        "itself is instant, and torch is loaded with the first network.\n",
        "## By task\n",
        by_task(),
    ]
    for room, entries in rooms.items():
        parts += [
            f"## {room}\n",
            room_says(room) + "\n" if room_says(room) else "",
            "```{eval-rst}",
            *entries,
            "```\n",
        ]
    return "\n".join(parts)


def as_rst(doc: list[str]) -> list[str]:
    """A docstring of the package as reStructuredText: `name  meaning` lines become a list, indented code
    stays as it is, everything else is text.
    """
    out: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(doc).strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            out += ["::", "", *lines, ""]
            continue
        pieces: list[tuple[str, str]] = []  # (names, text); no names: a paragraph
        for line in lines:
            told = re.match(r"(`?[\w.]+`?(?:, `?[\w.]+`?)*)\s{2,}(\S.*)$", line)
            if told:
                pieces.append((told[1], told[2]))
            elif pieces and (line.startswith(" ") or not pieces[-1][0]):
                pieces[-1] = (pieces[-1][0], f"{pieces[-1][1]} {line.strip()}")
            else:
                pieces.append(("", line.strip()))
        for names, said in pieces:
            shown = ", ".join(f"``{name.strip('`')}``" for name in names.split(", "))
            out += [f"- {shown}: {_rst(said)}" if names else _rst(said), ""]
    return out


def _rst(said: str) -> str:
    said = re.sub(r"\s+", " ", said)
    halves = re.split(r"`([^`]+)`", said)
    return "".join(
        f"``{piece}``" if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", piece) for i, piece in enumerate(halves)
    )


# ------------------------------------------------------------------------------------------------- the rooms


def floors() -> list[list[str]]:
    """The rooms of each floor, from the ground up, as tests/test_layers.py enforces them."""
    tree = ast.parse((HERE.parent / "tests" / "test_layers.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLOORS":
            return [sorted(rooms) for rooms in ast.literal_eval(node.value)]
    raise SystemExit("tests/test_layers.py has no FLOORS")


def room_says(room: str) -> str:
    """The first sentence of a room's docstring."""
    for path in (PACKAGE / f"{room}.py", PACKAGE / room / "__init__.py"):
        if path.is_file():
            doc = ast.get_docstring(ast.parse(path.read_text())) or ""
            return text(_one_line(doc.split("\n\n")[0]))
    return ""


def rooms_svg(storeys: list[list[str]]) -> str:
    """A house: one row a floor, the ground at the bottom, each room a box."""
    width, high, gap = 760, 40, 8
    height = len(storeys) * (high + gap) + gap + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="15" role="img" '
        'aria-label="The rooms of the package, floor by floor">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for level, rooms in enumerate(storeys):
        top = height - 26 - (level + 1) * (high + gap)
        each = (width - 2 * gap - 44 - gap * (len(rooms) - 1)) / len(rooms)
        parts.append(f'<text x="{gap + 18}" y="{top + 26}" text-anchor="middle" fill="#666">{level}</text>')
        for place, room in enumerate(rooms):
            left = gap + 44 + place * (each + gap)
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{each:.1f}" height="{high}" rx="4" fill="#e8f0e4" '
                'stroke="#5b7f4b"/>'
                f'<text x="{left + each / 2:.1f}" y="{top + 26}" text-anchor="middle" fill="#1d2b17">'
                f"{escape(room)}</text>"
            )
    parts.append(
        f'<text x="{width / 2}" y="{height - 9}" text-anchor="middle" fill="#444" font-size="13">'
        "a room may import only rooms on lower floors</text></svg>"
    )
    return "\n".join(parts) + "\n"


def rooms_table() -> str:
    lines = ["\n## The rooms\n", "| floor | room | what it holds |", "|---:|---|---|"]
    for level, rooms in enumerate(floors()):
        lines += [f"| {level} | `{room}` | {room_says(room)} |" for room in rooms]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------------------------------- text


def text(said: str) -> str:
    """Plain text as Markdown: nothing in it is markup but `code`; links of the web stay links."""
    halves = re.split(r"(`[^`]+`|https?://\S+)", said)
    return "".join(
        (f"<{piece}>" if piece.startswith("http") else piece)
        if i % 2
        else re.sub(r"([\\*_\[\]<>|#$~])", r"\\\1", piece)
        for i, piece in enumerate(halves)
    )


def bullets(entries: Iterable[str]) -> str:
    return "\n".join(f"- {text(entry)}" for entry in entries) + "\n"


def _default(value: Any) -> str:
    shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return shown.replace("|", "/")


def _one_line(said: str) -> str:
    return re.sub(r"\s+", " ", textwrap.dedent(said)).strip()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/pages"))
