"""The `[optim]` table: optimizer, learning-rate schedule, weight decay, clipping (docs/optim.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from vitscale.config.base import DurationField, Section
from vitscale.units import Duration

# Which keys of this table an optimizer reads, of those that not all of them read.
_READS = {
    "adamw": {"betas", "eps"},
    "lamb": {"betas", "eps"},
    "muon": {"betas", "eps", "momentum"},
    "sgd": {"momentum"},
    "adafactor": {"momentum"},
}
_MOMENTUM = {"muon": 0.95}


class OptimConfig(Section):
    """How gradients become updates."""

    optimizer: Literal["adamw", "sgd", "adafactor", "lamb", "muon"] = "adamw"
    """AdamW (arXiv 1711.05101), SGD with momentum as in the paper's fine-tuning, Adafactor as in "Scaling Vision
    Transformers" (arXiv 2106.04560), LAMB (arXiv 1904.00962), or Muon for the matrices of the blocks and AdamW for
    the rest."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment of AdamW, LAMB and the AdamW beside Muon."""

    eps: float = Field(default=1e-8, gt=0)
    """Denominator offset of AdamW, LAMB and the AdamW beside Muon."""

    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum of SGD, Adafactor and Muon; 0.9 where it is not given, 0.95 for Muon."""

    moment_dtype: Literal["fp32", "bf16"] = "fp32"
    """What the first moment or momentum is kept in between steps; the arithmetic is float32 either way."""

    weight_decay: float = Field(default=0.1, ge=0)
    """How much of itself a weight loses, in the sense of `decay`."""

    decay: Literal["coupled-to-lr", "absolute"] = "coupled-to-lr"
    """coupled-to-lr is torch's: times the learning rate. absolute is big_vision's: times the schedule, from 0 to 1,
    but not the peak, so that 1e-4 at a peak of 1e-3 is 0.1 of the other kind."""

    decay_mask: Literal["kernels", "all"] = "kernels"
    """kernels never decays biases, norms, CLS, positions and scales; all decays everything."""

    head_decay: float = Field(default=1.0, ge=0)
    """Factor on the weight decay of the head's kernel; 100 in ViT-g, G and 22B (3.0 against 0.03)."""

    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate from each layer to the one below it (BEiT, arXiv 2106.08254): the head and the last
    norm have the whole rate, block i of n has layer_decay^(n - i), embeddings layer_decay^(n + 1)."""

    freeze: tuple[str, ...] = ()
    """Regular expressions; parameters whose whole name one of them matches stay as they are."""

    clip_norm: Annotated[float, Field(gt=0)] | Literal["off"] = 1.0
    """Largest global gradient norm; "off" never clips."""

    schedule: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    """Shape of the learning rate after the warmup; cosine and linear end at zero, rsqrt falls as
    1 / sqrt(1 + t / timescale)."""

    timescale: DurationField = Duration(10_000, "steps")
    """How slowly rsqrt falls: after three of them the rate is halved."""

    warmup: DurationField = Duration(0, "steps")
    """Linear warmup from zero."""

    cooldown: DurationField = Duration(0, "steps")
    """At the end the rate is multiplied by a line that falls to zero over this long."""

    ema: Annotated[float, Field(gt=0, lt=1)] | Literal["off"] = "off"
    """Decay of the exponential moving average of the weights, kept in parts on all ranks; "off" keeps none."""

    @property
    def ema_decay(self) -> float | None:
        """The decay in force; None without an average."""
        return None if self.ema == "off" else self.ema

    @property
    def largest_norm(self) -> float:
        """The norm gradients are clipped to; infinite where they are not."""
        return math.inf if self.clip_norm == "off" else self.clip_norm

    @property
    def momentum_in_force(self) -> float:
        """The momentum of SGD, Adafactor or Muon."""
        return _MOMENTUM.get(self.optimizer, 0.9) if self.momentum is None else self.momentum


def idle_optim(optim: OptimConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings of `[optim]` that have no effect beside the others."""
    for name in ("betas", "eps", "momentum"):
        if name not in _READS[optim.optimizer]:
            yield (
                f"optim.{name}",
                f'has no effect with optim.optimizer = "{optim.optimizer}": remove it',
            )
    if optim.optimizer in ("sgd", "adafactor") and optim.momentum_in_force == 0:
        yield "optim.moment_dtype", "has no effect: with optim.momentum = 0 there is no moment"
    if optim.schedule != "rsqrt":
        yield "optim.timescale", f'has no effect with optim.schedule = "{optim.schedule}"'
    if optim.weight_decay == 0:
        for name in ("decay", "head_decay"):
            yield f"optim.{name}", "has no effect with optim.weight_decay = 0: remove it"
        if optim.optimizer != "lamb":  # whose trust ratios follow the mask
            yield "optim.decay_mask", "has no effect with optim.weight_decay = 0: remove it"


def impossible_optim(optim: OptimConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings of `[optim]` that cannot work."""
    if optim.optimizer == "lamb" and optim.decay == "absolute":
        yield (
            "optim.decay",
            "LAMB multiplies the decay by its trust ratio, so no amount of it is absolute: "
            'use "coupled-to-lr"',
        )
    for index, pattern in enumerate(optim.freeze):
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"optim.freeze.{index}", f"{pattern!r} is no regular expression: {error}"
