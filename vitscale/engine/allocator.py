"""How this process keeps memory that it has freed, for runs on a CPU."""

from __future__ import annotations

import ctypes
import os

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # names and numbers of glibc's malloc.h
_NEVER = -1


def keep_freed_memory(device: torch.device) -> bool:
    """Have glibc keep what is freed instead of giving it back to the system; whether that was done.

    A step on a CPU allots and frees the same large tensors every time. By default glibc maps each of more than
    32 MiB anew and returns the free top of its heap, so every step pays again for the system to find and clear those
    pages (docs/log.md has figures). Memory that a process has once taken then stays with it to its end.

    Nothing is done on a GPU, where torch keeps memory itself, without glibc, and where the environment has settings
    of an allocator already.
    """
    given = any(
        name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
        for name in os.environ
    )
    libc = ctypes.CDLL(None)
    if device.type != "cpu" or given or not hasattr(libc, "gnu_get_libc_version"):
        return False
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return True
