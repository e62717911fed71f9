"""What `auto` becomes on the devices a run has, the same on every rank."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

from vitscale.config.engine import EngineConfig, idle_on_cpu
from vitscale.config.model import Shape
from vitscale.config.ops import on_device
from vitscale.config.plan import Plan
from vitscale.config.run import RunConfig
from vitscale.engine.collectives import Ranks
from vitscale.errors import ConfigError, ResourceError
from vitscale.planner.choice import chosen, insist_on_hpz, smaller
from vitscale.planner.forecast import Needs
from vitscale.planner.hardware import USABLE
from vitscale.units import human_bytes

log = logging.getLogger(__name__)

_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def insist_on_device(engine: EngineConfig, device: torch.device) -> None:
    """Pass where the settings suit the device.

    Raises:
        ConfigError: something is to be moved to the memory in which it is.
        ResourceError: DeepSpeed refuses fp16 on this CPU.
    """
    if device.type != "cpu":
        return
    for key, text in idle_on_cpu(engine):
        raise ConfigError(text, where=key)
    if engine.precision == "fp16" and engine.kind == "deepspeed" and not cpu_has_fp16():
        raise ResourceError(
            "DeepSpeed takes fp16 only on CPUs that compute in it (AVX512-FP16), and this one does not",
            where="engine.precision",
            given="fp16",
            do='Use "bf16" or "fp32", engine.kind=local, or a GPU.',
        )


def cpu_has_fp16() -> bool:
    """Whether oneDNN has matrix products in fp16 for this CPU, which is what DeepSpeed 0.19 asks."""
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def settle(
    config: RunConfig, shape: Shape, plan: Plan, *, device: torch.device, ranks: Ranks
) -> EngineConfig:
    """The engine with every `auto` decided, the same on all ranks, which call it together; rank 0 logs it.

    The planner decides by the smallest share of memory that any rank has: all of its GPU, or on a CPU the memory of
    machine or container over the ranks on it. What happens to be free does not count, so that every start on the same
    machines decides alike.

    Args:
        config: the recipe.
        shape: of the model.
        plan: on the ranks of the job.
        device: of this rank.
        ranks: all of them.

    Raises:
        ConfigError: engine.zero_hpz does not suit the machines.
    """
    found = ranks.gather((socket.gethostname(), device_memory(device)))
    ranks_on = Counter(host for host, _ in found)
    insist_on_hpz(config.engine, plan.world, min(ranks_on.values()))
    shared = device.type == "cpu"
    share = min(memory / (ranks_on[host] if shared else 1) for host, memory in found)
    ops = on_device(config.ops, device.type, config.engine.precision)
    needs = chosen(config.engine, shape, config.optim, plan, USABLE * share, ops)
    if ranks.place.is_first:
        _tell(needs, config, share)
    return needs.engine


def _tell(needs: Needs, config: RunConfig, share: float) -> None:
    engine, peak, room = needs.engine, needs.memory.peak, USABLE * share
    name = "plain torch" if engine.stage is None else f"ZeRO stage {engine.stage}"
    line = (
        f"{name}, recompute {engine.recompute}: at most {human_bytes(peak)} of "
        f"{human_bytes(share)} foreseen on each rank"
    )
    if peak <= room:
        log.info("%s", line)
        return
    images = smaller(needs, config.engine, room, config.data.least_micro_batch)
    advice = f"train.micro_batch={images} would do" if images else "more ranks would do"
    log.warning("%s, which may be too much: %s", line, advice)


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU; of a CPU those of its machine, or of its container where that has a limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # there is no such file, or it says "max"
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return min(sizes)
