"""Our kernels in Triton's interpreter against float64: {tensor: error} of a case.

An error is the norm of the difference over the norm of the truth. TRITON_INTERPRET=1 must be set before Triton is
imported. The interpreter cuts numbers off to bf16 where a GPU rounds them, which doubles errors.
"""

import torch
import torch.nn.functional as F

from vitscale.ops.kernels.add_norm import AddNorm, add
from vitscale.ops.kernels.bias_gelu import GeluDense
from vitscale.ops.sigmoid import triton_sigmoid_loss


def draw(*shape, dtype):
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def compared(ours, truth, inputs, dtype):
    """Errors of the outputs and of the gradients of `inputs`, a dict; all functions get them in the order given."""
    results = []
    for function, kind in ((ours, dtype), (truth, torch.float64)):
        own = {n: t.detach().to(kind).requires_grad_() for n, t in inputs.items()}
        outputs = function(*own.values())
        generator = torch.Generator().manual_seed(1)
        total = 0
        for output in outputs:
            weights = torch.randn(output.shape, generator=generator).to(dtype).to(kind)
            total = total + (output * weights.to(output.dtype)).sum()
        total.backward()
        named = {f"output{index}": output for index, output in enumerate(outputs)}
        results.append(named | {f"d_{n}": t.grad for n, t in own.items()})
    mine, true = results
    with torch.no_grad():
        return {n: float((mine[n].double() - true[n]).norm() / true[n].norm()) for n in mine}


def add_norm(case, width, dtype):
    """Two images of five tokens; the second's branch is dropped, the first's scaled up."""
    torch.manual_seed(0)
    rms, bias = case == "rms", case not in ("rms", "no-bias")
    module = AddNorm(width, rms=rms, eps=1e-6, bias=bias)
    kept = torch.tensor([1.25, 0.0]).view(2, 1, 1)
    inputs = {"tokens": draw(2, 5, width, dtype=dtype) + 1}
    if case != "norm-only":
        inputs["branch"] = draw(2, 5, width, dtype=dtype)
    if case not in ("norm-only", "bare-sum"):
        inputs["scale"] = draw(width, dtype=dtype)
    if case != "add-only":
        inputs["weight"] = draw(width, dtype=dtype)
    if bias and case != "add-only":
        inputs["bias"] = draw(width, dtype=dtype)

    def ours(*given):
        named = dict(zip(inputs, given, strict=True))
        drop = None if case == "bare-sum" else kept
        if case == "add-only":
            return (add(named["tokens"], named["branch"], named["scale"], drop),)
        values = {n: named[n] for n in ("weight", "bias") if n in named}
        branch = (named.get("branch"), named.get("scale"), drop if "branch" in named else None)
        made = torch.func.functional_call(module, values, (named["tokens"], *branch))
        return made if isinstance(made, tuple) else (made,)

    def truth(*given):
        named = dict(zip(inputs, given, strict=True))
        total = named["tokens"]
        if "branch" in named:
            scaled = named["branch"] * named.get("scale", 1.0)
            total = total + scaled * (1.0 if case == "bare-sum" else kept.double())
        if case == "add-only":
            return (total,)
        weight, bias = named["weight"], named.get("bias")
        normed = (
            F.rms_norm(total, (width,), weight, 1e-6)
            if rms
            else F.layer_norm(total, (width,), weight, bias, 1e-6)
        )
        return (total, normed) if "branch" in named else (normed,)

    return compared(ours, truth, inputs, dtype)


def gelu(tanh, dtype):
    torch.manual_seed(0)
    layer = GeluDense(192, 48, bias=True, tanh=tanh)
    inputs = {
        "hidden": 2 * draw(37, 192, dtype=dtype),
        "bias1": draw(192, dtype=dtype),
        "weight": draw(48, 192, dtype=dtype),
        "bias2": draw(48, dtype=dtype),
    }

    def truth(hidden, bias1, weight, bias2):
        active = F.gelu(hidden + bias1, approximate="tanh" if tanh else "none")
        return (active @ weight.T + bias2,)

    def ours(hidden, bias1, weight, bias2):
        values = {"weight": weight, "bias": bias2}
        return (torch.func.functional_call(layer, values, (hidden, bias1)),)

    return compared(ours, truth, inputs, dtype)


def sigmoid(classes, dtype, bias=0.0):
    """Three images: two labels, the same label twice, none; a new head has a bias of about -log(classes)."""
    torch.manual_seed(0)
    labels = torch.tensor([[2, classes - 1], [5, 5], [-1, -1]])
    shares = torch.tensor([[0.7, 0.3], [0.4, 0.6], [1.0, 1.0]])
    spread = torch.tensor([0.1 / classes, 0.0, 0.0])

    logits = (0.1 if bias else 5) * draw(3, classes, dtype=dtype) + bias

    def ours(logits):
        return (triton_sigmoid_loss(logits, labels, shares, spread),)

    def truth(logits):
        targets = torch.zeros(3, classes + 1, dtype=torch.float64)
        targets.scatter_add_(1, labels % (classes + 1), shares.double())
        targets = targets[:, :classes] + spread.double()[:, None]
        return (F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1),)

    return compared(ours, truth, {"logits": logits}, dtype)
