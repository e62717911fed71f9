"""Any number of ranks and any ZeRO stage go on from a commit of any other: the same state, the same losses."""

from __future__ import annotations

import pytest

from tests.engine.elastic import READERS, STAGES, WRITERS, matrix

pytestmark = [pytest.mark.dist, pytest.mark.faults]


def insist(outcomes, pairs):
    """Everything equal at once; in float32 the losses differ by the order of sums only."""
    assert len(outcomes) == pairs
    wrong = [
        each for each in outcomes if each["missing"] or each["unequal"] or not each["loss"] <= 1e-5
    ]
    assert not wrong


def test_a_commit_of_two_ranks_goes_on_with_one_or_three_under_every_stage(tmp_path):
    stages = [None, *STAGES]
    insist(matrix(tmp_path, "fp32", stages, (2,), (1, 3)), pairs=50)


@pytest.mark.slow
def test_every_stage_and_world_goes_on_from_every_other(tmp_path):
    insist(matrix(tmp_path, "fp32", list(STAGES), WRITERS, READERS), pairs=144)


@pytest.mark.slow
def test_in_bf16_too_everything_is_equal_at_load(tmp_path):
    outcomes = matrix(tmp_path, "bf16", list(STAGES), (2,), (1, 3))
    assert len(outcomes) == 32
    assert not [each for each in outcomes if each["missing"] or each["unequal"]]
    assert all(each["loss"] < 1e-2 for each in outcomes)
