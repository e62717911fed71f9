"""Every optimizer under every ZeRO stage: the losses of plain torch, and its state through commits."""

from __future__ import annotations

import pytest

from tests.engine.elastic import matrix
from tests.engine.test_engines import LOCAL, as_floats, mean_of_ranks, zero
from tests.ranks import run_ranks

pytestmark = pytest.mark.dist

STEPS = 4
# Two heads of 32 dimensions, so that Adafactor factors by head, and stages 1 and 2 cut within rows and heads.
SHAPE = {"width": 64, "heads": 2}
# Parameters that are matrices and no kernels, kernels outside of blocks, tensors of every odd form.
MODERN = {
    **SHAPE,
    "positions": "relative",
    "pooling": "map",
    "registers": 2,
    "layer_scale": 0.1,
    "qk_norm": True,
    "activation": "swiglu",
}
SHAPES = {"muon": MODERN, "lamb": MODERN, "frozen": MODERN}
OPTIMS = {
    "adamw": {"moment_dtype": "bf16"},
    "sgd": {"optimizer": "sgd", "moment_dtype": "bf16", "decay": "absolute", "weight_decay": 1e-3},
    "adafactor": {"optimizer": "adafactor", "moment_dtype": "bf16"},
    "lamb": {"optimizer": "lamb", "decay_mask": "all"},
    "muon": {"optimizer": "muon", "layer_decay": 0.8},
    "layers": {"layer_decay": 0.7, "decay": "absolute", "weight_decay": 1e-4, "head_decay": 9.0},
    "frozen": {
        "freeze": ("patch_embed.*", r"blocks\.[01]\..*", "registers"),
        "optimizer": "adafactor",
    },
}
ENGINES = [LOCAL, *(zero(stage) for stage in range(4))]
# Muon rounds to bf16 inside, where the order of a sum can show.
CLOSE = {"muon": 2e-4}


def case_of(engine, word):
    return {**engine, "shape": SHAPES.get(word, SHAPE), "optim": OPTIMS[word]}


@pytest.fixture(scope="module")
def runs():
    """(loss, norm) of every step by optimizer and engine on two ranks, and of plain torch on one."""
    cases = [case_of(engine, word) for word in OPTIMS for engine in ENGINES]
    two = run_ranks(2, "tests.engine.scenarios:losses", cases, STEPS)
    found = iter(mean_of_ranks(two, case) for case in range(len(cases)))
    alone = [case_of(LOCAL, word) for word in OPTIMS]
    one = run_ranks(1, "tests.engine.scenarios:losses", alone, STEPS)[0]
    return {
        word: ([next(found) for _ in ENGINES], as_floats(one[index]))
        for index, word in enumerate(OPTIMS)
    }


@pytest.mark.parametrize("word", OPTIMS)
def test_every_stage_and_world_takes_the_steps_of_plain_torch(runs, word):
    (reference, *others), alone = runs[word]
    assert reference[0][0] != reference[-1][0]
    for series in (*others, alone):
        for own, step in zip(series, reference, strict=True):
            assert own == pytest.approx(step, rel=CLOSE.get(word, 2e-5))


RESUMED = [
    {**case_of(engine, word), "ema": 0.9, "precision": "bf16"}
    for word, engines in {
        "adafactor": [LOCAL, zero(0), zero(1), zero(3)],
        "muon": [zero(1), zero(3)],
        "frozen": [LOCAL, zero(0), zero(3)],
    }.items()
    for engine in engines
]


def test_three_steps_a_commit_and_three_steps_equal_six_bit_for_bit(tmp_path):
    for rank in run_ranks(2, "tests.engine.scenarios:resumed", RESUMED, str(tmp_path)):
        for case, found in zip(RESUMED, rank, strict=True):
            assert found["resumed"] == found["straight"], case
            assert found["unequal"] == [], case


def insist_on_exact(outcomes, pairs):
    """Everything equal at once, frozen weights and factors too, and losses that go on as they would have."""
    assert len(outcomes) == pairs
    assert not [each for each in outcomes if each["missing"] or each["unequal"]]
    assert not [each for each in outcomes if each["loss"] > 2e-4]


def variants(*words):
    return {f"{word}.": case_of({}, word) for word in words}


@pytest.mark.faults
@pytest.mark.slow
def test_commits_of_two_ranks_go_on_with_three_under_another_stage(tmp_path):
    words = variants("muon", "frozen")
    insist_on_exact(matrix(tmp_path, "fp32", [1, 3], (2,), (3,), words), pairs=8)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_optimizer_goes_on_under_every_stage_with_one_rank_or_three(tmp_path, precision):
    stages = [None, 0, 1, 2, 3]
    outcomes = matrix(tmp_path, precision, stages, (2,), (1, 3), variants(*OPTIMS))
    if precision == "bf16":
        outcomes = [each | {"loss": each["loss"] / 100} for each in outcomes]
    insist_on_exact(outcomes, pairs=50 * len(OPTIMS))
