"""The facts of a data set, from the `manifest.json` beside its shards; no image library is needed.

The manifest is written last, so a folder without one is not (yet) a data set. `docs/data-format.md`
has the layout.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from vitscale.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "vitscale-shards"
VERSION = 2
_TAR_NAME = re.compile(r"[^/\0]*\.tar")
MASKED = -1  # the label of a slot whose image could not be used
_MAKE_ONE = "Make one with `vitscale shards pack`, or `vitscale shards index` for existing tars."


@dataclass(frozen=True)
class DatasetFacts:
    """What a plan and a report need to know; `bytes` counts the tars."""

    samples: int
    classes: tuple[str, ...]
    fingerprint: str
    shards: int
    bytes: int


@dataclass(frozen=True)
class ShardRecord:
    """One tar: `xxh3` is the 128-bit hash of its bytes, `labels` the 64-bit hash of its labels as `<u4`.

    Where nothing else is said, every sample has one label.
    """

    name: str
    samples: int
    bytes: int
    xxh3: str
    labels: str
    most_labels: int = 1
    """The largest number of labels of a sample."""
    unlabelled: int = 0
    """Samples without a label."""


@dataclass(frozen=True)
class Manifest:
    """All shards in the order that sample ids count them, and the class names by label."""

    classes: tuple[str, ...]
    shards: tuple[ShardRecord, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def most_labels(self) -> int:
        """The largest number of labels of a sample."""
        return max((shard.most_labels for shard in self.shards), default=0)

    @property
    def unlabelled(self) -> int:
        """Samples without a label."""
        return sum(shard.unlabelled for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of any tar, any label, a class name, or the order of the shards."""
        content = {"classes": self.classes, "shards": [asdict(shard) for shard in self.shards]}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def facts(self) -> DatasetFacts:
        size = sum(shard.bytes for shard in self.shards)
        return DatasetFacts(self.samples, self.classes, self.fingerprint, len(self.shards), size)

    def to_json(self) -> str:
        """The text of `manifest.json`: one line a shard, so that two manifests can be compared by eye."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "samples": self.samples,
            "classes": self.classes,
        }
        lines = ",\n".join("    " + json.dumps(asdict(shard)) for shard in self.shards)
        return json.dumps(head, indent=2)[:-2] + f',\n  "shards": [\n{lines}\n  ]\n}}\n'


def dataset_facts(folder: str | Path) -> DatasetFacts:
    """Read the facts of the data set in `folder`.

    Raises:
        DataError: no folder, no manifest, or one that is damaged or of another version.
    """
    return read_manifest(folder).facts


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check `manifest.json`.

    Raises:
        DataError: no folder, no manifest, or one that is damaged or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.parent.is_dir():
        raise DataError("no such data folder", where=str(folder), do=_MAKE_ONE)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _without_manifest(path.parent) from error
    except (OSError, ValueError) as error:
        raise _damaged(str(path), str(error)) from error
    return manifest_of_text(text, str(path))


def manifest_of_text(text: str, where: str) -> Manifest:
    """Check the text of a `manifest.json`, which may come from a store; `where` names it in messages.

    Raises:
        DataError: it is damaged or of another version.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, str(error)) from error
    return _manifest_of(record, where)


def _without_manifest(folder: Path) -> DataError:
    """Nothing to read here: perhaps tars without an index, perhaps one folder too high."""
    below = sorted(entry.parent.name for entry in folder.glob(f"*/{MANIFEST}"))
    if below:
        hint = f"Name one of the data sets inside it: {', '.join(below)}."
    elif any(folder.glob("*.tar")):
        hint = f"It holds tars: run `vitscale shards index {folder}` first."
    else:
        hint = _MAKE_ONE
    return DataError(f"the folder has no {MANIFEST}", where=str(folder), do=hint)


def _manifest_of(content: Any, where: str) -> Manifest:
    record = cast(dict[str, Any], content if isinstance(content, dict) else {})
    if record.get("format") != FORMAT:
        raise _damaged(where, f'"format" is not "{FORMAT}"')
    if record.get("version") != VERSION:
        raise DataError(
            "the manifest has another version",
            where=where,
            given=record.get("version"),
            do=f"This vitscale reads version {VERSION}: run `vitscale shards index "
            f"{where.removesuffix('/' + MANIFEST)}`.",
        )
    try:
        classes = tuple(_text(name) for name in record["classes"])
        manifest = Manifest(classes, tuple(_shards_of(record["shards"])))
    except (KeyError, TypeError) as error:
        raise _damaged(where, f"{type(error).__name__} {error}") from error
    if manifest.fingerprint != record.get("fingerprint"):
        raise _damaged(where, "its contents do not give its fingerprint")
    return manifest


def _shards_of(records: Iterable[Any]) -> Iterable[ShardRecord]:
    for record in records:
        shard = ShardRecord(**record)
        for field in fields(ShardRecord):
            if field.name not in record or type(getattr(shard, field.name)).__name__ != field.type:
                raise TypeError(f"shard {record}: {field.name} is no {field.type}")
        numbers = (shard.samples, shard.bytes, shard.most_labels, shard.unlabelled)
        sound = min(numbers) >= 0 and max(numbers) < 2**63 and shard.unlabelled <= shard.samples
        if not sound or not _TAR_NAME.fullmatch(shard.name):
            raise TypeError(f"shard {record}")
        yield shard


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"class name {value!r}")
    return value


def _damaged(where: str, why: str) -> DataError:
    return DataError(
        f"the manifest is damaged: {why}",
        where=where,
        do="Copy the data set again, or run `vitscale shards index` on its folder.",
    )
