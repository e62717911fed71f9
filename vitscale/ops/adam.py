"""AdamW by NVIDIA apex's kernel over all weights of a group."""

from __future__ import annotations

from typing import Any

import torch


class ApexAdamW(torch.optim.AdamW):
    """torch's AdamW, state and all, with each step done by apex's FusedAdam.

    The same formula, w -= lr (m^ / (sqrt(v^) + eps) + weight_decay w), in float32 (apex, `csrc/multi_tensor_adam.cu`,
    mode 1). apex counts the calls of a group. DeepSpeed makes several for one update where stage 3 cuts a group, and
    commits have a count for each weight; so before each step apex is told the count. Nothing else of apex is used: no
    amp, no masters, no unscaling.

    Args:
        groups: parameter groups of float32 weights on one GPU, with `weight_decay`, multiplied by the rate.
        betas: decay of the two moments.
        eps: offset of the denominator.
    """

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float
    ) -> None:
        from apex.optimizers import FusedAdam

        super().__init__(groups, lr=0.0, betas=betas, eps=eps, fused=False)
        # It adds its own settings to the groups, which are the same dicts in both.
        self._apex = FusedAdam(
            self.param_groups,
            lr=0.0,
            bias_correction=True,
            betas=betas,
            eps=eps,
            adam_w_mode=True,
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every weight that has a gradient; there are no closures here."""
        self._apex.param_groups, self._apex.state = self.param_groups, self.state
        moving = [[p for p in g["params"] if p.grad is not None] for g in self.param_groups]
        for group, weights in zip(self.param_groups, moving, strict=True):
            counts = {int(self.state[weight].get("step", 0)) for weight in weights}
            assert len(counts) < 2, "apex takes one step count for a group, and its weights differ"
            group["step"] = max(counts, default=0)
        self._apex.step()
        for group, weights in zip(self.param_groups, moving, strict=True):
            count = float(group.pop("step"))
            for weight in weights:
                self.state[weight]["step"] = torch.tensor(count)
