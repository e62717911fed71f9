"""Packs labelled images into WebDataset tars that anyone can read, with their index and manifest.

The same samples and seed give the same bytes, whatever the number of workers and however often the packing was killed.
A data set appears under its name only when it is complete; until then its finished shards wait in `.NAME.packing`
beside it for the next try.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitscale import faults
from vitscale.config.dataset import MANIFEST, Manifest, read_manifest
from vitscale.data.folders import check_space, folder_aside
from vitscale.data.packing_plan import SHARD_BYTES, SHARD_SAMPLES, Packing, Plan, make_plan
from vitscale.data.pieces import Pieces, in_this_process
from vitscale.data.progress import Progress, silent
from vitscale.data.samples import Split
from vitscale.data.shard_building import Built, ShardWork, Skipped, build_shard
from vitscale.durable import sync_folder, write_text_atomically
from vitscale.errors import DataError, ResourceError

SKIPPED = "skipped.csv"
"""Beside the shards: what --skip-bad left out."""
AS_IS = Packing()
"""Images as they are, shards of the usual size."""
_LISTED = 30


@dataclass(frozen=True)
class Packed:
    """A finished packing."""

    manifest: Manifest
    changed: int = 0
    """Images that were re-encoded."""
    skipped: tuple[Skipped, ...] = ()


def pack(
    split: Split,
    target: str | Path,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    shard_samples: int = SHARD_SAMPLES,
) -> Manifest:
    """Shuffle the samples by `seed` and write them as shards of about equal count below `target`.

    As `pack_split` does, in this process and with images as they are.
    """
    packing = Packing(seed, shard_bytes, shard_samples)
    return pack_split(split, target, packing).manifest


def pack_splits(
    splits: Mapping[str, Split],
    target: str | Path,
    packing: Packing = AS_IS,
    *,
    pieces: Pieces = in_this_process,
    shown: bool = False,
) -> dict[str, Packed]:
    """Pack every split into `target/NAME`; `shown` tells how far it has come on stderr."""
    for name in splits:
        _refuse_foreign(Path(target) / name)
    return {
        name: pack_split(
            split,
            Path(target) / name,
            packing,
            pieces=pieces,
            progress=Progress(f"packing {name}", shown=shown),
        )
        for name, split in splits.items()
    }


def pack_split(
    split: Split,
    target: str | Path,
    packing: Packing = AS_IS,
    *,
    pieces: Pieces = in_this_process,
    progress: Progress | None = None,
) -> Packed:
    """Shuffle the samples and write them as shards of about equal count below `target`.

    Samples that come as bytes are spooled to disk first, so memory holds only their keys. Shards that a
    killed packing of the same plan finished are checked and kept.

    Raises:
        DataError: a sample that cannot be packed, or `target` exists with other contents.
        ResourceError: the disk has too little space, or another process packs the same target.
    """
    target = Path(target)
    _refuse_foreign(target)
    with folder_aside(target) as aside:
        try:
            packed = _fill(aside, split, packing, pieces, progress or silent())
            faults.point("pack.before_rename")
            _publish(aside / "shards", target, packed.manifest)
            shutil.rmtree(aside)
            return packed
        except BaseException as error:
            kept = _tidy(aside)
            if isinstance(error, OSError):
                raise _unwritable(error, target, aside, kept) from error
            raise


def _refuse_foreign(target: Path) -> None:
    """A target may exist if it is empty or a data set, which must then turn out to be the same."""
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise DataError(
            "the target exists and is no data set", where=str(target), do="Choose another --to."
        )


def _tidy(aside: Path) -> int:
    """After a failure: the number of finished shards; without any the folder is removed."""
    finished = len(list((aside / "notes").glob("*.json")))
    if not finished:
        shutil.rmtree(aside, ignore_errors=True)
    return finished


def _unwritable(error: OSError, target: Path, aside: Path, kept: int) -> ResourceError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk became full" if full else f"{error.strerror or error}"
    left = f"{kept} finished shards are kept in {aside}" if kept else "nothing was left behind"
    return ResourceError(
        f"{what} while packing; {left}",
        where=str(target if full else error.filename or target),
        do=f"{'Free space' if full else 'Mend that'} and pack again; what is finished is used again.",
    )


def _publish(shards: Path, target: Path, manifest: Manifest) -> None:
    if (target / MANIFEST).is_file():
        if read_manifest(target) == manifest:
            return
        shutil.rmtree(shards.parent)
        raise DataError(
            "the target already holds another data set",
            where=str(target),
            do="Remove it first, or choose another --to.",
        )
    os.rename(shards, target)
    sync_folder(target.parent)


def _fill(
    aside: Path, split: Split, packing: Packing, pieces: Pieces, progress: Progress
) -> Packed:
    """All shards, notes and the manifest in `aside/shards`."""
    spool = aside / "spool"
    with open(spool, "wb") as file:
        plan = make_plan(split, packing, file)
    shards, notes = _prepare(aside, plan)
    here = sum(file.stat().st_size for file in shards.iterdir())
    check_space(aside, max(0, plan.disk_bytes - here))
    work = [
        ShardWork(
            tar=shards / f"shard-{number:06d}.tar",
            note=notes / f"shard-{number:06d}.json",
            spool=spool,
            samples=plan.of_shard(number),
            classes=tuple(split.classes),
            reencoding=packing.reencoding,
        )
        for number in range(len(plan.shards))
    ]
    built = _build(work, pieces, progress)
    skipped = tuple(one for shard in built for one in shard.skipped)
    if skipped:
        _account_for(skipped, shards, packing)
    for name, text in split.notes.items():
        write_text_atomically(shards / name, text)
    records = tuple(shard.record for shard in built if shard.record is not None)
    if not records:
        raise DataError("every image was skipped", do="Check the source.")
    manifest = Manifest(tuple(split.classes), records)
    write_text_atomically(shards / MANIFEST, manifest.to_json())
    return Packed(manifest, sum(shard.changed for shard in built), skipped)


def _prepare(aside: Path, plan: Plan) -> tuple[Path, Path]:
    """Folders for the shards and their notes; what another plan left in them is removed."""
    shards, notes, digest = aside / "shards", aside / "notes", aside / "plan"
    if not digest.is_file() or digest.read_text(encoding="utf-8") != plan.digest:
        for folder in (notes, shards):
            shutil.rmtree(folder, ignore_errors=True)
        write_text_atomically(digest, plan.digest)
    for folder in (shards, notes):
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
    return shards, notes


def _build(work: list[ShardWork], pieces: Pieces, progress: Progress) -> list[Built]:
    progress.total_bytes = sum(sample.size for one in work for sample in one.samples)
    built: dict[int, Built] = {}
    with progress:
        for number, shard in pieces(build_shard, work):
            built[number] = shard
            progress.add(shard.images, shard.bytes)
            faults.point("pack.after_shard")
    return [built[number] for number in range(len(work))]


def _account_for(skipped: tuple[Skipped, ...], shards: Path, packing: Packing) -> None:
    """List the images that cannot be decoded: in a file where that is wanted, otherwise as an error."""
    if packing.skip_bad:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerows([("key", "source", "why"), *skipped])
        write_text_atomically(shards / SKIPPED, text.getvalue())
        return
    lines = [f"{key}{f' ({source})' if source else ''}: {why}" for key, source, why in skipped]
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    count = "1 image" if len(lines) == 1 else f"{len(lines)} images"
    raise DataError(
        f"{count} cannot be decoded:\n  " + "\n  ".join(lines[:_LISTED] + more) + "\n",
        do="Mend the source, or leave them out and have them listed with --skip-bad.",
    )
