"""What sources hand to the packer: single labelled images, and splits of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vitscale.errors import ConfigError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Sample(NamedTuple):
    """One image file. A `Path` is read when its turn comes, so that a corpus need not fit into memory."""

    key: str
    extension: str
    data: bytes | Path
    label: int


@dataclass(frozen=True)
class Split:
    """One data set of a source. `notes` are text files laid beside the shards, such as licences."""

    classes: tuple[str, ...]
    samples: Iterable[Sample]
    notes: Mapping[str, str] = field(default_factory=dict)

    def keep(self, labels: Iterable[int]) -> Split:
        """Only the samples of these classes, in this order relabelled from 0.

        Raises:
            ConfigError: a label that is no class.
        """
        wanted = list(labels)
        unknown = [label for label in wanted if not 0 <= label < len(self.classes)]
        if unknown or not wanted:
            raise ConfigError(
                f"the chosen classes are not among the {len(self.classes)} that exist",
                where="--classes-subset",
                given=", ".join(map(str, unknown)) or "none",
                do=f"Labels run from 0 to {len(self.classes) - 1}.",
            )
        new = {label: number for number, label in enumerate(wanted)}
        kept = (s._replace(label=new[s.label]) for s in self.samples if s.label in new)
        return Split(tuple(self.classes[label] for label in wanted), kept, self.notes)


Splits = dict[str, Split]
"""By name: "train", and "held-out" for what is never trained on."""
