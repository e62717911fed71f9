"""A rank without progress leaves its stacks and ends; one with progress is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.ranks import ROOT
from vitscale.attempts import AttemptRecord, attempt_folder, new_attempt
from vitscale.train.restart import how_it_ended, who_hung

pytestmark = pytest.mark.faults


@pytest.fixture
def attempt(tmp_path):
    (tmp_path / "attempts").mkdir()
    new_attempt(tmp_path, 1, {"start.json": json.dumps({"step": 0})})
    return AttemptRecord(1, attempt_folder(tmp_path, 1))


def start(attempt, how, rank=0, hang_s=2):
    command = [sys.executable, "-m", "tests.train.beating", str(attempt.folder.parents[1])]
    command += [str(rank), str(hang_s), how]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def end_of(process):
    told = process.communicate(timeout=60)[1]
    return process.returncode, told


def test_a_rank_that_ends_as_it_should_leaves_a_beat_and_no_stacks(attempt):
    assert end_of(start(attempt, "ends")) == (0, "")
    assert attempt.beats == [{"rank": 0, "step": 2, "phase": "step", "count": 6}]
    assert attempt.stacks == {} and list((attempt.folder / "stacks").iterdir()) == []


def test_a_rank_that_sleeps_ends_with_75_and_says_where(attempt):
    code, told = end_of(start(attempt, "sleeps"))
    assert code == 75
    assert "rank 0: no progress for" in told and "in step 2, phase step" in told
    text = attempt.stacks[0].read_text()
    assert "in _main" in text and "beating.py" in text
    assert how_it_ended(attempt).startswith("attempt 1 (from step 0) hung: rank 0 was furthest")


def test_a_rank_that_holds_the_interpreter_ends_too(attempt):
    code, _ = end_of(start(attempt, "holds the interpreter"))
    assert code != 0
    assert "_hold_the_interpreter" in attempt.stacks[0].read_text()


def test_a_slow_save_is_not_a_hang(attempt):
    assert end_of(start(attempt, "saves slowly", hang_s=1))[0] == 0
    assert attempt.stacks == {}


def test_a_rank_that_goes_on_after_its_stacks_were_written_is_left_alone(attempt):
    code, told = end_of(start(attempt, "goes on after all", hang_s=6))
    assert code == 0, told
    assert "goes on after all" in told


def test_a_hang_may_last_where_the_watchdog_is_off(attempt):
    process = start(attempt, "sleeps", hang_s=float("inf"))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.kill()
    end_of(process)


def test_a_process_whose_attempt_was_taken_over_ends(attempt):
    process = start(attempt, "sleeps", hang_s=20)
    deadline = time.monotonic() + 30
    while not (attempt.folder / "beats" / "rank-00000").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    new_attempt(attempt.folder.parents[1], 2, {"start.json": "{}"})
    code, told = end_of(process)
    assert code == 75 and "a newer attempt owns" in told


def test_a_stopped_process_cannot_say_so_and_is_named_by_the_others(attempt):
    stopped = start(attempt, "sleeps", rank=1)
    while not attempt.beats:
        time.sleep(0.05)
    os.kill(stopped.pid, signal.SIGSTOP)
    (attempt.folder / "beats" / "rank-00001").write_text(
        json.dumps({"rank": 1, "step": 1, "phase": "data", "count": 3})
    )
    assert end_of(start(attempt, "sleeps", rank=0))[0] == 75
    os.kill(stopped.pid, signal.SIGKILL)
    end_of(stopped)
    assert who_hung(attempt) == "rank 1 was furthest behind, in step 1, phase data"
