"""One answer for all ranks: who asks to stop, when ranks agree, and machines that are taken away."""

from __future__ import annotations

import pytest

from vitscale.train import stop
from vitscale.train.progress import Progress
from vitscale.train.stop import StopRequest


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    return now


def steps_asked(request, clock, seconds_a_step, steps=40):
    """The steps at which ranks talked to each other."""
    asked, gather = [], request.gather

    def note(value):
        asked.append(step)
        return gather(value)

    request.gather = note
    for step in range(1, steps + 1):
        clock[0] += seconds_a_step
        request.asked(Progress(10**6, step))
    request.close()
    return asked


def test_ranks_agree_every_ten_steps_where_steps_are_fast(tmp_path, clock):
    request = StopRequest(tmp_path, lambda value: [value])
    assert steps_asked(request, clock, 0.1) == [10, 20, 30, 40]


def test_ranks_agree_at_every_step_where_steps_are_slow(tmp_path, clock):
    request = StopRequest(tmp_path, lambda value: [value])
    assert steps_asked(request, clock, 20.0) == list(range(10, 41))


def test_the_clock_of_rank_0_decides_for_all(tmp_path, clock):
    slow = (False, 1, False)
    request = StopRequest(tmp_path, lambda value: [slow, value])
    assert steps_asked(request, clock, 0.001) == list(range(10, 41))


def test_ranks_whose_machine_leaves_stop_the_run_and_are_named(tmp_path, clock):
    notices = iter([[], [], [1]])
    request = StopRequest(tmp_path, lambda value: [value], lambda: next(notices))
    answers = []
    for step in range(10, 60, 10):
        clock[0] += 5
        answers.append(request.asked(Progress(10**6, step)))
        if answers[-1]:
            break
    request.close()
    assert answers == [False, False, True] and request.leaving == [1]


def test_who_leaves_is_asked_by_the_clock_and_not_by_the_step(tmp_path, clock):
    looks = []
    request = StopRequest(tmp_path, lambda value: [value], lambda: looks.append(clock[0]) or [])
    steps_asked(request, clock, 0.1, steps=200)  # twenty seconds
    assert len(looks) == 4


def test_a_request_to_stop_comes_before_a_machine_that_leaves(tmp_path, clock):
    request = StopRequest(tmp_path, lambda value: [value], lambda: [1])
    (tmp_path / "STOP").touch()
    assert request.asked(Progress(10**6, 10)) and request.leaving == []
    request.close()


def test_a_run_that_is_done_is_finished_whoever_leaves(tmp_path, clock):
    request = StopRequest(tmp_path, lambda value: [value], lambda: [1])
    assert not request.asked(Progress(10, 10)) and request.leaving == []
    request.close()
