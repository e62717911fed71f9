"""DeepSpeed ZeRO against plain torch: the same losses, the same resume."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.engine.scenarios import images_of, new_model
from tests.ranks import run_ranks
from vitscale.data.device import normalise

pytestmark = pytest.mark.dist

LOCAL = {"kind": "local"}
STEPS = 4


def zero(stage, **more):
    return {"kind": "deepspeed", "stage": stage, **more}


FP32_CASES = [
    LOCAL,
    {**LOCAL, "accumulation": 2},
    {**LOCAL, "recompute": "full"},
    *(zero(stage) for stage in range(4)),
    *(zero(stage, accumulation=2) for stage in range(4)),
    *(zero(stage, recompute="full") for stage in (1, 3)),
]
BF16_CASES = [
    {**LOCAL, "precision": "bf16"},
    *(zero(stage, precision="bf16") for stage in range(4)),
    *(zero(stage, precision="bf16", accumulation=2) for stage in range(4)),
]


def as_floats(series):
    return [[float.fromhex(number) for number in pair] for pair in series]


def mean_of_ranks(per_rank, case):
    """(loss, norm) of each step, the loss averaged over ranks."""
    series = [as_floats(rank[case]) for rank in per_rank]
    return [
        (sum(step[0] for step in steps) / len(steps), steps[0][1])
        for steps in zip(*series, strict=True)
    ]


@pytest.fixture(scope="module")
def fp32_runs():
    return run_ranks(2, "tests.engine.scenarios:losses", FP32_CASES, STEPS)


@pytest.fixture(scope="module")
def bf16_runs():
    return run_ranks(2, "tests.engine.scenarios:losses", BF16_CASES, STEPS)


@pytest.fixture(scope="module")
def alone():
    return run_ranks(1, "tests.engine.scenarios:losses", [LOCAL, zero(1), zero(3)], STEPS)


# Between them they have every kind of parameter that a model can have.
SHAPES = [
    {
        "positions": "rope",
        "registers": 2,
        "pooling": "map",
        "activation": "swiglu",
        "qk_norm": True,
        "norm": "rms",
        "parallel": True,
        "layer_scale": 0.1,
        "patch_drop": 0.4,
    },
    {"positions": "relative", "pooling": "gap", "representation": True, "biases": "none"},
    {"positions": "learned-2d", "stride": 2, "biases": "no-qkv", "registers": 1},
]
SHAPED = [
    {**engine, "shape": shape} for shape in SHAPES for engine in (LOCAL, zero(1), zero(2), zero(3))
]


def test_models_with_every_option_train_alike_on_all_engines():
    runs = run_ranks(2, "tests.engine.scenarios:losses", SHAPED, STEPS)
    for first in range(0, len(SHAPED), 4):
        plain = mean_of_ranks(runs, first)
        for case in range(first + 1, first + 4):
            for found, wanted in zip(mean_of_ranks(runs, case), plain, strict=True):
                assert found == pytest.approx(wanted, rel=1e-5)


MASKED = [{**LOCAL, "masked": 10}, *(zero(stage, masked=10, accumulation=2) for stage in range(4))]


def test_the_loss_is_a_mean_over_the_images_that_count_however_they_fall_on_ranks():
    """Of 16 images 10 are masked: all 8 of the first rank. Against the 6 that count, alone."""
    images, labels = images_of(0, masked=10)
    with torch.no_grad():
        logits = new_model()(normalise(images[10:], "cpu", torch.float32))
    truth = float(F.cross_entropy(logits, labels[10:]))
    two = run_ranks(2, "tests.engine.scenarios:losses", MASKED, 2)
    one = run_ranks(1, "tests.engine.scenarios:losses", MASKED[:1], 2)
    assert as_floats(one[0][0])[0][0] == pytest.approx(truth, rel=1e-5)
    for case in range(len(MASKED)):
        for own, reference in zip(mean_of_ranks(two, case), mean_of_ranks(one, 0), strict=True):
            assert own == pytest.approx(reference, rel=2e-5)


def test_losses_fall_and_the_norm_is_clipped_from_above_its_bound(fp32_runs):
    reference = mean_of_ranks(fp32_runs, 0)
    assert reference[-1][0] < reference[0][0]
    assert reference[0][1] > 0.5  # the bound: clipping is at work in all comparisons below


@pytest.mark.parametrize("case", range(1, len(FP32_CASES)), ids=lambda c: str(FP32_CASES[c]))
def test_every_zero_stage_gives_the_losses_of_plain_torch(fp32_runs, case):
    for own, reference in zip(
        mean_of_ranks(fp32_runs, case), mean_of_ranks(fp32_runs, 0), strict=True
    ):
        assert own == pytest.approx(reference, rel=2e-5)


@pytest.mark.parametrize("case", range(3))
def test_one_rank_gives_the_losses_of_two(alone, fp32_runs, case):
    for own, reference in zip(mean_of_ranks(alone, case), mean_of_ranks(fp32_runs, 0), strict=True):
        assert own == pytest.approx(reference, rel=2e-5)


@pytest.mark.parametrize("case", range(1, len(BF16_CASES)), ids=lambda c: str(BF16_CASES[c]))
def test_bf16_stages_stay_within_rounding_of_plain_bf16(bf16_runs, case):
    for own, reference in zip(
        mean_of_ranks(bf16_runs, case), mean_of_ranks(bf16_runs, 0), strict=True
    ):
        assert own[0] == pytest.approx(reference[0], rel=3e-3)
        assert own[1] == pytest.approx(reference[1], rel=4e-2)


ALL_RANDOM = {"dropout": 0.1, "drop_path": 0.2, "mixup": 0.8, "cutmix": 1.0, "masked": 3}
RANDOM_CASES = [LOCAL, zero(1), zero(3)]


def test_dropout_and_mixing_follow_the_micro_batch_and_not_the_number_of_ranks():
    """Two micro-batches of eight images: on two ranks, or one after the other on one."""

    def runs(world, accumulation):
        cases = [{**c, **ALL_RANDOM, "accumulation": accumulation} for c in RANDOM_CASES]
        return run_ranks(world, "tests.engine.scenarios:losses", cases, STEPS)

    two, one = runs(2, 1), runs(1, 2)
    plain = run_ranks(1, "tests.engine.scenarios:losses", [LOCAL], STEPS)
    for case in range(len(RANDOM_CASES)):
        assert mean_of_ranks(one, case) != mean_of_ranks(plain, 0)
        for own, reference in zip(mean_of_ranks(two, case), mean_of_ranks(one, case), strict=True):
            assert own == pytest.approx(reference, rel=1e-5)


EVERYTHING = {
    "dropout": 0.1,
    "drop_path": 0.2,
    "mixup": 0.4,
    "cutmix": 1.0,
    "ema": 0.9,
    "accumulation": 4,
}
RESUME_CASES = [
    {**LOCAL, **EVERYTHING},
    *(zero(stage, **EVERYTHING) for stage in range(4)),
    *(zero(stage, precision="bf16", **EVERYTHING) for stage in range(4)),
    *(zero(stage, mixup=0.4) for stage in (1, 3)),
]


@pytest.fixture(scope="module")
def resumes(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("resume"))
    return run_ranks(2, "tests.engine.scenarios:resumed", RESUME_CASES, folder)


@pytest.mark.parametrize("case", range(len(RESUME_CASES)), ids=lambda c: str(RESUME_CASES[c]))
def test_three_steps_a_commit_and_three_steps_equal_six_bit_for_bit(resumes, case):
    for rank in resumes:
        assert rank[case]["resumed"] == rank[case]["straight"]


@pytest.mark.parametrize("case", range(len(RESUME_CASES)), ids=lambda c: str(RESUME_CASES[c]))
def test_weights_read_from_shards_are_those_the_engine_holds(resumes, case):
    assert resumes[0][case]["unequal"] == []


NOT_FINITE_CASES = [
    LOCAL,
    *(zero(stage) for stage in range(4)),
    *(zero(stage, precision="bf16") for stage in range(4)),
]


@pytest.fixture(scope="module")
def not_finite():
    return run_ranks(2, "tests.engine.scenarios:not_finite", NOT_FINITE_CASES)


@pytest.mark.parametrize(
    "case", range(len(NOT_FINITE_CASES)), ids=lambda c: str(NOT_FINITE_CASES[c])
)
def test_a_gradient_that_is_not_finite_on_one_rank_moves_no_weight_on_any(not_finite, case):
    for rank in not_finite:
        assert not math.isfinite(float.fromhex(rank[case]["norm"]))
        assert rank[case]["kept"]
        assert math.isfinite(float.fromhex(rank[case]["next_norm"]))
        assert rank[case]["moved"]
