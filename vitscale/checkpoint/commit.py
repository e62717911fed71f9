"""The commit protocol: write aside, leave notes, manifest last, one rename.

At any moment a kill leaves the previous commit or the new one, never something between: all files are written into
`.tmp-step-N-XXXX`, synced, hashed and read back by the rank that wrote them, which then leaves a note of them there.
Rank 0 waits for the notes of all ranks and writes the manifest; the rename to `step-N` makes the checkpoint exist for
readers. All of it happens on a thread of each rank and without collectives, so that training goes on meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitscale.checkpoint.files import ShardWriter
from vitscale.checkpoint.layout import (
    MANIFEST,
    STATE,
    FileRecord,
    Manifest,
    damage,
    read_manifest,
    step_folder,
)
from vitscale.durable import sync_folder, write_text_atomically
from vitscale.errors import SaveError
from vitscale.faults import point
from vitscale.place import Place
from vitscale.units import human_bytes

_NOTES = ".notes"
_LOOK_S = 0.02
_DO = "The last commit is untouched; the run goes on and tries again at the next save."


@dataclass(frozen=True)
class Part:
    """What one rank contributes: (name, record) of its files, and where its tensors lie in them (JSON)."""

    files: list[tuple[str, object]]
    stored: list[Any]
    refusal: str = ""
    """Why this rank must not be committed; its files are then not written."""


@dataclass(frozen=True)
class Terms:
    """On which terms a commit is made.

    Args:
        checkpoints: the run's `checkpoints` folder, on storage all ranks share.
        facts: of the run, JSON; `step` names the folder.
        timeout_s: how long rank 0 waits for the notes of other ranks once its own is there.
        insist: called by rank 0 right before the rename; raises if the run folder is no longer ours.
    """

    checkpoints: Path
    facts: dict[str, Any]
    timeout_s: float
    insist: Callable[[], None] = lambda: None

    @property
    def step(self) -> int:
        return self.facts["step"]


def make_aside(checkpoints: Path, step: int, expected_bytes: int) -> Path | None:
    """A fresh folder for the files, or None if this step is committed already; rank 0 calls it.

    Raises:
        SaveError: there is no space, or the storage does not work.
    """
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
        (aside / _NOTES).mkdir(parents=True)
        point("checkpoint.after_mkdir")
        return aside
    except OSError as error:
        raise _save_error(checkpoints, str(error)) from error


class Writing(threading.Thread):
    """Writes one rank's part of one checkpoint; on rank 0 it also commits.

    After it has ended, `error` is None or why there is no commit; other ranks than 0 know of their own part only.
    `settled` is called on rank 0 with the folder of the commit and the seconds it took.
    """

    def __init__(
        self,
        aside: Path,
        terms: Terms,
        part: Part,
        place: Place,
        settled: Callable[[Path, float], None],
    ) -> None:
        super().__init__(name="vitscale-checkpoint", daemon=True)
        self._aside, self._terms, self._part, self._place = aside, terms, part, place
        self._settled = settled
        self.step = terms.step
        self.error: Exception | None = None

    def run(self) -> None:
        """The thread; raises nothing."""
        began = time.perf_counter()
        try:
            leave_note(self._aside, self._part, self._place.rank)
            if self._place.is_first:
                notes = _await_notes(self._aside, self._place.world, self._terms)
                folder = _publish(self._aside, self._terms, notes)
                self._settled(folder, time.perf_counter() - began)
        except OSError as error:
            self.error = _save_error(self._terms.checkpoints, str(error))
        except Exception as error:  # whoever asked for the commit raises it
            self.error = error
        if self.error is not None and self._place.is_first:
            shutil.rmtree(self._aside, ignore_errors=True)


def leave_note(aside: Path, part: Part, rank: int) -> None:
    """Write the files of `part`, then the note that says so or what went wrong."""
    writer = ShardWriter(aside, rank)
    if not part.refusal:
        for name, record in part.files:
            writer.save(name, record)
    note = {
        "files": [asdict(file) for file in writer.files],
        "stored": part.stored,
        "error": part.refusal or writer.error,
    }
    write_text_atomically(aside / _NOTES / f"{rank:05d}.json", json.dumps(note))
    point("checkpoint.after_note", rank)


def _await_notes(aside: Path, world: int, terms: Terms) -> list[dict[str, Any]]:
    """The notes of all ranks.

    Raises:
        SaveError: a rank left none in time, or says that it could not write.
    """
    deadline = time.monotonic() + terms.timeout_s
    paths = [aside / _NOTES / f"{rank:05d}.json" for rank in range(world)]
    while missing := [rank for rank, path in enumerate(paths) if not path.exists()]:
        if time.monotonic() > deadline:
            ranks = ", ".join(map(str, missing))
            raise _save_error(
                terms.checkpoints, f"rank {ranks} did not finish within {terms.timeout_s:g} s"
            )
        time.sleep(_LOOK_S)
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    errors = [f"rank {rank}: {n['error']}" for rank, n in enumerate(notes) if n["error"]]
    if errors:
        raise _save_error(terms.checkpoints, "; ".join(errors))
    return notes


def _publish(aside: Path, terms: Terms, notes: list[dict[str, Any]]) -> Path:
    """State map, manifest, syncs, rename; the folder of the commit."""
    files = [FileRecord(**file) for note in notes for file in note["files"]]
    files.append(_write_state_map(aside, [each for note in notes for each in note["stored"]]))
    shutil.rmtree(aside / _NOTES)
    _write_manifest(aside, Manifest(terms.facts, tuple(files)))
    for folder in {aside, *((aside / file.name).parent for file in files)}:
        sync_folder(folder)
    point("checkpoint.before_rename")
    terms.insist()
    folder = step_folder(terms.checkpoints, terms.step)
    aside.rename(folder)
    point("checkpoint.after_rename")
    sync_folder(terms.checkpoints)
    point("checkpoint.after_commit")
    return folder


def _write_state_map(aside: Path, stored: list[Any]) -> FileRecord:
    """`state.json`: where each stretch of each tensor lies, so any tool can put them together."""
    writer = ShardWriter(aside, 0)
    writer.save(STATE, json.dumps(stored))
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
    point("checkpoint.after_manifest")


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


def clear_debris(checkpoints: Path) -> None:
    """Remove what an interrupted save or deletion left behind."""
    for pattern in (".tmp-step-*", ".trash-step-*"):
        for folder in checkpoints.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _save_error(checkpoints: Path, text: str) -> SaveError:
    return SaveError(f"the checkpoint was not committed: {text}", where=str(checkpoints), do=_DO)
