"""What sources hand to the packer: single labelled images, and splits of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vitscale.errors import ConfigError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Span(NamedTuple):
    """Bytes inside a file, such as an image in a tar."""

    file: Path
    start: int
    size: int


class Sample(NamedTuple):
    """One image file with its label, or any number of them.

    A `Path` or `Span` is read when its turn comes, so that a corpus need not fit into memory.
    """

    key: str
    extension: str
    data: bytes | Path | Span
    label: int | tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclass(frozen=True)
class Split:
    """One data set of a source. `notes` are text files laid beside the shards, such as licences."""

    classes: tuple[str, ...]
    samples: Iterable[Sample]
    notes: Mapping[str, str] = field(default_factory=dict)
    named: bool = True
    """False where the source only numbers its classes."""

    def keep(self, labels: Iterable[int]) -> Split:
        """Only the samples of these classes, in this order relabelled from 0.

        Of several labels those that are kept count; samples without any are left out.

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
        classes = tuple(self.classes[label] for label in wanted)
        return Split(classes, _with_labels(self.samples, new), self.notes, self.named)


def _with_labels(samples: Iterable[Sample], new: Mapping[int, int]) -> Iterator[Sample]:
    for sample in samples:
        labels = tuple(sorted(new[label] for label in sample.labels if label in new))
        if labels:
            yield sample._replace(label=labels)


Splits = dict[str, Split]
"""By name: "train", and "held-out" for what is never trained on."""
