"""Weights of a small model by their names, gradients for 50 steps, and our optimizers over them, whole or cut up."""

from __future__ import annotations

import math

import numpy as np
import torch

from vitscale.config.optim import OptimConfig
from vitscale.optim.groups import make_optimizer, set_rate
from vitscale.optim.span_optimizer import SpanOptimizer
from vitscale.optim.spans import Partition, Span, Weight

DECAY = 0.1
STEPS, HEADS, WIDTH, MLP = 50, 2, 64, 40
SHAPES = {
    "patch_embed.projection.weight": (WIDTH, 3, 4, 4),
    "positions": (1, 33, WIDTH),
    "cls": (1, 1, WIDTH),
    "blocks.0.norm1.weight": (WIDTH,),
    "blocks.0.qkv.weight": (3 * WIDTH, WIDTH),
    "blocks.0.out.weight": (WIDTH, WIDTH),
    "blocks.0.fc1.weight": (MLP, WIDTH),
    "blocks.0.fc1.bias": (MLP,),
    "head.weight": (10, WIDTH),
}
# A warmup and a cosine, so that a rate in the wrong place shows.
RATES = [1e-2 * min(1, (t + 1) / 5) * (1 + math.cos(math.pi * t / STEPS)) / 2 for t in range(STEPS)]


def numbers(name, seed):
    generator = np.random.default_rng([seed, len(name), sum(map(ord, name))])
    return generator.normal(size=SHAPES[name])


START = {name: numbers(name, 0) for name in SHAPES}
GRADIENTS = {
    name: [0.3**s * numbers(name, t + 1) for t, s in enumerate([0, 1, 2, 0, 1] * 10)]
    for name in SHAPES
}


def after_50_steps(cut=None, names=tuple(SHAPES), dtype=torch.float64, **optim):
    """Our weights after all steps, numpy; with `cut` all lie in one flat tensor, in stretches of so many numbers."""
    config = OptimConfig(**optim)
    partitions = [_flat(names, cut, dtype)] if cut else [_whole(name, dtype) for name in names]
    groups = [
        {
            "params": [partition.master],
            "weight_decay": DECAY,
            "lr_scale": 1.0,
            "adapt": partition.weights[0].name != "cls",
        }
        for partition in partitions
    ]
    optimizer = make_optimizer(config, groups)
    if isinstance(optimizer, SpanOptimizer):
        optimizer.attach(partitions)
    for step, rate in enumerate(RATES):
        set_rate(optimizer, rate)
        for partition in partitions:
            gradients = {name: torch.from_numpy(GRADIENTS[name][step]) for name in names}
            partition.master.grad = torch.zeros_like(partition.master)
            _fill(partition, partition.master.grad, gradients)
        optimizer.step()
    return _read(partitions)


def _whole(name, dtype):
    master = torch.from_numpy(START[name]).to(dtype, copy=True)
    span = Span(name, 0, 0, master.numel())
    return Partition(master, (span,), (Weight(name, SHAPES[name], HEADS),))


def _flat(names, cut, dtype):
    spans, at = [], 5  # something in front, something behind: padding
    for name in names:
        size = math.prod(SHAPES[name])
        for start in range(0, size, cut):
            length = min(cut, size - start)
            spans.append(Span(name, start, at, length))
            at += length
    weights = tuple(Weight(name, SHAPES[name], HEADS) for name in names)
    partition = Partition(torch.zeros(at + 3, dtype=dtype), tuple(spans), weights)
    _fill(partition, partition.master, {name: torch.from_numpy(START[name]) for name in names})
    return partition


def _fill(partition, tensor, values):
    for span in partition.spans:
        flat = values[span.name].reshape(-1)
        partition.of(span, tensor).copy_(flat[span.start : span.start + span.length])


def _read(partitions):
    found = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for partition in partitions:
        for span in partition.spans:
            part = partition.of(span, partition.master).double().numpy()
            found[span.name].reshape(-1)[span.start : span.start + span.length] = part
    return {w.name: found[w.name] for partition in partitions for w in partition.weights}
