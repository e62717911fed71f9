"""Where the images of many samples lie, gathered from their shards with a few array operations a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitscale.data.open_shard import CRC, HEIGHT, LABEL, LABELS, LENGTH, OFFSET, WIDTH, OpenShard

if TYPE_CHECKING:
    from vitscale.data.pixels import Files


@dataclass(frozen=True)
class Places:
    """The image files of n samples and their m labels. Shards stay open, and in the cache, while this lives."""

    files: Files
    label_starts: np.ndarray
    """[n + 1] int64: sample i has `labels[label_starts[i]:label_starts[i + 1]]`."""
    labels: np.ndarray
    """[m] int64."""
    keep: tuple[OpenShard, ...]


def gather(shards: Sequence[OpenShard | None], counts: np.ndarray, rows: np.ndarray) -> Places:
    """Places of samples that are sorted by shard, in that order.

    Args:
        shards: one for each group of samples; None for a lost one, whose samples get handle -1.
        counts: int64 [len(shards)], samples in each group.
        rows: int64 [n], the number of each sample in its shard.
    """
    from vitscale.data.pixels import Files

    table = np.zeros((len(rows), 7), np.int64)
    begin = 0
    for shard, count in zip(shards, counts.tolist(), strict=True):
        if shard is not None:
            np.take(shard.table, rows[begin : begin + count], 0, table[begin : begin + count])
        begin += count
    handles = [-1 if shard is None else shard.handle for shard in shards]
    files = Files(
        np.repeat(np.array(handles, np.int32), counts),
        table[:, OFFSET],
        table[:, LENGTH].astype(np.uint32),
        table[:, CRC].astype(np.uint32),
        table[:, WIDTH : HEIGHT + 1].astype(np.int32),
    )
    starts = np.concatenate([[0], np.cumsum(table[:, LABELS])])
    if any(shard is not None and shard.has_several for shard in shards):
        labels = _several(shards, counts, rows)
    else:
        labels = table[table[:, LABELS] > 0, LABEL]
    return Places(files, starts, labels, tuple(shard for shard in shards if shard is not None))


def reordered(places: Places, order: np.ndarray) -> Places:
    """The same with sample `order[i]` at i; `order` is a permutation, int64 [n]."""
    from vitscale.data.pixels import Files

    files = places.files
    starts, labels = label_part(places.label_starts, places.labels, order)
    return Places(
        Files(
            files.handles[order],
            files.offsets[order],
            files.lengths[order],
            files.crcs[order],
            files.sizes[order],
        ),
        starts,
        labels,
        places.keep,
    )


def label_part(
    starts: np.ndarray, labels: np.ndarray, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of labels as (starts [N + 1], labels [m]) those of `samples`, int64 [n], in the same form."""
    begins = starts[samples]
    counts = starts[samples + 1] - begins
    return np.concatenate([[0], np.cumsum(counts)]), labels[_stretches(begins, counts)]


def _several(
    shards: Sequence[OpenShard | None], counts: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    parts = [np.zeros(0, np.int64)]
    for shard, mine in zip(shards, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
        if shard is not None:
            starts = shard.index.label_starts.astype(np.int64)
            wanted = _stretches(starts[mine], starts[mine + 1] - starts[mine])
            parts.append(shard.index.labels[wanted].astype(np.int64))
    return np.concatenate(parts)


def _stretches(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), then those from starts[1] on, and so forth."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)
