"""What one rank does in the engine tests; run by `tests.ranks`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.checkpoint.commits import commit
from tests.ops import apex_in_torch
from vitscale import faults
from vitscale.checkpoint.state import StateReader
from vitscale.checkpoint.weights import load_weights
from vitscale.config.data import DataConfig
from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.data.mix import Mixing
from vitscale.engine.build import SeededEngine
from vitscale.engine.collectives import Ranks
from vitscale.engine.local import LocalEngine
from vitscale.engine.loss_scale import loss_scale_of
from vitscale.engine.precision import DTYPES
from vitscale.engine.recompute import set_recompute
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.model.vit import ViT
from vitscale.objective import Distillation, make_objective
from vitscale.ops.choice import PLAIN, Ops
from vitscale.ops.fp8 import fp8_linear
from vitscale.place import place_of

BATCH = 16
LR = 2e-3
SHAPE = Shape(32, 3, 64, 2, 4, 4, (12, 12), classes=7, dropout=0.0)


def shape_with(**changes: Any) -> Shape:
    return Shape.from_json({**SHAPE.as_json(), "cls_token": None, **changes})


def images_of(step: int, masked: int = 0, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """The global batch of a step, the same for every world size; the first `masked` images do not count."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (batch, 3, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 7, (batch,), generator=generator)
    labels[:masked] = -1
    return images, labels


def new_model(seed: int = 1, ops: Ops = PLAIN, **shape: Any) -> ViT:
    model = build_model(shape_with(**shape), ops, seed=seed)
    head = torch.Generator().manual_seed(5)  # a zero head would hide differences for a step
    model.head.weight.data.normal_(0, 0.1, generator=head)
    return model


def teacher_model() -> ViT:
    """Another model than `new_model`, deeper and surer of itself."""
    teacher = build_model(shape_with(depth=4), seed=2)
    teacher.head.weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(6))
    return teacher.eval().requires_grad_(False)


def make_engine(case: dict[str, Any], ranks: Ranks) -> tuple[SeededEngine, Plan]:
    random = {key: case[key] for key in ("dropout", "drop_path") if key in case}
    fp8 = case.get("fp8")
    ops = replace(PLAIN, linear=fp8_linear(fp8)) if fp8 else PLAIN
    if case.get("optimizer") == "apex":
        apex_in_torch.install()
        ops = replace(ops, optimizer="apex")
    model = new_model(case.get("seed", 1), ops, **random, **case.get("shape", {}))
    set_recompute(model, case.get("recompute", "none"))
    world, batch = ranks.place.world, case.get("batch", BATCH)
    micro = case.get("micro") or batch // world // case.get("accumulation", 1)
    accumulation = batch // world // micro
    plan = Plan(world, batch, micro, accumulation, batch, 100, 0, 10, 10, None, None)
    optim = OptimConfig(
        lr=LR,
        clip_norm=case.get("clip_norm", 0.5),
        ema=case.get("ema", "off"),
        **case.get("optim", {}),
    )
    dtype = DTYPES[case.get("precision", "fp32")]
    config = EngineConfig(
        kind=case["kind"],
        zero_stage=case.get("stage", "auto"),
        zero_hpz=case.get("hpz"),
        offload=case.get("offload", "none"),
        offload_folder=case.get("folder"),
        precision=case.get("precision", "fp32"),
        loss_scale=case.get("loss_scale", "dynamic"),
    )
    distillation = None
    if "taught" in case:
        distillation = Distillation(teacher_model().to(dtype), share=case["taught"])
    objective = make_objective("softmax", 0.0, distillation)
    device = torch.device("cpu")
    if case["kind"] == "local":
        engine: Any = LocalEngine(
            model,
            objective,
            optim,
            device=device,
            dtype=dtype,
            accumulation=accumulation,
            world=world,
        )
    else:
        engine = ZeroEngine(model, objective, config, optim, plan, device=device)
    engine.loss_scale = loss_scale_of(config)
    mix = {key: case[key] for key in ("mixup", "cutmix") if key in case}
    mixing = Mixing(DataConfig.model_validate({"train": "none", **mix}), 3)
    return SeededEngine(engine, 3, ranks.place, mixing), plan


def train_steps(
    engine: Any, plan: Plan, rank: int, steps: range, masked: int = 0, batch: int = BATCH
) -> list[tuple[str, str]]:
    """(loss, norm) of every step as exact hexadecimal floats; the loss is this rank's."""
    seen = []
    for step in steps:
        images, labels = images_of(step, masked, batch)
        own = slice(rank * plan.rank_batch, (rank + 1) * plan.rank_batch)
        engine.begin(step, labels[own].split(plan.micro_batch))
        losses = []
        for index, micro in enumerate(
            zip(
                images[own].split(plan.micro_batch),
                labels[own].split(plan.micro_batch),
                strict=True,
            )
        ):
            losses.append(float(engine.accumulate(*micro, last=index == plan.accumulation - 1)))
        norm = float(engine.step(LR))
        seen.append(((sum(losses) / len(losses)).hex(), norm.hex()))
    return seen


def losses(cases: list[dict[str, Any]], steps: int) -> list[list[tuple[str, str]]]:
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    found = []
    for case in cases:
        engine, plan = make_engine(case, ranks)
        masked = case.get("masked", 0)
        found.append(train_steps(engine, plan, ranks.place.rank, range(steps), masked))
        engine.close()
    ranks.close()
    return found


def not_finite(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each case: a good step, one with an infinite gradient on rank 1 alone, another good one."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank = ranks.place.rank
    found = []
    for case in cases:
        engine, plan = make_engine(case, ranks)
        good = engine.objective
        train_steps(engine, plan, rank, range(1))
        before = {n: p.clone() for n, p in master_weights(engine, case).items()}
        engine._engine.objective = lambda x, y, w, v, f=good: (
            f(x, y, w, v) + (x.sum() * torch.tensor(float("inf") if rank == 1 else 0.0))
        )
        norm = train_steps(engine, plan, rank, range(1, 2))[0][1]
        after = {n: p.clone() for n, p in master_weights(engine, case).items()}
        engine._engine.objective = good
        next_norm = train_steps(engine, plan, rank, range(2, 3))[0][1]
        moved = master_weights(engine, case)
        found.append(
            {
                "norm": norm,
                "kept": all(torch.equal(before[n], after[n]) for n in before),
                "next_norm": next_norm,
                "moved": any(not torch.equal(after[n], moved[n]) for n in after),
            }
        )
        engine.close()
    ranks.close()
    return found


def accumulate_step(engine: Any, plan: Plan, rank: int, step: int) -> list[float]:
    """Forward and backward of a step, without the update; the losses of all ranks."""
    images, labels = images_of(step)
    own = slice(rank * plan.rank_batch, (rank + 1) * plan.rank_batch)
    parts = [each[own].split(plan.micro_batch) for each in (images, labels)]
    engine.begin(step, parts[1])
    for index, micro in enumerate(zip(*parts, strict=True)):
        engine.accumulate(*micro, last=index == plan.accumulation - 1)
    return engine.losses()


def moments(engine: Any) -> list[torch.Tensor]:
    """Everything the optimizer remembers on this rank, step counts included, the average, and how many updates."""
    state = engine.state
    own = [
        torch.as_tensor(value).clone()
        for each in state.optimizer.state.values()
        for value in (each[name] for name in sorted(each))
    ]
    return [*own, *(average.clone() for average in state.average), torch.tensor(state.updates)]


def discarded(cases: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """For each case: steps 0, 2 and 3, with a good and a bad step discarded in between; then back, and 2 and 3 again.

    `VITSCALE_FAULT` makes the loss of rank 1 NaN in the third step of each engine.
    """
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank = ranks.place.rank
    found = []
    for number, case in enumerate(cases):
        plain, plan = make_engine(case, ranks)
        faults._passes.clear()
        wanted = [train_steps(plain, plan, rank, range(n, n + 1)) for n in (0, 2)]
        faults._passes.clear()
        engine, plan = make_engine(case, ranks)
        seen = [train_steps(engine, plan, rank, range(1))]
        path = committed(engine, ranks, Path(folder) / f"case-{number}", **case.get("shape", {}))
        before = [*master_weights(engine, case).values(), *moments(engine)]
        before = [tensor.clone() for tensor in before]
        losses = [accumulate_step(engine, plan, rank, 1)]
        engine.discard()
        losses.append(accumulate_step(engine, plan, rank, 1))  # the third begin: rank 1 has NaN
        engine.discard()
        after = [*master_weights(engine, case).values(), *moments(engine)]
        kept = all(map(torch.equal, before, after)) and len(before) == len(after) > 0
        seen.append(train_steps(engine, plan, rank, range(2, 3)))
        third = train_steps(engine, plan, rank, range(3, 4))
        engine.load(StateReader(path), 1)
        again = [train_steps(engine, plan, rank, range(n, n + 1)) for n in (2, 3)]
        found.append(
            {
                "kept": kept,
                "losses": losses,
                "wanted": wanted,
                "seen": seen,
                "again": again,
                "first_time": [seen[1], third],
            }
        )
        plain.close()
        engine.close()
    ranks.close()
    return found


def skipped_after_loading(cases: list[dict[str, Any]], folder: str) -> list[list[Any]]:
    """For each case: a step, a commit, another engine that loads it, discards its second step and goes on."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank, found = ranks.place.rank, []
    for number, case in enumerate(cases):
        engine, plan = make_engine(case, ranks)
        train_steps(engine, plan, rank, range(1))
        path = committed(engine, ranks, Path(folder) / f"case-{number}")
        straight = [train_steps(engine, plan, rank, range(n, n + 1)) for n in (1, 3)]
        second, _ = make_engine(case, ranks)
        second.load(StateReader(path), 1)
        seen = [train_steps(second, plan, rank, range(1, 2))]
        accumulate_step(second, plan, rank, 2)
        second.discard()
        seen.append(train_steps(second, plan, rank, range(3, 4)))
        found.append([straight, seen])
        engine.close()
        second.close()
    ranks.close()
    return found


def committed(engine: Any, ranks: Ranks, folder: Path, **shape: Any) -> Path:
    whole = shape_with(**shape)
    shapes = {n: list(p.shape) for n, p in build_model(whole, seed=1).named_parameters()}
    facts = {"step": 1, "images": BATCH, "world": 2, "shape": whole.as_json(), "shapes": shapes}
    return commit(folder, facts, lambda writer: engine.save(writer, ranks.place.rank), ranks)


def master_weights(engine: Any, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The float32 weights that train, as the engine itself gives them; all ranks call it."""
    if case["kind"] == "local":
        return dict(engine.masters)
    trained = {n: p for n, p in engine.model.named_parameters() if p.requires_grad}
    if case["stage"] == 0 and case.get("precision", "fp32") != "fp32":
        wrapper = engine.engine.optimizer
        masters = {
            id(low): high.detach()
            for lows, highs in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
            for low, high in zip(lows, highs, strict=True)
        }
        return {name: masters[id(p)] for name, p in trained.items()}
    if case["stage"] == 0:
        return {name: p.detach() for name, p in trained.items()}
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(p) for name, p in trained.items()}


def frozen_weights(engine: Any, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that do not train, as the model computes with them; all ranks call it."""
    frozen = {n: p for n, p in engine.model.named_parameters() if not p.requires_grad}
    if case.get("stage") != 3:
        return {name: p.detach().clone() for name, p in frozen.items()}
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(frozen.values())):
        return {name: p.detach().clone() for name, p in frozen.items()}


def resumed(cases: list[dict[str, Any]], folder: str) -> list[dict[str, Any]]:
    """For each case: 6 steps at once, and 3 steps, a commit, a new engine, 3 steps."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank = ranks.place.rank
    found = []
    for number, case in enumerate(cases):
        whole, plan = make_engine(case, ranks)
        straight = train_steps(whole, plan, rank, range(6))
        first, _ = make_engine(case, ranks)
        before = train_steps(first, plan, rank, range(3))
        checkpoints = Path(folder) / f"case-{number}"
        model = new_model(**case.get("shape", {}))
        shapes = {n: list(p.shape) for n, p in model.named_parameters()}
        facts = {"step": 3, "images": 48, "world": 2, "shape": SHAPE.as_json(), "shapes": shapes}
        path = commit(
            checkpoints,
            facts,
            lambda writer, e=first: e.save(writer, rank),
            ranks,
        )
        truth = master_weights(first, case) | frozen_weights(first, case)
        read = {n: t.to(truth[n].dtype) for n, t in load_weights(path).tensors.items()}
        assert read.keys() == truth.keys()
        unequal = [name for name in truth if not torch.equal(truth[name], read[name])]
        second, _ = make_engine(case, ranks)
        second.load(StateReader(path), 3)
        after = train_steps(second, plan, rank, range(3, 6))
        found.append(
            {
                "straight": straight,
                "resumed": before + after,
                "unequal": unequal,
            }
        )
        for engine in (whole, first, second):
            engine.close()
    ranks.close()
    return json.loads(json.dumps(found))
