"""Ops against what they replace: ratios of times within one run.

    python -m bench.kernels [--rounds 15] [--threads 1]
    python -m bench.kernels --gpu [--images 128]

Each pair does the same work on the same tensors, forward and backward, in turn. How far results lie apart is written
too. On a GPU our Triton kernels take part; that has not been run on one yet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import device, figures
from vitscale.config.ops import explicit_first
from vitscale.model.patch import PatchEmbed
from vitscale.objective import make_objective
from vitscale.ops.attention import explicit, sdpa
from vitscale.ops.mlp import triton_mlp
from vitscale.ops.norm import NormKind, torch_norm, triton_norm
from vitscale.ops.residual import Residual, torch_residual, triton_residual
from vitscale.ops.sigmoid import torch_sigmoid_loss, triton_sigmoid_loss


@dataclass(frozen=True)
class Sizes:
    """Of the tensors: ViT-S/16 at 224 px, and a loss over ImageNet-21k."""

    images: int = 8
    heads: int = 6
    tokens: int = 197
    head: int = 64
    batch: int = 256
    classes: int = 21841

    @property
    def width(self) -> int:
        return self.heads * self.head


SHAPES = [(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 12
SHAPES += [(384,)] * 96 + [(1000, 384), (197, 384), (384, 768), (384,)]

Work = Callable[[], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, help="default: 8, or 128 on a GPU")
    device.add_gpu(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    where = device.where_of(given)
    sizes = Sizes(images=given.images or (128 if where.is_gpu else 8))
    found = {}
    for name, make in contests(sizes, where.device, triton=where.is_gpu):
        with where.device:  # all tensors and modules are made there
            works = make()
        apart = _apart(*(work() for work in works.values()))
        times = figures.times_in_turn(works, given.rounds, where.timed)
        found[name] = figures.figure(times) | {"apart": float(f"{apart:.1e}")}
    where.write("kernels", found, threads=given.threads, images=sizes.images)


def contests(
    sizes: Sizes, at: torch.device, *, triton: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Work]]]]:
    """Each figure and what makes {"ours": work, peer: work} on torch's default device; our kernels too if `triton`."""
    name = f"sigmoid loss {sizes.batch} x {sizes.classes}"
    yield name, partial(sigmoid_losses, sizes, triton=triton)
    yield "AdamW, 148 weights", partial(optimizers, SHAPES)
    yield "AdamW, one partition", partial(optimizers, [(sum(map(math.prod, SHAPES)),)])
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        yield f"attention {name}", partial(attentions, sizes, at, dtype)
        yield f"patches {name}", partial(patches, sizes, dtype)
        if triton:
            yield f"residual and norm {name}", partial(residuals, sizes, dtype)
            yield f"MLP {name}", partial(mlps, sizes, dtype)


def sigmoid_losses(sizes: Sizes, *, triton: bool) -> dict[str, Work]:
    """Two labels an image, never the same; the peer builds the dense target and takes torch's loss of it."""
    logits = torch.randn(sizes.batch, sizes.classes)
    half = sizes.classes // 2
    labels = torch.randint(0, half, (sizes.batch, 2)) + torch.tensor([0, half])
    own_loss = triton_sigmoid_loss if triton else torch_sigmoid_loss
    objective = make_objective("sigmoid", 0.0, sigmoid=own_loss)

    def sparse() -> list[Tensor]:
        own = logits.clone().requires_grad_()
        loss = objective(own, labels)
        return [loss.detach(), *torch.autograd.grad(loss, own)]

    def dense() -> list[Tensor]:
        own = logits.clone().requires_grad_()
        targets = torch.zeros_like(logits).scatter_(1, labels, 1.0)
        loss = F.binary_cross_entropy_with_logits(own, targets, reduction="sum") / sizes.batch
        return [loss.detach(), *torch.autograd.grad(loss, own)]

    return {"ours": sparse, "dense": dense}


def optimizers(shapes: list[tuple[int, ...]]) -> dict[str, Work]:
    """The numbers of a ViT-S as torch has them, or flat as ZeRO has; the peer is AdamW as torch makes it."""

    def stepping(**how: Any) -> Work:
        torch.manual_seed(0)
        weights = [torch.randn(s).requires_grad_() for s in shapes]
        for weight in weights:
            weight.grad = torch.randn(weight.shape)
        optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.1, **how)

        def step() -> list[Tensor]:
            optimizer.step()
            return [weight.detach() for weight in weights]

        return step

    return {"ours": stepping(fused=True), "default": stepping()}


def attentions(sizes: Sizes, at: torch.device, dtype: torch.dtype) -> dict[str, Work]:
    """What auto takes first; queries, keys and values as views of one product, as in a block."""
    qkv = torch.randn(sizes.images, sizes.tokens, 3, sizes.heads, sizes.head).to(dtype)
    gradient = torch.randn(sizes.images, sizes.heads, sizes.tokens, sizes.head).to(dtype)

    def attending(attention: Callable[..., Tensor]) -> Work:
        def work() -> list[Tensor]:
            own = qkv.clone().requires_grad_()
            mixed = attention(*(each.transpose(1, 2) for each in own.unbind(2)))
            return [mixed.detach(), *torch.autograd.grad(mixed, own, gradient)]

        return work

    first = explicit_first(at.type, half=dtype == torch.bfloat16)
    own, peer = (explicit, sdpa) if first else (sdpa, explicit)
    return {"ours": attending(own), peer.__name__: attending(peer)}


def patches(sizes: Sizes, dtype: torch.dtype) -> dict[str, Work]:
    """Patches of 16 px, weights and biases with gradients, pixels without."""
    side = 16 * math.isqrt(sizes.tokens - 1)
    images = torch.randn(sizes.images, 3, side, side).to(dtype)
    gradient = torch.randn(sizes.images, sizes.tokens - 1, sizes.width).to(dtype)
    linear = PatchEmbed(sizes.width, 16, 16).to(dtype)
    convolved = PatchEmbed(sizes.width, 16, 16, convolve=True).to(dtype)
    convolved.load_state_dict(linear.state_dict())

    def embedding(embed: PatchEmbed) -> Work:
        def work() -> list[Tensor]:
            tokens = embed(images)
            own = list(embed.parameters())
            return [tokens.detach(), *torch.autograd.grad(tokens, own, gradient)]

        return work

    return {"ours": embedding(linear), "convolution": embedding(convolved)}


def residuals(sizes: Sizes, dtype: torch.dtype) -> dict[str, Work]:
    """LayerScale, stochastic depth, the addition and the norm of the sum: our kernel against torch's operations."""
    shape = (sizes.images, sizes.tokens, sizes.width)
    tokens, branch, *gradients = (torch.randn(shape).to(dtype) for _ in range(4))
    scale = torch.rand(sizes.width).to(dtype)
    kept = (torch.arange(sizes.images) % 2).view(-1, 1, 1).to(dtype)

    def adding(residual: Residual, norm: nn.Module) -> Work:
        def work() -> list[Tensor]:
            own = [each.clone().requires_grad_() for each in (tokens, branch, scale)]
            added = residual(own[0], own[1], own[2], kept, norm)
            results = [each for each in added if each is not None]
            weights = [*own, *norm.parameters()]
            return [
                *(each.detach() for each in results),
                *torch.autograd.grad(results, weights, gradients),
            ]

        return work

    kind = NormKind()
    return {
        "ours": adding(triton_residual, triton_norm(sizes.width, kind).to(dtype)),
        "torch": adding(torch_residual, torch_norm(sizes.width, kind).to(dtype)),
    }


def mlps(sizes: Sizes, dtype: torch.dtype) -> dict[str, Work]:
    """Two matrices with bias and GELU by erf between them: our kernel against torch's operations."""
    width, hidden = sizes.width, 4 * sizes.width
    tokens, gradient = (torch.randn(sizes.images * sizes.tokens, width).to(dtype) for _ in range(2))
    plain = [nn.Linear(width, hidden).to(dtype), nn.Linear(hidden, width).to(dtype)]
    fused = [layer.to(dtype) for layer in triton_mlp(width, hidden, True, False)]
    for ours, theirs in zip(fused, plain, strict=True):
        ours.load_state_dict(theirs.state_dict())

    def passing(layers: list[Any], through: Callable[[Tensor], Tensor]) -> Work:
        def work() -> list[Tensor]:
            own = tokens.clone().requires_grad_()
            passed = through(own)
            weights = [own, *(p for layer in layers for p in layer.parameters())]
            return [passed.detach(), *torch.autograd.grad(passed, weights, gradient)]

        return work

    return {
        "ours": passing(fused, lambda x: fused[1](*fused[0](x))),
        "torch": passing(plain, lambda x: plain[1](F.gelu(plain[0](x)))),
    }


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The norm of the difference over the norm of the peer's, the largest of all results."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)


if __name__ == "__main__":
    main()
