"""The one place where bytes become numbers for the model."""

from __future__ import annotations

import time
from typing import Any

import torch

from vitscale.config.preprocessing import HALF, Channels


def normalise(
    images: torch.Tensor,
    device: torch.device | str,
    dtype: torch.dtype,
    mean: Channels = HALF,
    std: Channels = HALF,
) -> torch.Tensor:
    """Move uint8 images [B, 3, H, W] and scale 0..255 to (value / 255 - mean) / std, in float32 until the last step.

    The defaults give -1..1. The copy does not block where the source is pinned.
    """
    return _scaled(images.to(device, non_blocking=True), dtype, mean, std)


def _scaled(
    images: torch.Tensor, dtype: torch.dtype, mean: Channels, std: Channels
) -> torch.Tensor:
    """In one division and one subtraction; plain numbers where all channels are alike."""
    divisors = [255 * each for each in std]
    offsets = [own / each for own, each in zip(mean, std, strict=True)]
    values = images.to(torch.float32)
    if len({*zip(divisors, offsets, strict=True)}) == 1:
        return values.div_(divisors[0]).sub_(offsets[0]).to(dtype)
    table = torch.tensor([divisors, offsets], device=values.device)[:, :, None, None]
    return values.div_(table[0]).sub_(table[1]).to(dtype)


class Stopwatch:
    """Sums the time between `begin` and `end`; on a GPU by its own clock, for which nobody waits before the sum."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def begin(self) -> None:
        self._begun = self._now()

    def end(self) -> None:
        if self._on_gpu:
            self._events.append((self._begun, self._now()))
        else:
            self._seconds += self._now() - self._begun

    def take_seconds(self) -> float:
        """The sum since the last call; waits for the device."""
        seconds, self._seconds = self._seconds, 0.0
        for begin, end in self._events:
            end.synchronize()
            seconds += begin.elapsed_time(end) / 1e3
        self._events.clear()
        return seconds

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Normaliser:
    """`normalise` for one device and dtype that knows how long its copies took."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        mean: Channels = HALF,
        std: Channels = HALF,
    ) -> None:
        self._device, self._dtype = device, dtype
        self._mean, self._std = mean, std
        self._copying = Stopwatch(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As `normalise`."""
        self._copying.begin()
        moved = images.to(self._device, non_blocking=True)
        self._copying.end()
        return _scaled(moved, self._dtype, self._mean, self._std)

    def take_seconds(self) -> float:
        """What the copies since the last call took; waits for the device."""
        return self._copying.take_seconds()
