"""Activation checkpointing: what a block keeps for its backward pass, and what it computes again.

Held bytes a token and block in bf16, for width D and MLP width F, with torch's fused attention and no dropout:

| mode | holds | bytes | computes again |
|---|---|---|---|
| none | everything | 16 D + 4 F | nothing |
| cheap | input, q, k, v, attention, outputs of out and fc1 | 12 D + 2 F | norms, activation, sums; no matrix product |
| mlp | the same without fc1's output | 12 D | the MLP's first matrix product too |
| full | its input | 2 D | the whole block |
| offload | nothing: its input waits in the host's memory | 0 | the whole block |

All by torch's non-reentrant checkpoint, which keeps the state of the generators: dropout and stochastic depth are the
same in both passes.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from vitscale.model.position import Rotation
from vitscale.model.vit import ViT
from vitscale.ops.attention import explicit_attention
from vitscale.ops.linear import explicit_dense

_ATEN = torch.ops.aten
_LINEAR = {_ATEN.addmm.default, _ATEN.mm.default, explicit_dense}
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    explicit_attention,
}
_KEPT_LINEAR = {"cheap": 3, "mlp": 2}
"""How many of a block's four dense layers, qkv, out, fc1, fc2, keep their outputs; nobody needs fc2's."""


def set_recompute(model: ViT, mode: str) -> None:
    """Switch `model` to `mode`: none, cheap, mlp, full or offload."""
    if mode == "full":
        model.run_block = partial(checkpoint, use_reentrant=False)
    elif mode == "offload":
        model.run_block = _offloaded
    elif mode != "none":
        contexts = partial(_contexts, _KEPT_LINEAR[mode])
        model.run_block = partial(checkpoint, use_reentrant=False, context_fn=contexts)


def _offloaded(
    block: nn.Module, tokens: Tensor, rotation: Rotation | None, read: int | None
) -> Tensor:
    """The block's output; its input [B, T, D] is kept in pinned host memory until the backward pass.

    torch's checkpoint saves its inputs as tensors of the graph, so they pass through the hooks that are set around it;
    what the block saves inside passes through the checkpoint's own.
    """
    with save_on_cpu(pin_memory=True):
        return checkpoint(block, tokens, rotation, read, use_reentrant=False)


def _contexts(kept: int) -> Any:
    """torch's pair of contexts for one pass through one block."""
    met: Counter[bool] = Counter()

    def policy(
        context: SelectiveCheckpointContext, op: Any, *args: Any, **kwargs: Any
    ) -> CheckpointPolicy:
        if op in _LINEAR:
            met[context.is_recompute] += 1
            saved = met[context.is_recompute] <= kept
        else:
            saved = op in _ATTENTION
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
