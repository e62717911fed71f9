"""Blocks compiled as regions by torch.compile, on a CPU: the same numbers, one compilation for all alike."""

import dataclasses

import pytest
import torch

from tests.model.test_options import trained_like
from tests.ops.test_fp8 import SCALINGS, TORCHAO
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
from vitscale.ops.fp8 import fp8_linear

CPU = torch.device("cpu")
SHAPE = Shape(32, 6, 64, 4, 4, 4, (8, 8), classes=5, layer_scale=0.1, drop_path=0.4)
DIFFERENT = (
    "the first block, which drops nothing, the last, of which one token is read, and all others"
)

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


def gradients(ops, mode, dtype=torch.float32):
    """By name, in float32."""
    model = trained_like(SHAPE, ops).to(dtype).train()
    set_recompute(model, mode)
    torch.manual_seed(3)
    model(torch.randn(4, 3, 8, 8).to(dtype)).square().sum().backward()
    return {name: p.grad.float() for name, p in model.named_parameters()}


@pytest.mark.parametrize("mode", ["none", "full"])
def test_compiled_blocks_have_the_gradients_of_plain_ones(ops, mode):
    """Stochastic depth is drawn outside of what is compiled, so it draws the same, and blocks differ in nothing."""
    ours = gradients(ops, mode)
    for name, plain in gradients(PLAIN, "none").items():
        assert (ours[name] - plain).norm() < 1e-5 * plain.norm()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 3, DIFFERENT


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
def test_compiled_blocks_in_fp8_are_as_near_to_float32_as_eager_ones(ops, scaling):
    """Not equal to them: what a compiler does not round to bf16 in between may be another number of fp8 then."""
    fp8 = fp8_linear(scaling)
    compiled, eager = (dataclasses.replace(each, linear=fp8) for each in (ops, PLAIN))
    exact = gradients(PLAIN, "none")
    ours, theirs, bf16 = (
        off(gradients(each, "none", torch.bfloat16), exact) for each in (compiled, eager, PLAIN)
    )
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 3, DIFFERENT
    assert 3 * bf16 < ours < 1.5 * theirs


def off(found, exact):
    """How far all gradients of the blocks are from others, relative to those."""
    names = [name for name in exact if name.startswith("blocks.")]
    ours, theirs = (torch.cat([each[n].flatten() for n in names]) for each in (found, exact))
    return float((ours - theirs).norm() / theirs.norm())


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
