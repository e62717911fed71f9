"""What `auto` becomes: against a walk through all combinations, and published sizes of models and states."""

from __future__ import annotations

import itertools

import pytest

from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.errors import ConfigError
from vitscale.planner.activations import image_bytes
from vitscale.planner.choice import chosen, insist_on_hpz, smaller
from vitscale.planner.memory import memory_of
from vitscale.planner.size import parameters

AUTO = EngineConfig(recompute="auto")
OPTIM = OptimConfig()
OPS = OpsConfig(attention="sdpa")
L16 = ModelConfig(variant="L/16").shape(1000)
# Written out once more, as docs/scaling.md has it.
ORDER = [
    *itertools.product(("none", "cheap", "mlp", "full"), (1, 2)),
    *itertools.product(("none", "cheap", "mlp", "full"), (3,)),
]


def plan_of(world: int, micro_batch: int, accumulation: int = 1) -> Plan:
    batch = world * micro_batch * accumulation
    return Plan(world, batch, micro_batch, accumulation, 10**6, 1000, 0, 50, 1000, None, None)


def peak(shape: Shape, plan: Plan, mode: str, stage: int) -> float:
    engine = EngineConfig(zero_stage=stage, recompute=mode)
    batches = {"micro_batch": plan.micro_batch, "accumulation": plan.accumulation}
    return memory_of(shape, engine, OPTIM, OPS, **batches, world=plan.world).peak


@pytest.mark.parametrize("gb", [2, 3, 4, 5, 6, 8, 10, 12, 16, 24])
@pytest.mark.parametrize("plan", [plan_of(1, 32), plan_of(8, 64), plan_of(8, 16, 4)], ids=str)
def test_the_first_of_the_documented_order_that_fits_is_taken(plan, gb):
    fits = [each for each in ORDER if peak(L16, plan, *each) <= gb * 1e9]
    needs = chosen(AUTO, L16, OPTIM, plan, gb * 1e9, OPS)
    found = (needs.engine.recompute, needs.engine.stage)
    if fits:
        assert found == fits[0]
    else:
        assert needs.memory.peak == min(peak(L16, plan, *each) for each in ORDER)


def test_less_memory_never_means_less_recomputation_or_a_lower_stage():
    plan = plan_of(8, 64)
    found = [
        ORDER.index((needs.engine.recompute, needs.engine.stage))
        for gb in range(80, 0, -1)
        if (needs := chosen(AUTO, L16, OPTIM, plan, gb * 1e9, OPS)).memory.peak <= gb * 1e9
    ]
    assert found == sorted(found)
    assert len(set(found)) >= 4


# Bytes of weights, gradients and optimizer of a rank of 8 with mixed precision: 2 n + 14 n / 8 where each rank keeps
# its part of the gradients, 16 n / 8 under stage 3 (arXiv 1910.02054, figure 1). ViT-22B takes 82 or 43.5 GB.
@pytest.mark.parametrize(
    ("variant", "gb", "stage"),
    [("B/16", 24, 1), ("G/14", 80, 1), ("22B/14", 141, 1), ("22B/14", 80, 3)],
)
def test_the_stage_is_the_one_whose_states_fit(variant, gb, stage):
    shape = ModelConfig(variant=variant).shape(1000)
    needs = chosen(AUTO, shape, OPTIM, plan_of(8, 1), 0.92 * gb * 1e9, OPS)
    assert needs.engine.stage == stage
    n = parameters(shape)
    states = {1: 2 * n + 14 * n / 8, 3: 16 * n / 8}[stage]
    assert states <= needs.memory.peak <= 0.92 * gb * 1e9


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["none", "mlp", "full", "offload"])
def test_what_the_recipe_says_stays(stage, mode):
    engine = EngineConfig(zero_stage=stage, recompute=mode, timeout_s=7)
    assert chosen(engine, L16, OPTIM, plan_of(8, 64), 1e9, OPS).engine == engine
    half = EngineConfig(recompute=mode)
    assert chosen(half, L16, OPTIM, plan_of(8, 64), 1e9, OPS).engine.recompute == mode


def test_plain_torch_has_a_mode_to_choose_and_no_stage():
    local = EngineConfig(kind="local", recompute="auto")
    plan = plan_of(8, 64)
    assert chosen(local, L16, OPTIM, plan, 80e9, OPS).engine.recompute == "none"
    tight = chosen(local, L16, OPTIM, plan, 10e9, OPS).engine
    assert (tight.kind, tight.stage, tight.recompute) == ("local", None, "mlp")


def test_the_largest_smaller_micro_batch_that_fits_is_named():
    engine, plan = EngineConfig(zero_stage=1), plan_of(1, 96)
    needs = chosen(engine, L16, OPTIM, plan, 12e9, OPS)
    assert needs.memory.peak > 12e9
    images = smaller(needs, engine, 12e9, 1)
    cuts = [m for m in range(1, 96) if 96 % m == 0]
    fits = [m for m in cuts if peak(L16, plan_of(1, m, 96 // m), "none", 1) <= 12e9]
    assert images == max(fits)
    assert smaller(needs, engine, 12e9, images + 1) is None
    assert smaller(needs, engine, 1e9, 1) is None


def test_offloaded_inputs_are_all_that_full_recomputation_held():
    """2 D bytes a token and block, but of the last block, which is done, and of the one that is computed again."""
    plan = plan_of(8, 64)
    full, offload = peak(L16, plan, "full", 1), peak(L16, plan, "offload", 1)
    tokens, block = 197, 2 * 1024
    assert full - offload == pytest.approx(64 * 22 * tokens * block, rel=0.01)
    assert image_bytes(L16, "full") == 24 * tokens * block
    assert image_bytes(L16, "offload") == 0


@pytest.mark.parametrize(
    ("world", "per_node", "words"),
    [
        (8, 8, "no effect on one machine"),
        (16, 4, "must be the ranks of a machine, 4 here"),
        (20, 8, "must be the ranks of a machine, 8 here, and divide all 20"),
    ],
)
def test_hierarchical_partitioning_wants_several_full_machines(world, per_node, words):
    engine = EngineConfig(zero_stage=3, zero_hpz=8)
    with pytest.raises(ConfigError, match=words):
        insist_on_hpz(engine, world, per_node)


def test_hierarchical_partitioning_costs_a_machines_share_of_the_weights():
    insist_on_hpz(EngineConfig(zero_stage=3, zero_hpz=8), 64, 8)
    insist_on_hpz(EngineConfig(zero_stage=3), 64, 4)
    engine = EngineConfig(zero_stage=3, zero_hpz=8)
    plan = plan_of(64, 8)
    more = chosen(engine, L16, OPTIM, plan, 80e9, OPS).memory.peak - peak(L16, plan, "none", 3)
    assert more == pytest.approx(2 * parameters(L16) / 8)


def test_what_is_offloaded_is_not_on_the_device():
    """Of all that stays under stage 1 on one rank the 2 n bytes of weights are left; under stage 3 not even those."""
    n, plan = parameters(L16), plan_of(1, 8)
    for what, stage, weights in (("optimizer", 1, 2 * n), ("optimizer+parameters", 3, 0)):
        engine = EngineConfig(zero_stage=stage, offload=what)
        memory = chosen(engine, L16, OptimConfig(ema=0.9999), plan, 80e9, OPS).memory
        here = chosen(
            EngineConfig(zero_stage=stage), L16, OptimConfig(ema=0.9999), plan, 80e9, OPS
        ).memory
        assert memory.states - memory.retained == weights
        assert here.states - memory.states == 12 * n + 4 * n + (2 * n - weights)
        assert memory.activations == here.activations


@pytest.mark.parametrize("gb", range(2, 24, 2))
def test_compiled_blocks_keep_whole_weights_and_all_or_nothing(gb):
    plan = plan_of(8, 64)
    engine = chosen(AUTO, L16, OPTIM, plan, gb * 1e9, OpsConfig(block="compile")).engine
    assert engine.stage in (1, 2)
    fits = peak(L16, plan, "none", 1) <= gb * 1e9
    assert engine.recompute == ("none" if fits else "full")
