"""Commits of running trainings are scored once each, also by a follower that was killed; retention waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.evaluate.made_runs import make_downstream, make_run, train
from tests.ranks import ROOT
from vitscale.checkpoint import following
from vitscale.checkpoint.following import Following, is_awaited
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.checkpoint.retention import Retention, keep
from vitscale.errors import CheckpointError, LeaseError
from vitscale.evaluate.follow import follow

KNN = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "knn"\nk = [5]\n'


@pytest.fixture
def run(tmp_path):
    """A finished run with commits at 2, 4, 6 and 8."""
    return train(make_run(tmp_path, "train.duration=8 steps", "checkpoint.keep=9"))


def steps_of(run: Path) -> list[int]:
    return sorted(step for step, _ in step_folders(run / "checkpoints"))


def scored(run: Path, suite: str = "s") -> list[int]:
    log = run / "transfer" / f"followed-{suite}.jsonl"
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


def test_every_commit_is_scored_once_in_order_and_not_again(run):
    for _ in range(2):
        seen = []
        follow([run], "s", "raw", lambda s, seen=seen: seen.append(s.step), patience_s=5)
    assert seen == []
    assert scored(run) == [2, 4, 6, 8]


def test_what_could_not_be_scored_is_tried_again_at_the_next_start(run):
    def fail_at_six(subject):
        if subject.step == 6:
            raise CheckpointError("no luck")

    with pytest.raises(CheckpointError, match="no luck"):
        follow([run], "s", "raw", fail_at_six, patience_s=5)
    assert scored(run) == [2, 4]
    keep(run / "checkpoints", Retention(1))  # all were copied by now, so they may go
    assert steps_of(run) == [8]
    follow([run], "s", "raw", lambda subject: None, patience_s=5)
    assert scored(run) == [2, 4, 6, 8]


def test_retention_waits_for_a_follower_and_not_for_one_that_stays_away(run, monkeypatch):
    checkpoints = run / "checkpoints"
    mark = Following(checkpoints, "s")
    mark.note(read_manifest(checkpoints / "step-00000002").digest)
    keep(checkpoints, Retention(1))
    assert steps_of(run) == [4, 6, 8]
    monkeypatch.setattr(following, "PATIENCE_S", 0.0)
    assert not is_awaited(checkpoints, "0")
    keep(checkpoints, Retention(2))
    assert steps_of(run) == [6, 8]
    monkeypatch.undo()
    mark.close()
    keep(checkpoints, Retention(1))
    assert steps_of(run) == [8]


def test_commits_that_went_unseen_are_named(run):
    keep(run / "checkpoints", Retention(2))
    with pytest.raises(CheckpointError, match=r"before they could be scored.*steps 2, 4"):
        follow([run], "s", "raw", lambda subject: None, patience_s=5)
    assert scored(run) == [6, 8]


def test_a_run_that_never_begins_is_waited_for_and_named(run, tmp_path):
    said, seen = [], []
    runs = [run, tmp_path / "mistyped"]
    with pytest.raises(CheckpointError, match=r"mistyped: no run has begun there in 0\.1 s"):
        follow(runs, "s", "raw", lambda s: seen.append(s.step), patience_s=0.1, say=said.append)
    assert seen == scored(run) == [2, 4, 6, 8]
    assert said[0] == f"{runs[1]}: has not begun, and is waited for"


def test_two_followers_of_one_run_are_one_too_many(run):
    def second(subject):
        follow([run], "s", "raw", lambda subject: None, patience_s=1)

    with pytest.raises(LeaseError, match="another process follows"):
        follow([run], "s", "raw", second, patience_s=5)


@pytest.mark.slow
@pytest.mark.faults
def test_two_trainers_and_one_follower_that_is_killed_score_each_commit_once(tmp_path):
    data = tmp_path / "down"
    make_downstream(data)
    suite = tmp_path / "s.toml"
    suite.write_text(KNN.format(data))
    quick = ("train.duration=60 steps", "checkpoint.every=5 steps", "checkpoint.keep=1")
    recipes = [make_run(tmp_path, f"run.name={name}", *quick) for name in ("a", "b")]
    runs = [recipe.config.folder for recipe in recipes]
    follower = _start_follower(runs, suite)
    _wait_for(lambda: all((run / "checkpoints" / ".follow-s-raw").exists() for run in runs))
    trainers = [_start_trainer(recipe.to_json()) for recipe in recipes]
    _wait_for(lambda: any((run / "transfer" / "followed-s.jsonl").exists() for run in runs))
    os.killpg(follower.pid, signal.SIGKILL)
    follower.wait()
    before = sum(len(scored(run)) for run in runs if (run / "transfer/followed-s.jsonl").exists())
    assert [trainer.wait(timeout=600) for trainer in trainers] == [0, 0]
    again = _start_follower(runs, suite)
    assert again.wait(timeout=600) == 0
    expected = list(range(5, 61, 5))
    for run in runs:
        assert scored(run) == expected
        assert len(list((run / "transfer" / "results").glob("*.json"))) == len(expected)
        assert not list((run / "transfer" / "weights").iterdir())
        lines = (run / "metrics.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines if "transfer/one/knn" in line]
        assert Counter(record["step"] for record in told) == Counter(expected)
    assert before < 2 * len(expected)


def _start_follower(runs: list[Path], suite: Path) -> subprocess.Popen:
    words = ["evaluate", "--follow", *map(str, runs), "--suite", str(suite), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "vitscale", *words, "--workers", "1", "--patience", "60"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _start_trainer(recipe: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.evaluate.made_runs"]
    trainer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    )
    assert trainer.stdin is not None
    trainer.stdin.write(json.dumps(recipe))
    trainer.stdin.close()
    return trainer


def _wait_for(is_so, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
