"""Recipes that ask for products in fp8: which are taken, and what the others are told."""

from __future__ import annotations

import json

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.cli.main import main
from vitscale.config.load import load_recipe
from vitscale.config.model import ModelConfig
from vitscale.config.ops import FP8, OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.errors import ConfigError
from vitscale.planner.choice import chosen, smaller
from vitscale.planner.forecast import Job, alternatives
from vitscale.planner.hardware import ACCELERATORS, Cluster

GOOD = {
    "model__variant": "H/14",
    "train__micro_batch": 16,
    "ops__block": "compile",
    "ops__linear": "fp8-rowwise",
}


@pytest.mark.parametrize("linear", FP8)
def test_a_wide_model_in_bf16_with_compiled_blocks_may_ask_for_it(tmp_path, linear):
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", **GOOD | {"ops__linear": linear}))
    assert recipe.config.ops.in_fp8


def test_nobody_gets_it_who_does_not_ask():
    assert not OpsConfig().in_fp8
    assert not OpsConfig(linear="torch").in_fp8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine__precision": "fp16"}, "ops.linear: fp8 products are of weights and activations"),
        ({"engine__precision": "fp32"}, "in bf16, not fp32"),
        ({"engine__device": "cpu"}, "ops.linear: fp8 products gain nothing on a CPU"),
        (
            {"ops__block": "eager"},
            'ops.linear: casts to fp8 cost more .* set ops.block = "compile"',
        ),
        ({"ops__block": None}, 'set ops.block = "compile"'),
        ({"ops__mlp": "triton"}, "ops.mlp: our kernel has the second product within it"),
        ({"engine__zero_stage": 3}, "ops.block: ZeRO-3 gathers"),
        ({"engine__recompute": "cheap"}, "ops.block: engine.recompute"),
        ({"model__variant": "L/14"}, "ops.linear: products of width 1024 gain nothing"),
        ({"model__mlp": 5128}, "model.mlp: 5128 is no multiple of 16"),
        ({"model__width": 1288, "model__heads": 8}, "model.width: 1288 is no multiple of 16"),
        (
            {"train__micro_batch": 8},
            "train.micro_batch: 8 images of 1 token, CLS, in the last block are 8 rows, .*: use a multiple of 16",
        ),
        (
            {"train__micro_batch": 2, "model__registers": 4, "model__pooling": "map"},
            "2 images of 260 tokens are 520 rows.*: use a multiple of 4",
        ),
    ],
    ids=str,
)
def test_what_cannot_run_or_gains_nothing_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        load_recipe(write_recipe(tmp_path / "r.toml", **GOOD | change))


def test_every_problem_is_told_at_once_also_beside_a_shape_that_cannot_be(tmp_path):
    path = write_recipe(tmp_path / "r.toml", **GOOD, engine__precision="fp16", model__heads=7)
    with pytest.raises(ConfigError, match=r"(?s)has 2 problems.*in bf16.*multiple of heads"):
        load_recipe(path)


@pytest.mark.parametrize("gpu", [("--gpu", "H100"), ("--on", "local")])
def test_plan_counts_it_as_bf16_and_says_so(tmp_path, capsys, gpu):
    data, found = ("--images", "100000", "--classes", "1000", *gpu), []
    for number, linear in enumerate(("fp8-rowwise", "torch")):
        path = write_recipe(tmp_path / f"{number}.toml", **GOOD | {"ops__linear": linear})
        assert main(["plan", str(path), *data]) == 0
        text = capsys.readouterr().out
        assert main(["plan", str(path), *data, "--json"]) == 0
        found.append((text.splitlines(), json.loads(capsys.readouterr().out)["forecast"]))
    (lines, record), (plain, of_plain) = found
    assert [line for line in lines if line not in plain] == [
        "fp8         counted as bf16: what its products save in time, and the room of their casts, are not known"
    ]
    assert "counted as bf16" in record.pop("fp8-rowwise")
    assert record == of_plain


H14 = ModelConfig(variant="H/14", registers=4, pooling="map").shape(1000)  # 260 tokens
OPS = OpsConfig(block="compile", attention="sdpa", linear="fp8-tensorwise")


def plan_of(micro_batch):
    return Plan(8, 8 * 64, micro_batch, 64 // micro_batch, 10**6, 1000, 0, 50, 1000, None, None)


def test_the_planner_proposes_no_micro_batch_that_the_recipe_would_be_refused_for(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", **GOOD))
    engine, plan = recipe.config.engine, plan_of(64)
    cluster = Cluster(ACCELERATORS["H100"], 8, 8)
    job = Job(H14, engine, OptimConfig(), plan, OPS, cluster, 1)
    proposed = {other.plan.micro_batch for other in alternatives(job)}
    assert proposed
    assert all(images % 4 == 0 for images in proposed)
    needs = chosen(engine, H14, OptimConfig(), plan, 0, OPS)
    least = chosen(engine, H14, OptimConfig(), plan_of(4), 0, OPS).memory.peak
    assert smaller(needs, engine, least, 1) == 4
    assert smaller(needs, engine, least - 1, 1) is None
