"""Optimizers written down once more in numpy float64, from their papers and sources, one weight at a time."""

from __future__ import annotations

import numpy as np


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, by its bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def exactly(values: np.ndarray) -> np.ndarray:
    return values


def adam_directions(gradients, b1, b2, eps, keep):
    """m^ / (sqrt(v^) + eps) of every step (arXiv 1412.6980, algorithm 1); m is kept as `keep` rounds it."""
    m = v = np.zeros_like(gradients[0])
    for t, g in enumerate(gradients, 1):
        mean = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m = keep(mean)
        yield (mean / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def adamw(w, gradients, rates, decay, betas=(0.9, 0.999), eps=1e-8, keep=exactly):
    for u, lr in zip(adam_directions(gradients, *betas, eps, keep), rates, strict=True):
        w = w - lr * u - lr * decay * w
    return w


def lamb(w, gradients, rates, decay, betas=(0.9, 0.999), eps=1e-8, adapt=True):
    """arXiv 1904.00962, algorithm 2, phi(z) = z."""
    for r, lr in zip(adam_directions(gradients, *betas, eps, exactly), rates, strict=True):
        u = r + decay * w
        sizes = np.sqrt(np.sum(w * w)), np.sqrt(np.sum(u * u))
        ratio = sizes[0] / sizes[1] if adapt and min(sizes) > 0 else 1.0
        w = w - lr * ratio * u
    return w


def momentum(w, gradients, rates, decay, mu, *, decoupled, keep=exactly):
    """optax `trace`; decay beside it (big_vision) or in the gradient (torch)."""
    b = np.zeros_like(w)
    for g, lr in zip(gradients, rates, strict=True):
        trace = mu * b + (g if decoupled else g + decay * w)
        b = keep(trace)
        w = w - lr * trace - (lr * decay * w if decoupled else 0)
    return w


def big_vision_adafactor(w, gradients, rates, decay, mu=0.9, keep=exactly):
    """`scale_by_adafactor`: optax `scale_by_factored_rms` (two longest axes, if both >= 32), then `ema`.

    `w` has the axes of a Flax kernel. The second moment over an axis is a mean that keeps all other axes.
    """
    order = np.argsort(w.shape, kind="stable")
    factored = w.ndim >= 2 and w.shape[order[-2]] >= 32
    m = v = np.zeros_like(w)
    row = column = 0.0
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        beta = min(0.999, 1 - t**-0.8)
        square = g * g + 1e-30
        if factored:
            d1, d0 = int(order[-2]), int(order[-1])
            row = beta * row + (1 - beta) * square.mean(axis=d0, keepdims=True)
            column = beta * column + (1 - beta) * square.mean(axis=d1, keepdims=True)
            u = g * (row / row.mean(axis=d1, keepdims=True)) ** -0.5 * column**-0.5
        else:
            v = beta * v + (1 - beta) * square
            u = g * v**-0.5
        mean = mu * m + (1 - mu) * u
        m = keep(mean)
        w = w - lr * mean - lr * decay * w
    return w
