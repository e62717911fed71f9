"""Bytes the planner foresees against what real runs take, and what a commit weighs."""

from __future__ import annotations

import pytest

from tests.ranks import run_ranks


def case(stage, micro_batch=4, *, recompute="none", precision="bf16", depth=12):
    return {
        "stage": stage,
        "micro_batch": micro_batch,
        "recompute": recompute,
        "precision": precision,
        "depth": depth,
    }


MANY = 64
"""Images whose activations outweigh the weights."""
ALONE = [
    *(case(stage) for stage in (None, 0, 1, 2, 3)),
    *(case(stage, precision="fp32") for stage in (0, 1, 3)),
    *(case(stage, MANY) for stage in (0, 1, 3)),
    *(case(1, MANY, recompute=mode) for mode in ("cheap", "mlp", "full")),
]
TWO = [*(case(stage) for stage in (0, 1, 2, 3)), *(case(stage, MANY) for stage in (2, 3))]


def insist(case, world):
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back at once
    for seen, foreseen in run_ranks(world, "tests.planner.measured:peak", case, **settings):
        assert foreseen == pytest.approx(seen, rel=0.05), case


@pytest.mark.dist
def test_a_run_of_one_rank_takes_what_was_foreseen():
    insist(case(1, depth=6), 1)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("case", ALONE, ids=str)
def test_every_stage_takes_what_was_foreseen_on_one_rank(case):
    insist(case, 1)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("case", TWO, ids=str)
def test_every_stage_takes_what_was_foreseen_on_two_ranks(case):
    insist(case, 2)
