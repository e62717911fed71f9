"""Blocks compiled as regions by torch.compile, on a CPU: the same numbers, one compilation for all blocks."""

import dataclasses

import pytest
import torch

from tests.model.test_options import trained_like
from vitscale.config.engine import EngineConfig
from vitscale.config.model import Shape
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.engine.recompute import set_recompute
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective
from vitscale.ops.choice import PLAIN, choose_ops

CPU = torch.device("cpu")
SHAPE = Shape(32, 6, 64, 4, 4, 4, (8, 8), classes=5, layer_scale=0.1, drop_path=0.4)

pytestmark = [
    pytest.mark.slow,
    # What torch.compile warns of in torch itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture
def ops(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return choose_ops(OpsConfig(block="compile"), SHAPE, device=CPU, dtype=torch.float32)


def gradients(ops, mode):
    model = trained_like(SHAPE, ops).train()
    set_recompute(model, mode)
    torch.manual_seed(3)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("mode", ["none", "full"])
def test_compiled_blocks_have_the_gradients_of_plain_ones(ops, mode):
    """Stochastic depth is drawn outside of what is compiled, so it draws the same, and blocks differ in nothing."""
    for ours, plain in zip(gradients(ops, mode), gradients(PLAIN, "none"), strict=True):
        assert (ours - plain).norm() < 1e-5 * plain.norm()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 2, "the first block, which drops nothing, and all others"


def test_zero_1_trains_compiled_blocks(ops):
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels, shape = torch.tensor([0, 1, 2, 3]), dataclasses.replace(SHAPE, drop_path=0.0)
    config, plan = (
        EngineConfig(zero_stage=1, precision="fp32"),
        Plan(1, 4, 4, 1, 10, 1, 0, 1, 1, None, None),
    )
    found = []
    for each in (ops, PLAIN):
        model, objective = build_model(shape, each, seed=0), make_objective("softmax", 0.0)
        engine = ZeroEngine(model, objective, config, OptimConfig(), plan, device=CPU)
        losses = []
        for _ in range(3):
            losses.append(float(engine.accumulate(images, labels, last=True)))
            engine.step(1e-2)
        found.append(losses)
        engine.close()
    assert found[0] == pytest.approx(found[1], rel=1e-5)
