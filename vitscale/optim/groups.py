"""Which parameters train, which decay and how fast each goes; the optimizer over them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitscale.config.optim import OptimConfig
from vitscale.errors import ConfigError
from vitscale.ops.adam import ApexAdamW
from vitscale.optim.adafactor import Adafactor
from vitscale.optim.adam import AdamW, Lamb
from vitscale.optim.momentum import MomentumSGD
from vitscale.optim.muon import Muon, is_muons
from vitscale.optim.spans import is_kernel

_EMBEDDINGS = ("patch_embed", "cls", "registers", "positions", "row_positions", "column_positions")


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter as BEiT counts them: embeddings 0, block i of `depth` i + 1, what follows depth + 1."""
    first, *rest = name.split(".")
    if first in _EMBEDDINGS:
        return 0
    return int(rest[0]) + 1 if first == "blocks" else depth + 1


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Leave parameters whose whole name one of the regular expressions matches out of training.

    Raises:
        ConfigError: a pattern matches no parameter, or nothing is left to train.
    """
    names = dict(model.named_parameters())
    for index, pattern in enumerate(patterns):
        found = [name for name in names if re.fullmatch(pattern, name)]
        if not found:
            raise ConfigError(
                "matches the whole name of no parameter",
                where=f"optim.freeze.{index}",
                given=pattern,
                do=f"Names are such as {', '.join(list(names)[:3])} and head.weight.",
            )
        for name in found:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise ConfigError(
            "nothing is left to train",
            where="optim.freeze",
            given=list(patterns),
            do="Freeze less.",
        )


class _Setting(NamedTuple):
    """What the parameters of a group have in common."""

    no_decay: bool
    matrix: bool
    weight_decay: float
    lr_scale: float


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Groups of the parameters that train, kernels first, otherwise in the order of the model.

    Each has `weight_decay`, for which the optimizer multiplies the rate of the group; `lr_scale`, the layer's factor on
    that rate; and `adapt`, whether LAMB scales its updates. An absolute decay of d per step at the peak is
    d / (lr lr_scale), since the rate of a step is lr lr_scale times the schedule.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    depth = 1 + max(
        (int(n.split(".")[1]) for n, _ in model.named_parameters() if n.startswith("blocks.")),
        default=-1,
    )
    groups: dict[_Setting, list[Tensor]] = {}
    for name, parameter in named:
        groups.setdefault(_setting(name, depth, optim), []).append(parameter)
    return [
        {
            "params": groups[setting],
            "weight_decay": setting.weight_decay,
            "lr_scale": setting.lr_scale,
            "adapt": not setting.no_decay,
        }
        for setting in sorted(groups, key=lambda each: each[:2])
    ]


def _setting(name: str, depth: int, optim: OptimConfig) -> _Setting:
    decaying = is_kernel(name) or optim.decay_mask == "all"  # kernels: big_vision's default
    scale = optim.layer_decay ** (depth + 1 - layer_of(name, depth))
    decay = optim.weight_decay if decaying else 0.0
    if name == "head.weight":
        decay *= optim.head_decay
    if optim.decay == "absolute":
        decay /= optim.lr * scale
    matrix = optim.optimizer == "muon" and is_muons(name)
    return _Setting(not decaying, matrix, decay, scale)


def set_rate(optimizer: Any, lr: float) -> None:
    """Give every parameter group its part of the rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def make_optimizer(
    config: OptimConfig, groups: list[dict[str, Any]], *, kernel: str = "fused"
) -> torch.optim.Optimizer:
    """The optimizer of a recipe; the engine sets the rate before every step.

    Torch's own where it does what is asked: AdamW and SGD with a float32 moment. That AdamW is done by the `kernel` of
    `Ops.optimizer`. Until a rate is set it is 0, since DeepSpeed takes a step with zero gradients to make the state,
    which would decay weights.
    """
    small = torch.bfloat16 if config.moment_dtype == "bf16" else None
    momentum, decoupled = config.momentum_in_force, config.decay == "absolute"
    if config.optimizer == "sgd":
        if small is None and not decoupled:
            return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
        return MomentumSGD(groups, momentum, decoupled=decoupled, moment_dtype=small)
    if config.optimizer == "adafactor":
        return Adafactor(groups, momentum, small)
    if config.optimizer == "lamb":
        return Lamb(groups, config.betas, config.eps, small)
    if config.optimizer == "muon":
        return Muon(groups, momentum, config.betas, config.eps, small)
    if small is not None:
        return AdamW(groups, config.betas, config.eps, small)
    if kernel == "apex":
        return ApexAdamW(groups, config.betas, config.eps)
    fused = kernel == "fused"
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=fused)
