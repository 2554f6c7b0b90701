"""A network as an OpenVINO model or a program of torch.export, read back from its bytes for the proof."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from labelscape.errors import BadInput, BadOption
from labelscape.export.onnx_file import IMAGE, PROBABILITIES
from labelscape.exported_formats import WEIGHTS, openvino_core
from labelscape.files import no_room, temporary_folder
from labelscape.scoring.onnx_graph import quiet

Run = Callable[[Tensor], Tensor]
"""Images (N, B, H, W) float32 -> probabilities (N, K, H, W)."""


def openvino_files(onnx: bytes, metadata: Mapping[str, str]) -> tuple[dict[str, bytes], Run]:
    """The two files of an OpenVINO model by their suffix, and a function that runs them. Raises BadOption
    where OpenVINO is not installed, BadInput where it cannot read an operator.
    """
    if find_spec("openvino") is None:
        raise BadOption("`to='openvino'` needs OpenVINO: pip install 'labelscape[openvino]'.")
    import openvino

    core = openvino_core()
    try:
        model = core.read_model(onnx)
    except RuntimeError as error:
        raise BadInput(f"OpenVINO cannot read the network: {_line(error)}. Try another `opset`.") from error
    for key, value in sorted(metadata.items()):
        model.set_rt_info(value, [key])
    with temporary_folder() as folder:
        path = folder / "model.xml"
        try:
            # Its default rounds weights to float16.
            openvino.save_model(model, path, compress_to_fp16=False)
            # Twice: which weights belong to it is known when they are written.
            model.set_rt_info(hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest(), [WEIGHTS])
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # "iostream error" is all that it says
            raise no_room() from error
        files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}
    read = core.read_model(model=files[".xml"], weights=files[".bin"])
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: Tensor) -> Tensor:
        found = compiled({IMAGE: images.contiguous().numpy()})
        return torch.from_numpy(found[compiled.output(PROBABILITIES)].copy())

    return files, run


def pt2_file(
    graph: torch.nn.Module, image: Tensor, metadata: Mapping[str, str], network: str
) -> tuple[bytes, Run]:
    """A program of torch.export for one image of one size, and a function that runs it. Raises BadInput where
    torch cannot record the network.
    """
    made = io.BytesIO()
    try:
        with quiet(), torch.inference_mode(False), torch.no_grad():
            # The networks look at the number of images: torch.export takes it for a constant.
            program = torch.export.export(graph, (image.clone(),))
            torch.export.save(program, made, extra_files=dict(sorted(metadata.items())))
    except MemoryError:
        raise
    # Each network that cannot be recorded fails in a way of its own.
    except Exception as error:
        raise BadInput(
            f"{network} cannot be recorded by torch.export: {_line(error)}. Try `to='onnx'`."
        ) from error
    read = torch.export.load(io.BytesIO(made.getvalue())).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return read(images)

    return made.getvalue(), run


def _line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip()[:200].rstrip(".")
