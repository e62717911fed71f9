"""The `[ops]` table: which implementation runs for each op (docs/kernels.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from vitscale.config.base import Section
from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.config.optim import OptimConfig

FP8 = {"fp8-tensorwise": (8, 9), "fp8-rowwise": (9, 0)}
"""Values of `ops.linear`, after torchao's recipes, and CUDA's compute capability from which on GPUs can: those with
fp8 tensor cores, and those for which torchao has its rowwise recipe (H100)."""
LEAST_FP8_WIDTH = 1280
"""torchao leaves products with 1,024 outputs or fewer in bf16, since casts cost more than they save (on an H100;
`_auto_filter_for_recipe` of 0.18); ViT-H is the first preset that is clear of that."""
FP8_MULTIPLE = 16
"""Rows and columns of CUDA's fp8 products (`torch._scaled_mm`) come in multiples of it."""


class OpsConfig(Section):
    """`auto` takes the first that can run here, in the order of docs/kernels.md, and says which.

    A name that cannot run is an error, never something else without a word.
    """

    block: Literal["auto", "eager", "compile"] = "auto"
    """How a block runs: op by op, or compiled as one region by torch.compile; auto never compiles."""

    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """torch's scaled_dot_product_attention, or plain matrix products (faster in 16 bits on a CPU)."""

    linear: Literal["auto", "torch", "explicit", "fp8-tensorwise", "fp8-rowwise"] = "auto"
    """The products of a block with its weights: torch's layer; its products one by one (faster in 16 bits on a CPU); or
    in fp8 by torchao, with a scale a tensor or a row, which auto never takes: it computes other numbers and has not run
    on a GPU yet (docs/precision.md)."""

    norm: Literal["auto", "triton", "apex", "torch"] = "auto"
    """LayerNorm and RMSNorm: our kernel, NVIDIA apex's (both CUDA only) or torch's."""

    residual: Literal["auto", "triton", "torch"] = "auto"
    """LayerScale, stochastic depth, the residual addition and the norm after it: one kernel of ours, or one by one."""

    mlp: Literal["auto", "triton", "torch"] = "auto"
    """Bias and GELU between the matrices: one kernel of ours, which keeps half as much, or torch's."""

    loss: Literal["auto", "triton", "torch"] = "auto"
    """The sigmoid loss: one kernel of ours in each direction, or torch's operations."""

    optimizer: Literal["auto", "fused", "loop", "apex"] = "auto"
    """AdamW: torch's fused kernel, its loop over parameters (the reference), or NVIDIA apex's FusedAdam (CUDA only),
    which auto never takes: it moves as many bytes and has not run on a GPU yet."""

    patch: Literal["auto", "linear", "conv"] = "auto"
    """Patches as rows of a matrix product, or as a convolution; overlapping ones are convolved."""

    @property
    def in_fp8(self) -> bool:
        """Whether products of the blocks are in fp8."""
        return self.linear in FP8


def scaling_of(linear: str) -> str:
    """torchao's recipe behind a value of `FP8`."""
    return linear.removeprefix("fp8-")


def too_old_for(linear: str, capability: tuple[int, int]) -> str:
    """What stands against a value of `ops.linear` on GPUs of this CUDA compute capability, or nothing."""
    least = FP8.get(linear, (0, 0))
    if capability >= least:
        return ""
    needed, has = (".".join(map(str, each)) for each in (least, capability))
    return f"{linear} needs compute capability {needed}, and this GPU has {has}"


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
            "has no effect with optim.moment_dtype = \"bf16\", which neither torch's nor apex's AdamW knows: remove it",
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
    if ops.optimizer == "apex" and engine.device == "cpu":
        yield "ops.optimizer", 'apex has CUDA kernels only: use "fused" or "auto" on a CPU'
    if ops.optimizer == "apex" and engine.offload != "none":
        yield (
            "ops.optimizer",
            f'apex has CUDA kernels only, and engine.offload = "{engine.offload}" computes updates on the host\'s CPU: '
            'use "fused" or "auto", or engine.offload = "none"',
        )
    yield from _impossible_fp8(ops, engine)
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


def _impossible_fp8(ops: OpsConfig, engine: EngineConfig) -> Iterator[tuple[str, str]]:
    if not ops.in_fp8:
        return
    if engine.precision != "bf16":
        yield (
            "ops.linear",
            f'fp8 products are of weights and activations in bf16, not {engine.precision}: use "torch", or '
            'engine.precision = "bf16"',
        )
    if engine.device == "cpu":
        yield "ops.linear", 'fp8 products gain nothing on a CPU: use "torch", or train on a GPU'
    if ops.block != "compile":
        yield (
            "ops.linear",
            "casts to fp8 cost more than the products save unless torch.compile joins them with their neighbours: "
            'set ops.block = "compile", or use "torch"',
        )
    if ops.mlp == "triton":
        yield (
            "ops.mlp",
            'our kernel has the second product within it, which would stay in bf16: use "torch" or "auto" with '
            f'ops.linear = "{ops.linear}"',
        )


def unfit_for_fp8(ops: OpsConfig, shape: Shape, micro_batch: int) -> Iterator[tuple[str, str]]:
    """(key, sentence) for numbers that fp8 products cannot take, or gain nothing from.

    Backward multiplies along the rows, the tokens of a micro-batch that a block computes; so they must come in
    sixteens, too.

    Args:
        ops: of the recipe; nothing is unfit where it does not ask for fp8.
        shape: of the model.
        micro_batch: images.
    """
    if not ops.in_fp8:
        return
    if shape.width < LEAST_FP8_WIDTH:
        yield (
            "ops.linear",
            f"products of width {shape.width} gain nothing from fp8, since their casts cost more than they save: "
            f'use "torch" below a width of {LEAST_FP8_WIDTH}',
        )
    for name, size in (("width", shape.width), ("mlp", shape.mlp)):
        if size % FP8_MULTIPLE:
            yield (
                f"model.{name}",
                f"{size} is no multiple of {FP8_MULTIPLE}, which fp8 products need: change it, or ops.linear",
            )
    tokens = shape.read or shape.prefix + shape.kept_patches
    if micro_batch * tokens % FP8_MULTIPLE:
        step = FP8_MULTIPLE // math.gcd(tokens, FP8_MULTIPLE)
        each = "1 token, CLS, in the last block" if shape.read else f"{tokens} tokens"
        yield (
            "train.micro_batch",
            f"{micro_batch} images of {each} are {micro_batch * tokens} rows, no multiple of {FP8_MULTIPLE}, "
            f"which fp8 products need: use a multiple of {step}",
        )
