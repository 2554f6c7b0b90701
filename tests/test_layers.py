"""The rooms of the package, from the ground up: a room imports only lower ones. A rule nobody runs is a
wish.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "labelscape"

FLOORS = (
    {"errors", "version", "text", "mistaken", "imports"},
    {"crs"},
    {"grid", "legend", "files", "progress", "stages", "batch_script", "tensor_file"},
    {"qgis_install"},
    {"scenes"},
    {"labels"},
    {"contract", "exported_formats"},
    {"nets", "model_card", "checkpoint_schema", "exported", "model_places", "raster_vision"},
    {"checkpoint"},
    {"scoring"},
    {"workers"},
    {"datasets"},
    {"rasters"},
    {"areas"},
    {"evaluation"},
    {"training"},
    {"assessment"},
    {"maps"},
    {"export", "inspection", "explanation"},
    {"viewer"},
    {"demo", "benchmark"},
    {"cli"},
    {"qgis_plugin"},  # runs in QGIS's own Python
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

NEVER = {
    **{r: {"torch"} for r in ("scenes", "labels", "contract", "datasets", "rasters", "areas", "evaluation")},
    "assessment": {"torch"},
    "inspection": {"torch"},
    "viewer": {"torch"},
    "nets": {"rasterio", "shapely", "pyogrio", "pyproj"},
}
"""What a room must do without: pages of a map are written where torch is not installed, networks know no
geography.
"""
BESIDE = {
    "nets": {"errors", "imports"},  # networks know no files, legends or scenes
    "qgis_plugin": set(),  # Labelscape is not installed there
    "areas": {
        "errors",
        "version",
        "text",
        "crs",
        "grid",
        "legend",
        "files",
        "progress",
        "stages",
        "scenes",
        "rasters",
        "workers",
    },  # no network
}
"""Rooms that use less than all that lies below them."""


def imported(module: Path) -> set[str]:
    """Dotted names of everything a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


MODULES = [
    m for m in sorted(PACKAGE.rglob("*.py")) if m.name != "__main__.py" and m != PACKAGE / "__init__.py"
]


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_lower_ones(module):
    room, names = room_of(module), imported(module)
    rooms = {n.split(".")[1] for n in names if n.startswith("labelscape.")} - {room}
    assert {r for r in rooms if FLOOR[r] >= FLOOR[room]} == set()
    assert rooms <= BESIDE.get(room, rooms)
    assert not {n.split(".")[0] for n in names} & NEVER.get(room, set())


@cache
def runs(module: Path) -> set[str]:
    """Packages that a module imports when it runs; others may be named for type checkers alone."""
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("optuna", "training/tune_study.py"),
        ("dask", "workers/cluster.py"),
        ("distributed", "workers/cluster.py"),
        ("pyproj", "crs.py"),
        ("triton", "nets/kernels/distance_triton.py"),
    ],
)
def test_one_module_knows_a_package(package, module):
    assert [str(m.relative_to(PACKAGE)) for m in MODULES if package in runs(m)] == [module]


def test_every_room_has_its_floor():
    assert {room_of(m) for m in MODULES} == set(FLOOR)


def long_functions(code: str, most: int = 60) -> list[str]:
    """Functions and methods longer than `most` lines, from `def` to their end, nested ones too."""
    lengths = {
        f"{node.name} (line {node.lineno})": node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > most]


def test_long_functions_are_found():
    right, long = "def a():" + "\n    1" * 59, "async def b(\n    c,\n):" + "\n    1" * 58
    in_class = "class C:\n    def d(self):" + "\n        1" * 60
    assert long_functions("\n".join((right, long, in_class))) == [
        "b (line 61): 61 lines",
        "d (line 123): 61 lines",
    ]


def test_no_function_is_longer_than_60_lines():
    # All files, also those that MODULES leaves out.
    found = [
        f"{m.relative_to(PACKAGE)}: {f}" for m in PACKAGE.rglob("*.py") for f in long_functions(m.read_text())
    ]
    assert found == []


def at_import(body: list[ast.stmt]) -> list[ast.ImportFrom]:
    """Imports that run with a module, or that type checkers follow: at its top, and under its `if`, `try` and
    `with`.
    """
    found = []
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node)
        for field in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found += at_import(getattr(node, field, []))
    return found


def test_imports_under_conditions_are_seen():
    code = (
        "if TYPE_CHECKING:\n    from a import b\nelse:\n    from c import d\ntry:\n    from e import f\n"
        "except ImportError:\n    from g import h\ndef later():\n    from i import j\n"
    )
    assert [node.module for node in at_import(ast.parse(code).body)] == ["a", "c", "e", "g"]


def test_no_module_waits_for_one_that_waits_for_it():
    """Imports at the top of modules, and those for type checkers alone, make no circle."""
    needs = {}
    for module in MODULES:
        name = ".".join(("labelscape", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        top = at_import(ast.parse(module.read_text()).body)
        needs[name] = {m for n in top for m in (n.module, *(f"{n.module}.{a.name}" for a in n.names))}
    done: set[str] = set()
    while ready := {m for m in needs if m not in done and not (needs[m] & set(needs)) - done - {m}}:
        done |= ready
    assert set(needs) - done == set()


def test_help_needs_no_torch():
    code = (
        "import sys; from labelscape.cli import app; assert not {'torch', 'rasterio', 'pydantic', 'numpy'} "
        "& set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_lists_what_it_has():
    import labelscape

    for name in labelscape.__all__:
        assert getattr(labelscape, name) is not None
