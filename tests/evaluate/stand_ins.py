"""Stand-ins for the data room: a set of constant-coloured images, and a scan over it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch


@dataclass
class ColourSet:
    """Sample i is a 4 x 4 image whose every byte is `colours[i]`; `bad` samples cannot be decoded."""

    colours: np.ndarray
    own_labels: np.ndarray
    class_names: tuple[str, ...]
    bad: frozenset[int] = frozenset()
    where: str = "colours"

    @property
    def samples(self):
        return len(self.colours)

    @property
    def classes(self):
        return self.class_names

    def labels(self):
        return self.own_labels


def colour_set(labels, classes, *, bad=(), colours=None):
    labels = np.asarray(labels, np.int64)
    names = tuple(f"class {k}" for k in range(classes))
    colours = labels * 10 if colours is None else np.asarray(colours)
    return ColourSet(colours, labels, names, frozenset(bad))


def scan(shards, *, image, batch, place, ids=None, view=None):
    """Every sample once over all ranks, in an order that is not sorted; the last batch is short."""
    ids = np.arange(shards.samples) if ids is None else np.asarray(ids)
    mine = ids[::-1][place.rank :: place.world].copy()
    for start in range(0, len(mine), batch):
        part = mine[start : start + batch]
        pixels = torch.from_numpy(shards.colours[part]).to(torch.uint8)
        labels = [-1 if i in shards.bad else int(shards.own_labels[i]) for i in part]
        yield SimpleNamespace(
            images=pixels[:, None, None, None].expand(-1, 3, *image),
            labels=torch.tensor(labels),
            ids=part,
        )
