"""Activation checkpointing: keep only each block's input and run the block again in backward."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from vitscale.model.vit import ViT


def set_recompute(model: ViT, mode: str) -> None:
    """Switch `model` to `mode`: none keeps all activations, full recomputes every block.

    torch's non-reentrant form; the generators' state is kept, so dropout is the same in both passes.
    """
    if mode == "full":
        model.run_block = partial(checkpoint, use_reentrant=False)
