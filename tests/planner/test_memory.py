"""Bytes the planner foresees against what real runs take, and what a commit weighs."""

from __future__ import annotations

import pytest

from tests.ranks import run_ranks
from vitscale.config.model import Shape
from vitscale.config.optim import OptimConfig
from vitscale.engine.state import whole_partitions
from vitscale.model.build import build_model
from vitscale.optim.groups import make_optimizer, parameter_groups
from vitscale.optim.moments import kept, make_state, slots_of
from vitscale.optim.span_optimizer import SpanOptimizer
from vitscale.planner.memory import moment_bytes


def case(stage, micro_batch=4, **changes):
    return {
        "stage": stage,
        "micro_batch": micro_batch,
        "accumulation": 1,
        "recompute": "none",
        "precision": "bf16",
        "depth": 12,
        "image_px": 112,
        **changes,
    }


MANY = 64
"""Images whose activations outweigh the weights."""
ALONE = [
    *(case(stage) for stage in (None, 0, 1, 2, 3)),
    *(case(stage, precision="fp32") for stage in (None, 0, 1, 3)),
    *(case(stage, MANY) for stage in (None, 0, 1, 3)),
    *(case(stage, MANY, accumulation=2) for stage in (None, 0)),
    *(case(1, MANY, recompute=mode) for mode in ("cheap", "mlp", "full")),
    # Of 197 tokens in place of 50 the weights of explicit attention are a seventh to a third of what is held.
    *(
        case(1, MANY // 4, recompute=mode, image_px=224)
        for mode in ("none", "cheap", "mlp", "full")
    ),
]
TWO = [
    *(case(stage) for stage in (0, 1, 2, 3)),
    *(case(stage, MANY) for stage in (2, 3)),
    *(case(stage, MANY, accumulation=2) for stage in (1, 2, 3)),
]


def insist(case, world):
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back at once
    for seen, foreseen in run_ranks(
        world, "tests.planner.measured:peak", case, fresh=True, **settings
    ):
        assert foreseen == pytest.approx(seen, rel=0.05), case


@pytest.mark.slow
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


@pytest.mark.parametrize("moments", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor", "lamb", "muon"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_what_an_optimizer_keeps_is_what_was_foreseen(optimizer, moments, activation):
    shape = Shape(384, 6, 1536, 6, 8, 8, (32, 32), classes=10, activation=activation)
    optim = OptimConfig(optimizer=optimizer, moment_dtype=moments)
    model = build_model(shape, seed=0)
    made = make_optimizer(optim, parameter_groups(model, optim))
    found = 0
    partitions = whole_partitions(model.named_parameters(), shape.heads)
    if isinstance(made, SpanOptimizer):
        made.attach(partitions)
    for partition in partitions:
        make_state(made, partition, 1)
        for slot in slots_of(made, partition):
            found += kept(made, partition, slot).nbytes
    assert moment_bytes(shape, optim) == pytest.approx(found, rel=0.05)
