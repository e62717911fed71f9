"""The `[ops]` table: which implementation runs for each op (docs/kernels.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from vitscale.config.base import Section
from vitscale.config.engine import EngineConfig
from vitscale.config.optim import OptimConfig


class OpsConfig(Section):
    """`auto` takes the first that can run here, in the order of docs/kernels.md, and says which.

    A name that cannot run is an error, never something else without a word.
    """

    block: Literal["auto", "eager", "compile"] = "auto"
    """How a block runs: op by op, or compiled as one region by torch.compile; auto never compiles."""

    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """torch's scaled_dot_product_attention, or plain matrix products (faster in 16 bits on a CPU)."""

    linear: Literal["auto", "torch", "explicit"] = "auto"
    """The matrices of a block: torch's layer, or its products one by one (faster in 16 bits on a CPU)."""

    norm: Literal["auto", "triton", "apex", "torch"] = "auto"
    """LayerNorm and RMSNorm: our kernel, NVIDIA apex's (both CUDA only) or torch's."""

    residual: Literal["auto", "triton", "torch"] = "auto"
    """LayerScale, stochastic depth, the residual addition and the norm after it: one kernel of ours, or one by one."""

    mlp: Literal["auto", "triton", "torch"] = "auto"
    """Bias and GELU between the matrices: one kernel of ours, which keeps half as much, or torch's."""

    loss: Literal["auto", "triton", "torch"] = "auto"
    """The sigmoid loss: one kernel of ours in each direction, or torch's operations."""

    optimizer: Literal["auto", "fused", "loop"] = "auto"
    """AdamW of torch: one fused kernel, or a loop over parameters (the reference)."""

    patch: Literal["auto", "linear", "conv"] = "auto"
    """Patches as rows of a matrix product, or as a convolution; overlapping ones are convolved."""


def explicit_first(device: str, *, half: bool) -> bool:
    """Whether `attention = "auto"` takes the explicit one: in 16 bits (`half`) on a CPU, where it is faster."""
    return device == "cpu" and half


def on_device(ops: OpsConfig, device: str, precision: str) -> OpsConfig:
    """What memory depends on decided as a run decides it: `attention`.

    Args:
        ops: of the recipe.
        device: "cpu" or "cuda".
        precision: `engine.precision`.
    """
    if ops.attention != "auto":
        return ops
    explicit = explicit_first(device, half=precision != "fp32")
    return ops.model_copy(update={"attention": "explicit" if explicit else "sdpa"})


def idle_ops(objective: str, optim: OptimConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings of `[ops]` that have no effect in a recipe."""
    if objective != "sigmoid":
        yield "ops.loss", f'has no effect with train.objective = "{objective}": remove it'
    if optim.optimizer != "adamw":
        yield (
            "ops.optimizer",
            f'has no effect with optim.optimizer = "{optim.optimizer}": remove it',
        )
    elif optim.moment_dtype == "bf16":
        yield (
            "ops.optimizer",
            'has no effect with optim.moment_dtype = "bf16", which torch\'s AdamW does not know: remove it',
        )


def impossible_ops(ops: OpsConfig, engine: EngineConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings of `[ops]` that contradict others."""
    if ops.norm == "apex" and engine.device == "cpu":
        yield "ops.norm", 'apex has CUDA kernels only: use "torch" or "auto" on a CPU'
    if ops.residual == "triton" and ops.norm not in ("auto", "triton"):
        yield (
            "ops.residual",
            f'our kernel normalises the sum itself: with "triton", ops.norm cannot be "{ops.norm}"',
        )
    if ops.block != "compile":
        return
    if ops.norm == "apex":
        yield (
            "ops.norm",
            "apex's norm silently becomes torch's inside torch.compile: "
            'use "torch" or "auto" with ops.block = "compile"',
        )
    if engine.stage == 3:
        yield (
            "ops.block",
            "ZeRO-3 gathers the weights of a layer between the ops that torch.compile would join: "
            'use "eager", or engine.zero_stage 1 or 2',
        )
    if engine.recompute in ("cheap", "mlp"):
        yield (
            "ops.block",
            f'engine.recompute = "{engine.recompute}" chooses among ops that torch.compile has joined: '
            'use "none" or "full", or ops.block = "eager"',
        )
