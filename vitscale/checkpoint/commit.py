"""The commit protocol: write aside, gather hashes, manifest last, one rename.

At any moment a kill leaves the previous commit or the new one, never something between: all files are written into
`.tmp-step-N-XXXX`, synced and hashed by the rank that wrote them; rank 0 writes the manifest, and the rename to
`step-N` makes the checkpoint exist for readers.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vitscale.checkpoint.files import ShardWriter
from vitscale.checkpoint.layout import (
    MANIFEST,
    FileRecord,
    Manifest,
    damage,
    read_manifest,
    step_folder,
    step_folders,
)
from vitscale.durable import sync_folder
from vitscale.errors import SaveError
from vitscale.faults import point
from vitscale.place import Place
from vitscale.units import human_bytes

T = TypeVar("T")
WEIGHTS = "weights.json"

Pieces = dict[str, list[Any]]


class Agreement(Protocol):
    """How the ranks agree; `vitscale.engine.collectives.Ranks` is one."""

    place: Place

    def gather(self, value: T) -> list[T]: ...

    def first(self, compute: Callable[[], T]) -> T: ...


def commit(
    checkpoints: Path,
    facts: dict[str, Any],
    write: Callable[[ShardWriter], Pieces],
    ranks: Agreement,
    *,
    expected_bytes: int,
) -> Path:
    """Commit one checkpoint; all ranks call this together.

    Args:
        checkpoints: the run's `checkpoints` folder, on storage all ranks share.
        facts: of the run, JSON; `step` names the folder, `shapes` lists every weight's shape.
        write: writes this rank's files and returns where its parts of the weights lie.
        ranks: how the ranks agree.
        expected_bytes: free space that is needed on the storage.

    Returns:
        The folder of the commit. One that exists already and verifies is left as it is.

    Raises:
        SaveError: on every rank, if any rank could not write; the debris is removed.
    """
    step = facts["step"]
    aside = ranks.first(lambda: _make_aside(checkpoints, step, expected_bytes))
    if aside is None:
        return step_folder(checkpoints, step)
    writer = ShardWriter(Path(aside), ranks.place.rank)
    pieces = write(writer)
    outcomes = ranks.gather((writer.files, writer.error, pieces))
    return Path(ranks.first(lambda: _finish(Path(aside), checkpoints, facts, outcomes)))


def _make_aside(checkpoints: Path, step: int, expected_bytes: int) -> str | None:
    """A fresh folder for the files, or None if this step is committed already."""
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        clear_debris(checkpoints)
        if _is_committed(step_folder(checkpoints, step)):
            return None
        free = shutil.disk_usage(checkpoints).free
        if free < expected_bytes:
            raise SaveError(
                f"no space for a checkpoint: it needs about {human_bytes(expected_bytes)}, "
                f"{human_bytes(free)} are free",
                where=str(checkpoints),
                do="Free some space; the run goes on and tries again at the next save.",
            )
        aside = checkpoints / f".tmp-step-{step:08d}-{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        point("checkpoint.after_mkdir")
        return str(aside)
    except OSError as error:
        raise _save_error(checkpoints, str(error)) from error


def _is_committed(folder: Path) -> bool:
    """Whether `folder` is a good commit; a damaged one is moved out of the way, never overwritten."""
    if not folder.exists():
        return False
    try:
        if not damage(folder, read_manifest(folder).files):
            return True
    except ValueError:
        pass
    folder.rename(folder.with_name(f".bad-{folder.name}-{uuid.uuid4().hex[:8]}"))
    return False


def _finish(
    aside: Path,
    checkpoints: Path,
    facts: dict[str, Any],
    outcomes: list[tuple[list[FileRecord], str, Pieces]],
) -> str:
    """Rank 0's part: insist that every rank wrote, then manifest, rename, sync."""
    errors = [f"rank {rank}: {error}" for rank, (_, error, _) in enumerate(outcomes) if error]
    if errors:
        shutil.rmtree(aside, ignore_errors=True)
        raise _save_error(checkpoints, "; ".join(errors))
    try:
        files = [file for written, _, _ in outcomes for file in written]
        files.append(_write_weights_map(aside, [pieces for _, _, pieces in outcomes]))
        _write_manifest(aside, Manifest(facts, tuple(files)))
        for folder in {(aside / file.name).parent for file in files}:
            sync_folder(folder)
        point("checkpoint.before_rename")
        target = step_folder(checkpoints, facts["step"])
        aside.rename(target)
        point("checkpoint.after_rename")
        sync_folder(checkpoints)
        return str(target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise _save_error(checkpoints, str(error)) from error


def _write_weights_map(aside: Path, parts: list[Pieces]) -> FileRecord:
    """`weights.json`: for every weight its pieces in order, so any tool can put it together."""
    whole: Pieces = {}
    for part in parts:
        for name, pieces in part.items():
            whole.setdefault(name, []).extend(pieces)
    writer = ShardWriter(aside, 0)
    writer.save(WEIGHTS, json.dumps({name: sorted(pieces) for name, pieces in whole.items()}))
    if writer.error:
        raise OSError(writer.error)
    return writer.files[0]


def _write_manifest(aside: Path, manifest: Manifest) -> None:
    point("checkpoint.before_manifest")
    with (aside / MANIFEST).open("x", encoding="utf-8") as file:
        file.write(manifest.to_json())
        file.flush()
        point("checkpoint.mid_manifest")
        os.fsync(file.fileno())


def clear_debris(checkpoints: Path) -> None:
    """Remove what an interrupted save or deletion left behind."""
    for pattern in (".tmp-step-*", ".trash-step-*"):
        for folder in checkpoints.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def keep_newest(checkpoints: Path, keep: int) -> list[Path]:
    """Delete all but the newest `keep` commits, each renamed first so none is ever half there.

    Returns:
        What was deleted. Folders that are no commits are left alone: they may be evidence.
    """
    commits = [(step, path) for step, path in step_folders(checkpoints) if _has_manifest(path)]
    gone = []
    for _, folder in commits[keep:]:
        trash = folder.with_name(f".trash-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)
        gone.append(folder)
    return gone


def _has_manifest(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except ValueError:
        return False
    return True


def _save_error(checkpoints: Path, text: str) -> SaveError:
    return SaveError(
        f"the checkpoint was not committed: {text}",
        where=str(checkpoints),
        do="The last commit is untouched; the run goes on and tries again at the next save.",
    )
