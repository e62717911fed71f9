"""Products in fp8 under the engines on two ranks: the same gradients, commits that resume bit for bit."""

from __future__ import annotations

import pytest

from tests.engine.test_engines import mean_of_ranks
from tests.engine.test_recompute import SHAPE, held
from tests.ops.test_fp8 import SCALINGS, TORCHAO, ops_in_fp8
from tests.ranks import run_ranks

pytestmark = TORCHAO
FP8 = {"precision": "bf16", "fp8": "rowwise"}
LOCAL = {"kind": "local", **FP8}
# Not stage 3, under which recipes may not compile, nor therefore ask for fp8.
ZERO = [{"kind": "deepspeed", "stage": stage, **FP8} for stage in (0, 1, 2)]
CASES = [
    LOCAL,
    *ZERO,
    {**ZERO[1], "recompute": "full"},
    {"kind": "local", "precision": "bf16"},
]


@pytest.fixture(scope="module")
def runs():
    ranks = run_ranks(2, "tests.engine.scenarios:losses", CASES, 4)
    return [mean_of_ranks(ranks, case) for case in range(len(CASES))]


@pytest.mark.parametrize("case", range(1, 5), ids=lambda c: str(CASES[c]))
def test_every_stage_has_the_gradients_of_plain_torch_in_fp8(runs, case):
    """The first step alike, those after it within the rounding of weights in bf16."""
    assert runs[case][0][0] == runs[0][0][0]
    assert runs[case][0][1] == pytest.approx(runs[0][0][1], rel=2e-3)
    for own, reference in zip(runs[case], runs[0], strict=True):
        assert own[0] == pytest.approx(reference[0], rel=2e-2)


def test_recomputation_gives_equal_bits_in_fp8(runs):
    assert runs[4] == runs[2]


def test_fp8_is_near_bf16_and_not_the_same(runs):
    for own, plain in zip(runs[0], runs[5], strict=True):
        assert own[0] != plain[0]
        assert own[0] == pytest.approx(plain[0], rel=3e-2)


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_backward_keeps_what_it_keeps_in_bf16(scaling, mode):
    """As `plan` counts it."""
    assert held(SHAPE, mode, ops=ops_in_fp8(scaling)) == held(SHAPE, mode) > 0


@pytest.mark.slow
def test_commits_of_two_ranks_resume_bit_for_bit(tmp_path):
    cases = [LOCAL, {**ZERO[1], "fp8": "tensorwise", "accumulation": 2}, ZERO[2]]
    for rank in run_ranks(2, "tests.engine.scenarios:resumed", cases, str(tmp_path)):
        for case in rank:
            assert case["resumed"] == case["straight"]
            assert case["unequal"] == []
