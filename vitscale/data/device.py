"""The one place where bytes become numbers for the model."""

from __future__ import annotations

import time

import torch


def normalise(images: torch.Tensor, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """Move uint8 images [B, 3, H, W] and scale 0..255 to -1..1, in float32 until the last step.

    The copy does not block where the source is pinned.
    """
    return _scaled(images.to(device, non_blocking=True), dtype)


def _scaled(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return images.to(torch.float32).div_(127.5).sub_(1.0).to(dtype)


class Normaliser:
    """`normalise` for one device and dtype that knows how long its copies took."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As `normalise`."""
        return _scaled(self._copied(images), self._dtype)

    def _copied(self, images: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            before = time.perf_counter()
            moved = images.to(self._device)
            self._seconds += time.perf_counter() - before
            return moved
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        moved = images.to(self._device, non_blocking=True)
        end.record()
        self._events.append((begin, end))
        return moved

    def take_seconds(self) -> float:
        """What the copies since the last call took; waits for the device."""
        seconds, self._seconds = self._seconds, 0.0
        for begin, end in self._events:
            end.synchronize()
            seconds += begin.elapsed_time(end) / 1e3
        self._events.clear()
        return seconds
