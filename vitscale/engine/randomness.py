"""Dropout and stochastic depth as a pure function of (seed, step, micro-batch): nothing to save, nothing to restore."""

from __future__ import annotations

import hashlib

import torch


def seed_micro_batch(seed: int, step: int, index: int) -> None:
    """Set torch's generators for micro-batch `index` of the step that follows `step` finished ones.

    Micro-batches are numbered over the global batch, of which ranks hold consecutive parts. So the same images meet the
    same dropout on any number of ranks, as long as `micro_batch` is the same.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{index}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
