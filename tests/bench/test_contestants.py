"""What benches time does the work it should: contestants agree, on tiny models, and every bench can be run through."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch

from bench import figures, kernels, recompute, startup, step
from tests.ranks import ROOT
from vitscale.config.model import Shape
from vitscale.model.build import build_model
from vitscale.ops.choice import PLAIN

CPU = torch.device("cpu")
SHAPE = Shape(32, 2, 128, 2, 4, 4, (16, 16), classes=1000)
SIZES = kernels.Sizes(images=2, heads=2, tokens=5, head=8, batch=4, classes=33)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    def read(name):
        return json.loads((tmp_path / f"{name}.json").read_text())

    return read


def plain_from(model):
    def make():
        made = build_model(SHAPE, PLAIN)
        made.load_state_dict(model.state_dict())
        return made

    return make


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_our_step_and_a_plain_one_take_the_same_losses(precision):
    """The first loss as the bench checks it; later ones tell updates apart, but for biases that ours does not decay."""
    model = step.randomised(SHAPE)
    images, labels = step.made_batch(SHAPE, 4, CPU)
    views = (images / 255 - 0.5) / 0.5
    ours = step.our_step(model, SHAPE, precision, images, labels)
    peer = step.peer_step(plain_from(model), views, labels, autocast=precision == "bf16")
    for more in (1, 10, 10):
        assert float(ours()) == pytest.approx(float(peer()), rel=more * step.FAR[precision])


def test_losses_that_lie_apart_end_the_bench():
    step.insist_on_equal_losses({"ours": 1.0, "peer": 1.005}, 1e-2)
    with pytest.raises(SystemExit, match="losses of the first step lie apart"):
        step.insist_on_equal_losses({"ours": 1.0, "peer": 1.02}, 1e-2)
    with pytest.raises(SystemExit, match="losses of the first step lie apart"):
        step.insist_on_equal_losses(dict.fromkeys(("ours", "peer"), math.nan), 1e-2)


def test_a_step_bench_writes_times_shares_and_the_most(results, monkeypatch):
    """Peers of other packages are left out: they are not in this environment."""
    monkeypatch.setattr(step, "peers", lambda model, shape: {"plain torch": plain_from(model)})
    monkeypatch.setattr(step.ModelConfig, "shape", lambda self, classes: SHAPE)
    monkeypatch.setattr(sys, "argv", ["step", "--batch", "2", "--rounds", "2"])
    step.main()
    record = results("step")
    assert set(record["ceilings"]) == {"fp32", "bf16"}
    assert all(value > 0 for found in record["ceilings"].values() for value in found.values())
    for found in record["figures"].values():
        assert found["mfu"].keys() == {"ours", *found["ratio"]}
        assert all(share > 0 for share in found["mfu"].values())


def test_ops_and_what_they_replace_come_to_the_same():
    for name, make in kernels.contests(SIZES, CPU, triton=False):
        far = 2e-2 if "bfloat16" in name else 1e-5
        assert kernels._apart(*(work() for work in make().values())) < far, name


def test_our_kernels_and_what_they_replace_come_to_the_same():
    """In Triton's interpreter, in a process of its own."""
    code = (
        "import torch; from bench import kernels; from tests.bench.test_contestants import SIZES\n"
        "works = {'loss': kernels.sigmoid_losses(SIZES, triton=True), "
        "'residual': kernels.residuals(SIZES, torch.float32), 'mlp': kernels.mlps(SIZES, torch.float32)}\n"
        "for name, each in works.items(): print(name, kernels._apart(*(work() for work in each.values())))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    apart = {name: float(value) for name, value in map(str.split, run.stdout.splitlines())}
    assert apart.keys() == {"loss", "residual", "mlp"}
    assert all(value < 1e-5 for value in apart.values()), apart


def test_modes_of_recomputation_are_run_through(results, monkeypatch):
    monkeypatch.setattr(recompute.ModelConfig, "shape", lambda self, classes: SHAPE)
    monkeypatch.setattr(sys, "argv", ["recompute", "--batch", "2", "--rounds", "2"])
    recompute.main()
    found = results("recompute")
    assert set(found["figures"]) == {"cheap", "mlp", "full"} and found["batch"] == 2


@pytest.mark.slow
def test_commands_that_begin_do_what_their_peers_do(tmp_path):
    """Each contestant once: runs end with a commit, the loop with its weights."""
    for works in startup.contests(tmp_path).values():
        for work in works.values():
            before = startup.cpu_seconds_of_children()
            work()
            assert startup.cpu_seconds_of_children() > before
    assert len(list(tmp_path.glob("run-*/checkpoints/step-00000001/MANIFEST.json"))) == 2
    assert (tmp_path / "one_step.pt").exists()


def test_a_command_that_fails_ends_the_bench_with_what_it_said():
    with pytest.raises(SystemExit) as error:
        startup.vitscale("plan", "--model", "B")
    said = str(error.value)
    assert "plan --model B ended with 2:\n" in said and "'B' is not a variant" in said
