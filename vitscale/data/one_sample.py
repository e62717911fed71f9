"""One sample of a data set by its id or key: where it is, what is known of it, and its image file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.config.dataset import Manifest, read_manifest
from vitscale.data.image_headers import KINDS
from vitscale.data.shard_files import (
    Place,
    index_of,
    keys_in,
    place_of_id,
    places_of_key,
    read_rows,
)
from vitscale.errors import ConfigError

_LISTED = 10


@dataclass(frozen=True)
class OneSample:
    """A sample and the bytes of its image file."""

    sample: int
    key: str
    shard: str
    offset: int
    labels: tuple[str, ...]
    kind: str
    width: int
    height: int
    data: bytes

    def to_json(self) -> dict[str, Any]:
        """What is known of it, without its bytes."""
        return {
            "id": self.sample,
            "key": self.key,
            "shard": self.shard,
            "byte": self.offset,
            "bytes": len(self.data),
            "labels": list(self.labels),
            "kind": self.kind,
            "width": self.width,
            "height": self.height,
        }


def describe(folder: str | Path, *, sample: int | None = None, key: str | None = None) -> OneSample:
    """The sample with this id, or the only one with this key.

    Raises:
        ConfigError: there is none, or the key is in several shards.
        DataError: the data set is unusable.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if key is not None:
        sample, place = _only(folder, manifest, key)
    else:
        assert sample is not None, "an id or a key"
        place = place_of_id(manifest, sample)
    record, row = place
    index, tar = index_of(folder, record), folder / record.name
    (data,) = read_rows(tar, index, [row])
    return OneSample(
        sample=sample,
        key=keys_in(tar, index)[row],
        shard=record.name,
        offset=int(index.offsets[row]),
        labels=tuple(manifest.classes[label] for label in index.labels_of(row)),
        kind=KINDS[index.kinds[row]],
        width=int(index.widths[row]),
        height=int(index.heights[row]),
        data=data,
    )


def _only(folder: Path, manifest: Manifest, key: str) -> tuple[int, Place]:
    found = places_of_key(folder, manifest, key)
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(str(sample) for sample, _ in found[:_LISTED])
        what = f"{len(found)} shards have this key"
        raise ConfigError(what, where="--key", given=key, do=f"Choose by --id: {ids}.")
    first = manifest.shards[0]
    known = keys_in(folder / first.name, index_of(folder, first))[:_LISTED]
    do = f"Keys of {first.name} are such as {', '.join(known)}."
    raise ConfigError("no sample has this key", where="--key", given=repr(key), do=do)
