"""Files that `export` wrote, as the library of their format reads them: the metadata, and what is run.

Files are read once: what is checked is what is run.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from labelscape.errors import BadFile, BadOption, first_line

KINDS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}
"""Ending of a file -> the format's name, as `export --to` has it."""
TITLES = {"onnx": "an ONNX model", "openvino": "an OpenVINO model", "pt2": "a model of torch.export"}
WEIGHTS = "labelscape_weights"
"""Key in an OpenVINO model: SHA-256 of its .bin, which the .xml alone does not tell from another's."""


GRAPH = "labelscape_graph"
"""Key in an ONNX file: SHA-256 of its graph with the weights, since nothing else tells of damage."""
Shape = tuple[int | None, ...]
"""Of an array; None where any size may be given."""
Shapes = tuple[list[Shape], list[Shape]]
"""What a graph says that it takes, and what it gives."""


def begins_as_exported(path: Path) -> bool:
    """Is it a model by its name and, since scenes are called .xml too, by its start?"""
    if path.suffix.lower() != ".xml":
        return path.suffix.lower() in KINDS
    try:
        with path.open("rb") as file:
            return _is_network(file.read(200))
    except OSError:
        return False


def _is_network(start: bytes) -> bool:
    return b"<net " in start[:200]


def session(model: bytes, threads: int) -> Any:
    """An onnxruntime session on the CPU. Raises BadOption where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BadOption("ONNX models need onnxruntime: pip install 'labelscape[onnx]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and printed once
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


_ONE = threading.Lock()


def openvino_core() -> Any:
    """OpenVINO's core: one for the life of a process. Raises BadOption where OpenVINO is not installed.

    The first network that a core compiles gives the thread another stack for signals, and a core that is
    deleted frees it, in whatever order cores come and go. A signal after that, Ctrl-C say, had no stack: the
    process ended with a segmentation fault, where it should stop tidily.
    """
    with _ONE:
        return _core()


@cache
def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BadOption("OpenVINO models need OpenVINO: pip install 'labelscape[openvino]'.") from error
    return openvino.Core()


def read_onnx(path: Path, model: bytes) -> tuple[dict[str, str], Shapes]:
    """The metadata of an ONNX file with this content, and its shapes. Raises BadFile for another file."""
    try:
        # In memory: the graph cannot name other files as weights.
        run = session(model, 1)
        shapes = tuple(
            [tuple(n if isinstance(n, int) else None for n in one.shape) for one in ends]
            for ends in (run.get_inputs(), run.get_outputs())
        )
        meta = run.get_modelmeta().custom_metadata_map
        damaged = GRAPH in meta and meta[GRAPH] != json.dumps(graph_digest(model))
    # Too little memory is no damage of the file.
    except (BadOption, MemoryError):
        raise
    # onnxruntime has an error of its own for every kind of damage.
    except Exception as error:
        why = first_line(error)
        if "external data" in why.lower():
            raise BadFile(
                f"{path} keeps weights in another file (external data), which is not read: save the model as "
                "one file."
            ) from error
        raise BadFile(f"{path} is no ONNX model that onnxruntime can run ({why}).") from error
    if damaged:
        raise BadFile(
            f"{path} is damaged, or was changed: the SHA-256 of its graph is another than that of the one "
            "that was exported. Copy it again, or export the model again."
        )
    return meta, shapes


def graph_digest(model: bytes) -> str:
    """SHA-256 of the graph of an ONNX file: field 7 of its message, as protobuf writes these one after the
    other. Raises ValueError or IndexError for what is no such file.
    """
    place, digest = 0, hashlib.sha256()
    while place < len(model):
        key, place = _varint(model, place)
        if key & 7 == 0:
            _, place = _varint(model, place)
            continue
        if key & 7 != 2:
            raise ValueError("it holds a field that ONNX does not have")
        size, place = _varint(model, place)
        if key >> 3 == 7:
            digest.update(memoryview(model)[place : place + size])
        place += size
    return digest.hexdigest()


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of protobuf, seven bits a byte, the lowest first, and where what follows it begins."""
    value = shift = 0
    while True:
        byte = content[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def read_openvino(path: Path, model: bytes, keys: tuple[str, ...]) -> tuple[dict[str, str], Shapes, bytes]:
    """The metadata under `keys` of an .xml file with this content, its shapes, and the content of the .bin
    beside it. Raises BadFile where one of them is damaged, or is not of the other.
    """
    if not _is_network(model):
        raise BadFile(f"{path} is no OpenVINO model: it does not begin as one.")
    core = openvino_core()
    beside = path.with_suffix(".bin")
    try:
        weights = beside.read_bytes()
    except OSError as error:
        why = f"cannot be read ({error.strerror or error}): keep both files together"
        raise BadFile(f"{path} has its weights in {beside.name} beside it, which {why}.") from error
    # Before OpenVINO sees either: it takes any bytes of this length for weights.
    stated = stated_weights(model)
    if stated and stated != hashlib.sha256(weights).hexdigest():
        raise BadFile(
            f"{beside} does not belong to {path.name}, or is damaged: its SHA-256 is another. Copy both "
            "files again, or export the model again."
        )
    try:
        read = core.read_model(model=model, weights=weights)
        found = {key: str(read.get_rt_info([key]).value) for key in keys if read.has_rt_info([key])}
        shapes = tuple(
            [tuple(n.get_length() if n.is_static else None for n in one.partial_shape) for one in ends]
            for ends in (read.inputs, read.outputs)
        )
    except MemoryError:
        raise
    # OpenVINO raises RuntimeError, and others of its bindings.
    except Exception as error:
        # Its first lines name places in its own source.
        why = ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
        raise BadFile(f"{path} is no OpenVINO model that can be run ({why}).") from error
    if found and not stated:
        raise BadFile(f"{path} does not say the SHA-256 of {beside.name}: export the model again.")
    return found, shapes, weights


def stated_weights(model: bytes) -> str | None:
    """SHA-256 of the .bin that belongs to an .xml file with this content; None where it does not say."""
    found = re.search(rb'<%b value="([0-9a-f]{64})"' % WEIGHTS.encode(), model)
    return found[1].decode() if found else None


def read_pt2(path: Path, model: bytes, keys: tuple[str, ...]) -> tuple[dict[str, str], Shapes | None]:
    """The metadata under `keys` of a program of torch.export with this content, which is not loaded, and its
    shapes, None where they are not known. Raises BadFile for another file.
    """
    try:
        found = pt2_entries(model)
        meta = {key: found[f"extra/{key}"].decode() for key in keys if f"extra/{key}" in found}
        return meta, _pt2_shapes(json.loads(found["models/model.json"])) if meta else None
    except MemoryError:
        raise
    # zipfile has errors of many kinds for damage.
    except Exception as error:
        raise BadFile(f"{path} is no model of torch.export, or is damaged ({first_line(error)}).") from error


def _pt2_shapes(program: Any) -> Shapes | None:
    """The image that a program takes and what it gives; None where it does not say so as `export` does, which
    is refused before it is run.
    """
    try:
        graph = program["graph_module"]["graph"]
        specs = program["graph_module"]["signature"]["input_specs"]
        taken = [one["user_input"]["arg"] for one in specs if "user_input" in one]
        sizes = [
            [graph["tensor_values"][arg["as_tensor"]["name"]]["sizes"] for arg in args]
            for args in (taken, graph["outputs"])
        ]
        return tuple([tuple(n["as_int"] for n in one) for one in ends] for ends in sizes)
    except (KeyError, TypeError):
        return None


def pt2_entries(model: bytes) -> dict[str, bytes]:
    """What a program's archive holds, by name. Raises ValueError for a compressed part, and what zipfile
    raises for damage.
    """
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        # torch compresses nothing: a small file cannot fill the memory.
        if any(one.compress_type or one.file_size > len(model) for one in archive.infolist()):
            raise ValueError("a part of it is compressed")
        # Each name begins with the archive's own.
        return {"/".join(PurePosixPath(name).parts[1:]): archive.read(name) for name in archive.namelist()}
