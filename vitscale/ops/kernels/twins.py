"""Whether our kernels do on this device what their plain twins do; asked once, before they are chosen by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vitscale.ops.kernels.add_norm import AddNorm
from vitscale.ops.kernels.bias_gelu import GeluDense
from vitscale.ops.sigmoid import torch_sigmoid_loss, triton_sigmoid_loss

ROWS, WIDTH, CLASSES = 24, 192, 1001
FAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""The norm of the difference over the norm of the twin's; twins round after each operation, kernels once."""

Pair = tuple[str, Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


@cache
def disagreement(device: torch.device, dtype: torch.dtype) -> str:
    """What a kernel does otherwise than its twin, in outputs or gradients, or nothing."""
    for name, kernel, twin, inputs in _pairs(device, dtype):
        try:
            found = _results(kernel, inputs)
        except (
            Exception
        ) as error:  # whatever compiler, driver or launcher say, the run can do without
            return f"{name} failed on this device: {type(error).__name__}: {str(error)[:200]}"
        for one, two in zip(found, _results(twin, inputs), strict=True):
            error = float((one.float() - two.float()).norm() / two.float().norm())
            if not error < FAR[dtype]:
                return f"{name} is {error:.1e} from plain torch on this device"
    return ""


def _pairs(device: torch.device, dtype: torch.dtype) -> Iterator[Pair]:
    """(name, kernel, twin, inputs in the order both take them)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    kept = torch.tensor([1.25, 0.0], device=device).view(2, 1, 1).to(dtype)
    norm = AddNorm(WIDTH, rms=False, eps=1e-6, bias=True).to(device, dtype)

    def added(tokens: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        return torch.cat(norm(tokens, branch, scale, kept))

    def added_plainly(tokens: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
        total = tokens + branch * scale * kept
        return torch.cat([total, F.layer_norm(total, (WIDTH,), norm.weight, norm.bias, 1e-6)])

    tokens = [draw(2, ROWS // 2, WIDTH) for _ in range(2)]
    yield "residual and norm", added, added_plainly, [*tokens, draw(WIDTH)]

    dense = GeluDense(WIDTH, 64, bias=True, tanh=False).to(device, dtype)

    def activated_plainly(hidden: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(hidden + bias), dense.weight, dense.bias)

    yield "bias and GELU", dense, activated_plainly, [draw(ROWS, WIDTH), draw(WIDTH)]

    labels = torch.tensor([[1, 1000], [3, -1]], device=device)
    facts = (labels, torch.full((2, 2), 0.5, device=device), torch.full((2,), 1e-4, device=device))
    logits = [draw(2, CLASSES)]
    yield (
        "the sigmoid loss",
        lambda given: triton_sigmoid_loss(given, *facts),
        lambda given: torch_sigmoid_loss(given, *facts),
        logits,
    )


def _results(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of its sum of squares."""
    own = [each.clone().requires_grad_() for each in inputs]
    output = function(*own)
    return [output.detach(), *torch.autograd.grad(output.float().square().sum(), own)]
