"""The guard's rules on plain numbers: skips, spikes, rewinds, and a state that survives."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest

from vitscale.config.train import GuardConfig
from vitscale.engine.loss_scale import LossScale
from vitscale.errors import NotFiniteError
from vitscale.train.events import Events, sentence_of
from vitscale.train.guard import Guard
from vitscale.train.progress import Progress

NAN, INF = math.nan, math.inf


def guard_of(events=None, **settings):
    guard = Guard(GuardConfig(**settings), batch=16)
    if events is not None:
        guard.on_event = events.append
    return guard


def step(guard, losses, norm=1.0, number=0, scale=None):
    """One step as the loop does it; whether it was applied."""
    at = Progress(1000, number, number * 16)
    passed = guard.passes(losses)
    return guard.record(at, losses, norm if passed else None, scale or LossScale())


def fed(guard, losses):
    for loss in losses:
        step(guard, [loss])
    return guard


NOISE = [2.0 + 0.1 * random.Random(seed).gauss(0, 1) for seed in range(64)]


@pytest.mark.parametrize("losses", [[NAN, 1.0], [1.0, INF], [-INF, INF], [NAN, NAN]])
def test_one_rank_whose_loss_is_not_finite_stops_the_step_for_all(losses):
    events = []
    assert not step(guard_of(events), losses)
    [event] = events
    assert event["why"] == "the loss is not finite"
    assert event["ranks"] == [n for n, loss in enumerate(losses) if not math.isfinite(loss)]
    json.loads(json.dumps(event), parse_constant=lambda name: pytest.fail(name))


def test_a_gradient_norm_that_is_not_finite_is_a_skipped_step_of_no_ranks_own():
    events = []
    assert not step(guard_of(events), [1.0, 2.0], norm=INF)
    assert (events[0]["why"], events[0]["ranks"]) == ("the gradient norm is not finite", [])


def test_without_a_rule_for_spikes_any_finite_loss_passes():
    assert fed(guard_of(), NOISE).passes([1e30])


def test_the_limit_is_the_median_and_so_many_robust_deviations():
    guard = fed(guard_of(loss_spike=5.0, window=64), NOISE)
    median = statistics.median(NOISE)
    mad = statistics.median(abs(x - median) for x in NOISE)
    assert guard.limit() == pytest.approx(median + 5 * 1.4826 * mad)
    assert guard.passes([guard.limit()])
    assert not guard.passes([guard.limit() + 1e-9])


def test_a_spike_names_the_ranks_above_the_limit_and_samples_of_the_step():
    events = []
    guard = fed(guard_of(events, loss_spike=6.0, window=64), NOISE)
    assert not step(guard, [2.0, 90.0], number=64)
    assert events[0] | {"limit": 0} == {
        "event": "skip",
        "step": 65,
        "from": 1024,
        "to": 1040,
        "why": "the loss is a spike",
        "loss": 46.0,
        "limit": 0,
        "norm": None,
        "ranks": [1],
    }


def test_nothing_is_judged_before_the_window_is_half_full():
    guard = fed(guard_of(loss_spike=3.0, window=64), NOISE[:31])
    assert guard.limit() == INF
    step(guard, [2.0])
    assert guard.limit() < 3.0


def test_a_loss_that_hardly_moves_makes_no_spike_of_its_noise():
    guard = fed(guard_of(loss_spike=5.0, window=8), [2.0] * 8)
    assert guard.passes([2.09])
    assert not guard.passes([2.11])


def test_what_is_not_finite_or_a_spike_never_enters_the_statistics():
    guard = fed(guard_of(loss_spike=6.0, window=64, skips=10**6), NOISE)
    before = guard.limit()
    for bad in ([NAN], [INF], [-INF], [50.0]) * 40:
        step(guard, bad)
    step(guard, [2.0], norm=NAN)
    assert guard.limit() == before
    assert guard.state()["recent"] == NOISE


def test_a_state_survives_json_bit_for_bit_and_judges_alike():
    guard = fed(guard_of(loss_spike=4.0, window=64, skips=3), [*NOISE, NAN, NAN])
    again = guard_of(loss_spike=4.0, window=64, skips=3)
    again.resume(json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state()
    assert again.limit() == guard.limit()
    for one in (guard, again):
        step(one, [NAN])
    assert guard.wants_rewind and again.wants_rewind
    assert again.counts() == {"train/skipped_steps": 3.0, "train/rewinds": 0.0}


def test_a_commit_without_a_state_starts_the_guard_afresh():
    guard = fed(guard_of(), [1.0, NAN])
    guard.resume(None)
    assert guard.state() == guard_of().state()


def test_an_applied_step_ends_the_row_of_skips():
    guard = fed(guard_of(skips=2), [NAN, 1.0, NAN])
    assert not guard.wants_rewind
    step(guard, [NAN])
    assert guard.wants_rewind


def test_a_rewind_takes_the_statistics_of_the_commit_and_keeps_the_counts():
    events = []
    guard = fed(guard_of(events, window=8), [1.0, 2.0])
    saved = guard.state()
    fed(guard, [3.0, NAN, NAN, NAN])
    guard.insist_on_rewinds_left(Progress(1000, 6, 96))
    guard.rewound(saved, Progress(1000, 2, 32), Progress(1000, 6, 96))
    assert guard.state() == saved | {"skipped": 3, "rewinds": 1}
    assert not guard.wants_rewind
    assert events[-1] == {
        "event": "rewind",
        "step": 2,
        "from": 32,
        "to": 96,
        "at_step": 6,
        "number": 1,
    }


@pytest.mark.parametrize(("allowed", "words"), [(0, "rewinds are off"), (2, "all 2 rewinds")])
def test_used_up_rewinds_end_the_run_with_exit_code_4_and_an_event(allowed, words):
    events = []
    guard = guard_of(events, rewinds=allowed)
    for _ in range(allowed):
        guard.insist_on_rewinds_left(Progress(9, 3, 48))
        guard.rewound(None, Progress(9), Progress(9, 3, 48))
    fed(guard, [NAN] * 3)
    with pytest.raises(NotFiniteError, match=words) as error:
        guard.insist_on_rewinds_left(Progress(9, 3, 48))
    assert error.value.exit_code == 4
    assert "steps 1 to 3" in str(error.value) and "loss nan" in str(error.value)
    assert events[-1]["event"] == "end"


def test_events_are_written_with_the_samples_and_said_in_words(caplog):
    written, told = [], []
    events = Events(written.append, lambda position: [position, 7], told.append)
    guard = guard_of(skips=1)
    guard.on_event = events
    with caplog.at_level("WARNING"):
        step(guard, [1.0, NAN], number=5)
        guard.rewound(None, Progress(9, 2, 32), Progress(9, 6, 96))
        guard.given_up(Progress(9, 6, 96), "enough")
    assert written[0]["ids"] == [80, 7]
    assert "step 6 was skipped: the loss is not finite on rank 1" in caplog.text
    assert "samples 80 to 95" in caplog.text
    assert told == [sentence_of(written[1])]
    assert "back to the commit of step 2, passing over samples 32 to 95" in told[0]
    assert "the run ends at step 6: enough" in caplog.text
