"""fp16 with a loss scale: torch's rule, the losses of float32, and the same skipped updates on every engine."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.engine.half import STEEP, go, series
from tests.engine.scenarios import SHAPE
from tests.engine.test_engines import mean_of_ranks
from tests.ranks import run_ranks
from tests.train.recipes import make_data
from vitscale.checkpoint.weights import load_weights
from vitscale.config.engine import EngineConfig
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.engine.choice import cpu_has_fp16, insist_on_device
from vitscale.engine.loss_scale import FLOOR, GROWTH_STEPS, START, LossScale
from vitscale.errors import ResourceError
from vitscale.planner.memory import memory_of

DEEPSPEED_TOO = pytest.mark.skipif(
    not cpu_has_fp16(), reason="DeepSpeed takes fp16 only on CPUs with AVX512-FP16"
)
LOCAL = {"kind": "local", "precision": "fp16"}
ZERO = {"kind": "deepspeed", "precision": "fp16"}
KINDS = [
    LOCAL,
    *(ZERO | {"stage": stage} for stage in range(4)),
    *(ZERO | {"stage": stage, "offload": "optimizer"} for stage in (2, 3)),
]


# ---- the rule ----


def test_the_scale_is_that_of_torchs_grad_scaler_whatever_overflows():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs, ours = torch.amp.GradScaler("cpu"), LossScale("dynamic")
    assert ours.value == theirs.get_scale()
    overflows = {0, 1, 2, 700, 2700, 2701, 6000}
    visited = []
    for step in range(6100):
        theirs.scale(parameter.sum())  # it has no scale before it has scaled something
        parameter.grad = torch.tensor([math.inf if step in overflows else 1.0])
        theirs.step(optimizer)
        theirs.update()
        ours.update(step not in overflows)
        assert ours.value == theirs.get_scale(), step
        visited.append(ours.value)
    powers = [int(math.log2(scale)) for scale, _ in itertools.groupby(visited)]
    assert powers == [15, 14, 13, 12, 11, 10, 11, 10]  # 1,999 good updates in a row double nothing


def test_an_overflow_at_the_floor_is_not_the_scales():
    scale = LossScale("dynamic")
    for power in range(15, -1, -1):
        scale.update(finite=False)
        assert (scale.value, scale.lowered) == (2.0**power, True)
    scale.update(finite=False)
    assert (scale.value, scale.lowered) == (FLOOR, False)
    assert "at the least loss scale, 1" in scale.blame
    assert scale.metrics() == {"train/loss_scale": 1.0, "train/overflows": 16.0}


def test_a_fixed_scale_stays_and_never_excuses():
    scale = LossScale(1024.0)
    for finite in (False, *[True] * GROWTH_STEPS, False):
        scale.update(finite)
        assert (scale.value, scale.lowered) == (1024.0, False)
    assert "at the fixed loss scale 1024" in scale.blame
    assert (scale.state(), scale.metrics(), LossScale().blame) == (None, {}, "")


def test_a_state_goes_through_json_and_counts_good_updates_on():
    scale = LossScale("dynamic")
    for finite in (False, False, *[True] * (GROWTH_STEPS - 1)):
        scale.update(finite)
    again = LossScale("dynamic")
    again.resume(json.loads(json.dumps(scale.state())))
    assert again.state() == scale.state()
    again.update(finite=True)
    assert again.value == START / 2


def test_commits_without_a_scale_begin_one_and_a_rewind_forgets_no_overflow():
    scale = LossScale("dynamic")
    scale.update(finite=False)
    scale.resume(None)
    assert scale.metrics() == {"train/loss_scale": START, "train/overflows": 1.0}


# ---- the engines ----

STILL = [{**kind, "loss_scale": 1024.0, "accumulation": 2, "ema": 0.9} for kind in KINDS]


@pytest.fixture(scope="module")
def runs():
    """Plain float32, then every engine in fp16."""
    cases = [{"kind": "local"}, *STILL]
    return run_ranks(2, "tests.engine.scenarios:losses", cases, 4)


@DEEPSPEED_TOO
@pytest.mark.dist
@pytest.mark.parametrize("case", range(1, 1 + len(STILL)))
def test_losses_and_unscaled_norms_are_those_of_float32_within_half_precision(runs, case):
    for own, wanted in zip(mean_of_ranks(runs, case), mean_of_ranks(runs, 0), strict=True):
        assert own[0] == pytest.approx(wanted[0], rel=1e-3)
        assert own[1] == pytest.approx(wanted[1], rel=1e-2)


@DEEPSPEED_TOO
@pytest.mark.dist
@pytest.mark.slow
def test_a_scale_that_is_far_too_large_costs_every_engine_the_same_updates():
    found = run_ranks(2, "tests.engine.half:overflowing", KINDS, 2.0**26, 14)
    assert found[0][0]["updates"] < 12
    for case in range(len(KINDS)):
        scales = [scale for scale, _, _ in found[0][case]["seen"]]
        assert scales == [scale for scale, _, _ in found[0][0]["seen"]]
        finite = [math.isfinite(float.fromhex(norm)) for _, _, norm in found[0][case]["seen"]]
        before = [2.0**26, *scales]
        assert finite == [now == last for last, now in itertools.pairwise(before)]
        assert found[0][case]["updates"] == sum(finite)
        assert [own["updates"] for own in found[1]] == [own["updates"] for own in found[0]]
        assert [s for s, _, _ in found[1][case]["seen"]] == scales


@DEEPSPEED_TOO
@pytest.mark.dist
def test_another_power_of_two_changes_no_bit_of_the_weights():
    """SGD, whose update is as small as the gradient; none here is so small that a scale of 2^11 rounds it."""
    sgd = {"optim": {"optimizer": "sgd"}}
    cases = [{**kind, **sgd, "loss_scale": 2.0**power} for kind in KINDS for power in (11, 13)]
    found = run_ranks(1, "tests.engine.half:weights_after", cases, 2)[0]
    for one, two in zip(found[::2], found[1::2], strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


RESUMED = [{**kind, "dropout": 0.1, "ema": 0.9, "accumulation": 2} for kind in KINDS]


@DEEPSPEED_TOO
@pytest.mark.dist
@pytest.mark.slow
def test_a_run_that_was_stopped_between_changes_of_the_scale_goes_on_bit_for_bit(tmp_path):
    found = run_ranks(2, "tests.engine.half:resumed", RESUMED, str(tmp_path), 2.0**19)
    for rank in found:
        for case in rank:
            scales = [scale for scale, _, _ in case["straight"]]
            assert case["resumed"] == case["straight"]
            assert min(scales) < scales[0] and scales[3] != scales[-1]


@DEEPSPEED_TOO
@pytest.mark.dist
@pytest.mark.slow
def test_a_gradient_that_is_not_finite_on_one_rank_moves_no_weight_in_fp16():
    for rank in run_ranks(2, "tests.engine.scenarios:not_finite", STILL):
        for case in rank:
            assert not math.isfinite(float.fromhex(case["norm"]))
            assert math.isfinite(float.fromhex(case["next_norm"]))
            assert case["kept"] and case["moved"]


@DEEPSPEED_TOO
@pytest.mark.dist
@pytest.mark.slow
def test_a_discarded_step_leaves_no_trace_in_fp16(tmp_path):
    fault = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "engine.loss@1:3:nan"}
    for rank in run_ranks(2, "tests.engine.scenarios:discarded", STILL, str(tmp_path), **fault):
        for case in rank:
            assert case["kept"]
            assert case["seen"] == case["wanted"]
            assert case["again"] == case["first_time"]


def test_deepspeed_on_a_cpu_without_fp16_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr("vitscale.engine.choice.cpu_has_fp16", lambda: False)
    cpu = torch.device("cpu")
    insist_on_device(EngineConfig(kind="local", precision="fp16"), cpu)
    with pytest.raises(ResourceError, match="DeepSpeed takes fp16 only on CPUs"):
        insist_on_device(EngineConfig(precision="fp16"), cpu)


@pytest.mark.parametrize("engine", [{"kind": "local"}, *({"zero_stage": n} for n in range(4))])
def test_the_planner_foresees_the_bytes_of_bf16(engine):
    fp16, bf16, fp32 = (
        memory_of(
            SHAPE,
            EngineConfig(precision=precision, **engine),
            OptimConfig(),
            OpsConfig(),
            micro_batch=4,
            accumulation=2,
            world=2,
        )
        for precision in ("fp16", "bf16", "fp32")
    )
    assert fp16 == bf16
    assert 2 * fp16.weights == fp32.weights


# ---- whole runs ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def steep(monkeypatch):
    """A scale that begins where it overflows and grows after every third good update."""
    monkeypatch.setattr("vitscale.engine.loss_scale.START", STEEP[0])
    monkeypatch.setattr("vitscale.engine.loss_scale.GROWTH_STEPS", STEEP[1])


def test_overflows_are_logged_and_are_no_trouble_to_the_guard(tmp_path, data, steep, caplog):
    with caplog.at_level("INFO"):
        reply, folder = go(tmp_path, data, "engine.kind=local", "guard.skips=1")
    assert reply["status"] == "finished"
    overflows = series(folder, "train/overflows")
    assert overflows[10] >= 2 and set(series(folder, "train/skipped_steps").values()) == {0.0}
    assert f"the loss scale is now {2.0**21:g}" in caplog.text
    ledger = (folder / "ledger/0001.jsonl").read_text()
    events = [json.loads(line) for line in ledger.splitlines() if '"event"' in line]
    assert [event["event"] for event in events] == ["overflow"] * int(overflows[10])
    first = next(step for step in sorted(overflows) if step not in {e["step"] for e in events})
    kept = sorted(path.name for path in (folder / "manifests").iterdir())
    assert all(int(name[5:13]) >= first for name in kept)  # no commit at a step that overflowed
    assert not {e["step"] for e in events} & {int(name[5:13]) for name in kept}


def test_a_run_in_fp16_goes_on_from_an_earlier_commit_bit_for_bit(tmp_path, data, steep):
    own = ("engine.kind=local", "checkpoint.keep=9", "train.duration=14 steps")
    _, whole = go(tmp_path / "whole", data, *own)
    cut = Path(shutil.copytree(whole, tmp_path / "cut" / "run"))
    for step in (10, 12, 14):
        shutil.rmtree(cut / f"checkpoints/step-{step:08d}")
    go(tmp_path / "cut", data, *own)
    assert len(list((cut / "attempts").iterdir())) == 2
    for name in ("train/loss", "train/grad_norm", "train/loss_scale", "train/overflows"):
        assert series(cut, name) == series(whole, name)
    one, two = (load_weights(run).tensors for run in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)
    scales = series(whole, "train/loss_scale")
    assert scales[8] != scales[7] and scales[9] != scales[8]  # right before and after the commit


@DEEPSPEED_TOO
def test_the_scale_of_a_commit_is_gone_on_with_under_another_engine(tmp_path, data):
    """Seven steps under ZeRO-1, seven more under another engine; the scale that follows from those numbers is known."""
    engines = ("engine.kind=local", "engine.zero_stage=3")
    [scales] = run_ranks(1, "tests.engine.half:gone_on", str(tmp_path), str(data), engines)
    assert scales[0] == scales[1]
    assert scales[0][7] not in (scales[0][1], 2.0**22)


def test_gradients_that_overflow_at_the_floor_end_the_run_and_say_so(tmp_path, data, monkeypatch):
    monkeypatch.setattr("vitscale.engine.loss_scale.START", 2.0**21)
    monkeypatch.setattr("vitscale.engine.loss_scale.FLOOR", 2.0**20)
    reply, _ = go(tmp_path, data, "engine.kind=local", "train.micro_batch=4")
    assert (reply["status"], reply["exit_code"]) == ("failed", 4)
    assert "there is no commit to go back to" in reply["message"]
    assert (
        "at the least loss scale, 1.04858e+06 (bf16 has the range of float32)" in reply["message"]
    )
