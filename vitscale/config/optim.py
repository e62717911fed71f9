"""The `[optim]` table: optimizer, learning-rate schedule, weight decay, clipping."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from vitscale.config.base import DurationField, Section
from vitscale.units import Duration


class OptimConfig(Section):
    """How gradients become updates."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (arXiv 1711.05101), or SGD with momentum as in the paper's fine-tuning."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's first and second moment."""

    eps: float = Field(default=1e-8, gt=0)
    """AdamW's denominator offset."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Multiplied by the learning rate, as in torch; kernels only, never biases, norms, CLS or positions."""

    clip_norm: Annotated[float, Field(gt=0)] | Literal["off"] = 1.0
    """Largest global gradient norm; "off" never clips."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warmup; cosine and linear end at zero."""

    warmup: DurationField = Duration(0, "steps")
    """Linear warmup from zero."""

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
