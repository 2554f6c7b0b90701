"""Who may import whom. The picture is in the table; a rule nobody runs is a wish."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "labelscape"

BASE = {"errors", "grid", "legend", "files", "version"}
MAY_IMPORT = {
    "errors": set(), "version": set(), "grid": set(), "files": {"errors"}, "legend": {"errors"}, "progress": set(),
    "tiles": {"errors", "grid"},
    "imagery": BASE | {"checkpoint"},
    "checkpoint": BASE | {"imagery"},
    "nets": {"errors"},
    "scores": {"errors", "checkpoint", "nets"},
    "datasets": BASE | {"imagery"},
    "evaluation": BASE | {"checkpoint", "datasets", "progress", "maps", "scores", "imagery"},
    "training": BASE | {"checkpoint", "datasets", "imagery", "nets", "scores", "progress", "evaluation"},
    "maps": BASE | {"checkpoint", "imagery", "scores", "tiles", "progress", "evaluation"},
    "export": BASE | {"checkpoint", "nets"},
    "demo": None, "cli": None,
}  # fmt: skip
NEVER = {"imagery": {"torch"}, "evaluation": {"torch"}, "nets": {"rasterio", "shapely", "pyogrio"}, "datasets": {"torch"}}


def imported(module: Path) -> set[str]:
    """Dotted names of everything a module imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(module):
    room = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    names = imported(module)
    rooms = {n.split(".")[1] for n in names if n.startswith("labelscape.") and len(n.split(".")) > 1}
    if MAY_IMPORT[room] is not None:
        assert rooms <= MAY_IMPORT[room] | {room}
        assert "cli" not in rooms
    assert not {n.split(".")[0] for n in names} & NEVER.get(room, set())


def test_every_room_is_in_the_table():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(MAY_IMPORT)


def test_help_needs_no_torch():
    code = "import sys; from labelscape.cli import app; assert not {'torch', 'rasterio', 'pydantic', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_lists_what_it_has():
    import labelscape

    for name in labelscape.__all__:
        assert getattr(labelscape, name) is not None
