"""Where a run goes on from and where it is kept: the resume rules of docs/resume.md."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.checkpoint.choose import Found, newest_good
from vitscale.checkpoint.commit import commit, keep_newest
from vitscale.checkpoint.files import ShardReader, ShardWriter
from vitscale.checkpoint.layout import CHECKPOINTS, MANIFEST
from vitscale.data.audit import keep_order
from vitscale.data.ledger import Seen, append
from vitscale.durable import write_text_atomically
from vitscale.engine.collectives import Ranks
from vitscale.errors import CheckpointError, SaveError
from vitscale.train.progress import Progress

log = logging.getLogger(__name__)

_FAILED_SAVES_LIMIT = 3
_MUST_EQUAL = ("world", "engine", "shape", "optimizer")


@dataclass(frozen=True)
class Start:
    """How this attempt begins where there is no commit; `resume` is "auto", "must" or "never"."""

    progress: Progress
    resume: str
    attempt: int


class RunCheckpoints:
    """Commits the state of engine and loader, and takes it back."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: Any,
        loader: Any,
        ranks: Ranks,
        facts: dict[str, Any],
        keep: int,
        start: Start,
    ) -> None:
        self.run_folder, self.folder = folder, folder / CHECKPOINTS
        self.engine, self.loader, self.ranks = engine, loader, ranks
        self.facts, self.keep = facts, keep
        self.start, self.resume, self.attempt = start.progress, start.resume, start.attempt
        self.failed_saves = 0
        self.unwritten: list[list[Seen]] = [[] for _ in range(ranks.place.world)]
        self.on_commit: Callable[[Path], None] = lambda folder: None

    def restore(self) -> Progress:
        """Own last good commit, else the start; never from the start where the run had progressed.

        Raises:
            CheckpointError: the commit belongs to another kind of run, or none is usable where one must be.
        """
        found, rejected = newest_good(self.folder, self.ranks)
        for line in rejected:
            log.warning("checkpoint rejected: %s", line)
        self._check_resume(found, rejected)
        if found is None:
            return self.start
        _insist_on_same_kind(found, self.facts)
        self.loader.resume(found.manifest.facts["data"])
        self.engine.load(ShardReader(found.folder), self.ranks.place.rank)
        step, images = found.manifest.step, found.manifest.facts["images"]
        log.info("resumed from %s: step %d, %d images", found.folder.name, step, images)
        return Progress(self.start.total_steps, step, images)

    def _check_resume(self, found: Found | None, rejected: list[str]) -> None:
        if self.resume == "never" and (found or rejected):
            raise CheckpointError(
                "the run has checkpoints already and --resume never was asked for",
                where=str(self.run_folder),
                do="Choose another run.name, or resume with --resume auto.",
            )
        if found is not None:
            return
        committed = self.ranks.first(lambda: _last_committed(self.run_folder))
        if rejected or committed or self.resume == "must":
            lost = "".join(f"\n  {line}" for line in rejected)
            raise CheckpointError(
                f"no usable checkpoint, though the run had committed step {committed}{lost}"
                if committed or rejected
                else "there is no checkpoint to resume from",
                where=str(self.run_folder),
                do="Restore the files, or start anew under another run.name.",
            )

    def save(self, progress: Progress) -> None:
        """Commit this step. A failed save is loud but ends the run only at the third in a row.

        Raises:
            SaveError: the third save in a row failed.
        """
        facts = {
            **self.facts,
            "step": progress.step,
            "images": progress.images,
            "data": self.loader.state(progress.images),
        }
        self._write_ledger(progress)
        try:
            folder = commit(
                self.folder, facts, self._write, self.ranks, expected_bytes=self._expected_bytes()
            )
        except SaveError as error:
            self.failed_saves += 1
            log.error("%s", error)
            if self.failed_saves >= _FAILED_SAVES_LIMIT:
                raise
            return
        self.failed_saves = 0
        if self.ranks.place.is_first:
            self._after_commit(folder, progress.step)

    def _write_ledger(self, progress: Progress) -> None:
        """Say what was seen before the commit that counts it, so that every committed step is in the ledger."""
        gathered = self.ranks.gather(self.loader.take_seen())
        if not self.ranks.place.is_first:
            return
        for kept, steps in zip(self.unwritten, gathered, strict=True):
            kept += steps
        try:
            keep_order(self.run_folder, self.loader.eras)
            position = (progress.step, progress.images)
            append(self.run_folder, self.attempt, position, self.unwritten)
            self.unwritten = [[] for _ in gathered]
        except OSError as error:
            log.error("the ledger could not be written, and is kept for the next save: %s", error)

    def _write(self, writer: ShardWriter) -> dict[str, list[Any]]:
        return self.engine.save(writer, self.ranks.place.rank)

    def _expected_bytes(self) -> int:
        """Weights and optimizer state: at most 18 bytes a parameter, and a little for the rest."""
        numbers = sum(math.prod(size) for size in self.facts["shapes"].values())
        return 18 * numbers + (1 << 20)

    def _after_commit(self, folder: Path, step: int) -> None:
        try:
            committed = json.dumps({"step": step})
            write_text_atomically(self.run_folder / "committed.json", committed)
            record = self.run_folder / "manifests" / f"{folder.name}.json"
            record.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / MANIFEST, record)  # it outlives the checkpoint
            self.on_commit(record)
            keep_newest(self.folder, self.keep)
        except OSError as error:  # the commit stands; what surrounds it may fail
            log.warning("after the commit of step %d: %s", step, error)


def _insist_on_same_kind(found: Found, facts: dict[str, Any]) -> None:
    """Compare in JSON's terms, since a manifest has lists where code has tuples."""
    own = json.loads(json.dumps(facts))
    saved = found.manifest.facts
    differ = [
        f"{name}: {saved.get(name)} in the checkpoint, {own[name]} now"
        for name in _MUST_EQUAL
        if saved.get(name) != own[name]
    ]
    if differ:
        raise CheckpointError(
            "the checkpoint is of another kind of run:\n  " + "\n  ".join(differ) + "\n",
            where=str(found.folder),
            do="Use the same settings and number of ranks, or start anew under another run.name "
            "(vitscale finetune starts from its weights).",
        )


def _last_committed(run_folder: Path) -> int:
    try:
        return int(json.loads((run_folder / "committed.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0
