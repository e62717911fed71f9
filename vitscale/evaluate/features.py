"""Frozen features of a set of images: computed once, kept in files, shared by all tasks. Letters: N images, D features.

A set is cut into parts of a fixed number of images, whatever the number of processes, so that features do not depend on
who computes them, and a kill costs one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vitscale.config.dataset import MASKED
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus
from vitscale.data.loader import scan
from vitscale.durable import write_bytes_atomically
from vitscale.errors import DataError
from vitscale.evaluate.inference import Prepare, answering
from vitscale.model.vit import ViT
from vitscale.place import Place

PART_IMAGES = 16_384


@dataclass(frozen=True)
class Features:
    """What the head reads, float32 [N, D], in the order of sample numbers.

    Labels are int64 [N], or [N, L] with -1 behind the last where samples of the set have several; ids int64 [N].
    """

    values: Tensor
    labels: Tensor
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: np.ndarray) -> Features:
        """Those of the samples `ids` that could be decoded, in the order of sample numbers."""
        rows = torch.from_numpy(np.flatnonzero(np.isin(self.ids, ids)))
        return Features(self.values[rows], self.labels[rows], self.ids[rows.numpy()])

    def plus(self, other: Features) -> Features:
        """Both, the samples of `other` numbered behind."""
        behind = other.ids + (int(self.ids.max()) + 1 if len(self) else 0)
        return Features(
            torch.cat([self.values, other.values]),
            torch.cat([self.labels, other.labels]),
            np.concatenate([self.ids, behind]),
        )


def extract(
    model: ViT,
    shards: Corpus,
    ids: np.ndarray | None,
    *,
    image: tuple[int, int],
    batch: int,
    prepare: Prepare,
    view: View = View(),  # noqa: B008
    part: Place = Place(),  # noqa: B008
) -> Features:
    """`pre_logits` of the samples `ids` (None: all), or of one part of them; images that cannot be decoded or have no
    label are left out.

    Args:
        model: frozen; its training mode is restored.
        shards: what is read.
        ids: int64 [n], ascending.
        image: height and width the model takes.
        batch: images per forward pass.
        prepare: bytes to what the model takes.
        view: what is shown of each image.
        part: number `rank` of `world` runs of samples that together are all, each once.
    """
    values, labels, numbers = [], [], []
    with answering(model):
        batches = scan(shards, image=image, batch=batch, place=part, ids=ids, view=view)
        for micro_batch in batches:
            rows = micro_batch.labels.reshape(len(micro_batch.labels), -1)
            good = (rows != MASKED).any(dim=1)
            images = prepare(micro_batch.images)
            values.append(model.represent(images).float().cpu()[good])
            labels.append(micro_batch.labels[good])
            numbers.append(torch.as_tensor(micro_batch.ids)[good])
    if not sum(map(len, labels)):
        raise DataError(
            "no image could be read",
            where=shards.where,
            do="Check it with `vitscale shards verify`.",
        )
    order = torch.cat(numbers).argsort()
    return Features(
        torch.cat(values)[order].contiguous(),
        torch.cat(labels)[order].contiguous(),
        torch.cat(numbers)[order].numpy(),
    )


def parts_of(samples: int) -> int:
    """Into how many parts a set of so many samples is cut."""
    return max(1, -(-samples // PART_IMAGES))


def save_features(features: Features, to: Path) -> None:
    """One file, whole or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "values": features.values,
        "labels": features.labels,
        "ids": torch.from_numpy(features.ids),
    }
    write_bytes_atomically(to, save(tensors))


def load_features(files: Sequence[Path]) -> Features:
    """The parts of a set as one."""
    parts = [load_file(file) for file in files]
    return Features(
        torch.cat([part["values"] for part in parts]),
        torch.cat([part["labels"] for part in parts]),
        torch.cat([part["ids"] for part in parts]).numpy(),
    )
