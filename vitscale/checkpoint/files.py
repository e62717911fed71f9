"""Writing and reading the files of a checkpoint: hashed while written, synced, never unpickled freely."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitscale.checkpoint.layout import FileRecord, damage
from vitscale.errors import CheckpointError
from vitscale.faults import point

# All that DeepSpeed 0.19 puts into its shards besides tensors and plain values. Where DeepSpeed is not loaded an
# empty stand-in takes their place, so evaluation needs no DeepSpeed.
_RECORDS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


class ShardWriter:
    """Writes one rank's files of a checkpoint and keeps account of them.

    A failing disk does not raise at once, since other ranks may be waiting in a collective of the engine's save:
    the first error is kept in `error`, later files are skipped, and the commit fails on every rank.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.files: list[FileRecord] = []
        self.error = ""

    def save(self, name: str, record: object) -> None:
        """Serialise `record` (tensors and plain values) into the file `name`."""
        if self.error:
            return
        try:
            self.files.append(self._write(name, record))
        except OSError as error:
            self.error = f"{name}: {error.strerror or error}"

    def _write(self, name: str, record: object) -> FileRecord:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        point("checkpoint.before_file", self.rank)
        with path.open("xb") as raw:
            sealed = _HashingFile(raw, self.rank)
            _serialise(record, sealed)
            raw.flush()
            point("checkpoint.before_sync", self.rank)
            os.fsync(raw.fileno())
        point("checkpoint.after_file", self.rank)
        written = FileRecord(name, sealed.size, sealed.digest.hexdigest())
        _read_back(path, written)
        return written


def _read_back(path: Path, written: FileRecord) -> None:
    """Insist that the disk holds what was written, since older commits may go once this one stands."""
    with path.open("rb") as file:
        # Out of the page cache, so that the bytes come from the disk; tmpfs and others may ignore it.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    problems = damage(path.parent, [replace(written, name=path.name)])
    if problems:
        raise OSError(f"read back after writing, {problems[0]}")


class ShardReader:
    """Reads files of a verified checkpoint; only tensors and plain values are ever rebuilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, name: str) -> Any:
        """Deserialise the file `name` on the CPU.

        Raises:
            CheckpointError: the file would build objects other than tensors and plain values.
        """
        try:
            with torch.serialization.safe_globals([_stand_in(name) for name in _RECORDS]):
                return torch.load(
                    self.folder / name, map_location="cpu", weights_only=True, mmap=True
                )
        except Exception as error:
            raise CheckpointError(
                f"cannot be loaded safely: {error}",
                where=str(self.folder / name),
                do="Take another commit, one that vitscale itself has written.",
            ) from error


class _HashingFile(io.RawIOBase):
    """A file that only grows, with the SHA-256 of what went through."""

    def __init__(self, raw: Any, rank: int) -> None:
        self.raw, self.rank, self.digest, self.size = raw, rank, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.raw.write(data)
        point("checkpoint.mid_file", self.rank)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def _serialise(record: object, file: Any) -> None:
    if isinstance(record, str):
        file.write(record.encode())
        return
    try:
        torch.save(record, file)
    except RuntimeError as error:  # torch hides the OSError of a full disk in its own error
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _stand_in(name: str) -> Any:
    module, _, leaf = name.rpartition(".")
    loaded = getattr(sys.modules.get(module), leaf, None)
    return (loaded or type(leaf, (_Record,), {}), name)


class _Record:
    """Takes the place of a DeepSpeed class whose values we do not need."""

    def __new__(cls, *args: object) -> _Record:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass
