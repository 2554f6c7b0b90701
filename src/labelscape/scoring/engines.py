"""The engine of checkpoints, torch. `engine` says what all engines have; other libraries are in `runtimes`,
chosen in `engine_choice`.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from labelscape.checkpoint import Checkpoint
from labelscape.errors import BadFile, BadOption, LabelscapeError, first_line
from labelscape.nets.blocks import Network, as_recorded
from labelscape.nets.catalog import stored_model
from labelscape.nets.compiler import compiler_later
from labelscape.nets.kernels.folding import fold_normalisations
from labelscape.nets.shapes import needs_numbers, shapes_alone
from labelscape.scoring.devices import HALF_SHARE, float32_in, pick_device, refuse_tf32
from labelscape.scoring.devices import PRECISIONS as NAMES
from labelscape.scoring.familiar import Distance
from labelscape.scoring.machine import import_torch
from labelscape.scoring.unfamiliar import refuse_without
from labelscape.text import printable

import_torch()  # a worker may have been told its threads before

PRECISIONS = {option: getattr(torch, name) if name else None for option, name in NAMES.items()}


@dataclass(frozen=True)
class TorchEngine:
    """A network of the catalogue in torch, in eval mode."""

    net: Network = field(repr=False)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype | None = None
    head: str = "logits"
    """Which task is predicted: "logits" the first, "mate" the second, "both" their classes one after the
    other, from one pass through the trunk.
    """
    distance: Distance | None = field(default=None, repr=False)
    """Adds two channels to the logits: how far the features are from those of training (`scoring.familiar`).
    """
    two: bool = False
    """Memory is estimated for both tasks, whichever is predicted: a score then has the tiles of the map."""
    precision: str = "32"
    """As it was asked for: one of PRECISIONS."""
    shapes: Network | None = field(default=None, repr=False)
    """The network before anything was folded, without values: memory is estimated for it, so that tiles do
    not depend on how it is run.
    """

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        precision: str = "32",
        both: bool = False,
        unfamiliar: bool = False,
    ) -> TorchEngine:
        """The checkpoint's network on a device, for its own task or `both`; `unfamiliar` adds the distance of
        its features. Raises BadOption or UnknownName for an unknown device or precision, BadFile where the
        features of training are not known.
        """
        if precision not in PRECISIONS:
            raise BadOption(f"`precision={precision!r}` must be one of {', '.join(PRECISIONS)}.")
        where = pick_device(device)
        refuse_tf32(precision, where)
        if unfamiliar:
            refuse_without([checkpoint])
        net = build_network(checkpoint)
        head = "both" if both else "mate" if checkpoint.whole is not None else "logits"
        two = checkpoint.mate is not None or checkpoint.whole is not None
        distance = Distance(checkpoint.familiarity) if unfamiliar else None
        shapes = None
        # In half precision other weights round to other values, by more than the last digits.
        if PRECISIONS[precision] is None:
            shapes = _on_meta(net)
            fold_normalisations(net, lambda net: _run(net, head))
        # The values are the same up to rounding.
        net = net.to(where, memory_format=_layout(where, precision))
        return cls(net, where, PRECISIONS[precision], head, distance, two, precision, shapes)

    @property
    def name(self) -> str:
        return "torch"

    @property
    def stride(self) -> int:
        return self.net.stride

    @property
    def reach(self) -> int | None:
        return self.net.reach

    @property
    def pads_to(self) -> int:
        return self.net.pads_to

    def forward(self, images: Tensor) -> Tensor:
        half = torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)
        if self.device.type == "cuda":  # on a CPU they lie as they are needed
            images = images.contiguous(memory_format=_layout(self.device, self.precision))
        with float32_in(self.precision, self.device), half:
            if self.distance is None:
                return predicted(self.net, images, self.head)
            with self.distance.beside(self.net, images) as found:
                logits = predicted(self.net, images, self.head)
            # In the logits' own precision: the classes of a map must not depend on what is mapped beside.
            return torch.cat([logits, found[0].to(logits.dtype)], dim=1)

    def recorded_bytes(self, height: int, width: int, images: int = 1) -> int:
        """`peak_bytes` of the form that is traced for other engines: some networks have no strips there."""
        with as_recorded():
            return self.peak_bytes(height, width, images)

    def peak_bytes(self, height: int, width: int, images: int = 1) -> int:
        """Weights and the peak of activations alive at once, with a fifth for work space.

        Nothing is computed: shapes go through the network on torch's "meta" device, so the estimate is the
        same on every machine, and with it the tiles of a map.
        """
        whole = self.shapes or self.net
        net = _Both(whole) if self.two else whole
        state = {name: value.to("meta") for name, value in [*net.named_parameters(), *net.named_buffers()]}
        weights = sum(v.nbytes for v in state.values())
        image = torch.zeros(images, self.net.in_channels, height, width, device="meta")
        with torch.no_grad(), compiler_later(), _Alive() as alive:
            torch.func.functional_call(net, state, (image,))
        return int(
            weights + 1.2 * (alive.peak + image.nbytes) * (HALF_SHARE if self.dtype is not None else 1)
        )


def _layout(device: torch.device, precision: str) -> torch.memory_format:
    """How the numbers of an image lie in memory. Convolutions on a CPU are 1.1 to 1.3 times faster with the
    channels of a pixel side by side; of all digits on an H100 up to three times slower (fcn), in no network
    faster; in reduced precision it depends.
    """
    side_by_side = device.type != "cuda" or precision != "32"
    return torch.channels_last if side_by_side else torch.contiguous_format


def predicted(net: Network, images: Tensor, head: str) -> Tensor:
    """Logits (N, K, H, W) of the first task ("logits"), the second ("mate"), or of "both" joined along K."""
    if head == "logits":
        return net(images)
    if head == "mate":
        return net.heads(images, first=0)["mate"]
    found = net.both(images)
    return torch.cat([found["logits"], found["mate"]], dim=1)


def _on_meta(net: Network) -> Network:
    """A copy whose weights are shapes alone."""
    tensors = [*net.parameters(), *net.buffers()]
    # What is known already is not copied: of a large network one copy is enough.
    known = {
        id(t): nn.Parameter(t.to("meta")) if isinstance(t, nn.Parameter) else t.to("meta") for t in tensors
    }
    return copy.deepcopy(net, known)


@torch.inference_mode()
def _run(net: Network, head: str) -> None:
    side = 2 * net.stride
    predicted(net, torch.zeros(1, net.in_channels, side, side), head)


class _Both(torch.nn.Module):
    """A network as `functional_call` takes it, predicting both tasks."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return predicted(self.net, images, "both")


def build_network(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network with its weights, in eval mode on the CPU: with both heads, also for the
    second task alone. Raises BadFile where the weights are not those of this network, or its options make
    none.
    """
    if checkpoint.exported is not None:
        raise BadFile(
            f"{_source(checkpoint)} is an exported model, which can be mapped and scored with; this needs "
            "the checkpoint that it was made of (.safetensors)."
        )
    # Of shapes alone first: what a stranger's options describe may be larger than the memory.
    net = _of_shapes(checkpoint)
    weights = {key: torch.from_numpy(np.array(value)) for key, value in checkpoint.weights.items()}
    if net is not None and _lacks_weights_alone(net):
        # To build it again, and to draw numbers that the weights replace, takes twice as long as the rest.
        kinds = {key: value.dtype for key, value in net.state_dict().items()}
        net.load_state_dict({key: value.to(kinds[key]) for key, value in weights.items()}, assign=True)
    else:
        net = _unfilled(checkpoint)
        net.load_state_dict(weights)
    return net.eval()


def _lacks_weights_alone(net: Network) -> bool:
    """Is a network of shapes whole once it has its weights: no tensor that they do not hold, none that two
    of its modules share?
    """
    tensors = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    stored = net.state_dict().keys()
    known = {id(tensor) for _, tensor in tensors}
    own = {"_parameters", "_buffers", "_modules"}
    plain = [value for one in net.modules() for name, value in vars(one).items() if name not in own]
    return (
        all(name in stored for name, _ in tensors) and len(known) == len(tensors) and not _holds_shape(plain)
    )


def _holds_shape(value: object) -> bool:
    """Is it a tensor without numbers, or are there any in a list, tuple or dictionary?"""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_shape, value))
    return isinstance(value, Tensor) and value.is_meta


def _unfilled(checkpoint: Checkpoint) -> Network:
    try:
        return stored_model(
            checkpoint.network,
            in_channels=len(checkpoint.bands),
            classes=len((checkpoint.whole or checkpoint).legend),
            options=checkpoint.options,
        )
    except LabelscapeError:
        raise
    # Each network fails on its own kinds of nonsense in its own ways.
    except Exception as error:
        why = first_line(error)
        raise BadFile(
            f"{_source(checkpoint)} describes no network: {checkpoint.network} cannot be built with its "
            f"options ({why})."
        ) from error


def _of_shapes(checkpoint: Checkpoint) -> Network | None:
    """The network without values; None for one that computes with numbers while it is built. Raises BadFile
    where names and shapes of the weights are not those of the network.
    """
    try:
        with shapes_alone():
            net = _unfilled(checkpoint)
    except (LabelscapeError, NotImplementedError, RuntimeError) as error:
        if needs_numbers(error):
            return None
        raise
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: np.shape(value) for name, value in checkpoint.weights.items()}
    odd = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if odd:
        raise BadFile(
            f"{_source(checkpoint)} holds the weights of another network: of {len(wanted)} that "
            f"{checkpoint.network} has with its options, {len(odd)} are missing or of another shape, such as "
            f"{printable(odd[0])!r} (shape {found.get(odd[0], 'none')}, expected "
            f"{wanted.get(odd[0], 'none')})."
        )
    return net


def _source(checkpoint: Checkpoint) -> str:
    return checkpoint.stored.path if checkpoint.stored else f"The checkpoint of {checkpoint.network}"


def state_arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    """A network's weights as a checkpoint holds them: copies, on the CPU. `build_network` loads them back."""
    return {key: value.detach().cpu().numpy().copy() for key, value in net.state_dict().items()}


class _Alive(TorchDispatchMode):
    """Counts the bytes of tensors alive at once. Views count nothing: they share the memory of another
    tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        results = made if isinstance(made, (tuple, list)) else (made,)
        for result, returned in zip(results, func._schema.returns):
            if isinstance(result, torch.Tensor) and returned.alias_info is None:
                self.now += result.nbytes
                # Reference counting frees a tensor at its last use, on "meta" at the same place as on a
                # device.
                weakref.finalize(result, self._gone, result.nbytes)
        self.peak = max(self.peak, self.now)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size
