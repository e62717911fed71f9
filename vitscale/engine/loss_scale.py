"""What the loss is multiplied by in fp16, and when that changes; plain numbers, never imports torch.

In half precision a gradient below 2^-25 becomes zero and one above 65,504 infinite. So the loss is multiplied by a
scale before the backward pass, and float32 copies of the gradients are divided by it before anything looks at them
(arXiv 1710.03740, section 3.2). The rule and its numbers are those of `torch.amp.GradScaler`, which has no floor. It is
the only one: DeepSpeed is told the scale (engine/zero.py) and never changes it.
"""

from __future__ import annotations

from typing import Any, Literal

from vitscale.config.engine import EngineConfig

START = 2.0**16
GROWTH_STEPS = 2000
"""Updates with finite gradients after which the scale is doubled."""
FLOOR = 1.0
"""Gradients that overflow without being scaled are no longer the scale's fault."""


class LossScale:
    """The scale of the next update, the same on all ranks.

    Args:
        wanted: a number that stays, or "dynamic".
    """

    def __init__(self, wanted: float | Literal["dynamic"] = 1.0) -> None:
        self.dynamic = wanted == "dynamic"
        self.value = START if wanted == "dynamic" else wanted
        self.lowered = False
        """Whether the last update was given up for want of a smaller scale, which the next one has."""
        self._finite = self._overflows = 0

    def unscaled(self, gradient: Any) -> Any:
        """A float32 gradient divided by the scale, in place; exact where that is a power of two."""
        return gradient if self.value == 1 else gradient.mul_(1 / self.value)

    def update(self, finite: bool) -> None:
        """Note an update: applied, or given up because its gradients were not all `finite`."""
        self.lowered = self.dynamic and not finite and self.value > FLOOR
        if self.lowered:
            self.value = max(self.value / 2, FLOOR)
            self._overflows += 1
        if not self.dynamic or not finite:
            self._finite = 0
            return
        self._finite += 1
        if self._finite == GROWTH_STEPS:
            self.value, self._finite = 2 * self.value, 0

    @property
    def blame(self) -> str:
        """What is to be said of the scale where gradients are not finite and it was not lowered; may be nothing."""
        if self.dynamic:
            return f" at the least loss scale, {self.value:g} (bf16 has the range of float32)"
        if self.value != 1:
            return f' at the fixed loss scale {self.value:g} ("dynamic" would lower it)'
        return ""

    def state(self) -> dict[str, float] | None:
        """What a checkpoint keeps, as JSON; nothing of a scale that stays."""
        if not self.dynamic:
            return None
        return {"scale": self.value, "finite": self._finite, "overflows": self._overflows}

    def resume(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave; commits of a scale that stayed have None, and a dynamic one starts anew.

        In a process that goes back to an earlier commit the count of overflows stays.
        """
        if not self.dynamic:
            return
        state = state or {"scale": START, "finite": 0, "overflows": 0}
        self.value, self._finite, self.lowered = float(state["scale"]), int(state["finite"]), False
        self._overflows = max(self._overflows, int(state["overflows"]))

    def metrics(self) -> dict[str, float]:
        """The scale, and how many updates of the whole run were given up to lower it; none where it stays."""
        if not self.dynamic:
            return {}
        return {"train/loss_scale": self.value, "train/overflows": float(self._overflows)}


def loss_scale_of(config: EngineConfig) -> LossScale:
    """The scale a recipe asks for; 1 where gradients have the range of float32."""
    return LossScale(config.loss_scale if config.precision == "fp16" else 1.0)
