"""Score every commit of running trainings once: a thread copies new weights, and they are scored in turn.

What was scored is in `transfer/followed-SUITE.jsonl`, a line a commit, so that a follower that was killed goes on where
it was. Commits it has not copied are not deleted meanwhile (`checkpoint/following.py`).
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitscale.attempts import AttemptRecord, attempt_folder, newest_attempt
from vitscale.checkpoint.following import Following, mark_of
from vitscale.checkpoint.layout import CHECKPOINTS, step_folders
from vitscale.checkpoint.lease import is_running
from vitscale.config.suite import LoadedSuite
from vitscale.errors import CheckpointError, LeaseError
from vitscale.evaluate.results import Results
from vitscale.evaluate.subject import Subject, retain, subject_of
from vitscale.evaluate.suite import Setting, score_suite
from vitscale.evaluate.tell_run import publish_in_run

_LOOK_S = 1.0


@dataclass
class Followed:
    """One run that is followed for one suite."""

    run: Path
    suite: str
    which: str
    mark: Following
    seen: set[str] = field(default_factory=set)

    @property
    def log(self) -> Path:
        """A line for each commit that was scored."""
        return self.run / "transfer" / f"followed-{self.suite}.jsonl"

    @property
    def done(self) -> set[str]:
        """Identities of the weights that were scored."""
        try:
            lines = self.log.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return set()
        return {record["identity"] for line in lines if (record := _parsed(line))}

    def write_down(self, subject: Subject) -> None:
        """That these weights were scored; the last thing that is done for a commit."""
        record = {"step": subject.step, "identity": subject.identity, "time": round(time.time(), 3)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def copied_before(self) -> list[Subject]:
        """Weights that a follower copied and was killed before it could score them; their commits may be gone."""
        done = self.done
        waiting = [subject for _, subject in self._recorded() if subject.copy.exists()]
        waiting = [subject for subject in waiting if subject.identity not in done]
        self.seen |= {subject.identity for subject in waiting}
        return waiting

    def copy_new(self) -> list[Subject]:
        """Copy the weights of commits not seen before; those to be scored, oldest first."""
        fresh, done = [], self.done
        self.mark.touch()
        for _, folder in reversed(step_folders(self.run / CHECKPOINTS)):
            try:
                subject = self._subject(folder)
                if subject.identity in self.seen:
                    continue
                if subject.identity not in done:
                    retain(subject)
                    fresh.append(subject)
            except CheckpointError:  # not committed yet, damaged, or gone while we looked
                continue
            self.seen.add(subject.identity)
            self.mark.note(subject.digest)
        return fresh

    def _subject(self, folder: Path) -> Subject:
        return subject_of(folder, self.which, None, keeper=f"follow-{self.suite}")

    @property
    def has_begun(self) -> bool:
        """Whether there is, or was, anything to be scored."""
        return newest_attempt(self.run) > 0 or bool(step_folders(self.run / CHECKPOINTS))

    @property
    def is_over(self) -> bool:
        """Whether the run came to its end."""
        number = newest_attempt(self.run)
        end = AttemptRecord(number, attempt_folder(self.run, number)).end if number else {}
        return end.get("status") == "finished"

    def lost(self) -> list[int]:
        """Steps of commits that were made, and were deleted before they could be copied."""
        done = self.done
        return [step for step, subject in self._recorded() if subject.identity not in done]

    def _recorded(self) -> list[tuple[int, Subject]]:
        """Step and weights of every commit the run remembers, deleted ones too, oldest first."""
        names = sorted(path.stem for path in (self.run / "manifests").glob("*.json"))
        subjects = [self._subject(self.run / CHECKPOINTS / name) for name in names]
        return [(subject.step, subject) for subject in subjects]


def scorer(
    suite: LoadedSuite,
    setting_of: Callable[[Subject], Setting],
    told: Callable[[dict[str, Any]], None],
) -> Callable[[Subject], None]:
    """What `follow` calls with each commit: it scores the suite, tells the run, and hands the table to `told`.

    It raises what a task failed with: the commit is then not done, and the next start tries it again.
    """

    def score(subject: Subject) -> None:
        setting = setting_of(subject)
        found = score_suite(subject, suite, setting)
        record, _ = publish_in_run(found, Results(setting.folder))
        told(record)
        for error in found.failed.values():
            raise error

    return score


def follow(
    runs: Sequence[Path],
    suite: str,
    which: str,
    score: Callable[[Subject], None],
    *,
    patience_s: float,
    say: Callable[[str], None] = lambda line: None,
    over: Callable[[], bool] | None = None,
) -> None:
    """Score each commit of the runs until all have finished, or none has run for `patience_s`.

    Args:
        runs: run folders, which may still be empty.
        suite: name of the suite, for the marks and logs.
        which: "raw" or "ema".
        score: scores one set of weights and publishes the table.
        patience_s: seconds to wait for a run that is not at work.
        say: gets a line for each event.
        over: says that no more commits will come; where given, the runs are not asked whether they have finished.

    Raises:
        LeaseError: another follower is at work on one of the runs.
        CheckpointError: at the end, if commits were gone before they could be scored; names their steps. Or a run
            never began.
    """
    with ExitStack() as stack:
        followed = [stack.enter_context(_following(run, suite, which)) for run in runs]
        for run in followed:
            if not run.has_begun and over is None:
                say(f"{run.run}: has not begun, and is waited for")
        todo: queue.Queue[tuple[Followed, Subject] | None] = queue.Queue()
        watch = threading.Thread(
            target=_watch, args=(followed, todo, patience_s, over), name="follow", daemon=True
        )
        watch.start()
        while (item := todo.get()) is not None:
            run, subject = item
            score(subject)
            run.write_down(subject)
            say(f"{subject.name} is scored")
        watch.join()
        lost = {str(run.run): steps for run in followed if (steps := run.lost())}
        absent = [str(run.run) for run in followed if not run.has_begun and over is None]
        for run in followed:
            if run.is_over:
                run.mark.close()
    if lost:
        raise CheckpointError(
            "commits were deleted before they could be scored",
            where=", ".join(lost),
            given="; ".join(f"steps {', '.join(map(str, steps))}" for steps in lost.values()),
            do="Follow a run from its beginning, or keep more with checkpoint.keep.",
        )
    if absent:
        raise CheckpointError(
            f"no run has begun there in {patience_s:g} s",
            where=", ".join(absent),
            do="Correct the path, or wait longer with --patience.",
        )


@contextmanager
def _following(run: Path, suite: str, which: str) -> Generator[Followed]:
    """The run, for this follower alone; the lock falls with the process."""
    (run / "transfer").mkdir(parents=True, exist_ok=True)
    with (run / "transfer" / f".follow-{suite}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LeaseError(
                f"another process follows this run for suite {suite}",
                where=str(run),
                do="Let it work; one is enough.",
            ) from None
        yield Followed(run, suite, which, mark_of(run, suite, which))


def _watch(
    followed: Sequence[Followed],
    todo: queue.Queue[tuple[Followed, Subject] | None],
    patience_s: float,
    over: Callable[[], bool] | None,
) -> None:
    """Copy and queue what is new, until all runs are over or have been still for long; then None."""
    heard = time.monotonic()
    try:
        for run in followed:
            for subject in run.copied_before():
                todo.put((run, subject))
        while True:
            # Asked before the look, so that it is the last one.
            ended = over() if over is not None else all(run.is_over for run in followed)
            for run in followed:
                for subject in run.copy_new():
                    todo.put((run, subject))
            if any(is_running(run.run) for run in followed):
                heard = time.monotonic()
            if ended or time.monotonic() - heard > patience_s:
                return
            time.sleep(_LOOK_S)
    finally:
        todo.put(None)


def _parsed(line: str) -> dict[str, str] | None:
    """A line of the log; None if a kill tore it."""
    try:
        return json.loads(line)
    except ValueError:
        return None
