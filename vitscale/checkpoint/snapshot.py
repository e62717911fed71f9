"""Copies of tensors in host memory, so that training goes on while they are written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor


class Snapshot:
    """What one rank puts into one checkpoint; a `Writer` for engines.

    Buffers are kept from one checkpoint to the next, page-locked where the tensors come from a GPU, so that taking a
    snapshot is one copy. So at most one may be in use, and the host holds one more copy of the rank's state: in memory,
    or where `zeros`, called as `torch.zeros` is, makes room for tensors of the host.
    """

    def __init__(self, zeros: Callable[..., Tensor] | None = None) -> None:
        self._zeros = zeros
        self.folder = Path()
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._records: list[tuple[str, object]] = []
        self._devices: set[torch.device] = set()

    def begin(self, folder: Path) -> None:
        """Start anew, for files that will lie in `folder`."""
        self.folder = folder
        self._records = []

    def save(self, name: str, record: object) -> None:
        """Take `record` (tensors and plain values) for the file `name`."""
        copied = _Copy(name, self._buffers, self._zeros)
        self._records.append((name, copied.of(record)))
        self._devices |= copied.devices

    def finish(self) -> list[tuple[str, object]]:
        """(name, record) of every file, once all copies from a GPU have arrived."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        return self._records


class _Copy:
    """Copies the tensors of one record; views of one buffer that DeepSpeed saves become small tensors of their own."""

    def __init__(
        self,
        name: str,
        buffers: dict[tuple[str, int], Tensor],
        zeros: Callable[..., Tensor] | None,
    ) -> None:
        self._name, self._buffers, self._count = name, buffers, 0
        self._zeros = zeros
        self.devices: set[torch.device] = set()

    def of(self, value: object) -> object:
        if isinstance(value, Tensor):
            return self._tensor(value.detach())
        kind: Any = type(value)
        if kind in (dict, OrderedDict):
            pairs = cast("Mapping[Any, Any]", value).items()
            return kind((key, self.of(each)) for key, each in pairs)
        if kind in (list, tuple):
            return kind(self.of(each) for each in cast("list[object]", value))
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        key, self._count = (self._name, self._count), self._count + 1
        kept = self._buffers.get(key)
        if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
            kept = self._room(value)
            self._buffers[key] = kept
        if value.is_cuda:
            self.devices.add(value.device)
        return kept.copy_(value, non_blocking=True)

    def _room(self, value: Tensor) -> Tensor:
        if self._zeros is not None and not value.is_cuda:
            return self._zeros(value.shape, dtype=value.dtype, device=value.device)
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
