"""Both attentions against the definition in float64, forward and backward."""

import pytest
import torch

from vitscale.ops.attention import explicit, sdpa, weights

NEAR = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


def plain(q, k, v, bias=None):
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def results(attention, inputs, dtype):
    own = [t.detach().to(dtype).requires_grad_() for t in inputs]
    out = attention(*own)
    return [out, *torch.autograd.grad(out.square().sum(), own)]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("attention", [explicit, sdpa])
@pytest.mark.parametrize("bias", [None, (1, 3, 17, 13), (2, 3, 17, 13)])
def test_attention_and_its_gradients_are_near_float64(attention, dtype, bias):
    """17 queries of a strided view, 13 keys; the bias of all images or of each."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 17, 16), (2, 3, 13, 16), (2, 3, 13, 16), *([bias] if bias else [])]
    inputs = [torch.randn(s, generator=generator).to(dtype).double() for s in shapes]
    inputs[0] = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    found, truth = results(attention, inputs, dtype), results(plain, inputs, torch.float64)
    for one, two in zip(found, truth, strict=True):
        assert (one.double() - two).norm() < NEAR[dtype] * two.norm()


def test_explicit_attention_keeps_its_inputs_and_one_tensor_more():
    """2 H M bytes a token in bf16: what each token takes of every other, and no scores or copies."""
    kept = []
    q, k, v = (torch.randn(2, 3, 17, 16, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        explicit(q, k, v)
    assert sorted(t.numel() for t in kept) == sorted([q.numel()] * 3 + [2 * 3 * 17 * 17])
    assert all(t.dtype == torch.bfloat16 for t in kept)


def test_weights_are_what_attention_mixes_by():
    q, k, v = (torch.randn(2, 3, 17, 16) for _ in "qkv")
    torch.testing.assert_close(weights(q, k) @ v, sdpa(q, k, v))
