"""Score weights on a suite: what is done already is read, the rest is run side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitscale.config.source import Source
from vitscale.config.suite import (
    FinetuneTask,
    LinearTask,
    LoadedSuite,
    LogregTask,
    RidgeTask,
    Row,
)
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.data.pieces import Pieces
from vitscale.errors import DataError, VitscaleError
from vitscale.evaluate.fewshot import draw, insist_on_same_classes
from vitscale.evaluate.finetune import Train, Tuning
from vitscale.evaluate.jobs import (
    FeaturePart,
    FeatureSet,
    Fit,
    Job,
    Piece,
    Trial,
    Tuned,
    job_of,
    run_piece,
)
from vitscale.evaluate.results import Results
from vitscale.evaluate.subject import Machine, Subject, alone_with, let_go, retain

SetKey = tuple[str, int | None, View]


@dataclass(frozen=True)
class Setting:
    """Where and how a suite runs: on which machine, by which processes, with which trainer, into which folder."""

    machine: Machine
    pieces: Pieces
    train: Train
    folder: Path
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Scored:
    """A suite on some weights: its jobs in order, and why some have no result."""

    suite: str
    subject: Subject
    jobs: list[Job]
    failed: dict[str, VitscaleError]


def score_suite(subject: Subject, suite: LoadedSuite, setting: Setting) -> Scored:
    """Bring all results of the suite into being; a job that fails does not end the others.

    Raises:
        ConfigError, DataError: a data set cannot be opened or does not fit its task; nothing was run then.
        CheckpointError: the weights are damaged or gone, and a job still needs them.
    """
    opened = _all_open(suite.rows)
    jobs = [job_of(row, corpora, subject, setting.machine.precision) for row, corpora in opened]
    results = Results(setting.folder)
    with alone_with(subject, setting.folder, setting.say):
        missing = [n for n, job in enumerate(jobs) if results.read(job.key) is None]
        setting.say(f"{subject.name}: {len(jobs) - len(missing)} of {len(jobs)} tasks are done")
        if not missing:
            let_go(subject)
            return Scored(suite.name, subject, jobs, {})
        retain(subject)
        work = _Work(subject, setting, jobs, opened)
        failed = work.run(missing)
        if not failed:
            work.clean_up()
        return Scored(suite.name, subject, jobs, failed)


def _all_open(rows: Sequence[Row]) -> list[tuple[Row, dict[str, Corpus]]]:
    """The corpora of every row.

    Raises:
        DataError: names every set that cannot be opened or does not fit its task.
    """
    opened, problems = [], dict[str, DataError]()
    for row in rows:
        try:
            opened.append((row, _open(row)))
        except DataError as error:
            problems[str(error)] = error
    if len(problems) > 1:
        lines = "\n  ".join(problems)
        raise DataError(f"{len(problems)} sets of the suite cannot be used:\n  {lines}\n")
    for error in problems.values():
        raise error
    return opened


def _open(row: Row) -> dict[str, Corpus]:
    """The corpora of "test", "train" and "dev", as far as the task reads them, all with the same classes."""
    corpora = {"test": open_corpus([row.data.test])}
    if row.task.method != "head" and row.data.train is not None:
        corpora["train"] = open_corpus(row.data.train)
    if row.data.dev is not None and row.task.method in ("linear", "logreg", "finetune"):
        corpora["dev"] = open_corpus([row.data.dev])
    for name in ("train", "dev"):
        if name in corpora:
            insist_on_same_classes(corpora[name], corpora["test"])
    return corpora


class _Work:
    """What is to be run for the jobs of a suite, and in which order."""

    def __init__(
        self,
        subject: Subject,
        setting: Setting,
        jobs: list[Job],
        opened: Sequence[tuple[Row, dict[str, Corpus]]],
    ) -> None:
        self._subject, self._setting, self._jobs, self._opened = subject, setting, jobs, opened
        self._drawn = [_draws(row, corpora) for row, corpora in opened]
        self._sets = self._all_sets()

    def run(self, missing: Sequence[int]) -> dict[str, VitscaleError]:
        """First features and trials, then the tasks on them; errors by the key of their job."""
        first = {_name_of(piece): piece for n in missing for piece in self._needs(n)}
        errors = self._all_of(list(first.values()), "features and trials")
        broken = dict(zip(first, errors, strict=True))
        failed: dict[str, VitscaleError] = {}
        ready: dict[str, Piece] = {}
        for n in missing:
            key, needed = self._jobs[n].key, self._needs(n, also_done=True)
            own = [error for piece in needed if (error := broken.get(_name_of(piece)))]
            if own:
                failed[key] = own[0]
            else:
                ready[key] = self._task(n)
        errors = self._all_of(list(ready.values()), "tasks")
        failed |= {key: e for key, e in zip(ready, errors, strict=True) if e is not None}
        return failed

    def clean_up(self) -> None:
        """Delete what only served to come to the results."""
        for found in self._sets.values():
            shutil.rmtree(found.files[0].parent, ignore_errors=True)
        for job in self._jobs:
            shutil.rmtree(self._tuning_folder(job), ignore_errors=True)
        let_go(self._subject)

    def _all_of(self, work: list[Piece], what: str) -> list[VitscaleError | None]:
        errors: list[VitscaleError | None] = [None] * len(work)
        results = self._setting.pieces(run_piece, work)
        for done, (number, error) in enumerate(results, 1):
            errors[number] = error
            ending = f": {_name_of(work[number])}" + (f" failed: {error}" if error else "")
            self._setting.say(f"{what} {done} of {len(work)}{ending}")
        return errors

    def _needs(self, n: int, *, also_done: bool = False) -> Iterator[Piece]:
        """What has to be there before job `n` can run, and is not, or all of it."""
        if isinstance(self._jobs[n].row.task, FinetuneTask):
            tuning = self._tuning(n)
            rates = tuning.task.lrs if len(tuning.task.lrs) > 1 else ()
            pieces: list[Trial | FeaturePart] = [Trial(tuning, lr) for lr in rates]
        else:
            sets = self._sets_of(n).values()
            pieces = [FeaturePart(one, part) for one in sets for part in range(len(one.files))]
        for piece in pieces:
            if also_done or not _file_of(piece).exists():
                yield piece

    def _task(self, n: int) -> Piece:
        job = self._jobs[n]
        if isinstance(job.row.task, FinetuneTask):
            return Tuned(job, self._tuning(n), self._setting.folder)
        return Fit(job, self._subject, self._sets_of(n), self._drawn[n], self._setting.folder)

    def _tuning(self, n: int) -> Tuning:
        job, setting = self._jobs[n], self._setting
        assert isinstance(job.row.task, FinetuneTask)
        folder = self._tuning_folder(job)
        return Tuning(
            self._subject, job.row.task, job.row.data, setting.machine, folder, setting.train
        )

    def _tuning_folder(self, job: Job) -> Path:
        return self._setting.folder / "finetunes" / job.key

    def _sets_of(self, n: int) -> dict[str, FeatureSet]:
        row, corpora = self._opened[n]
        return {
            role: self._sets[_set_key(row, corpus)]
            for role, corpus in corpora.items()
            if role != "dev" or isinstance(row.task, LinearTask | LogregTask)
        }

    def _all_sets(self) -> dict[SetKey, FeatureSet]:
        """One set of features for all tasks that look at the same images in the same way.

        Only what is needed is in it: where all tasks draw few shots, those. This follows from the whole suite and not
        from what is missing of it, so that a second start computes the same.
        """
        sets: dict[SetKey, FeatureSet] = {}
        for (row, corpora), drawn in zip(self._opened, self._drawn, strict=True):
            if isinstance(row.task, FinetuneTask):
                continue
            for role, corpus in corpora.items():
                key = _set_key(row, corpus)
                some = _all_ids(drawn) if role == "train" and drawn else None
                if key in sets:
                    sets[key] = replace(sets[key], ids=_both(sets[key].ids, some))
                else:
                    sets[key] = self._set(row, role, corpus, some)
        return sets

    def _set(self, row: Row, role: str, corpus: Corpus, ids: np.ndarray | None) -> FeatureSet:
        sources: dict[str, Sequence[Source | None]] = {
            "test": [row.data.test],
            "train": row.data.train or [],
            "dev": [row.data.dev],
        }
        return FeatureSet(
            self._subject,
            tuple(source for source in sources[role] if source is not None),
            corpus.facts.fingerprint,
            corpus.samples,
            row.task.image_px,
            View(row.task.crop, row.task.resize_px),
            ids,
            self._setting.machine,
            self._setting.folder,
        )


def _draws(row: Row, corpora: dict[str, Corpus]) -> list[list[np.ndarray]]:
    """The few-shot draws of a ridge task; none of others."""
    if not isinstance(row.task, RidgeTask):
        return []
    labels = np.asarray(corpora["train"].labels())
    classes, most = len(corpora["train"].classes), max(row.task.shots)
    return [draw(labels, classes, most, seed) for seed in range(row.task.seeds)]


def _set_key(row: Row, corpus: Corpus) -> SetKey:
    return corpus.facts.fingerprint, row.task.image_px, View(row.task.crop, row.task.resize_px)


def _all_ids(drawn: Sequence[list[np.ndarray]]) -> np.ndarray:
    return np.unique(np.concatenate([ids for draws in drawn for ids in draws]))


def _both(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return None if one is None or other is None else np.union1d(one, other)


def _file_of(piece: Trial | FeaturePart) -> Path:
    return piece.file if isinstance(piece, Trial) else piece.of.files[piece.part]


def _name_of(piece: Piece) -> str:
    """For people, and to tell pieces apart."""
    if isinstance(piece, FeaturePart):
        file = _file_of(piece)
        return f"{piece.of.sources[0].shards} {file.stem} ({file.parent.name})"
    if isinstance(piece, Trial):
        return f"rate {piece.lr:g} ({piece.tuning.folder.name})"
    return f"{piece.job.row.name} {piece.job.row.task.method} ({piece.job.key})"
