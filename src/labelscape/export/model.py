"""Export a checkpoint's network for other programs; it is compared with torch before it is kept."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from labelscape.checkpoint import Checkpoint, fingerprint, load
from labelscape.errors import BadInput, BadOption, UnknownName, first_line
from labelscape.export import onnx_file
from labelscape.export.graph import Graph
from labelscape.export.images import images_of, shapes_of
from labelscape.export.int8 import Check, in_int8
from labelscape.export.other_files import Run, openvino_files, pt2_file
from labelscape.export.smp_folder import write_smp_folder
from labelscape.exported import FACTS, HEADER, SCALINGS, Facts
from labelscape.exported_formats import session
from labelscape.files import check_new, written_whole
from labelscape.model_places import refuse_beside
from labelscape.scoring.engines import TorchEngine
from labelscape.scoring.memory import (
    DEFAULT_TILE,
    EXACT_TILE,
    LARGE_TILE,
    SMALL_TILES,
    is_exact,
    learned_side,
    tile_side,
)
from labelscape.scoring.onnx_graph import MatrixPool
from labelscape.scoring.proof import TOLERANCE, compared
from labelscape.scoring.scorer import Member, Scorer
from labelscape.scoring.stitch import usual_overlap

FORMATS = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "pt2": (".pt2",)}
"""Name -> suffixes of its files, the one that is named first."""
SMP_FOLDER = "smp-folder"
DTYPES = ("float32", "float16", "int8")
USUAL_SIZE = 512
"""Side of the images of a network for which no size is better than another (ours)."""
ROUNDING = 2
"""How many times as far from the network in 64 bits as torch in 32 bits a file may be (ours). In networks of
a hundred layers sums in another order differ by more than TOLERANCE, and neither is nearer to the truth.
"""
HALF_TOLERANCE = 0.02
"""Largest difference of a probability in float16 that is still rounding (ours)."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    size        rows and columns of its images; None where any multiple of `stride` may be given
    difference  largest difference of a probability from torch's
    changed     share of pixels with another class than torch's
    compared    shapes of the images that were compared, (N, B, H, W)
    check       of a network in int8: its scores beside float32
    stride      of the network, in pixels
    """

    path: Path
    format: str
    size: int | None
    bytes: int
    difference: float
    changed: float
    compared: tuple[tuple[int, int, int, int], ...]
    check: Check | None = None
    stride: int = 1


def export_model(
    checkpoint: Checkpoint | str | Path,
    out: str | Path | None = None,
    *,
    to: str = "onnx",
    size: int | None = None,
    dynamic: bool = False,
    opset: int = onnx_file.OPSET,
    dtype: str = "float32",
    normalise: str = "inside",
    task: str | None = None,
    force: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a checkpoint's network in another format; it reads images (N, B, H, W) float32 and gives
    calibrated probabilities (N, K, H, W).

    out        the file; beside the checkpoint where it is left out
    size       rows and columns of its images: what the network learned, unless given
    dynamic    any multiple of the network's stride instead of one size
    to         "onnx"; "openvino", two files, .xml and .bin; "pt2", a program of torch.export; "smp-folder",
               which `segmentation_models_pytorch.from_pretrained` loads: logits of scaled images (smp/<Name>)
    opset      version of ONNX's operators
    dtype      "float32"; "float16", half the size; "int8", a quarter (ONNX alone), see `export.int8`
    normalise  what the images hold: "inside" the scene's own units, "outside" (value - mean) / std, "unit"
               8-bit values over 255
    task       the second task of a network that learned two
    force      keep a network in int8 whose scores fall too far

    The file is run and compared with torch on images drawn from the statistics of the training data, and
    kept only where probabilities differ by at most 1e-4 (float16: 0.02), or in int8 where mIoU on the
    held-out blocks of training falls by at most 1 point. Raises BadOption or UnknownName for settings that
    cannot work, BadFile where a file cannot be read or written, BadInput where an operator has no form in
    this format, or the file gives something else.
    """
    refuse_beside(checkpoint, out)
    _check_settings(to, size, dynamic, opset, dtype, normalise)
    if to == SMP_FOLDER:
        return _smp_folder(checkpoint, out, task, overwrite)
    if to != "pt2":  # OpenVINO reads the network from ONNX
        onnx_file.check_installed()
    one = (load(checkpoint) if not isinstance(checkpoint, Checkpoint) else checkpoint).task(task)
    out = Path(out) if out is not None else _beside(one, FORMATS[to][0])
    _check_ending(out, to)
    paths = {suffix: out if suffix == FORMATS[to][0] else out.with_suffix(suffix) for suffix in FORMATS[to]}
    for path in paths.values():
        check_new(path, overwrite=overwrite)
    engine = TorchEngine.of(one, device="cpu")
    side = None if dynamic else _side(one, engine, size)
    files, done = _made(to, one, engine, side, opset, dtype, normalise, force)
    # The named file last: where it is, the others are.
    for suffix in reversed(paths):
        with written_whole(paths[suffix], overwrite=overwrite) as part:
            part.write_bytes(files[suffix])
    return replace(done, path=out)


def _made(
    to: str,
    one: Checkpoint,
    engine: TorchEngine,
    side: int | None,
    opset: int,
    dtype: str,
    normalise: str,
    force: bool,
) -> tuple[dict[str, bytes], Exported]:
    """The files by suffix, read back and compared, and what is told of them."""
    full = "float32" if dtype == "int8" else dtype  # integers are made of the file in float32
    memory = _memory(engine, one, side)
    pads_to = engine.pads_to if side is None and engine.pads_to != engine.stride else None
    facts = Facts(
        normalise, full, side, engine.stride, engine.reach, memory, fingerprint(one), pads_to=pads_to
    )
    graph = Graph(engine, one, normalise, dtype == "float16").eval()
    if side is None:
        _refuse_pools(graph, one.network)
    # A program of torch.export is of one image.
    shapes = shapes_of(len(one.bands), engine.stride, side, pads_to)[: 1 if to == "pt2" else None]
    files, run = _written(to, graph, images_of(one, shapes[0], normalise), facts, opset, one, engine)
    proven, check = _proven(run, graph, engine, one, shapes, facts), None
    if dtype == "int8":
        describe = partial(_metadata, one, engine=engine)
        files[".onnx"], facts, check = in_int8(files[".onnx"], facts, one, describe, shapes, force=force)
        proven = _proven(_runner(files[".onnx"]), graph, engine, one, shapes, facts)
    size = sum(map(len, files.values()))
    return files, Exported(Path(), to, side, size, *proven, tuple(shapes), check, engine.stride)


def _smp_folder(
    checkpoint: Checkpoint | str | Path, out: str | Path | None, task: str | None, overwrite: bool
) -> Exported:
    """As the library of the network saves its models; the folder is called like the checkpoint."""
    one = (load(checkpoint) if not isinstance(checkpoint, Checkpoint) else checkpoint).task(task)
    folder = Path(out) if out is not None else _beside(one, "")
    size, difference, shape = write_smp_folder(one, folder, overwrite=overwrite)
    return Exported(folder, SMP_FOLDER, None, size, difference, 0.0, (shape,))


def _refuse_pools(graph: Graph, network: str) -> None:
    """Before the network is recorded, which takes a minute for large ones."""
    if pool := next((m for m in graph.modules() if isinstance(m, MatrixPool)), None):
        raise BadInput(
            f"{network} cannot be exported for images of any size: it pools them to {pool.rows} x "
            f"{pool.columns} cells (adaptive_avg_pool2d), which ONNX can say of one size only. Give a fixed "
            "`size`."
        )


def _written(
    to: str, graph: Graph, image: Tensor, facts: Facts, opset: int, one: Checkpoint, engine: TorchEngine
) -> tuple[dict[str, bytes], Run]:
    """The files of a format by suffix, and a function that runs what was read back from them."""
    metadata = _metadata(one, facts, engine)
    if to == "pt2":
        content, run = pt2_file(graph, image, metadata, one.network)
        return {".pt2": content}, run
    model = onnx_file.onnx_bytes(graph, image, opset, facts.size is None, metadata, one.network)
    if to == "openvino":
        return openvino_files(model, metadata)
    return {".onnx": model}, _runner(model)


def _runner(model: bytes) -> Run:
    return partial(onnx_file.run_session, session(model, torch.get_num_threads()))


def _check_settings(to: str, size: int | None, dynamic: bool, opset: int, dtype: str, normalise: str) -> None:
    for what, value, known in (
        ("format (`to`)", to, (*FORMATS, SMP_FOLDER)),
        ("type of numbers (`dtype`)", dtype, DTYPES),
        ("scaling (`normalise`)", normalise, SCALINGS),
    ):
        if value not in known:
            raise UnknownName(what, value, tuple(known))
    usual = (None, False, onnx_file.OPSET, "float32", "inside")
    if to == SMP_FOLDER and (size, dynamic, opset, dtype, normalise) != usual:
        raise BadOption(
            "`to='smp-folder'` writes the network as it is: leave `size`, `dynamic`, `opset`, `dtype` and "
            "`normalise` out."
        )
    if dtype == "int8" and to != "onnx":
        raise BadOption("`dtype='int8'` is written as ONNX alone: leave `to` out, or `dtype`.")
    if size is not None and dynamic:
        raise BadOption("`size` and `dynamic` exclude each other: with `dynamic` any size may be given.")
    if dynamic and to == "pt2":
        raise BadOption("torch.export fixes the size of images: leave `dynamic` out, and give `size`.")
    if opset not in onnx_file.OPSETS:
        raise BadOption(
            f"`opset={opset}` must be from {onnx_file.OPSETS[0]} to {onnx_file.OPSETS[-1]}; "
            f"{onnx_file.OPSET} is read everywhere."
        )


def _check_ending(out: Path, to: str) -> None:
    """Raises BadOption where a name does not end as its format does: by its ending a file is read
    again. So none replaces the checkpoint that it is made of.
    """
    own = FORMATS[to][0]
    if out.suffix.lower() != own:
        other = next((name for name, endings in FORMATS.items() if out.suffix.lower() == endings[0]), None)
        cure = f"ask for `to='{other}'`, or give" if other else "give"
        raise BadOption(f"`out={out}`: a model as {to} is written to a file that ends in {own}; {cure} one.")


def _beside(checkpoint: Checkpoint, suffix: str) -> Path:
    stored = (checkpoint.whole or checkpoint).stored
    if stored is None:
        raise BadOption("`out` is needed: this checkpoint was made in memory, and has no file to lie beside.")
    task = f"_{checkpoint.whole.mate.name}" if checkpoint.whole else ""
    path = Path(stored.path)
    return path.with_name(f"{path.stem}{task}{suffix}")


def _side(checkpoint: Checkpoint, engine: TorchEngine, size: int | None) -> int:
    """The size asked for, else what the network learned. Raises BadOption for one it cannot take."""
    stride = engine.stride
    if size is None:
        alone = Scorer((Member(checkpoint, engine),))
        # As a map's tiles: of another size they would give another map.
        found = tile_side(alone, EXACT_TILE) if learned_side(alone) else USUAL_SIZE
        return max(1, found // stride) * stride
    if size < stride or size % stride:
        near = max(stride, round(size / stride) * stride)
        raise BadOption(f"`size={size}` must be a multiple of {stride} for {checkpoint.network}; try {near}.")
    return size


def _memory(engine: TorchEngine, checkpoint: Checkpoint, side: int | None) -> tuple[tuple[int, int], ...]:
    """Memory of the tiles among which `scoring.memory` chooses: elsewhere it cannot be computed."""
    sides = {LARGE_TILE, DEFAULT_TILE, EXACT_TILE, *SMALL_TILES, 256}
    sides |= {side} if side else set()
    return tuple(sorted((s * s, engine.peak_bytes(s, s)) for s in sides))


def _metadata(checkpoint: Checkpoint, facts: Facts, engine: TorchEngine) -> dict[str, str]:
    # On its own: one task of two becomes a network of one, and features of training stay behind.
    alone = replace(checkpoint, whole=None, mate=None, familiarity=None)
    side = facts.size or USUAL_SIZE
    exact = is_exact(Member(checkpoint, engine))
    overlap = 2 * (engine.reach if exact else usual_overlap(side, engine.stride))
    return {
        HEADER: json.dumps(alone.describe()),
        FACTS: json.dumps(facts.describe()),
        **onnx_file.deepness_metadata(
            checkpoint.legend.names,
            pixel_size=checkpoint.pixel_size,
            size=facts.size,
            overlap=min(50, -(-100 * overlap // side)),  # per cent
            normalisation=checkpoint.contract.normalisation,
            scaling=facts.normalise,
        ),
    }


@torch.inference_mode()
def _proven(
    run: Run,
    graph: Graph,
    engine: TorchEngine,
    checkpoint: Checkpoint,
    shapes: list[tuple[int, int, int, int]],
    facts: Facts,
) -> tuple[float, float]:
    """The largest difference of a probability from torch's, and the share of pixels with another class.
    Raises BadInput where the file gives something else.
    """
    most, changed, pixels = 0.0, 0, 0
    for shape in shapes:
        given = images_of(checkpoint, shape, facts.normalise)
        wanted = (engine.forward(graph.scaled(given)) / checkpoint.temperature).softmax(1)
        try:
            found = run(given)
            failure, difference = compared(wanted, found)
        # Each runtime has an error of its own for every operator.
        except Exception as error:
            failure, difference = first_line(error), float("inf")
        if failure and facts.dtype == "float32" and isfinite(difference):
            failure = _beyond_rounding(engine, graph.scaled(given), checkpoint.temperature, wanted, found)
        if facts.dtype == "float16" and difference <= HALF_TOLERANCE:
            failure = ""
        # Its scores decide: noise shows what 8 bits do to no picture.
        if facts.dtype == "int8" and isfinite(difference):
            failure = ""
        if failure:
            raise BadInput(_unlike(checkpoint.network, shape, failure, facts))
        most = max(most, difference)
        changed += int((wanted.argmax(1) != found.argmax(1)).sum())
        pixels += wanted[:, 0].numel()
    return most, changed / pixels


def _beyond_rounding(
    engine: TorchEngine, images: Tensor, temperature: float, wanted: Tensor, found: Tensor
) -> str:
    """Why probabilities that differ from torch's do so by more than rounding, by those that the same weights
    give in 64 bits; empty where they do not.
    """
    exact = replace(engine, net=copy.deepcopy(engine.net).double())
    truth = (exact.forward(images.double()) / temperature).softmax(1).to(wanted.dtype)
    own = float((wanted - truth).abs().max())
    return compared(truth, found, max(TOLERANCE, ROUNDING * own))[0]


def _unlike(network: str, shape: tuple[int, int, int, int], failure: str, facts: Facts) -> str:
    cure = "Give a fixed `size`" if facts.size is None else "Try another `opset` or `to`"
    if facts.dtype == "float16":
        cure = "Use `dtype='float32'`"
    return (
        f"The exported {network} is not what torch computes for images of {shape[2]} x {shape[3]} pixels: "
        f"{failure}. Nothing was written. {cure}."
    )
