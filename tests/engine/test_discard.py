"""A step that is discarded leaves no trace, at every stage; a commit can be taken up by a running engine."""

from __future__ import annotations

import math

import pytest

from tests.ranks import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.faults]

KINDS = [{"kind": "local"}, *({"kind": "deepspeed", "stage": stage} for stage in range(4))]
RANDOM = {"dropout": 0.1, "drop_path": 0.2, "mixup": 0.4, "ema": 0.9}
CASES = [
    {**kind, **RANDOM, "precision": precision, "accumulation": accumulation}
    for kind in KINDS
    for precision, accumulation in (("fp32", 1), ("bf16", 2))
]
NAN_ON_RANK_1 = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "engine.loss@1:3:nan"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("discard"))
    return run_ranks(2, "tests.engine.scenarios:discarded", CASES, folder, **NAN_ON_RANK_1)


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda c: str(CASES[c]))
def test_a_discarded_step_changes_no_weight_moment_average_or_step_count_on_any_rank(runs, case):
    for rank in runs:
        assert rank[case]["kept"]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda c: str(CASES[c]))
def test_both_ranks_know_whose_loss_is_not_finite(runs, case):
    good, bad = runs[0][case]["losses"]
    assert all(map(math.isfinite, good))
    assert math.isfinite(bad[0]) and math.isnan(bad[1])
    assert bad[0] == good[0]
    assert runs[1][case]["losses"][0] == good
    assert runs[1][case]["losses"][1][0] == bad[0] and math.isnan(runs[1][case]["losses"][1][1])


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda c: str(CASES[c]))
def test_later_steps_are_those_of_an_engine_that_never_saw_the_bad_one(runs, case):
    for rank in runs:
        assert rank[case]["seen"] == rank[case]["wanted"]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda c: str(CASES[c]))
def test_a_running_engine_goes_back_to_a_commit_bit_for_bit(runs, case):
    for rank in runs:
        assert rank[case]["again"] == rank[case]["first_time"]


def test_a_resumed_engine_goes_on_after_a_discarded_step(tmp_path):
    """Stage 3 of DeepSpeed remembers from its first pass which weights it met whole."""
    cases = [{**kind, "precision": "bf16"} for kind in KINDS]
    for rank in run_ranks(2, "tests.engine.scenarios:skipped_after_loading", cases, str(tmp_path)):
        for straight, seen in rank:
            assert seen == straight
