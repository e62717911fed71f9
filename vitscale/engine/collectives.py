"""Starting and ending the process group, and agreement between ranks on plain Python values."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from vitscale.errors import ConfigError, ResourceError
from vitscale.place import Place

T = TypeVar("T")


def pick_device(wanted: str, place: Place) -> torch.device:
    """The device of this rank: its own GPU, or the CPU.

    Raises:
        ResourceError: CUDA was asked for and this process sees no (or too few) GPUs.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found <= place.local_rank and found != 1:
        raise ResourceError(
            "a GPU was asked for and is absent",
            where="engine.device",
            given=f"{wanted!r} on {place}, which needs GPU {place.local_rank} and sees {found}",
            do="Use engine.device=cpu, start fewer ranks on this node, or check the driver and "
            "CUDA_VISIBLE_DEVICES.",
        )
    device = torch.device("cuda", place.local_rank if found > 1 else 0)
    torch.cuda.set_device(device)
    return device


class Ranks:
    """All ranks of the job and what they agree on; with one rank nothing is communicated.

    Python values travel over a gloo group of their own, so that agreement needs no GPU and its time-out is ours.
    """

    def __init__(self, place: Place, device: torch.device, timeout_s: int) -> None:
        self.place = place
        self._group: Any = None
        self._owns_world = False
        if place.world == 1:
            return
        timeout = datetime.timedelta(seconds=timeout_s)
        if not dist.is_initialized():
            _insist_on_rendezvous()
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
            self._owns_world = True
        self._group = dist.new_group(backend="gloo", timeout=timeout)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.place.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def first(self, compute: Callable[[], T]) -> T:
        """What rank 0 computes, on every rank; if it raises, every rank raises the same error."""
        outcome: list[Any] = [None]
        if self.place.is_first:
            outcome = [_attempt(compute)]
        if self._group is not None:
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        if self._owns_world and dist.is_initialized():
            dist.destroy_process_group()


def join_alone(device: torch.device) -> None:
    """Make the process group of this one rank that DeepSpeed insists on, if there is no group yet.

    It lasts as long as the process: DeepSpeed keeps references to it beyond the life of an engine.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def set_timeouts(timeout_s: int) -> None:
    """Give every process group the configured time-out.

    DeepSpeed clones the world for data parallelism with the backend's default of 10 or 30 minutes, so a rank that
    hangs would be noticed only then.
    """
    if not dist.is_initialized():
        return
    from torch.distributed import distributed_c10d as c10d

    timeout = datetime.timedelta(seconds=timeout_s)
    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timeout, group)


def _attempt(compute: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return compute(), None
    except Exception as error:
        return None, error


def _insist_on_rendezvous() -> None:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is above 1 but {' and '.join(missing)} is not set",
            where="environment",
            do="Start with torchrun or vitscale submit, or unset WORLD_SIZE.",
        )
