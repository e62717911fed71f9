"""Ops against what they replace, on a CPU: ratios of CPU time within one run.

    python -m bench.kernels [--rounds 15] [--threads 1]

Each pair does the same work on the same tensors, forward and backward, in turn. How far results lie apart is written
too. Kernels for GPUs are not timed: see docs/kernels.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import figures
from vitscale.model.patch import PatchEmbed
from vitscale.objective import make_objective
from vitscale.ops.attention import explicit, sdpa

IMAGES, HEADS, TOKENS, HEAD = 8, 6, 197, 64  # ViT-S/16 at 224 px
CLASSES, BATCH = 21841, 256
SHAPES = [(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 12
SHAPES += [(384,)] * 96 + [(1000, 384), (197, 384), (384, 768), (384,)]

Work = Callable[[], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found = {}
    for name, works in contests():
        apart = _apart(*(work() for work in works.values()))
        found[name] = figures.in_turn(works, arguments.rounds) | {"apart": float(f"{apart:.1e}")}
    figures.write("kernels", found, threads=arguments.threads)


def contests() -> Iterator[tuple[str, dict[str, Work]]]:
    """(figure, {"ours": work, peer: work})."""
    yield f"sigmoid loss {BATCH} x {CLASSES}", sigmoid_losses()
    yield "AdamW, 148 weights", optimizers(SHAPES)
    yield "AdamW, one partition", optimizers([(sum(map(math.prod, SHAPES)),)])
    for dtype in (torch.bfloat16, torch.float32):
        yield f"attention {str(dtype)[6:]}", attentions(dtype)
    for dtype in (torch.bfloat16, torch.float32):
        yield f"patches {str(dtype)[6:]}", patches(dtype)


def sigmoid_losses() -> dict[str, Work]:
    """Two labels an image; the peer builds the dense target and takes torch's loss of it."""
    logits, labels = torch.randn(BATCH, CLASSES), torch.randint(0, CLASSES, (BATCH, 2))
    objective = make_objective("sigmoid", 0.0)

    def sparse() -> list[Tensor]:
        own = logits.clone().requires_grad_()
        loss = objective(own, labels)
        return [loss.detach(), *torch.autograd.grad(loss, own)]

    def dense() -> list[Tensor]:
        own = logits.clone().requires_grad_()
        targets = torch.zeros(BATCH, CLASSES).scatter_(1, labels, 1.0)
        loss = F.binary_cross_entropy_with_logits(own, targets, reduction="sum") / BATCH
        return [loss.detach(), *torch.autograd.grad(loss, own)]

    return {"ours": sparse, "dense": dense}


def optimizers(shapes: list[tuple[int, ...]]) -> dict[str, Work]:
    """The numbers of a ViT-S as torch has them, or flat as ZeRO has; the peer is AdamW as torch makes it."""

    def stepping(**how: Any) -> Work:
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.1, **how)

        def step() -> list[Tensor]:
            optimizer.step()
            return [weight.detach() for weight in weights]

        return step

    return {"ours": stepping(fused=True), "default": stepping()}


def attentions(dtype: torch.dtype) -> dict[str, Work]:
    """What auto takes on a CPU first; queries, keys and values as views of one product, as in a block."""
    qkv = torch.randn(IMAGES, TOKENS, 3, HEADS, HEAD).to(dtype)
    gradient = torch.randn(IMAGES, HEADS, TOKENS, HEAD).to(dtype)

    def attending(attention: Callable[..., Tensor]) -> Work:
        def work() -> list[Tensor]:
            own = qkv.clone().requires_grad_()
            mixed = attention(*own.permute(2, 0, 3, 1, 4).unbind(0))
            return [mixed.detach(), *torch.autograd.grad(mixed, own, gradient)]

        return work

    own, peer = (explicit, sdpa) if dtype == torch.bfloat16 else (sdpa, explicit)
    return {"ours": attending(own), peer.__name__: attending(peer)}


def patches(dtype: torch.dtype) -> dict[str, Work]:
    """Patches of 16 px, weights and biases with gradients, pixels without."""
    images = torch.randn(IMAGES, 3, 224, 224).to(dtype)
    gradient = torch.randn(IMAGES, TOKENS - 1, HEADS * HEAD).to(dtype)
    linear = PatchEmbed(HEADS * HEAD, 16, 16).to(dtype)
    convolved = PatchEmbed(HEADS * HEAD, 16, 16, convolve=True).to(dtype)
    convolved.load_state_dict(linear.state_dict())

    def embedding(embed: PatchEmbed) -> Work:
        def work() -> list[Tensor]:
            tokens = embed(images)
            own = list(embed.parameters())
            return [tokens.detach(), *torch.autograd.grad(tokens, own, gradient)]

        return work

    return {"ours": embedding(linear), "convolution": embedding(convolved)}


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The norm of the difference over the norm of the peer's, the largest of all results."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)


if __name__ == "__main__":
    main()
