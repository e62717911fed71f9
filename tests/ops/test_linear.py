"""Both forms of a dense layer against the definition in float64, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from vitscale.ops.linear import explicit_linear, onednn_knows

NEAR = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def results(linear, inputs, dtype, wanted=(True, True, True)):
    own = [
        t.detach().to(dtype).requires_grad_(needs) for t, needs in zip(inputs, wanted, strict=False)
    ]
    out = linear(*own, *[None] * (3 - len(own)))
    out.square().sum().backward()
    return [out, *(t.grad for t in own)]


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("linear", [explicit_linear, F.linear])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 144), (144, 48), (48, 48), (33, 7)])
def test_a_dense_layer_and_its_gradients_are_near_float64(linear, dtype, bias, inputs, outputs):
    """Wider than its input and narrower: either factor of the weight's gradient is transposed."""
    if not onednn_knows(dtype):
        pytest.skip(f"no {dtype} in oneDNN on this processor")
    generator = torch.Generator().manual_seed(0)
    shapes = [(37, inputs), (outputs, inputs), *([(outputs,)] if bias else [])]
    given = [torch.randn(s, generator=generator).to(dtype).double() for s in shapes]
    found, truth = results(linear, given, dtype), results(F.linear, given, torch.float64)
    for one, two in zip(found, truth, strict=True):
        assert one.dtype == dtype
        assert one.is_contiguous()
        assert (one.double() - two).norm() < NEAR[dtype] * two.norm()


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_gradients_that_are_wanted_are_computed(wanted):
    """Frozen weights, and pixels, cost nothing."""
    given = [torch.randn(5, 8), torch.randn(6, 8), torch.randn(6)]
    found = results(explicit_linear, given, torch.float32, wanted)[1:]
    assert [gradient is not None for gradient in found] == list(wanted)


def test_explicit_linear_keeps_its_input_and_its_weight():
    """As torch's does: no copy, no output."""
    kept = []
    x, weight = (torch.randn(s, requires_grad=True) for s in ((5, 8), (6, 8)))
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        explicit_linear(x, weight, None)
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), weight.data_ptr()]
