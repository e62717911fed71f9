"""Runs that are killed at random moments: nothing unreadable, nothing lost or repeated, the same weights in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ranks import ROOT
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.weights import load_weights
from vitscale.cli.main import main

pytestmark = [pytest.mark.faults, pytest.mark.dist]
COMMON = (
    "train.duration=40 steps",
    "optim.ema=0.9",
    "checkpoint.every=3 steps",
    "evaluate.batch=17",
)
PLAIN = ("engine.kind=local", "train.micro_batch=8")
SEED = int(os.environ.get("VITSCALE_FAULT_SEED", "1"))


def campaign(tmp_path: Path, cases: list[tuple[str, int, tuple[str, ...], int]]) -> list[dict]:
    """Disturb a run of each (name, world, overrides, kills) until there were so many kills; compare all of them."""
    data = make_data(tmp_path / "data")
    order = {"seed": SEED, "log": str(tmp_path / "straight.log"), "cases": []}
    for name, world, overrides, kills in cases:
        homes = [tmp_path / f"{name}-{number}" for number in range(1 + kills)]
        recipes = [make_recipe(home, data, *COMMON, *overrides) for home in homes]
        texts = [recipe.to_json() for recipe in recipes]
        folders = [str(recipe.config.folder) for recipe in recipes]
        case = {"name": name, "world": world, "kills": kills, "straight": texts[0]}
        order["cases"].append({**case, "disturbed": texts[1:], "folders": folders[1:]})
    (tmp_path / "order.json").write_text(json.dumps(order))
    command = [sys.executable, "-m", "tests.faults.campaign"]
    command += [str(tmp_path / "order.json"), str(tmp_path / "out.json")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    outcomes = json.loads((tmp_path / "out.json").read_text())
    for outcome in outcomes:
        assert not outcome["problems"], "\n".join(outcome["problems"])
        insist_on_the_same_run(tmp_path / f"{outcome['case']}-0" / "run", Path(outcome["folder"]))
    return outcomes


def insist_on_the_same_run(straight: Path, disturbed: Path) -> None:
    assert exact_losses(straight) == exact_losses(disturbed)
    for which in ("raw", "ema"):
        one, two = (load_weights(folder, which).tensors for folder in (straight, disturbed))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert main(["shards", "audit", str(disturbed)]) == 0


@pytest.mark.slow
def test_a_few_kills_change_nothing(tmp_path):
    outcomes = campaign(
        tmp_path, [("plain", 1, PLAIN, 4), ("zero-1", 2, ("engine.zero_stage=1",), 2)]
    )
    assert sum(outcome["kills"] for outcome in outcomes) >= 6


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(tmp_path):
    cases = [("plain", 1, PLAIN, 50), ("plain-2", 2, PLAIN, 20)]
    cases += [(f"zero-{stage}", 2, (f"engine.zero_stage={stage}",), 12) for stage in (1, 2, 3)]
    outcomes = campaign(tmp_path, cases)
    kills = sum(outcome["kills"] for outcome in outcomes)
    print(f"{kills} kills in {len(outcomes)} runs")
    assert kills >= 100
