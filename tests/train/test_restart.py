"""When another attempt is begun, and when there is no hope."""

from __future__ import annotations

import json

import pytest

from vitscale.attempts import attempt_folder, attempts_of, new_attempt, note_end, note_failure
from vitscale.errors import HopelessError
from vitscale.train.restart import failure_of, how_it_ended, insist_on_hope, who_hung


@pytest.fixture
def past(tmp_path):
    """Makes attempts of submission "a", each as (step it began with, its failure or its end)."""
    (tmp_path / "attempts").mkdir()

    def make(*attempts):
        for number, (step, ending) in enumerate(attempts, 1):
            start = {"submission": "a", "step": step}
            assert new_attempt(tmp_path, number, {"start.json": json.dumps(start)})
            if isinstance(ending, str):
                note_end(tmp_path, number, ending)
            elif ending is not None:
                note_failure(tmp_path, number, ending)
        return attempts_of(tmp_path, "a")

    return make


def fails(message, step=7, error=ValueError, rank=1):
    return failure_of(error(message), rank=rank, step=step, phase="step")


def test_the_same_error_at_the_same_step_twice_in_a_row_ends_the_job(past):
    records = past((4, fails("bad shape")), (6, fails("bad shape", rank=0)))
    with pytest.raises(HopelessError, match="attempts 1 and 2 both failed at step 7") as error:
        insist_on_hope(records, 6)
    assert "ValueError: bad shape" in str(error.value) and not error.value.retry


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (fails("bad shape"), fails("bad shape", step=8)),
        (fails("bad shape"), fails("another")),
        (fails("bad shape"), fails("bad shape", error=TypeError)),
        (fails("Connection closed by peer", error=RuntimeError),) * 2,
        (None, fails("bad shape")),
    ],
    ids=["other step", "other words", "other type", "a lost peer", "first was killed"],
)
def test_failures_that_differ_are_tried_again(past, first, second):
    insist_on_hope(past((4, first), (6, second)), 6)


def test_an_address_in_memory_does_not_make_two_errors_differ(past):
    first, second = (fails(f"<Thing at {address}>") for address in ("0x7f12a0", "0x7f33b8"))
    with pytest.raises(HopelessError):
        insist_on_hope(past((0, first), (0, second)), 0)


def test_three_deaths_without_a_commit_end_the_job_and_are_all_told(past):
    records = past((4, "stopped"), (4, None), (4, fails("no route to host")), (4, "died"))
    with pytest.raises(HopelessError, match="3 attempts in a row died without a new commit") as e:
        insist_on_hope(records, 4)
    text = str(e.value)
    assert "attempt 2 (from step 4) was killed at step 0" in text
    assert "attempt 3 (from step 4) failed at step 7 on rank 1: ValueError: no route" in text


@pytest.mark.parametrize(
    ("attempts", "step"),
    [
        ([(4, None), (4, None), (4, None)], 6),
        ([(2, None), (4, None), (4, None)], 4),
        ([(4, None), (4, "preempted"), (4, None)], 4),
        ([(4, None), (4, "resized"), (4, None)], 4),
        ([(4, None), (4, None)], 4),
    ],
    ids=["the last committed", "the first committed", "preempted", "resized", "two"],
)
def test_deaths_that_are_not_three_in_a_row_without_a_commit_are_tried_again(past, attempts, step):
    insist_on_hope(past(*attempts), step)


def hang(folder, *ranks):
    """Beats and stacks of (rank, step, count, stack or None)."""
    for kind in ("beats", "stacks"):
        (folder / kind).mkdir(exist_ok=True)
    for rank, step, count, stack in ranks:
        beat = {"rank": rank, "step": step, "phase": "step", "count": count}
        (folder / "beats" / f"rank-{rank:05d}").write_text(json.dumps(beat))
        if stack is not None:
            (folder / "stacks" / f"rank-{rank:05d}.txt").write_text(stack)


WAITS = 'File ".../torch/distributed/distributed_c10d.py", line 2810 in all_reduce'


@pytest.mark.parametrize(
    ("ranks", "culprit"),
    [
        ([(0, 5, 12, WAITS), (1, 5, 11, "in read")], "rank 1"),
        ([(0, 5, 12, "in decode"), (1, 5, 12, WAITS), (2, 5, 12, WAITS)], "rank 0"),
        ([(0, 5, 12, WAITS), (1, 5, 12, WAITS), (2, 5, 12, None)], "rank 2"),
        ([(0, 5, 12, WAITS), (1, 5, 12, WAITS)], "rank 0, 1"),
        ([(0, 9, 30, WAITS), (1, 5, 40, WAITS)], "rank 1"),
    ],
)
def test_who_hung_is_the_rank_furthest_behind_that_waited_for_nobody(
    past, tmp_path, ranks, culprit
):
    (record,) = past((4, None))
    hang(record.folder, *ranks)
    assert who_hung(record) == f"{culprit} was furthest behind, in step 5, phase step"
    assert "hung" in how_it_ended(record)


def test_a_torn_record_is_no_record(past, tmp_path):
    (record,) = past((4, None))
    (attempt_folder(tmp_path, 1) / "end.json").write_text('{"stat')
    assert record.end == {} and record.start["step"] == 4
