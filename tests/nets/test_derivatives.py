"""Kernels whose gradient is their own: second derivatives, and the transforms of torch.func, against the
plain forms.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from labelscape.nets.blocks import Resized
from labelscape.nets.catalog import create_model
from labelscape.nets.context import Pooled
from labelscape.nets.dgcwnet import ChannelWeighting
from labelscape.nets.kernels.distance import EPS, relation_sum
from labelscape.nets.kernels.perceptron import COARSE, perceptron

Case = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def dgcw(weighting: str) -> Case:
    def fast(*tensors: Tensor) -> Tensor:
        return relation_sum(*tensors, weighting=weighting, chunk_bytes=200)

    def plain(query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        distance = (query[..., :, None] - key[..., None, :]) ** 2  # (N, C, P, P)
        if weighting == "dbs":
            share = distance / (distance.sum(1, keepdim=True) + EPS)
        else:
            share = distance.softmax(1) if weighting == "softmax" else distance.tanh()
        hidden = torch.einsum("oc,ncij->noij", weight, share * value[..., None])
        return (hidden + bias[:, None, None]).relu().sum(-1)

    shapes = ((2, 3, 4), (2, 3, 4), (2, 3, 4), (5, 3), (5,))
    return fast, plain, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def mlp() -> Case:
    def fast(*tensors: Tensor) -> Tensor:
        return perceptron(tensors[4:], *tensors[:4])

    def plain(weight: Tensor, bias: Tensor, second: Tensor, second_bias: Tensor, *levels: Tensor) -> Tensor:
        pool = [levels[0]]
        for level, f in zip(levels[1:], COARSE, strict=True):
            large = F.interpolate(level, scale_factor=f, mode="bilinear", align_corners=False)
            pool.append(large[..., f:-f, f:-f])
        hidden = torch.einsum("oc,nchw->nohw", weight, torch.cat(pool, 1)) + bias[:, None, None]
        return torch.einsum("oc,nchw->nohw", second, hidden.relu()) + second_bias[:, None, None]

    sides = ((8, 8), (6, 6), (4, 4), (3, 3))
    shapes = ((5, 8), (5,), (3, 5), (3,), *((2, 2, *side) for side in sides))
    return fast, plain, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


CASES = [pytest.param(lambda w=w: dgcw(w), id=w) for w in ("dbs", "softmax", "tanh")] + [mlp]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def scored(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A number with derivatives of every order."""
    return lambda *tensors: run(*tensors).sin().sum()


def same(found: object, wanted: object) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_agree_with_finite_differences(case: Callable[[], Case]) -> None:
    fast, _, tensors = case()
    assert torch.autograd.gradgradcheck(fast, [one.requires_grad_() for one in tensors])


@pytest.mark.parametrize("case", CASES)
def test_a_penalty_on_gradients_is_that_of_the_plain_form(case: Callable[[], Case]) -> None:
    fast, plain, tensors = case()
    found = []
    for run in (fast, plain):
        leaves = [one.clone().requires_grad_() for one in tensors]
        first = torch.autograd.grad(scored(run)(*leaves), leaves, create_graph=True)
        penalty = sum(one.square().sum() for one in first)
        found.append((first, torch.autograd.grad(penalty, leaves)))
    same(*found)


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_jacobians_of_torch_func(case: Callable[[], Case]) -> None:
    fast, plain, tensors = case()
    every = tuple(range(len(tensors)))
    same(*(grad(scored(run), every)(*tensors) for run in (fast, plain)))
    same(*(jacrev(run, (1, 3))(*tensors) for run in (fast, plain)))
    same(*(jacrev(jacrev(scored(run), 1), 3)(*tensors) for run in (fast, plain)))


@pytest.mark.parametrize("case", CASES)
def test_batches_of_torch_func(case: Callable[[], Case]) -> None:
    """Of all tensors, and of some: what fills a tensor in place is not given a batch of them."""
    fast, plain, tensors = case()
    count = len(tensors)
    for which in (range(count), range(1), range(1, 3), range(3, count)):
        dims = tuple(0 if n in which else None for n in range(count))
        given = [torch.stack([t, 2 * t, t - 1]) if n in which else t for n, t in enumerate(tensors)]
        same(*(vmap(run, dims)(*given) for run in (fast, plain)))
        same(*(vmap(grad(scored(run), (0, 3)), dims)(*given) for run in (fast, plain)))
        same(*(grad(scored(vmap(run, dims)), (0, 3))(*given) for run in (fast, plain)))


@pytest.mark.parametrize("make", [lambda: ChannelWeighting(4), lambda: create_model("mlp", classes=3)])
def test_gradients_of_each_image(make: Callable[[], nn.Module]) -> None:
    """As for influence and for private training: of one batch, the gradient of every image by itself."""
    net = make().double().eval()
    channels = 4 if isinstance(net, ChannelWeighting) else 3
    images = torch.randn(3, channels, 16, 16, dtype=torch.float64)
    own = {name: one.detach() for name, one in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def score(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        out = functional_call(net, (parameters, buffers), (image[None],))
        return (out["logits"] if isinstance(out, dict) else out).square().sum()

    found = vmap(grad(score), (None, 0))(own, images)
    for number, image in enumerate(images):
        net.zero_grad()
        score(dict(net.named_parameters()), image).backward()
        for name, parameter in net.named_parameters():
            same(found[name][number], parameter.grad)


def resized(level: Tensor) -> Tensor:
    return Resized.apply(level, (7, 9), False)


def pooled(level: Tensor) -> Tensor:
    return Pooled.apply(level, 3)


@pytest.mark.parametrize("run", [resized, pooled])
def test_ordered_gradients_of_torch_func(run: Callable[[Tensor], Tensor]) -> None:
    images = torch.randn(4, 2, 3, 5, 6, dtype=torch.float64)
    same(vmap(run)(images), torch.stack([run(one) for one in images]))
    wanted = []
    for one in images:
        leaf = one.clone().requires_grad_()
        wanted += torch.autograd.grad(scored(run)(leaf), leaf)
    same(vmap(grad(scored(run)))(images), torch.stack(wanted))
