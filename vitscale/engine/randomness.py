"""Dropout and stochastic depth as a pure function of (seed, step, rank): nothing to save, nothing to restore."""

from __future__ import annotations

import hashlib

import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's generators for the optimizer step that follows `step` finished ones on this rank."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
