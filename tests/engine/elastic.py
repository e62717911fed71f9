"""What the ranks do in the matrix of stages and worlds: commit under one, go on under another.

The truth about a commit is what the engine held when it was made, as DeepSpeed's own functions give it.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.checkpoint.commits import commit
from tests.engine.scenarios import (
    frozen_weights,
    make_engine,
    master_weights,
    new_model,
    train_steps,
)
from tests.ranks import run_ranks
from vitscale.checkpoint.state import StateReader
from vitscale.engine.collectives import Ranks
from vitscale.place import place_of

BEFORE, AFTER = range(2), range(2, 4)
MOMENTS = ("exp_avg", "exp_avg_sq")
BATCH = 24  # for 1, 2, 3 and 4 ranks
RANDOM = {"dropout": 0.1, "drop_path": 0.1, "mixup": 0.4, "cutmix": 1.0}
TIMEOUT_S = 1200
"""Dozens of engines, one after the other, in one process a rank."""
COMMON = {"batch": BATCH, "micro": 2, "ema": 0.9, **RANDOM}
WRITERS, READERS, STAGES = (1, 2, 4), (1, 2, 3), (0, 1, 2, 3)


# Settings beside stage and world, by a word that stands in front of a commit's name.
Variants = dict[str, dict[str, Any]]


def case_of(stage: int | None, precision: str, **variant: Any) -> dict[str, Any]:
    """A ZeRO stage, or the plain engine."""
    kind = {"kind": "local"} if stage is None else {"kind": "deepspeed", "stage": stage}
    return {**kind, **COMMON, "precision": precision, **variant}


def name_of(variant: str, stage: int | None, world: int, precision: str) -> str:
    return f"{variant}{'plain' if stage is None else stage}-{world}-{precision}"


def matrix(
    folder: Path | str,
    precision: str,
    stages: list[int | None],
    writers: tuple[int, ...],
    readers: tuple[int, ...],
    variants: Variants | None = None,
) -> list[dict[str, Any]]:
    """The outcome of every pair of (stage, world), on processes of their own."""
    order = stages, precision, str(folder), variants or {"": {}}
    for world in writers:
        run_ranks(world, "tests.engine.elastic:write", *order, timeout_s=TIMEOUT_S)
    outcomes: list[dict[str, Any]] = []
    for world in readers:
        ranks = run_ranks(world, "tests.engine.elastic:read", *order, timeout_s=TIMEOUT_S)
        assert all(rank == ranks[0] for rank in ranks)
        outcomes += ranks[0]
    return outcomes


def write(stages: list[int | None], precision: str, folder: str, variants: Variants) -> None:
    """Commit after two steps under each stage, then note the truth and the losses of two more."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank, world = ranks.place.rank, ranks.place.world
    for (word, variant), stage in product(variants.items(), stages):
        case = case_of(stage, precision, **variant)
        engine, plan = make_engine(case, ranks)
        train_steps(engine, plan, rank, BEFORE, batch=BATCH)
        own = Path(folder) / name_of(word, stage, world, precision)
        model = new_model(**case.get("shape", {}))
        shapes = {n: list(p.shape) for n, p in model.named_parameters()}
        facts = {"step": 2, "images": 2 * BATCH, "world": world, "shapes": shapes}
        facts |= {"shape": model.shape.as_json(), "run": own.name}
        path = commit(own, facts, lambda writer, e=engine: e.save(writer, rank), ranks)
        held = contents(engine, case, ranks)
        series = train_steps(engine, plan, rank, AFTER, batch=BATCH)
        losses = _mean(ranks.gather([loss for loss, _ in series]))
        if ranks.place.is_first:
            torch.save(held, own / "truth.pt")
            (own / "losses.json").write_text(json.dumps({"path": str(path), "losses": losses}))
        engine.close()
    ranks.close()


def read(
    stages: list[int | None], precision: str, folder: str, variants: Variants
) -> list[dict[str, Any]]:
    """Go on from every commit under each stage: what differs at once, and the losses of two steps.

    The engines begin with other weights than those of the commits had.
    """
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    return [
        _gone_on(own, word, case_of(stage, precision, **variant, seed=2), ranks)
        for word, variant in variants.items()
        for own in sorted(Path(folder).glob(f"{word}[0-9p]*-{precision}"))
        for stage in stages
    ]


def _gone_on(own: Path, word: str, case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    record = json.loads((own / "losses.json").read_text())
    truth = torch.load(own / "truth.pt", weights_only=True)
    engine, plan = make_engine(case, ranks)
    engine.load(StateReader(Path(record["path"])), len(BEFORE))
    held = contents(engine, case, ranks)
    series = train_steps(engine, plan, ranks.place.rank, AFTER, batch=BATCH)
    losses = _mean(ranks.gather([loss for loss, _ in series]))
    engine.close()
    return {
        "from": own.name,
        "to": name_of(word, case.get("stage"), ranks.place.world, case["precision"]),
        "missing": sorted(truth.keys() ^ held.keys()),
        "unequal": [key for key in truth if not torch.equal(truth[key], held.get(key))],
        "loss": max(abs(a - b) / b for a, b in zip(losses, record["losses"], strict=True)),
    }


def contents(engine: Any, case: dict[str, Any], ranks: Ranks) -> dict[str, Tensor]:
    """Weights, moments and average of the whole model by kind and name, and the step counts; on every rank."""
    held = {f"weight/{n}": t.flatten().clone() for n, t in master_weights(engine, case).items()}
    held |= {f"frozen/{name}": tensor for name, tensor in frozen_weights(engine, case).items()}
    parts = range(len(engine.state.partitions))
    own = {piece.kind for index in parts for piece in engine.state.pieces(index)}
    for kind in sorted(set().union(*ranks.gather(own)) - {"weight"}):
        for name, tensor in _gathered(engine.state, kind, ranks).items():
            held[f"{kind}/{name}"] = tensor
    stage = case.get("stage")
    if stage in (1, 2, 3) and "optim" not in case:
        from deepspeed.utils import safe_get_full_optimizer_state

        if (
            stage < 3
        ):  # it links all groups after the step of the first one, when the others have no state
            engine.engine.optimizer._hp_optimizer_states_linked = False
            engine.engine.optimizer._lazy_init_hp_params_optimizer_state()
        for kind in MOMENTS:
            for name, parameter in engine.model.named_parameters():
                theirs = safe_get_full_optimizer_state(parameter, kind).flatten()
                assert torch.equal(theirs, held[f"{kind}/{name}"]), (kind, name)
    counts = [e["step"] for e in engine.state.optimizer.state.values() if "step" in e]
    assert len({id(count) for count in counts}) == len(counts), "entries share a step count"
    if counts:
        held["steps"] = torch.stack([count.cpu() for count in counts]).unique()
    return held


def _gathered(state: Any, kind: str, ranks: Ranks) -> dict[str, Tensor]:
    own = [
        (span, piece.tensor.view(-1)[span.offset : span.offset + span.length].cpu())
        for index in range(len(state.partitions))
        for piece in state.pieces(index)
        if piece.kind == kind
        for span in piece.spans
    ]
    whole: dict[str, dict[int, Tensor]] = {}
    for part in ranks.gather(own):
        for span, values in part:
            whole.setdefault(span.name, {})[span.start] = values
    return {n: torch.cat([parts[at] for at in sorted(parts)]) for n, parts in whole.items()}


def _mean(per_rank: list[list[str]]) -> list[float]:
    numbers = [[float.fromhex(each) for each in rank] for rank in per_rank]
    return [sum(step) / len(step) for step in zip(*numbers, strict=True)]
