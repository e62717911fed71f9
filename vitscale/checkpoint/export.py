"""One safetensors file from a commit of any engine, stage and number of ranks, without ever holding the model.

The header of a safetensors file says where each tensor lies, so pieces are written to their places one after the other,
in the order in which they lie in the shards.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vitscale.checkpoint.state import StateReader, Stretch
from vitscale.durable import sync_folder

SUFFIX = ".safetensors"
METADATA = "vitscale"
_DTYPES = {"fp32": ("F32", torch.float32), "bf16": ("BF16", torch.bfloat16)}
_PIECE = 1 << 22  # numbers converted at a time
_FORGET_BYTES = 64 << 20  # pages of the shards that may stay mapped


def export(
    reader: StateReader,
    kind: str,
    facts: dict[str, Any],
    to: Path,
    *,
    dtype: str,
    record: dict[str, Any],
) -> int:
    """Write all tensors of `kind` into the new file `to`, complete or not at all.

    Args:
        reader: of a verified commit.
        kind: "weight" or "ema".
        facts: of its manifest; `shapes` has the size of each weight.
        to: a file that does not exist yet.
        dtype: "fp32" or "bf16".
        record: plain values for the file's metadata.

    Returns:
        Bytes written.

    Raises:
        OSError: the file cannot be written.
        CheckpointError: a weight is incomplete.
    """
    shapes: dict[str, list[int]] = facts["shapes"]
    head, places = _header(shapes, dtype, record)
    _insist_on_all(reader, kind, shapes)
    aside = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(head)
            for name, stretch in _one_after_the_other(reader, kind):
                at = len(head) + places[name] + stretch.start * _DTYPES[dtype][1].itemsize
                _write(file.fileno(), at, reader.values(stretch), dtype)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(to)
        sync_folder(to.parent)
        return to.stat().st_size
    finally:
        aside.unlink(missing_ok=True)
        reader.close()


def write_tensors(tensors: Mapping[str, Tensor], record: dict[str, Any], to: Path) -> None:
    """Write tensors and our record into the new safetensors file `to`, complete or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    aside = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, aside, {"format": "pt", METADATA: json.dumps(record)})
        aside.rename(to)
        sync_folder(to.parent)
    finally:
        aside.unlink(missing_ok=True)


def _header(
    shapes: dict[str, list[int]], dtype: str, record: dict[str, Any]
) -> tuple[bytes, dict[str, int]]:
    """The bytes before the tensors, and where each tensor begins behind them."""
    word, kind = _DTYPES[dtype]
    table: dict[str, Any] = {"__metadata__": {"format": "pt", METADATA: json.dumps(record)}}
    places: dict[str, int] = {}
    at = 0
    for name, size in shapes.items():
        end = at + math.prod(size) * kind.itemsize
        table[name] = {"dtype": word, "shape": size, "data_offsets": [at, end]}
        places[name], at = at, end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, places


def _insist_on_all(reader: StateReader, kind: str, shapes: dict[str, list[int]]) -> None:
    """Raise for a weight of which the commit lacks some numbers, before anything is written."""
    for name, size in shapes.items():
        reader.insist_on(kind, name, math.prod(size))


def _one_after_the_other(reader: StateReader, kind: str):
    """(weight, piece), letting go of mapped files now and then so that memory stays bounded."""
    mapped = 0
    for name, stretch in reader.stretches(kind):
        for begin in range(0, stretch.length, _PIECE):
            length = min(_PIECE, stretch.length - begin)
            mapped += 4 * length
            if mapped > _FORGET_BYTES:
                reader.close()
                mapped = 0
            yield (
                name,
                Stretch(
                    stretch.start + begin,
                    length,
                    stretch.offset + begin,
                    stretch.file,
                    stretch.keys,
                ),
            )


def _write(handle: int, at: int, values: Tensor, dtype: str) -> None:
    data = memoryview(values.to(_DTYPES[dtype][1]).contiguous().view(torch.uint8).numpy().data)
    while data:
        written = os.pwrite(handle, data, at)
        data, at = data[written:], at + written
