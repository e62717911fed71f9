"""Tensors that lie on a disk: files of a folder, mapped into memory, which the system reads and writes as it has room.

DeepSpeed's own way to a disk leaves no tensors that a commit or an average could be made of (docs/log.md).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vitscale.errors import ResourceError
from vitscale.units import human_bytes


class Disk:
    """Makes tensors in files without a name, of which nothing is left when the process ends, however it ends.

    Args:
        folder: on the disk.

    Raises:
        ResourceError: there is no such folder, or no file can be made in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.used = Path(folder), 0
        self._reserve: IO[bytes] | None = None
        self._file(1).close()

    def zeros(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """As `torch.zeros`, on the disk.

        Raises:
            ResourceError: the disk has too little room.
        """
        assert device.type == "cpu", "a file is mapped into the memory of the host"
        numel = math.prod(shape)
        if not numel:
            return torch.zeros(shape, dtype=dtype)
        with self._file(numel * dtype.itemsize) as file:
            path = f"/proc/self/fd/{file.fileno()}"  # the mapping outlives the open file
            flat = torch.from_file(path, shared=True, size=numel, dtype=dtype)
        self.used += numel * dtype.itemsize
        return flat.view(shape)

    def copy_of(self, tensor: Tensor) -> Tensor:
        """The numbers of a tensor, on the disk."""
        zeros = self.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        return zeros.copy_(tensor.detach())

    def reserve(self, size: int) -> None:
        """Hold `size` bytes for `zeros_of_reserve`, so that a disk that is too small shows at once.

        Raises:
            ResourceError: the disk has too little room.
        """
        self._reserve = self._file(size)

    def zeros_of_reserve(
        self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """As `zeros`, with the room that was held; what is left of that is free to others from then on."""
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        return self.zeros(shape, dtype=dtype, device=device)

    def _file(self, size: int) -> IO[bytes]:
        """An open file of `size` bytes whose blocks are taken: a full disk would end the process at a write."""
        try:
            with ExitStack() as undo:
                file = undo.enter_context(tempfile.TemporaryFile(dir=self.folder))
                os.posix_fallocate(file.fileno(), 0, size)
                undo.pop_all()
                return file
        except OSError as error:
            raise ResourceError(
                f"no file of {human_bytes(size)} can be made there: {error.strerror}",
                where="engine.offload_folder",
                given=str(self.folder),
                do="Name a folder that is there, on a disk with room for the state of all ranks of the machine, twice.",
            ) from error


def move_to_disk(zero: Any, disk: Disk) -> None:
    """Lay stage 3's masters, their gradients and the weights that wait in the host's memory on a disk.

    Args:
        zero: DeepSpeed's optimizer of stage 3, which offloads.
        disk: where to.
    """
    for master in zero.fp32_partitioned_groups_flat:
        master.data = disk.copy_of(master)
        master.grad = disk.zeros(master.shape, dtype=master.dtype, device=master.device)
    if not zero.offload_param:
        return
    flats = zero.fp16_partitioned_groups_flat
    for index, flat in enumerate(flats):
        flats[index] = disk.copy_of(flat)
        zero._unflatten_partitioned_parameters(index)
    zero.param_groups_fp16_flat_cpu_memory.clear()
    if torch.cuda.is_available():
        torch.accelerator.empty_host_cache()  # page-locked memory goes back to the system only so
