"""Learning rate as a pure function of the step; never imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable

from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan

Schedule = Callable[[int], float]


def make_schedule(optim: OptimConfig, plan: Plan) -> Schedule:
    """The rate for the optimizer step that follows `step` finished ones.

    Linear warmup from 0 over `plan.warmup_steps`; then with p the share of the remaining steps that is done:
    cosine lr (1 + cos(pi p)) / 2, linear lr (1 - p), or constant lr (big_vision `utils.py`).
    """
    shape = {"cosine": _cosine, "linear": _linear, "constant": _constant}[optim.schedule]

    def rate(step: int) -> float:
        if step < plan.warmup_steps:
            return optim.lr * step / plan.warmup_steps
        left = plan.total_steps - plan.warmup_steps
        return optim.lr * shape(min(1.0, (step - plan.warmup_steps) / left))

    return rate


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _linear(progress: float) -> float:
    return 1 - progress


def _constant(progress: float) -> float:
    return 1.0
