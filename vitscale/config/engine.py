"""The `[engine]` table: what runs the step, and in which precision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitscale.config.base import Section


class EngineConfig(Section):
    """The machinery of one optimizer step."""

    kind: Literal["deepspeed", "local"] = "deepspeed"
    """DeepSpeed ZeRO, or plain torch with replicated state (the reference)."""

    zero_stage: Literal[0, 1, 2, 3] | None = None
    """What ZeRO partitions: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters. Default 1."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 keeps weights, activations and gradients in bfloat16 and the optimizer's weights in float32."""

    recompute: Literal["none", "cheap", "mlp", "full"] = "none"
    """What backward computes again to save memory: nothing, all but matrix products, the MLP too, or whole blocks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""

    timeout_s: int = Field(default=600, ge=1)
    """Seconds after which a collective that some rank never joins is an error."""

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that the model computes with."""
        return 2 if self.precision == "bf16" else 4

    @property
    def stage(self) -> int | None:
        """The ZeRO stage in force; None for the local engine."""
        if self.kind == "local":
            return None
        return 1 if self.zero_stage is None else self.zero_stage
