"""One decision per op, made once at start and printed: which implementation runs, and why (docs/kernels.md)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitscale.config.model import Shape
from vitscale.config.ops import FP8, OpsConfig, explicit_first, scaling_of
from vitscale.errors import ResourceError
from vitscale.ops.apex import ApexState, find_apex
from vitscale.ops.attention import explicit, sdpa
from vitscale.ops.fp8 import fp8_linear, fp8_obstacle
from vitscale.ops.linear import Dense, ExplicitDense, Linear, onednn_knows
from vitscale.ops.mlp import FusedMlp, triton_mlp
from vitscale.ops.norm import NormKind, apex_norm, torch_norm, triton_norm
from vitscale.ops.residual import Residual, torch_residual, triton_residual
from vitscale.ops.sigmoid import SigmoidLoss, torch_sigmoid_loss, triton_sigmoid_loss

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Ops:
    """The implementations a run is built with, and a line for each saying why."""

    norm: Callable[[int, NormKind], nn.Module]
    attention: Attention
    linear: Linear = Dense
    residual: Residual = torch_residual
    mlp: FusedMlp | None = None
    loss: SigmoidLoss = torch_sigmoid_loss
    convolves: bool = False
    """Whether patches that do not overlap are convolved too."""
    compiles: bool = False
    optimizer: str = "fused"
    """Whose AdamW: torch's, fused or a loop, or apex's."""
    reasons: tuple[str, ...] = ()


PLAIN = Ops(torch_norm, sdpa)


class Way(NamedTuple):
    """One implementation: what speaks for it, and what stands against it here, if anything."""

    name: str
    reason: str
    obstacle: str = ""
    by_auto: bool = True
    caution: str = ""
    """What is said of it where it is asked for."""


class Here(NamedTuple):
    """What decisions depend on."""

    shape: Shape
    device: torch.device
    dtype: torch.dtype
    triton: str
    """What stands against our Triton kernels, or nothing."""
    compiles: bool

    def ours(self, reason: str, obstacle: str = "") -> Way:
        """Our kernel; interpreted on a CPU only where asked for."""
        return Way("triton", reason, self.triton or obstacle, by_auto=self.device.type != "cpu")

    def before_torch(self, *ways: Way, reason: str) -> list[Way]:
        """Kernels that come before torch's, unless torch.compile joins what they would."""
        if self.compiles:
            return [Way("torch", "torch.compile joins it with its neighbours"), *ways]
        return [*ways, Way("torch", reason)]


def choose_ops(
    wanted: OpsConfig,
    shape: Shape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    idle: Collection[str] = (),
) -> Ops:
    """Decide for this machine, model and precision.

    Args:
        wanted: auto or a name for each op.
        shape: the model.
        device: where it runs.
        dtype: of the activations.
        idle: ops that the recipe has no use for; they are not spoken of.

    Raises:
        ResourceError: the implementation asked for cannot run here; says why.
    """
    block = decide("block", wanted.block, _block(device))
    here = Here(
        shape, device, dtype, triton_obstacle(device, dtype, shape.width), block.name == "compile"
    )
    apex = find_apex()
    joined = wanted.residual == "triton" and wanted.norm == "auto"
    norm = decide("norm", "triton" if joined else wanted.norm, _norm(here, apex))
    chosen = {
        "block": block,
        "attention": decide("attention", wanted.attention, _attention(here)),
        "linear": decide("linear", wanted.linear, _linear(wanted, here)),
        "norm": norm,
        "residual": decide("residual", wanted.residual, _residual(here, norm.name)),
        "mlp": decide("mlp", wanted.mlp, _mlp(here)),
        "loss": decide("loss", wanted.loss, _loss(here)),
        "optimizer": decide("optimizer", wanted.optimizer, _optimizer(device, apex)),
        "patch": decide("patch", wanted.patch, _patch(here)),
    }
    lines = [f"{op:<10} {way.name:<9} {way.reason}" for op, way in chosen.items() if op not in idle]
    return _ops({op: way.name for op, way in chosen.items()}, tuple(lines))


def _ops(names: Mapping[str, str], reasons: tuple[str, ...]) -> Ops:
    return Ops(
        norm={"torch": torch_norm, "apex": apex_norm, "triton": triton_norm}[names["norm"]],
        attention=sdpa if names["attention"] == "sdpa" else explicit,
        linear=_LINEAR.get(names["linear"]) or fp8_linear(scaling_of(names["linear"])),
        residual=triton_residual if names["residual"] == "triton" else torch_residual,
        mlp=triton_mlp if names["mlp"] == "triton" else None,
        loss=triton_sigmoid_loss if names["loss"] == "triton" else torch_sigmoid_loss,
        convolves=names["patch"] == "conv",
        compiles=names["block"] == "compile",
        optimizer=names["optimizer"],
        reasons=reasons,
    )


def decide(op: str, wanted: str, ways: Sequence[Way]) -> Way:
    """The way asked for, or under auto the first that nothing stands against.

    Raises:
        ResourceError: the way asked for cannot be gone.
    """
    for way in ways:
        if wanted == way.name and way.obstacle:
            raise ResourceError(
                f"{wanted!r} cannot run: {way.obstacle}",
                where=f"ops.{op}",
                given=wanted,
                do='Use "auto", which takes what can.',
            )
        if wanted == way.name:
            return way._replace(reason="; ".join(filter(None, ["asked for", way.caution])))
    free = next(way for way in ways if way.by_auto and not way.obstacle)
    passed = [f"{way.name}: {way.obstacle}" for way in ways[: ways.index(free)] if way.obstacle]
    return free._replace(reason="; ".join([free.reason, *passed]))


def triton_obstacle(device: torch.device, dtype: torch.dtype, width: int) -> str:
    """What stands against our Triton kernels here, or nothing."""
    if find_spec("triton") is None:
        return "Triton is not installed (torch for CUDA brings it)"
    if device.type == "cpu":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return "" if interpreted else "Triton has no cpu kernels"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "our kernels are compiled for compute capability 8.0 and up"
    if width % 16:
        return f"width {width} is no multiple of 16"
    from vitscale.ops.kernels.twins import disagreement

    return disagreement(device, dtype)


def _block(device: torch.device) -> list[Way]:
    obstacle = ""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++"))):
        obstacle = "torch.compile needs a C++ compiler (g++) on a CPU"
    return [
        Way("eager", "torch.compile only where asked for"),
        Way("compile", "", obstacle, by_auto=False),
    ]


def _attention(here: Here) -> list[Way]:
    fused = Way("sdpa", f"fused attention of torch for {here.device.type}")
    name = "fp16" if here.dtype == torch.float16 else "bf16"
    plain = Way("explicit", f"faster than the fused kernel in {name} on a CPU")
    first = explicit_first(here.device.type, half=here.dtype.itemsize == 2)
    return [plain, fused] if first else [fused, plain]


_UNTRIED = "it has not run on a GPU yet"
_LINEAR: dict[str, Linear] = {"torch": Dense, "explicit": ExplicitDense}


def _linear(wanted: OpsConfig, here: Here) -> list[Way]:
    kind, name = here.device.type, str(here.dtype).removeprefix("torch.")
    obstacle = "it is for CPUs" if kind != "cpu" else ""
    if not obstacle and not onednn_knows(here.dtype):
        obstacle = f"oneDNN has no {name} on this processor"
    plain = Way("explicit", f"bias and transposing cost oneDNN less in {name}", obstacle)
    fused = Way("torch", f"torch's products for {kind}")
    first = here.dtype.itemsize == 2 and not obstacle and not here.compiles
    against = fp8_obstacle(wanted.linear, here.device) if wanted.in_fp8 else ""
    in_fp8 = [Way(name, "", against, by_auto=False, caution=_UNTRIED) for name in FP8]
    return [*([plain, fused] if first else [fused, plain]), *in_fp8]


def _norm(here: Here, apex: ApexState) -> list[Way]:
    obstacles = [
        (here.device.type != "cuda", f"apex has no {here.device.type} kernels"),
        (not apex.has("fused_layer_norm_cuda"), apex.lacks("fused_layer_norm_cuda")),
        (
            here.shape.norm == "layer" and here.shape.biases == "none",
            "apex has no LayerNorm with a weight and no bias",
        ),
        (here.compiles, "apex's norm silently becomes torch's inside torch.compile"),
    ]
    obstacle = next((text for holds, text in obstacles if holds), "")
    return here.before_torch(
        here.ours("one kernel, with the addition before it"),
        Way("apex", "fused CUDA kernel found", obstacle),
        reason="torch's kernel",
    )


def _residual(here: Here, norm: str) -> list[Way]:
    obstacle = "" if norm == "triton" else f"it normalises the sum itself, and the norm is {norm}'s"
    ours = here.ours("scale, drop, addition and norm in one pass", obstacle)
    return here.before_torch(ours, reason="one operation after the other")


def _mlp(here: Here) -> list[Way]:
    obstacle = ""
    if here.shape.activation == "swiglu":
        obstacle = "our kernel is for GELU"
    elif here.shape.dropout:
        obstacle = "dropout stands between GELU and the next matrix"
    ours = here.ours("bias and GELU in one pass, GELU not kept", obstacle)
    return here.before_torch(ours, reason="one operation after the other")


def _loss(here: Here) -> list[Way]:
    return [here.ours("one pass over the logits"), Way("torch", "sparse, in torch's operations")]


def _optimizer(device: torch.device, apex: ApexState) -> list[Way]:
    obstacle = (
        apex.lacks("amp_C") if device.type == "cuda" else f"apex has no {device.type} kernels"
    )
    return [
        Way("fused", "AdamW of torch, one kernel over all weights"),
        Way("loop", "", by_auto=False),
        Way("apex", "", obstacle, by_auto=False, caution=_UNTRIED),
    ]


def _patch(here: Here) -> list[Way]:
    overlap = "" if here.shape.stride == here.shape.patch else "patches overlap"
    return [
        Way("linear", "patches do not overlap", overlap),
        Way("conv", "reads shared pixels without copying them"),
    ]
