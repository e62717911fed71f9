"""What a rank can tell of itself alone: how long its forward passes take, and how much memory it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitscale.data.device import Stopwatch


def forward_watch(model: nn.Module, device: torch.device) -> Stopwatch:
    """A watch that runs while `model` is called in training; evaluation is not counted."""
    watch = Stopwatch(device)

    def begin(module: nn.Module, inputs: Any) -> None:
        if module.training:
            watch.begin()

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            watch.end()

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end)
    return watch


def memory_bytes(device: torch.device) -> float:
    """On a GPU the most that tensors of this process held so far; on a CPU what the process holds now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
