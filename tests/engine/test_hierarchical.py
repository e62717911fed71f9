"""Stage 3 with a second copy of the weights in each machine, against stage 3 without: four ranks, two a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine.scenarios import (
    accumulate_step,
    committed,
    images_of,
    make_engine,
    train_steps,
)
from tests.ranks import run_ranks
from vitscale.checkpoint.state import StateReader
from vitscale.data.device import normalise
from vitscale.engine.collectives import Ranks
from vitscale.place import place_of

pytestmark = [pytest.mark.dist, pytest.mark.slow]

# Matrices of more than 100,000 numbers: smaller ones DeepSpeed keeps whole on every rank.
SHAPE = {"width": 192, "mlp": 768, "heads": 3, "depth": 2}
PLAIN = {
    "kind": "deepspeed",
    "stage": 3,
    "ema": 0.5,
    "dropout": 0.1,
    "accumulation": 2,
    "shape": SHAPE,
}
CASES = [{**PLAIN, **more} for more in ({}, {"hpz": 2})]
BF16 = [{**case, "precision": "bf16"} for case in CASES]


def lives(cases: list[dict], folder: str) -> list[dict]:
    """For each case: a step, a commit, a step, the average's logits, a step; then from the commit again."""
    ranks = Ranks(place_of(), torch.device("cpu"), 60)
    rank, found = ranks.place.rank, []
    undisturbed, plan = make_engine(cases[0], ranks)
    straight = train_steps(undisturbed, plan, rank, range(3))
    undisturbed.close()
    for number, case in enumerate(cases):
        engine, plan = make_engine(case, ranks)
        seen = train_steps(engine, plan, rank, range(1))
        path = committed(engine, ranks, Path(folder) / f"case-{number}", **SHAPE)
        seen += train_steps(engine, plan, rank, range(1, 2))
        with engine.state.averaged():
            averaged = _logits(engine)
        seen += train_steps(engine, plan, rank, range(2, 3))
        raw = _logits(engine)
        engine.load(StateReader(path), 1)
        again = train_steps(engine, plan, rank, range(1, 3))
        accumulate_step(engine, plan, rank, 3)
        copies = any(p.ds_secondary_tensor is not None for p in engine.model.parameters())
        engine.discard()
        found.append({"seen": seen, "again": again, "logits": [averaged, raw], "copies": copies})
        found[-1]["straight"] = straight
        engine.close()
    ranks.close()
    return found


def _logits(engine) -> list[float]:
    images, _ = images_of(9)
    dtype = next(engine.model.parameters()).dtype
    engine.model.eval()
    with torch.no_grad():
        return engine.model(normalise(images, "cpu", dtype)).flatten().float().tolist()


@pytest.mark.parametrize("cases", [CASES, BF16], ids=["fp32", "bf16"])
def test_a_second_copy_of_the_weights_changes_no_number(tmp_path, cases):
    for plain, hierarchical in run_ranks(
        4, "tests.engine.test_hierarchical:lives", cases, str(tmp_path)
    ):
        assert (plain["copies"], hierarchical["copies"]) == (False, True)
        assert hierarchical["seen"] == plain["seen"] == plain["straight"]
        assert hierarchical["logits"] == plain["logits"]
        assert hierarchical["again"] == plain["again"] == plain["seen"][1:]
