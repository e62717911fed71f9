"""What `auto` becomes: the least recomputation and ZeRO stage that a device's memory is foreseen to hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.config.ops import OpsConfig, impossible_ops, unfit_for_fp8
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.errors import ConfigError
from vitscale.planner.activations import MODES
from vitscale.planner.forecast import Needs


def chosen(
    engine: EngineConfig,
    shape: Shape,
    optim: OptimConfig,
    plan: Plan,
    room: float,
    ops: OpsConfig,
) -> Needs:
    """The job with every `auto` of its engine decided; the choice with the lowest peak where none is within `room`.

    Stages 1 and 2 come before stage 3, which sends with every micro-batch. Among them the least
    recomputation comes first, then the lower stage. Stage 0 is not among them, so that one rank computes as several do,
    for which it holds most.

    Args:
        engine: as the recipe has it.
        shape: of the model.
        optim: which says what is kept for each weight.
        plan: on the ranks of the job.
        room: bytes that a rank may take.
        ops: as `on_device` decides them; what a recipe would be refused for beside them is not chosen.
    """
    needs = [Needs(shape, each, optim, plan, ops) for each in _choices(engine, ops)]
    return next(
        (each for each in needs if each.memory.peak <= room),
        min(needs, key=lambda each: each.memory.peak),
    )


def _choices(engine: EngineConfig, ops: OpsConfig) -> Iterator[EngineConfig]:
    stages = (engine.zero_stage,)
    if engine.stage and engine.zero_stage == "auto":
        stages = (1, 2, 3)
    modes = MODES if engine.recompute == "auto" else (engine.recompute,)
    for group in (stages[:2], stages[2:]):
        for mode in modes:
            for stage in group:
                choice = engine.model_copy(update={"zero_stage": stage, "recompute": mode})
                if not any(impossible_ops(ops, choice)):
                    yield choice


def smaller(needs: Needs, engine: EngineConfig, room: float, least: int) -> int | None:
    """The largest micro-batch below the plan's, with as many images a step, that is foreseen to fit; None for none.

    Args:
        needs: of the plan.
        engine: as the recipe has it.
        room: bytes that a rank may take.
        least: images that a micro-batch must have.
    """
    rank_batch = needs.plan.rank_batch
    for images in range(needs.plan.micro_batch - 1, least - 1, -1):
        if rank_batch % images or any(unfit_for_fp8(needs.ops, needs.shape, images)):
            continue
        plan = replace(needs.plan, micro_batch=images, accumulation=rank_batch // images)
        cut = chosen(engine, needs.shape, needs.optim, plan, room, needs.ops)
        if cut.memory.peak <= room:
            return images
    return None


def insist_on_hpz(engine: EngineConfig, world: int, per_node: int) -> None:
    """Pass where hierarchical partitioning is off, or has the machines it needs.

    Args:
        engine: of the recipe.
        world: ranks of the job.
        per_node: ranks of a machine.

    Raises:
        ConfigError: the second copy would not lie within machines, or there is one machine only.
    """
    if engine.zero_hpz is None:
        return
    if world == per_node:
        problem, advice = f"has no effect on one machine of {world} ranks", "Remove it."
    elif engine.zero_hpz != per_node or world % per_node:
        problem = f"must be the ranks of a machine, {per_node} here, and divide all {world}"
        advice = f"Set engine.zero_hpz={per_node}, or fill the machines."
    else:
        return
    raise ConfigError(problem, where="engine.zero_hpz", given=engine.zero_hpz, do=advice)
