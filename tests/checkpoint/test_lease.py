"""One launch at a time writes a run, and the newest attempt owns it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vitscale.attempts import (
    attempt_folder,
    attempts_of,
    newest_attempt,
    note_end,
    this_process,
)
from vitscale.checkpoint import lease
from vitscale.checkpoint.lease import LEASE_S, claim
from vitscale.errors import LeaseError


def files(submission, **process):
    start = {"submission": submission, "job": "17", **this_process(), **process}
    return lambda number: {"start.json": json.dumps(start), "beats/rank-00000": "{}"}


def beat_of(folder, number):
    return attempt_folder(folder, number) / "beats" / "rank-00000"


@pytest.fixture
def beating(tmp_path):
    """Keeps touching the beat of an attempt, as its ranks would."""
    over = threading.Event()

    def touch(number):
        while not over.wait(0.05):
            os.utime(beat_of(tmp_path, number))

    threads = []

    def begin(number):
        threads.append(threading.Thread(target=touch, args=(number,)))
        threads[-1].start()

    yield begin
    over.set()
    for thread in threads:
        thread.join()


def test_restarts_of_one_submission_follow_each_other_at_once(tmp_path):
    assert [claim(tmp_path, "a", files("a")).number for _ in range(3)] == [1, 2, 3]
    assert newest_attempt(tmp_path) == 3


def test_a_second_launch_is_refused_and_told_whose_the_run_is(tmp_path, beating):
    claim(tmp_path, "a", files("a", host="elsewhere", pid=4711))
    beating(1)
    with pytest.raises(LeaseError, match="process 4711 on elsewhere, job 17") as error:
        claim(tmp_path, "b", files("b"))
    assert not error.value.retry and error.value.exit_code == 2
    assert "touch STOP" in str(error.value)
    assert newest_attempt(tmp_path) == 1


def test_a_live_launch_of_this_host_is_refused_too(tmp_path, beating):
    claim(tmp_path, "a", files("a"))
    beating(1)
    with pytest.raises(LeaseError):
        claim(tmp_path, "b", files("b"))


def test_a_launch_that_ended_makes_room_at_once(tmp_path):
    claim(tmp_path, "a", files("a", host="elsewhere"))
    note_end(tmp_path, 1, "stopped")
    assert claim(tmp_path, "b", files("b")).number == 2


def test_a_process_of_this_host_that_is_gone_makes_room_at_once(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim(tmp_path, "a", files("a", pid=gone.pid, born="1"))
    assert claim(tmp_path, "b", files("b")).number == 2


def test_a_launch_that_fell_silent_loses_the_run(tmp_path):
    claim(tmp_path, "a", files("a", host="elsewhere"))
    past = time.time() - LEASE_S - 5
    os.utime(beat_of(tmp_path, 1), (past, past))
    assert claim(tmp_path, "b", files("b")).number == 2


def test_a_silent_launch_is_watched_until_its_silence_is_certain(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    claim(tmp_path, "a", files("a", host="elsewhere"))
    before = time.monotonic()
    assert claim(tmp_path, "b", files("b")).number == 2
    assert time.monotonic() - before > 0.5


def test_what_was_replaced_may_not_make_anything_real(tmp_path):
    first = claim(tmp_path, "a", files("a"))
    first.insist()
    second = claim(tmp_path, "a", files("a"))
    assert first.is_lost and not second.is_lost
    with pytest.raises(LeaseError, match="attempt 2 owns the run folder, this is attempt 1"):
        first.insist()
    second.insist()


def test_of_many_that_begin_at_once_each_gets_a_number_of_its_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        leases = list(pool.map(lambda _: claim(tmp_path, "a", files("a")), range(32)))
    assert sorted(one.number for one in leases) == list(range(1, 33))
    assert len(attempts_of(tmp_path, "a")) == 32
    assert {p.name for p in (tmp_path / "attempts").iterdir()} == {f"{n:04d}" for n in range(1, 33)}
