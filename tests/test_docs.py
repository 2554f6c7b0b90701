"""What the pages say can be typed, can be typed: every block of README and docs/ runs on stand-in data.

```sh and ```python run, a page from top to bottom in one folder, with training cut short. `-m long` runs the
README and pages with blocks marked ```sh long uncut, those blocks too. ```console does not run (clusters,
cards, other people's data); its options are held against the help. ```text is output, and ```text output that
of the block before.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import world

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOT_COMMAND = typer.main.get_command(importlib.import_module("labelscape.cli").app)

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


SIDE = 320
"""Of the scenes, in pixels: two blocks of the default size a side, so that one can be held out."""
REWRITE = "REWRITE_DOCS" in os.environ
STALE = "REWRITE_DOCS=1 pytest tests/test_docs.py puts this into the page:"

TINY = {"fcn": {"widths": (4, 6, 8, 10)}, "mlp": {"widths": (4, 6, 8, 10), "hidden": 16}}
"""Networks that most pages train, in a size that maps at once."""


@dataclass(frozen=True)
class Block:
    """A fenced block: `kind` is its language, `marks` the words behind it."""

    kind: str
    marks: tuple[str, ...]
    text: str
    line: int


def blocks_of(page: str) -> list[Block]:
    found = []
    for fence in re.finditer(r"^```(\w+)([^\n]*)\n(.*?)^```$", page, re.M | re.S):
        line = page[: fence.start()].count("\n") + 1
        found.append(Block(fence[1], tuple(fence[2].split()), fence[3], line))
    return found


def commands_in(text: str) -> list[str]:
    """The lines of a block, continued ones joined."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and line[0] not in "#"]


# ----------------------------------------------------------------------------------------- options exist


def asked(page: str) -> list[str]:
    """Every labelscape command of a page: in blocks, in tables, in running text."""
    lines = re.findall(r"`(labelscape [^`\n]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S))
    for block in blocks_of(page):
        if block.kind in ("sh", "console"):
            lines += [part for line in commands_in(block.text) if (part := from_labelscape(line))]
    return lines


def from_labelscape(line: str) -> str:
    """`srun labelscape map ...` -> `labelscape map ...`; "" where there is none."""
    found = re.search(r"(?:^|\s)(?:-m )?(labelscape\s.*)", line)
    return found[1] if found else ""


def unknown_in(line: str) -> list[str]:
    """Verbs and options of a command that the program does not have."""
    words = [w for w in shlex.split(line, comments=True)[1:] if w not in (">", "|")]
    command = ROOT_COMMAND
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return [words[0]]
        command, words = command.commands[words[0]], words[1:]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    return [w for w in words if re.match(r"--?[a-z]", w) and w.split("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page):
    wrong = {line: found for line in asked(page.read_text()) if (found := unknown_in(line))}
    assert wrong == {}


def test_a_misspelt_option_is_found():
    assert unknown_in("labelscape map run/mlp.safetensors scene.tif --outt map") == ["--outt"]
    assert unknown_in("labelscape mapp scene.tif") == ["mapp"]
    assert unknown_in("labelscape data check scene.tif --labels a.gpkg  # --nonsense") == []
    assert from_labelscape("srun --kill-on-bad-exit=1 labelscape train a") == "labelscape train a"


# ------------------------------------------------------------------------------------------- links lead on


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page):
    made = {ROOT / "docs" / p for p in ("reference/command-line.md", "reference/python.md", "rooms.svg")}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            path = (page.parent / target).resolve()
            assert path.exists() or path in made, f"{page.name} links to {target}"


# ------------------------------------------------------------------------------------- words are found

WORDS = {
    "README.md": "semantic segmentation, accuracy assessment, error-adjusted, spatial cross-validation, "
    "active learning, transfer learning, out-of-distribution",
    "docs/concepts/splits.md": "spatial cross-validation, spatial autocorrelation, buffer",
    "docs/concepts/unfamiliar.md": "out-of-distribution, area of applicability, Mahalanobis",
    "docs/how-to/big-scenes.md": "sliding-window",
    "docs/how-to/corrections.md": "active learning",
    "docs/how-to/defensible-areas.md": "accuracy assessment, error-adjusted, stratified, Olofsson",
    "docs/how-to/fine-tuning.md": "transfer learning, ImageNet, learning rate",
    "docs/how-to/labels.md": "reference data, ground truth",
    "docs/how-to/outputs.md": "minimum mapping unit, vectorize",
    "docs/how-to/own-scene.md": "batch size, class imbalance, data augmentation, learning rate",
    "docs/how-to/tuning.md": "hyper-parameter",
}
"""What people of the field search for: somewhere on the page that answers it."""


@pytest.mark.parametrize("page", WORDS)
def test_pages_have_the_words_that_the_field_searches_for(page):
    text = " ".join((ROOT / page).read_text().lower().split())
    assert [word for word in WORDS[page].split(", ") if word.lower() not in text] == []


# -------------------------------------------------------------------------------------------- blocks run


@pytest.fixture(scope="session")
def larder(tmp_path_factory) -> Path:
    """The files that the pages speak of, small: scenes, labels, a data set, two checkpoints of two steps."""
    import labelscape as ls

    folder = tmp_path_factory.mktemp("larder")
    side = {"height": SIDE, "width": SIDE}
    scene = world.make(folder, **side, bands=4, name="scene")
    other = world.make(folder, **side, bands=4, name="other")  # the same ground: the same classes
    world.label_polygons(scene, folder / "fields.gpkg", column="crop")
    world.label_polygons(other, folder / "other_fields.gpkg", column="crop")
    world.label_raster(scene, folder / "classes.tif")
    world.rectangle(scene, folder / "district.gpkg.geojson", 64, 64, 200, 160)
    _as_gpkg(folder / "district.gpkg.geojson", folder / "district.gpkg")
    town = world.make(folder, **side, bands=4, name="town", seed=3)
    world.label_polygons(town, folder / "buildings.geojson", column="class", only=(1,))
    world.rectangle(town, folder / "surveyed.geojson", 0, 0, SIDE, SIDE)
    world.label_raster(town, folder / "roads.tif", values=(0, 1, 0))
    _tiles_and_bands(scene, folder)
    (folder / "Vaihingen").mkdir()
    world.vaihingen(folder / "Vaihingen", (1, 3, 11, 15))
    data = {"images": [str(scene.scene)], "labels": [str(folder / "fields.gpkg")], "class_column": "crop"}
    small = {"data": data, "crop": 32, "batch": 2, "steps": 2}
    ls.train(ls.make_recipe(**small, network="mlp", base_steps=2, options=TINY["mlp"]), folder / "run")
    for rest in (folder / "run").iterdir():
        if rest.suffixes != [".safetensors"]:
            rest.unlink()
    (folder / "run" / "from-the-larder").touch()
    shutil.copy(folder / "run" / "fcn.safetensors", folder / "other.safetensors")
    return folder


def _as_gpkg(geojson: Path, to: Path) -> None:
    import pyogrio

    meta, _, geometry, fields = pyogrio.raw.read(geojson)
    pyogrio.raw.write(
        to, geometry, fields, meta["fields"], geometry_type="Polygon", crs=meta["crs"], driver="GPKG"
    )
    geojson.unlink()


def _tiles_and_bands(scene: world.World, folder: Path) -> None:
    """The scene as two tiles, as one file a band, and as a folder of image and label pairs."""
    for name in ("tiles", "sentinel", "patches/images", "patches/labels"):
        (folder / name).mkdir(parents=True)
    for number, half in enumerate(np.split(scene.pixels, 2, axis=2)):
        place = scene.transform @ type(scene.transform).translation(SIDE // 2 * number, 0)
        world.write(folder / "tiles" / f"{number}.tif", half, transform=place)
    for name, band in zip(("B02", "B03", "B04", "B08"), scene.pixels):
        world.write(folder / "sentinel" / f"T33UUU_20170216T102101_{name}.tif", band)
    for number in range(4):
        rows = slice(SIDE // 4 * number, SIDE // 4 * (number + 1))
        world.write(folder / "patches" / "images" / f"{number}.tif", scene.pixels[:, rows])
        world.write(folder / "patches" / "labels" / f"{number}.tif", scene.classes[rows])


@pytest.fixture
def kitchen(larder, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with the larder's files, in which the page runs."""
    folder = tmp_path / "here"
    shutil.copytree(larder, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def short(monkeypatch):
    """Training of two steps on small crops, from the command line and from Python."""
    import labelscape as ls

    home = importlib.import_module(f"labelscape.{ls._PLACES['make_recipe']}")
    real = home.make_recipe

    def cut(**fields: object) -> object:
        recipe = real(**fields)  # what is wrong with the page's own values is said first
        if "--slurm" in sys.argv:  # only printed
            return recipe
        tiny = TINY.get(recipe.network, {}) | recipe.options
        less = {"steps": min(recipe.steps, 2), "base_steps": min(recipe.base_steps, 2), "val_every": 0}
        return real(**{**fields, **less, "options": tiny, "crop": 32, "batch": max(2, recipe.accumulate)})

    monkeypatch.setattr(home, "make_recipe", cut)
    monkeypatch.setattr(ls, "make_recipe", cut, raising=False)


def run_page(page: Path, capsys, *, everything: bool) -> int:
    """Run the blocks from top to bottom; returns how many ran. A block that fails is named by its line."""
    names: dict[str, object] = {"__name__": "page"}
    ran, output, text = 0, "", page.read_text()
    for block in blocks_of(text):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        long = "long" in block.marks and not everything
        if block.kind == "text" and "output" in block.marks and not long:
            if REWRITE and shape(block.text) != shape(output):
                page.write_text(page.read_text().replace(block.text, shown(output)))
                continue
            assert shape(block.text) == shape(output), f"{where}: {STALE}\n{output}"
        if block.kind not in ("sh", "python") or long:
            continue
        ran += 1
        if block.kind == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
            output = capsys.readouterr().out
        else:
            output = "".join(run_line(line, capsys, where) for line in commands_in(block.text))
    return ran


def run_line(line: str, capsys, where: str) -> str:
    """One command; `labelscape` in this process, the rest in a shell. Returns what it printed."""
    words = shlex.split(line, comments=True)
    capsys.readouterr()
    if words[0] != "labelscape":
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == 0, f"{where}: {line}\n{done.stderr}"
        return done.stdout
    from labelscape.cli import main

    if words[1] == "train" and "--out" in words and "--slurm" not in words and "--dry-run" not in words:
        _make_room(Path(words[words.index("--out") + 1]))
    before, sys.argv = sys.argv, words  # `--slurm` repeats the command
    try:
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
            raise SystemExit(0)
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    assert not ended.value.code, f"{where}: {line}\nexit code {ended.value.code}\n{out}{err}"
    return out


def _make_room(out: Path) -> None:
    """A page that trains into `run` expects no checkpoint there; the larder's own goes."""
    if (out / "from-the-larder").exists():
        shutil.rmtree(out)


def shown(printed: str) -> str:
    """Output as a page shows it: no blanks at line ends, no folder of this machine."""
    lines = [line.rstrip() for line in re.sub(r"/\S*(?=/labelscape/assets)", "...", printed).splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def shape(printed: str) -> list[str]:
    """Output without its numbers, columns and units of time: what must stay as the page shows it."""
    lines = [re.sub(r"[\d.,:+-]*\d[\d.,:%]*|nan", "#", line) for line in shown(printed).splitlines()]
    # A busy machine takes minutes where the page has seconds.
    lines = [re.sub(r"# (s|min|h)\b( # (s|min)\b)?", "# s", line) for line in lines]
    return [" ".join(line.split()) for line in lines if line.strip()]


with_blocks = pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(b.kind in ("sh", "python") for b in blocks_of(p.read_text()))],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)


@with_blocks
def test_blocks_run(page, kitchen, short, capsys):
    assert run_page(page, capsys, everything=False) or all(
        "long" in b.marks for b in blocks_of(page.read_text())
    )


# The pages that people copy whole, and those with blocks that the default suite leaves out: uncut, every page
# would train some fifty networks to the end, for hours, to show what the cut ones show.
UNCUT = [page for page in PAGES if page.name == "README.md" or "```sh long" in page.read_text()]


@pytest.mark.long
@pytest.mark.parametrize("page", UNCUT, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run_uncut(page, kitchen, capsys):
    assert run_page(page, capsys, everything=True)


def test_blocks_that_run_uncut_only_show_the_rows_that_are_printed_now(kitchen, capsys):
    """Numbers of the tutorial's network take minutes to make again; what rows there are takes a moment."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    pages = {b.text.split()[0]: shape(b.text) for b in blocks_of(text) if {*b.marks} >= {"output", "long"}}

    info = run_line("labelscape info run/mlp.safetensors", capsys, "info")
    names = [line.split("  ")[0] for line in shown(info).splitlines()]
    assert [n for n in names if not any(line.startswith(f"{n} ") for line in pages["checkpoint"])] == []
    made = shape(
        run_line("labelscape map run/mlp.safetensors scene.tif --out map --sieve 0.5", capsys, "map")
    )
    assert (
        [line for line in made if "(includes" in line]
        == [line for line in pages["class"] if "(includes" in line]
        != []
    )


def test_a_block_that_fails_is_named(tmp_path, capsys, monkeypatch):
    page = ROOT / "docs" / "made-up.md"
    text = "# x\n\n```sh\nlabelscape sieve none.tif out.tif --min-area 1\n```\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    with pytest.raises(AssertionError, match=r"docs/made-up.md:3: labelscape sieve none.tif"):
        run_page(page, capsys, everything=False)


def test_other_words_are_another_output_other_numbers_are_not():
    page = "class      pixels\nwater      97,612   8.27%\nmodel      .../labelscape/assets/a.safetensors\n"
    here = "class   pixels\nwater   1,234  11.5%   \n\nmodel  /some/where/labelscape/assets/a.safetensors\n"
    assert shape(page) == shape(here)
    assert shape(page) != shape(here.replace("pixels", "hectares"))


# ------------------------------------------------------------------------------------------- notebooks

OF_THEIR_OWN = ("explain",)  # tests/explanation
NOTEBOOKS = [p for p in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")) if p.stem not in OF_THEIR_OWN]


def cells_of(notebook: Path) -> list[tuple[int, str]]:
    cells = json.loads(notebook.read_text())["cells"]
    return [
        (number, "".join(c["source"])) for number, c in enumerate(cells, start=1) if c["cell_type"] == "code"
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_valid_and_stored_without_outputs(notebook):
    book = json.loads(notebook.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code and all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    for number, text in cells_of(notebook):
        compile(text, f"{notebook.name}, cell {number}", "exec")
    assert f"notebooks/{notebook.name}" in (ROOT / "docs" / "index.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_cells_of_a_notebook_run_and_show_nothing_twice(notebook, kitchen, short, capsys):
    names: dict[str, object] = {"__name__": "notebook"}
    told: set[str] = set()
    for number, text in cells_of(notebook):
        tree = ast.parse(text, f"{notebook.name}, cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{notebook.name}, cell {number}", "exec"), names)
        if last is not None:
            # What a notebook shows of the last expression.
            shown = eval(
                compile(ast.Expression(last.value), f"{notebook.name}, cell {number}", "eval"), names
            )
            text = getattr(shown, "_repr_html_", shown.__repr__)()
            assert text
            print(text)
        # Sentences and rows; heads and words of markup may come again.
        lines = {line for line in re.split(r"<[^>]+>|\n", capsys.readouterr().out) if len(line.split()) > 5}
        assert not told & lines, f"cell {number} repeats what an earlier cell shows"
        told |= lines


# ------------------------------------------------------------------------------------- what is generated


def test_every_row_that_can_run_has_a_command_that_exists():
    from labelscape.nets.tables import TABLES

    for name, table in TABLES.items():
        commands = generate.row_commands(name)
        runnable = [row.label for row in table.rows if not generate.not_run(row)]
        assert [label for _, label in commands] == runnable
        for command, label in commands:
            assert unknown_in(command) == []
            number = int(command.split("--rows ")[1])
            assert table.rows[number - 1].label == label
            published = command.split("--dataset ")[1].split()[0]
            assert published in importlib.import_module("labelscape.datasets.published.catalog").PUBLISHED


def test_headers_of_networks_are_read_entry_by_entry():
    told = generate.header(
        '"""A net.\n\nPaper     X. "Y". 2020\nReads as  sec. 1 -> A   eq. 2 -> B\n          sec. 3 -> C\n'
        'Differs   - one thing\n            goes on\n          - another\nSymbols   N images\n"""\n'
    )
    assert told["about"] == ["A net."]
    assert told["Reads as"] == ["sec. 1 -> A", "eq. 2 -> B", "sec. 3 -> C"]
    assert told["Differs"] == ["one thing goes on", "another"]


@pytest.mark.parametrize("paper", generate.PAPERS)
def test_every_paper_names_what_differs(paper):
    told = generate.header((generate.PACKAGE / "nets" / f"{paper}.py").read_text())
    assert len(told["Differs"]) >= 5
    page = generate.paper_page(paper)
    assert page.count("\n- ") >= len(told["Differs"]) + len(told["Reads as"])
    for network in generate.PAPERS[paper]:
        assert f"### `{network}`" in page


def test_a_kept_result_stands_beside_the_claim(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    run = {
        "row": "MSWBN",
        "claimed": {"mean_iou": 90.49},
        "measured": [{"mean_iou": 51.234}, {"mean_iou": 52}],
        "steps": 451,
        "scored_on": "gid-5, part test: 30 images",
    }
    (tmp_path / "results" / "mswbn-5.json").write_text(json.dumps([run]))
    assert "not measured" in generate.table_section("mswbn-5")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    row = next(line for line in generate.table_section("mswbn-5").splitlines() if line.startswith("| 1 |"))
    assert "mIoU 90.49, OA 96.4 | mIoU 51.23 / 52.00 (451 steps; gid-5, part test: 30 images)" in row


def test_docstrings_become_lists_and_text():
    said = [
        "Do it.",
        "",
        "name  what it is",
        "      and more",
        "a, b  two",
        "Raises X where `y` is *odd*_.",
        "",
        "    code()",
    ]
    assert generate.as_rst(said) == [
        "Do it.",
        "",
        "- ``name``: what it is and more",
        "",
        "- ``a``, ``b``: two",
        "",
        "Raises X where ``y`` is \\*odd\\*\\_.",
        "",
        "::",
        "",
        "    code()",
        "",
    ]


def test_help_of_every_verb_is_shown():
    page = generate.command_line()
    for verb in generate.verbs():
        assert f"\n## {' '.join(verb)}\n" in page
    assert "--class-column" in page and "Usage: labelscape data check" in page


def test_the_house_shows_every_room_on_its_floor():
    storeys = generate.floors()
    house = xml.fromstring(generate.rooms_svg(storeys))
    names = {t.text: float(t.get("y")) for t in house.iter("{http://www.w3.org/2000/svg}text")}
    heights = [{names[room] for room in rooms} for rooms in storeys]
    assert all(len(level) == 1 for level in heights)  # a floor is level
    tops = [level.pop() for level in heights]
    assert tops == sorted(tops, reverse=True) and len(set(tops)) == len(tops)  # the ground is at the bottom


def test_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    generate.main(tmp_path / "pages")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        ROOT / "docs",
        tmp_path / "pages",
        tmp_path / "html",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "map_scene" in (tmp_path / "html" / "reference" / "python.html").read_text()
    with contextlib.suppress(OSError):
        shutil.rmtree(tmp_path)


def test_the_python_reference_begins_with_the_main_functions_by_task():
    """Before the first name of the list by room; every name is a public one, and links to its entry."""
    page = generate.python_names()
    top = page.partition("```{eval-rst}")[0]
    for name in ("train", "map_scene", "Scene", "evaluate", "check", "open_scene", "load"):
        assert f"`~labelscape.{name}`" in top
        assert f":: labelscape.{name}\n" in page
