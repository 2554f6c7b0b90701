"""What `import labelscape as ls` offers: the same to Python, to editors and to type checkers."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import labelscape

SOURCE = Path(labelscape.__file__)

USER = """
import labelscape as ls

ck: ls.Checkpoint = ls.load("model.safetensors")
reveal_type(ck)
reveal_type(ls.map_scene(ck, "scene.tif", "map/").areas)
reveal_type(ls.IGNORE)
reveal_type(ls.list_models())
ls.map_scene(ck, "scene.tif", "map/", no_such_option=3)
ls.no_such_function()
ls.sieve("a.tif", "b.tif", min_area="large")
"""


def test_type_checkers_see_the_names_that_python_finds():
    (block,) = [n for n in ast.parse(SOURCE.read_text()).body if isinstance(n, ast.If) and not n.orelse][:1]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    static = {}
    for line in block.body:
        (name,) = line.names
        assert name.asname == name.name, "type checkers take only `import name as name` for public"
        static[name.name] = line.module.removeprefix("labelscape.")
    assert static == labelscape._PLACES


def test_the_package_says_that_it_is_typed():
    assert SOURCE.with_name("py.typed").is_file()


def test_importing_the_package_loads_nothing_else():
    heavy = "{'torch', 'numpy', 'rasterio', 'pydantic', 'typer'}"
    code = f"import sys, labelscape; dir(labelscape); print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_a_users_script_is_checked(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    # torch and its kind take a minute to analyse, and no public signature needs them.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\n"
        "[mypy-torch.*,torchvision.*,timm.*,segmentation_models_pytorch.*,lightning.*,sklearn.*,scipy.*,"
        "matplotlib.*,dask.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "user.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(SOURCE.parent.parent)},
    )
    said = [line.partition("user.py:")[2] for line in done.stdout.splitlines() if "defined in" not in line]
    assert said[0] == '5: note: Revealed type is "labelscape.checkpoint.Checkpoint"'
    assert said[1].startswith('6: note: Revealed type is "tuple[labelscape.maps.') and "ClassArea" in said[1]
    assert said[2] == '7: note: Revealed type is "int"'
    assert said[3] == '8: note: Revealed type is "list[str]"'
    assert said[4].startswith('9: error: Unexpected keyword argument "no_such_option" for "map_scene"')
    assert said[5].startswith('10: error: Module has no attribute "no_such_function"')
    assert said[6].startswith('11: error: Argument "min_area" to "sieve" has incompatible type "str"')
    assert "Any" not in done.stdout
