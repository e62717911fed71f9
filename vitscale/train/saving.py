"""Where a run goes on from and where it is kept: the resume rules of docs/resume.md."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.checkpoint.choose import Found, found_commit, newest_good
from vitscale.checkpoint.commit import Part, Terms, Writing, make_aside
from vitscale.checkpoint.layout import CHECKPOINTS, MANIFEST, step_folder
from vitscale.checkpoint.promised import redeem
from vitscale.checkpoint.retention import Retention, holding, keep
from vitscale.checkpoint.snapshot import Snapshot
from vitscale.checkpoint.state import StateReader
from vitscale.checkpoint.weights import preprocessing_of
from vitscale.data.audit import keep_order
from vitscale.data.ledger import LedgerFile
from vitscale.durable import write_text_atomically
from vitscale.engine.collectives import Ranks
from vitscale.errors import CheckpointError, SaveError
from vitscale.train.guard import Guard
from vitscale.train.progress import Progress

log = logging.getLogger(__name__)

_FAILED_SAVES_LIMIT = 3
_LOOK_S = 20.0  # between two answers of rank 0, well below any time-out of a collective
_MUST_EQUAL = ("shape", "optimizer", "precision")


@dataclass(frozen=True)
class Start:
    """How this attempt begins where there is no commit of its own.

    `resume` is "auto", "must" or "never"; `named` is another run's checkpoint to go on from.
    """

    progress: Progress
    resume: str
    attempt: int
    named: str | None = None


@dataclass(frozen=True)
class Habits:
    """How commits are made, and what happens around them."""

    retention: Retention
    background: bool
    timeout_s: float
    insist: Callable[[], None] = lambda: None
    """Raises where the run folder is no longer this attempt's."""


@dataclass
class _Saves:
    """What is under way, and how it went so far."""

    snapshot: Snapshot
    writing: Writing | None = None
    failed: int = 0


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
        habits: Habits,
        start: Start,
        guard: Guard,
    ) -> None:
        self.run_folder, self.folder = folder, folder / CHECKPOINTS
        self.engine, self.loader, self.ranks = engine, loader, ranks
        self.facts, self.habits = facts, habits
        self.start, self.resume, self.named = start.progress, start.resume, start.named
        self.guard, self.saves = guard, _Saves(self._snapshot())
        self.ledger = LedgerFile(folder, start.attempt)
        self.on_commit: Callable[[Path], None] = lambda folder: None

    # ---- where a run goes on from ----

    def restore(self) -> Progress:
        """Own last good commit, else the one that was named, else the start; never silently from the start.

        Raises:
            CheckpointError: the commit belongs to another kind of run, or none is usable where one must be.
        """
        found, rejected = self._newest()
        self._check_resume(found, rejected)
        found = found or self._named()
        if found is None:
            return self.start
        self.guard.resume(found.manifest.facts.get("guard"))
        return self._load(found)

    def rewind(self, past: Progress) -> Progress:
        """Go back to the last good commit and pass over the samples from there to `past`, the end of a bad stretch.

        Raises:
            NotFiniteError: all rewinds are used up, or there is no commit to go back to.
            SaveError: the save that was under way was the third in a row that failed.
        """
        self.settle()
        self._write_ledger(past)
        self.guard.insist_on_rewinds_left(past)
        found = self._newest()[0] or self._named()
        if found is None:
            raise self.guard.given_up(past, "there is no commit to go back to")
        back = self._load(found)
        self.guard.rewound(found.manifest.facts.get("guard"), back, past)
        return Progress(past.total_steps, back.step, past.images)

    def _newest(self) -> tuple[Found | None, list[str]]:
        """The run's own newest good commit, and what is wrong with newer ones."""
        found, rejected = newest_good(self.folder, self.ranks)
        for line in rejected:
            log.warning("checkpoint rejected: %s", line)
        return found, rejected

    def _named(self) -> Found | None:
        """The commit that the recipe names to go on from, if it names one."""

        def find() -> Found:
            with found_commit(Path(str(self.named))) as found:
                return found

        return None if self.named is None else self.ranks.first(find)

    def _load(self, found: Found) -> Progress:
        """Take the state of a commit, whatever stage and number of ranks wrote it."""
        facts = found.manifest.facts
        _insist_on_same_kind(found, self.facts)
        with holding(found.folder):
            self.loader.resume(facts["data"])
            reader = StateReader(found.folder)
            had_average = self.engine.load(reader, facts["updates"])
            self.engine.loss_scale.resume(facts.get("loss_scale"))
            reader.close()
        if self.engine.state.average and not had_average:
            log.warning("%s has no moving average: it begins at the weights", found.folder.name)
        step, images = found.manifest.step, facts["images"]
        log.info(
            "resumed from %s: step %d, %d images; written by %s, read by %s",
            *(found.folder.name, step, images, _who(facts), _who(self.facts)),
        )
        if self.ranks.place.is_first and found.folder.parent == self.folder:
            self._keep_record(found.folder, step)  # a kill may have come between commit and record
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

    # ---- where it is kept ----

    def save(self, progress: Progress) -> None:
        """Begin to commit this step; all ranks call it together, and training may go on at once.

        A save that is still under way is waited for. A failed one is loud, but ends the run only at the third in a row.

        Raises:
            SaveError: the third save in a row failed.
        """
        self.settle()
        self._write_ledger(progress)
        began = time.perf_counter()
        try:
            step = progress.step
            aside = self.ranks.first(lambda: self._make_aside(step))
        except SaveError as error:
            self._note_failure(error)
            return
        if aside is None:
            return
        terms = Terms(
            self.folder, self._facts_at(progress), self.habits.timeout_s, self.habits.insist
        )
        self.saves.writing = Writing(
            aside, terms, self._part(aside), self.ranks.place, self._settled
        )
        self.saves.writing.start()
        log.info("step %d: snapshot taken in %.2f s", step, time.perf_counter() - began)
        if not self.habits.background:
            self.settle()

    def settle(self) -> bool:
        """Wait for the save that is under way, if any; all ranks call it together.

        Returns:
            Whether nothing is left to be committed: False after a save that failed.

        Raises:
            SaveError: it was the third in a row that failed.
        """
        writing = self.saves.writing
        if writing is None:
            return self.saves.failed == 0
        while not (outcome := self.ranks.first(lambda: _outcome(writing)))[0]:
            pass
        writing.join(timeout=self.habits.timeout_s)
        if writing.is_alive():  # it hangs in the storage and may still read the buffers
            self.saves.snapshot = self._snapshot()
        self.saves.writing = None
        if outcome[1] is not None:
            self._note_failure(outcome[1])
            return False
        self.saves.failed = 0
        if self.ranks.place.is_first:
            self.on_commit(self._record_of(step_folder(self.folder, writing.step)))
            if self.named is not None:
                redeem(Path(self.named), self.run_folder.name)
        return True

    def finish(self, progress: Progress) -> None:
        """Commit this step for certain before the run ends or stops.

        Raises:
            SaveError: three tries failed.
        """
        while not self.settle():
            self.save(progress)

    def _make_aside(self, step: int) -> Path | None:
        self.habits.insist()  # what was replaced would take the files of its successor for debris
        return make_aside(self.folder, step, self._expected_bytes())

    def _snapshot(self) -> Snapshot:
        disk = self.engine.state.disk
        return Snapshot(disk.zeros_of_reserve if disk else None)

    def _part(self, aside: Path) -> Part:
        self.saves.snapshot.begin(aside)
        stored = self.engine.save(self.saves.snapshot, self.ranks.place.rank)
        files = self.saves.snapshot.finish()
        refusal = "" if self.engine.state.is_finite() else "its weights are not finite numbers"
        return Part(files, stored, refusal)

    def _facts_at(self, progress: Progress) -> dict[str, Any]:
        return {
            **self.facts,
            "step": progress.step,
            "images": progress.images,
            "updates": self.engine.state.updates,
            "data": self.loader.state(progress.images),
            "guard": self.guard.state(),
            "loss_scale": self.engine.loss_scale.state(),
        }

    def _note_failure(self, error: Exception) -> None:
        self.saves.failed += 1
        if not isinstance(error, SaveError) or self.saves.failed >= _FAILED_SAVES_LIMIT:
            raise error
        log.error("%s", error)

    def _write_ledger(self, progress: Progress) -> None:
        """Say what was seen before the commit that counts it, so that every committed step is in the ledger."""
        gathered = self.ranks.gather(self.loader.take_seen())
        if not self.ranks.place.is_first:
            return
        try:
            keep_order(self.run_folder, self.loader.eras)
        except OSError as error:
            log.error("the order could not be laid beside the ledger: %s", error)
        self.ledger.steps((progress.step, progress.images), gathered)

    def _expected_bytes(self) -> int:
        """Free space that a commit needs: weights as they compute, masters, moments, average, and a little."""
        numbers = sum(math.prod(size) for size in self.facts["shapes"].values())
        return (16 + 4 * bool(self.engine.state.average)) * numbers + (4 << 20)

    def _settled(self, folder: Path, seconds: float) -> None:
        """Right after a commit, on the thread that made it."""
        log.info("committed %s, written in %.2f s", folder.name, seconds)
        self._keep_record(folder, int(folder.name.split("-")[1]))
        try:
            keep(self.folder, self.habits.retention)
        except OSError as error:  # the commit stands
            log.warning("older commits could not be deleted: %s", error)

    def _keep_record(self, folder: Path, step: int) -> None:
        """That there is a commit, and its manifest: both outlive it."""
        try:
            committed = json.dumps({"step": step})
            write_text_atomically(self.run_folder / "committed.json", committed)
            record = self._record_of(folder)
            record.parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / MANIFEST, record)
        except OSError as error:
            log.warning("after the commit of step %d: %s", step, error)

    def _record_of(self, folder: Path) -> Path:
        return self.run_folder / "manifests" / f"{folder.name}.json"


def _outcome(writing: Writing) -> tuple[bool, Exception | None]:
    """Whether rank 0's part is over, and what went wrong."""
    writing.join(timeout=_LOOK_S)
    return not writing.is_alive(), writing.error


def _who(facts: dict[str, Any]) -> str:
    """`2 ranks under ZeRO-1`."""
    world, engine = facts["world"], facts["engine"]
    how = "plain torch" if engine["kind"] == "local" else f"ZeRO-{engine['stage']}"
    return f"{world} rank{'s' * (world > 1)} under {how}"


def _insist_on_same_kind(found: Found, facts: dict[str, Any]) -> None:
    """Compare in JSON's terms, since a manifest has lists where code has tuples."""
    own = json.loads(json.dumps(facts))
    saved = found.manifest.facts
    differ = [
        f"{name}: {saved.get(name)} in the checkpoint, {own[name]} now"
        for name in _MUST_EQUAL
        if saved.get(name) != own[name]
    ]
    pixels, now = preprocessing_of(saved), preprocessing_of(own)
    if not pixels.fits(now.mean, now.std):
        differ.append(
            f"data.mean and data.std: {list(pixels.mean)}, {list(pixels.std)} in the checkpoint, "
            f"{list(now.mean)}, {list(now.std)} now"
        )
    if differ:
        raise CheckpointError(
            "the checkpoint is of another kind of run:\n  " + "\n  ".join(differ) + "\n",
            where=str(found.folder),
            do="Use the same settings, or start anew under another run.name "
            "(vitscale finetune starts from its weights).",
        )


def _last_committed(run_folder: Path) -> int:
    try:
        return int(json.loads((run_folder / "committed.json").read_text())["step"])
    except (OSError, ValueError, KeyError):
        return 0
