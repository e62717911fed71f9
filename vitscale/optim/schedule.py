"""Learning rate as a pure function of the step; never imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable

from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan

Schedule = Callable[[int], float]


def make_schedule(optim: OptimConfig, plan: Plan) -> Schedule:
    """The rate for the optimizer step that follows `step` finished ones.

    With w, c, T the steps of warmup, cooldown and run and p = (s - w) / (T - w), as in big_vision's `utils.py`:

        rate(s) = lr shape(s) min(1, s / w) min(1, (T - s) / c)
        shape(s) = (1 + cos(pi p)) / 2 | 1 - p | 1 / sqrt(1 + (s - w) / timescale) | 1

    `shape` is 1 during the warmup; a factor whose duration is 0 is left out.
    """
    warmup, cooldown, total = plan.warmup_steps, plan.cooldown_steps, plan.total_steps

    def shape(step: int) -> float:
        since = max(0, step - warmup)
        if optim.schedule == "rsqrt":
            assert plan.timescale_steps is not None, "a plan for another schedule"
            return 1 / math.sqrt(1 + since / plan.timescale_steps)
        progress = min(1.0, since / (total - warmup))
        if optim.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1 - progress if optim.schedule == "linear" else 1.0

    def rate(step: int) -> float:
        up = step / warmup if step < warmup else 1.0
        down = max(0, total - step) / cooldown if step > total - cooldown else 1.0
        return optim.lr * shape(step) * up * down

    return rate
