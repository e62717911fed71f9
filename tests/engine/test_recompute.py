"""What each mode of activation checkpointing holds, and that gradients do not change by it."""

import dataclasses
import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from tests.model.test_options import trained_like
from vitscale.config.model import Shape
from vitscale.engine.recompute import set_recompute
from vitscale.model.build import build_model
from vitscale.ops.attention import explicit, sdpa
from vitscale.ops.choice import PLAIN, Ops, torch_norm
from vitscale.ops.linear import Dense, ExplicitDense, explicit_dense, onednn_knows

_ATEN = torch.ops.aten
MODES = ("none", "cheap", "mlp", "full")
SHAPE = Shape(64, 3, 256, 4, 4, 4, (32, 32), classes=5)
BYTES = {  # a token and block, of width D and MLP width F, in bf16
    "none": lambda d, f: 16 * d + 4 * f,
    "cheap": lambda d, f: 12 * d + 2 * f,
    "mlp": lambda d, f: 12 * d,
    "full": lambda d, f: 2 * d,
}


class Alive(TorchDispatchMode):
    """Knows every storage that was made while it was on and still exists; views of `model` are its own."""

    def __init__(self, model):
        super().__init__()
        self.storages = WeakIdKeyDictionary()
        self.own = sum(p.untyped_storage().nbytes() for p in model.parameters())
        for parameter in model.parameters():
            self.storages[parameter.untyped_storage()] = parameter.untyped_storage().nbytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage] = storage.nbytes()
        return made

    def bytes(self):
        return sum(self.storages.values()) - self.own


def held(shape, mode, dtype=torch.bfloat16, images=4, ops=PLAIN):
    """Bytes that exist between forward and backward because of the forward."""
    model = build_model(shape, ops, seed=0).to(dtype).train()
    set_recompute(model, mode)
    pixels = torch.randn(images, 3, *shape.image, dtype=dtype)
    with Alive(model) as alive:
        logits = model(pixels)
    if ops.norm is not torch_norm:
        gc.collect()  # Triton's interpreter leaves arguments of kernels in cycles
    found = alive.bytes()
    logits.float().sum().backward()
    return found


@pytest.mark.parametrize("linear", [Dense, ExplicitDense])
@pytest.mark.parametrize("mlp", [256, 128])
@pytest.mark.parametrize("mode", MODES)
def test_a_block_holds_what_the_formula_says(mode, mlp, linear):
    """By the difference of models of 5 and 3 blocks; sums of attention, statistics of norms are the rest."""
    shallow = dataclasses.replace(SHAPE, width=256, mlp=4 * mlp)
    deep = dataclasses.replace(shallow, depth=5)
    tokens = 4 * shallow.tokens
    ops, dtype = Ops(torch_norm, sdpa, linear), torch.bfloat16
    if linear is ExplicitDense and not onednn_knows(dtype):
        pytest.skip("no bfloat16 in oneDNN on this processor")
    found = (held(deep, mode, dtype, ops=ops) - held(shallow, mode, dtype, ops=ops)) / 2 / tokens
    assert found == pytest.approx(BYTES[mode](256, 4 * mlp), rel=0.05)


@pytest.mark.parametrize(
    "ops",
    [PLAIN, Ops(torch_norm, explicit, ExplicitDense)],
    ids=["fused", "explicit"],
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "swiglu", "parallel": True, "positions": "rope", "qk_norm": True},
        {"layer_scale": 0.1, "biases": "none", "norm": "rms", "registers": 2},
    ],
)
def test_gradients_are_the_same_to_the_bit_in_every_mode(changes, ops):
    """Dropout and stochastic depth are on: both passes through a block draw the same."""
    shape = dataclasses.replace(SHAPE, dropout=0.1, drop_path=0.4, **changes)
    images, found = torch.randn(4, 3, 32, 32), []
    for mode in (*MODES, "offload"):
        model = trained_like(shape, ops).train()
        set_recompute(model, mode)
        torch.manual_seed(3)
        model(images).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize(("mode", "products"), [("cheap", 0), ("mlp", 1), ("full", 3)])
@pytest.mark.parametrize("linear", [Dense, ExplicitDense])
def test_only_what_the_mode_says_is_computed_again(mode, products, linear):
    """Dense products of forward and backward: 4 a block forward, 8 backward; torch's early stop spares fc2."""
    model = trained_like(SHAPE, Ops(torch_norm, sdpa, linear)).train()
    set_recompute(model, mode)
    counter = Products()
    with counter:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    outside = 2 + 3  # patches and head: one each forward, two backward, none to the pixels
    assert counter.count - outside == SHAPE.depth * (12 + products)


@pytest.mark.parametrize(("mode", "left"), [("full", SHAPE.depth), ("offload", 0)])
def test_offloaded_inputs_of_blocks_are_not_kept_where_they_were(mode, left):
    """A copy in the host's memory takes their place: on a CPU, which has no other, it is a copy all the same."""
    model = trained_like(SHAPE).train()
    set_recompute(model, mode)
    inputs = WeakIdKeyDictionary()
    for block in model.blocks:
        block.register_forward_pre_hook(
            lambda _, given: inputs.update({given[0].untyped_storage(): True})
        )
    logits = model(torch.randn(2, 3, 32, 32))
    assert len(inputs) == left
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class Products(TorchDispatchMode):
    """Counts dense matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in {_ATEN.addmm.default, _ATEN.mm.default, explicit_dense}
        return func(*args, **(kwargs or {}))
