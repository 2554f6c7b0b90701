"""Programs of torch.export as `export` writes them, run by torch.

torch's own loader runs what a file asks for: it unpickles, evaluates expressions of sizes, and looks up
operators by any name inside torch. Nothing of a file reaches it but arrays, and a graph of ATen operators
that was checked here; they are written into a new archive, since two readers of zip may see different files.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from labelscape.errors import BadFile, BadOption, first_line
from labelscape.exported_formats import pt2_entries
from labelscape.scoring.machine import import_torch

OPERATOR = re.compile(r"torch\.ops\.(aten\.\w+\.\w+|higher_order\.wrap_with_autocast)")
"""The second runs a graph inside the program, whose operators are checked too."""
WORDS = {"cpu", "constant", "replicate", "reflect", "circular", "none", "tanh", "nearest", "bilinear", "ij"}
"""Texts that operators may be given: others might be names of files, which some operators read or write."""
VALUES = {
    "as_tensor",
    "as_tensors",
    "as_optional_tensor",
    "as_optional_tensors",
    "as_none",
    "as_int",
    "as_ints",
}
VALUES |= {"as_float", "as_floats", "as_bool", "as_bools", "as_string", "as_scalar_type", "as_memory_format"}
VALUES |= {"as_layout", "as_device", "as_name", "as_graph"}
"""Kinds of arguments; the others are expressions and objects."""
MODEL, ENTRIES = "models/model.json", re.compile(r"data/(weights/weight|constants/tensor)_\d+")
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MARKS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little", ".data/version": b"3\n"}
ONE_IMAGE = (
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", '
    '"context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}]}, {"type": '
    '"builtins.dict", "context": "[]", "children_spec": []}]}]'
)
ONE_ANSWER = '[1, {"type": null, "context": null, "children_spec": []}]'


class Program:
    """A program for one image of one size. Raises BadFile for another file, or one with more than arrays and
    ATen operators; BadOption where torch is not installed.
    """

    def __init__(self, model: bytes, source: str) -> None:
        """`source`: what the file is called in messages."""
        try:
            self._torch = import_torch()
        except ImportError as error:
            raise BadOption("Models of torch.export need PyTorch: pip install torch.") from error
        try:
            archive = checked(model)
            self._module = self._torch.export.load(io.BytesIO(archive)).module()
        except MemoryError:
            raise
        # zipfile, json and torch each have errors of their own for every kind of damage.
        except Exception as error:
            raise BadFile(
                f"{source} cannot be used: {first_line(error).rstrip('.')}. Export the model again."
            ) from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(N, B, H, W) float32 -> (N, K, H, W) float32."""
        given = self._torch.from_numpy(np.ascontiguousarray(images))
        with self._torch.no_grad():
            return np.concatenate([self._module(image).numpy() for image in given.split(1)])


def checked(model: bytes) -> bytes:
    """The same program with nothing in it that runs code. Raises ValueError where that is not all of it, and
    what zipfile and json raise for damage.
    """
    found = pt2_entries(model)
    program = json.loads(found[MODEL])
    configs = {name: json.loads(found[name]) for name in CONFIGS}
    arrays = {name: content for name, content in found.items() if ENTRIES.fullmatch(name)}
    for config in configs.values():
        for name, one in config["config"].items():
            if one["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", one["path_name"]):
                raise ValueError(f"{name} is stored as a pickle, which may run code")
    parts = {MODEL: _only_operators(program), **configs, **MARKS}
    parts = {n: c if isinstance(c, bytes) else json.dumps(c).encode() for n, c in parts.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in {**parts, **arrays, "data/sample_inputs/model.pt": _no_inputs()}.items():
            archive.writestr(f"archive/{name}", content)
    return made.getvalue()


def _only_operators(program: dict[str, Any]) -> dict[str, Any]:
    """The program without what describes where it came from. Raises ValueError for what is no operator of
    ATen, or takes more than numbers and arrays.
    """
    module = program["graph_module"]
    graphs = [value for key, value in _pairs(program) if key == "nodes"]
    for node in itertools.chain(*graphs):
        if not OPERATOR.fullmatch(node["target"]):
            raise ValueError(f"it calls {node['target'][:80]!r}, which is no operator of a network")
        node["metadata"] = {}
    whole = [one for one in module["module_call_graph"] if one["fqn"] == ""]
    specs = [(one["signature"]["in_spec"], one["signature"]["out_spec"]) for one in whole]
    if specs != [(ONE_IMAGE, ONE_ANSWER)]:
        raise ValueError("it does not take one image and give one array")
    module |= {"module_call_graph": whole, "metadata": {}, "treespec_namedtuple_fields": {}}
    program |= {"guards_code": [], "range_constraints": {}}
    for key, value in _pairs(program):
        if (key.startswith("as_") and key not in VALUES) or key in ("expr_str", "custom_obj"):
            raise ValueError(f"it holds {key!r}, which may run code")
        if key == "as_string" and value not in WORDS:
            raise ValueError(f"an operator is given the text {str(value)[:80]!r}")
    return program


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys at any depth, with their values."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _pairs(inner)


def _no_inputs() -> bytes:
    """In place of the image that the program was recorded with, which is a pickle."""
    made = io.BytesIO()
    torch = import_torch()
    torch.save(((torch.zeros(1),), {}), made)
    return made.getvalue()
