"""Another WebDataset, to be packed anew: keys, image bytes and labels are kept, other files of a sample are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vitscale.config.dataset import MANIFEST, read_manifest
from vitscale.data.labels import LabelRule
from vitscale.data.lists import read_list
from vitscale.data.samples import Sample, Span, Split
from vitscale.data.tar_headers import TarReader
from vitscale.data.tar_samples import labels_of, samples_of
from vitscale.errors import ConfigError, DataError

_LISTED = 10


@dataclass(frozen=True)
class KeyFilter:
    """Which samples are taken: those listed in `keep`, or all; and of these not those listed in `drop`."""

    keep: Path | None = None
    drop: Path | None = None

    def of(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples that pass.

        Raises:
            DataError: a list cannot be read, or names a key that no sample has.
        """
        keep = set(read_list(self.keep)) if self.keep else None
        drop = set(read_list(self.drop)) if self.drop else set[str]()
        met: set[str] = set()
        for sample in samples:
            wanted = keep is None or sample.key in keep
            if sample.key in drop or (keep is not None and wanted):
                met.add(sample.key)
            if wanted and sample.key not in drop:
                yield sample
        for path, keys in ((self.keep, keep), (self.drop, drop)):
            strangers = sorted((keys or set()) - met)
            if strangers:
                shown = ", ".join(strangers[:_LISTED]) + (
                    ", ..." if len(strangers) > _LISTED else ""
                )
                what = f"{len(strangers)} keys are of no sample: {shown}"
                raise DataError(what, where=str(path), do="Correct or remove them.")


def webdataset_split(folder: Path, label_key: str | None, keys: KeyFilter) -> Split:
    """The samples of all `*.tar` in a folder, in the order of names and members.

    Class names come from a manifest that is there, otherwise classes are numbered.

    Raises:
        DataError: no tars, or a sample that cannot be used.
    """
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise DataError("no *.tar to pack", where=str(folder), do="Name a folder of tar shards.")
    if (folder / MANIFEST).is_file():
        names = read_manifest(folder).classes
        numbered = names == tuple(map(str, range(len(names))))
        samples = _samples(tars, LabelRule(label_key, names))
        return Split(names, keys.of(samples), named=not numbered)
    met = list(_samples(tars, LabelRule(label_key)))
    top = max((label for sample in met for label in sample.labels), default=-1)
    if label_key and top < 0:
        what = f'no sample has a label in the field "{label_key}" of its .json'
        raise ConfigError(what, where="--label-key", do="Check it.")
    classes = tuple(str(label) for label in range(top + 1))
    return Split(classes, keys.of(iter(met)), named=False)


def _samples(tars: list[Path], rule: LabelRule) -> Iterator[Sample]:
    for path in tars:
        try:
            with open(path, "rb") as file:
                tar = TarReader(file, str(path))
                for sample in samples_of(tar, rule):
                    image = sample.image
                    assert image is not None, "samples_of refuses samples without an image"
                    span = Span(path, image.data, image.size)
                    extension = image.name.rpartition(".")[2].lower()
                    yield Sample(sample.key, extension, span, labels_of(sample, rule, tar))
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
