"""The `[engine]` table: what runs the step, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from vitscale.config.base import Section


class EngineConfig(Section):
    """The machinery of one optimizer step."""

    kind: Literal["deepspeed", "local"] = "deepspeed"
    """DeepSpeed ZeRO, or plain torch with replicated state (the reference)."""

    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """What ZeRO partitions: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters; auto takes the least, from
    1 on, that fits the memory (docs/scaling.md)."""

    zero_hpz: int | None = Field(default=None, ge=2)
    """Under stage 3, the ranks of a machine: they keep a second copy of the weights between them, which the backward
    pass gathers without the network (hierarchical partitioning, arXiv 2306.10209)."""

    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """bf16 and fp16 keep weights, activations and gradients in 16 bits and the optimizer's weights in float32; fp16 is
    for GPUs without bf16 (docs/precision.md)."""

    loss_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["dynamic"] = "dynamic"
    """In fp16, what the loss is multiplied by so that small gradients do not vanish; dynamic halves it where they
    overflow and doubles it after 2000 updates without that."""

    offload: Literal["none", "optimizer", "optimizer+parameters"] = "none"
    """What waits and, of the optimizer, is computed in the host's memory (ZeRO-Offload, arXiv 2101.06840); parameters
    under stage 3 alone."""

    offload_folder: str | None = None
    """Under stage 3, a folder on a disk of each machine, best NVMe: what is offloaded lies there and not in the host's
    memory (docs/scaling.md)."""

    recompute: Literal["none", "cheap", "mlp", "full", "offload", "auto"] = "none"
    """What backward computes again to save memory: nothing, all but matrix products, the MLP too, or whole blocks, with
    offload from inputs that wait in the host's memory; auto takes the least of none to full that fits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""

    timeout_s: int = Field(default=600, ge=1)
    """Seconds after which a collective that some rank never joins is an error."""

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that the model computes with."""
        return 4 if self.precision == "fp32" else 2

    @property
    def stage(self) -> int | None:
        """The ZeRO stage in force; None for the local engine. "auto" is 1 until the planner has chosen."""
        if self.kind == "local":
            return None
        return 1 if self.zero_stage == "auto" else self.zero_stage


def idle_engine(engine: EngineConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings that change nothing beside the others."""
    if engine.kind == "local":
        yield (
            "engine.zero_stage",
            'has no effect with engine.kind = "local": remove it or use "deepspeed"',
        )
    if engine.stage != 3:
        yield (
            "engine.zero_hpz",
            "has no effect unless the weights are cut: set engine.zero_stage = 3 or remove it",
        )
    if not engine.stage and engine.offload != "none":
        yield (
            "engine.offload",
            "has no effect unless ZeRO cuts what is moved: set engine.zero_stage = 1",
        )
    if engine.offload == "none":
        yield "engine.offload_folder", 'has no effect unless engine.offload is "optimizer" or more'
    if engine.precision != "fp16":
        yield (
            "engine.loss_scale",
            f'has no effect with engine.precision = "{engine.precision}": remove it or use "fp16"',
        )
    if engine.device == "cpu":
        yield from idle_on_cpu(engine)


def idle_on_cpu(engine: EngineConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings that change nothing on a CPU."""
    already = "has no effect on a CPU, whose memory is the host's already"
    if engine.offload != "none" and engine.offload_folder is None:
        yield (
            "engine.offload",
            f'{already}: use "none", set engine.offload_folder, or train on a GPU',
        )
    if engine.recompute == "offload":
        yield "engine.recompute", f'offload {already}: use "full", or train on a GPU'


def impossible_engine(engine: EngineConfig, optimizer: str) -> Iterator[tuple[str, str]]:
    """(key, sentence) for settings that contradict others; `optimizer` is `optim.optimizer`."""
    if engine.offload == "none":
        return
    if optimizer not in ("adamw", "sgd"):
        yield (
            "engine.offload",
            f"{optimizer} sums over all ranks, which NCCL does on GPUs only: use adamw or sgd",
        )
    if engine.offload_folder is not None and engine.stage != 3:
        yield (
            "engine.offload_folder",
            "what lower stages keep cannot move: set engine.zero_stage = 3",
        )
    if engine.offload == "optimizer+parameters" and engine.stage != 3:
        yield "engine.offload", "parameters are whole on every rank: set engine.zero_stage = 3"
    if engine.offload == "optimizer+parameters" and engine.zero_hpz:
        yield (
            "engine.zero_hpz",
            "a second copy of parameters that wait in the host's memory saves nothing",
        )
