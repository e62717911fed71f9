"""Builds one shard of a packing: tar, sidecar and a note that says it is finished. Runs in worker processes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from vitscale.config.dataset import ShardRecord
from vitscale.data.bad_images import BadImage
from vitscale.data.index import index_path, read_index, write_index
from vitscale.data.labels import JSON_KEY, LabelRule
from vitscale.data.packing_plan import Placed
from vitscale.data.reencode import Reencoding, reencode
from vitscale.data.tar_index import hash_of_file, index_tar, record_of
from vitscale.durable import write_text_atomically
from vitscale.errors import DataError


@dataclass(frozen=True)
class ShardWork:
    """One shard to be built; everything a worker needs."""

    tar: Path
    note: Path
    """Written last: a shard counts as finished when this is there and true."""
    spool: Path
    samples: tuple[Placed, ...]
    classes: tuple[str, ...]
    reencoding: Reencoding | None = None


class Skipped(NamedTuple):
    """An image that could not be re-encoded."""

    key: str
    source: str
    why: str


class Built(NamedTuple):
    """What became of a shard; no record where every image was skipped."""

    record: ShardRecord | None
    changed: int
    skipped: tuple[Skipped, ...]
    images: int
    bytes: int
    """Of the images in the source."""


def build_shard(work: ShardWork) -> Built:
    """Build the shard, or take it as a killed packing finished it.

    Raises:
        DataError: an image that cannot be read, or that changed since it was found.
    """
    built = _finished(work)
    if built is not None:
        return built
    work.note.unlink(missing_ok=True)
    index_path(work.tar).unlink(missing_ok=True)
    changed, skipped = _write(work)
    record = None
    if len(skipped) < len(work.samples):
        index = index_tar(work.tar, LabelRule(classes=work.classes))
        write_index(index, index_path(work.tar))
        record = record_of(work.tar.name, index)
    else:
        work.tar.unlink()
    note = {
        "record": None if record is None else asdict(record),
        "changed": changed,
        "skipped": skipped,
    }
    write_text_atomically(work.note, json.dumps(note))
    return _built(work, record, changed, skipped)


def _built(
    work: ShardWork, record: ShardRecord | None, changed: int, skipped: list[Skipped]
) -> Built:
    size = sum(sample.size for sample in work.samples)
    return Built(record, changed, tuple(skipped), len(work.samples), size)


def _finished(work: ShardWork) -> Built | None:
    """The shard as its note has it, if every byte of the tar and the sidecar still fits."""
    try:
        note = json.loads(work.note.read_text(encoding="utf-8"))
        skipped = [Skipped(*one) for one in note["skipped"]]
        if note["record"] is None:
            return _built(work, None, note["changed"], skipped)
        record = ShardRecord(**note["record"])
        same = record_of(work.tar.name, read_index(index_path(work.tar))) == record
        if not same or hash_of_file(work.tar) != record.xxh3:
            return None
        return _built(work, record, note["changed"], skipped)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _write(work: ShardWork) -> tuple[int, list[Skipped]]:
    """Write the tar aside and move it into place; how many images were changed, and which skipped.

    webdataset's own writer with a fixed time, owner and mode, so that the bytes are repeatable.
    """
    from webdataset.writer import TarWriter

    changed, skipped = 0, []
    aside = work.tar.with_name(f".{work.tar.name}.{uuid4().hex[:12]}.tmp")
    try:
        with open(aside, "wb") as file, open(work.spool, "rb") as spool:
            with TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar:
                for sample in work.samples:
                    data, extension = _read(sample, spool), sample.extension
                    if work.reencoding is not None:
                        try:
                            new, extension = reencode(data, extension, work.reencoding)
                        except BadImage as error:
                            skipped.append(Skipped(sample.key, sample.source, str(error)))
                            continue
                        changed += new is not data
                        data = new
                    tar.write({"__key__": sample.key, extension: data, **_labels(sample)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, work.tar)
    finally:
        aside.unlink(missing_ok=True)
    return changed, skipped


def _labels(sample: Placed) -> dict[str, bytes]:
    """One label as `.cls`, several as `.json`, each as webdataset's decoder understands it; none as nothing."""
    if not sample.labels:
        return {}
    if len(sample.labels) == 1:
        return {"cls": str(sample.labels[0]).encode()}
    return {"json": json.dumps({JSON_KEY: sample.labels}).encode()}


def _read(sample: Placed, spool: BinaryIO) -> bytes:
    try:
        if not sample.file:
            return _piece(spool, sample, "the spool of the packing")
        with open(sample.file, "rb") as file:
            return _piece(file, sample, sample.file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=sample.file) from error


def _piece(file: BinaryIO, sample: Placed, where: str) -> bytes:
    file.seek(sample.start)
    data = file.read(sample.size)
    if len(data) != sample.size:
        what = "became shorter while it was packed"
        raise DataError(what, where=where, do="Pack again when nothing writes to the source.")
    return data
