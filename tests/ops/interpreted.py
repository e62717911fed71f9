"""What our kernels compute, in Triton's interpreter: run by test_kernels.py in a process of its own."""

import dataclasses

import pytest
import torch

from tests.engine.test_recompute import BYTES, MODES, Products, held
from tests.model.test_options import trained_like
from tests.ops import numerics
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
from vitscale.ops.kernels.twins import disagreement

CPU = torch.device("cpu")
OURS = OpsConfig(norm="triton", residual="triton", mlp="triton", loss="triton")
SHAPE = Shape(48, 3, 96, 3, 4, 4, (8, 8), classes=5, layer_scale=0.1, drop_path=0.4)
# What torch.compile, which DeepSpeed asks for too, warns of in torch itself.
COMPILER_WARNINGS = pytest.mark.filterwarnings(
    "ignore:.*(torch.jit.script_method|should not be instantiated):DeprecationWarning"
)
NEAR = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def ops_of(shape, **changes):
    wanted = OURS.model_copy(update=changes)
    return choose_ops(wanted, shape, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("width", [192, 384, 1408])
def test_residual_and_layer_norm_are_near_float64(width, dtype):
    near(numerics.add_norm("layer", width, dtype), dtype)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("case", ["rms", "no-bias", "norm-only", "add-only", "bare-sum"])
def test_each_part_of_the_kernel_may_be_left_out(case, dtype):
    near(numerics.add_norm(case, 192, dtype), dtype)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("tanh", [False, True])
def test_bias_and_gelu_are_near_float64(tanh, dtype):
    near(numerics.gelu(tanh, dtype), dtype)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("classes", [21841, 1000, 7])
def test_the_sigmoid_loss_is_near_float64(classes, dtype):
    near(numerics.sigmoid(classes, dtype), dtype)


def test_the_sigmoid_loss_of_a_new_head_is_near_float64():
    """All logits near -10: 1 + exp(-10) alone has lost a thousandth of exp(-10) in float32."""
    near(numerics.sigmoid(21841, torch.float32, bias=-10.0), torch.float32)


def near(errors, dtype):
    assert errors and max(errors.values()) < NEAR[dtype], errors


def step(shape, ops, mode="none", images=4):
    """Loss and gradients of a model of these ops, by name."""
    model = trained_like(shape, ops).train()
    set_recompute(model, mode)
    torch.manual_seed(3)
    pixels = torch.randn(images, 3, *shape.image)
    loss = model(pixels).square().sum()
    loss.backward()
    return {"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters()}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_scale": None, "drop_path": 0.0, "activation": "gelu-tanh"},
        {"activation": "swiglu", "parallel": True, "positions": "rope", "qk_norm": True},
        {"parallel": True},
        {"biases": "none", "norm": "rms", "registers": 2, "pooling": "map"},
        {"biases": "none", "dropout": 0.1},
    ],
)
def test_a_model_of_our_kernels_computes_what_a_plain_one_does(changes):
    """Dropout and stochastic depth draw the same; where our MLP cannot run, torch's is asked for."""
    shape = dataclasses.replace(SHAPE, **changes)
    plain = "mlp" if shape.activation == "swiglu" or shape.dropout else ""
    ours = step(shape, ops_of(shape, **{plain: "torch"} if plain else {}))
    theirs = step(shape, PLAIN)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] - value).norm() < 1e-5 * value.norm(), name


def test_gradients_are_the_same_to_the_bit_in_every_mode_of_recomputation():
    first, *others = (step(SHAPE, ops_of(SHAPE), mode) for mode in MODES)
    for other in others:
        for name, value in first.items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize(("mode", "products"), [("cheap", 0), ("mlp", 1), ("full", 3)])
def test_recomputation_stops_before_the_last_product(mode, products):
    """As with torch's layers: 4 dense products a block forward, 8 backward, and 5 outside of blocks."""
    shape, counter = dataclasses.replace(SHAPE, layer_scale=None, drop_path=0.0), Products()
    with counter:
        step(shape, ops_of(shape), mode)
    assert counter.count - 5 == SHAPE.depth * (12 + products)


@pytest.mark.parametrize("mode", MODES)
def test_without_the_output_of_gelu_a_block_holds_less(mode):
    """2F bytes a token less where nothing is recomputed; the other modes did not hold it."""
    shape = dataclasses.replace(SHAPE, width=192, mlp=384, layer_scale=None, drop_path=0.0)
    ops, deep = ops_of(shape), dataclasses.replace(shape, depth=5)
    found = (held(deep, mode, ops=ops) - held(shape, mode, ops=ops)) / 2 / (4 * shape.tokens)
    wanted = BYTES[mode](192, 384) - (2 * 384 if mode == "none" else 0)
    assert found == pytest.approx(wanted, rel=0.05)


@COMPILER_WARNINGS
@pytest.mark.parametrize("stage", [1, 3])
def test_zero_trains_our_kernels_as_it_trains_plain_ones(stage):
    """Wide enough that stage 3 releases the matrices between their uses; the first forward pass is an evaluation."""
    shape = dataclasses.replace(SHAPE, width=192, mlp=768, depth=2, drop_path=0.0)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([[1, 2], [3, -1]])
    found = []
    for ops in (ops_of(shape), PLAIN):
        config, plan = (
            EngineConfig(zero_stage=stage, precision="fp32"),
            Plan(1, 2, 2, 1, 10, 1, 0, 1, 1, None, None),
        )
        objective = make_objective("sigmoid", 0.1, sigmoid=ops.loss)
        model = build_model(shape, ops, seed=0)
        engine = ZeroEngine(model, objective, config, OptimConfig(), plan, device=CPU)
        with torch.no_grad():
            logits = engine.model(engine.normalise(images))
        losses = []
        for _ in range(3):
            losses.append(float(engine.accumulate(images, labels, last=True)))
            engine.step(1e-2)
        found.append([*losses, float(logits.abs().sum())])
        engine.close()
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][2] < found[0][0]


@COMPILER_WARNINGS
@pytest.mark.parametrize("read", [None, 1])
def test_a_compiler_sees_our_kernels_as_operators(read):
    """Traced with shapes alone, forward and backward, without a break; then run as traced."""
    ops = ops_of(SHAPE)
    model = trained_like(SHAPE, ops)
    tokens = torch.randn(2, 5, 48, requires_grad=True)
    block = model.blocks[0]
    kept = torch.tensor([1.25, 0.0]).view(2, 1, 1)
    traced = torch.compile(block._compute, backend="aot_eager", fullgraph=True)
    results = []
    for call in (traced, block._compute):
        out = call(tokens, None, read, kept, kept)
        results.append([out, *torch.autograd.grad(out.sum(), [tokens, *block.parameters()])])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_kernels_agree_with_their_twins_and_a_wrong_one_would_be_found(monkeypatch):
    from vitscale.ops.kernels import twins

    assert disagreement(CPU, torch.float32) == ""
    monkeypatch.setattr(
        twins, "torch_sigmoid_loss", lambda *given: 1.01 * twins.triton_sigmoid_loss(*given)
    )
    found = disagreement.__wrapped__(CPU, torch.float32)
    assert "the sigmoid loss is" in found and "from plain torch" in found


def test_a_kernel_that_raises_is_a_reason_against_it(monkeypatch):
    from vitscale.ops.kernels import twins

    def fails(*given):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(twins, "triton_sigmoid_loss", fails)
    assert "no kernel image" in disagreement.__wrapped__(CPU, torch.float32)


def test_the_interpreter_is_never_chosen_by_itself():
    ops = choose_ops(OpsConfig(), SHAPE, device=CPU, dtype=torch.float32)
    assert not any("triton" in line.split()[1] for line in ops.reasons)
