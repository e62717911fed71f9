"""Products in fp8: their definition written out in numpy, what becomes fp8 and what does not, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch

from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import FP8, OpsConfig, scaling_of, unfit_for_fp8
from vitscale.errors import ResourceError
from vitscale.model.build import build_model
from vitscale.ops import fp8
from vitscale.ops.choice import PLAIN, choose_ops
from vitscale.ops.fp8 import fp8_linear, fp8_obstacle
from vitscale.ops.linear import Dense, ExplicitDense

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ASKED = OpsConfig(block="compile", linear="fp8-rowwise")
SCALINGS = ("tensorwise", "rowwise")
TORCHAO = pytest.mark.skipif(
    bool(fp8._torchao_problem()), reason="the extra fp8 (torchao) is not installed"
)
FORMATS = {"e4m3": (3, -6, 448.0), "e5m2": (2, -14, 57344.0)}
"""Bits behind the point, the least exponent and the largest number, as arXiv 2209.05433 has them."""


# ---- what is computed ----


def rounded(values, form, axis, power_of_two):
    """`values` as they are after a trip through fp8: scaled to its range along `axis` (None: all), to nearest even."""
    bits, least, largest = FORMATS[form]
    scale = largest / np.abs(values).max(axis=axis, keepdims=True)
    scale = 2.0 ** np.floor(np.log2(scale)) if power_of_two else scale.astype(np.float32)
    scaled = (values * scale).astype(np.float32).astype(np.float64)
    exponent = np.floor(np.log2(np.maximum(np.abs(scaled), 2.0**-60)))
    step = 2.0 ** (np.maximum(exponent, least) - bits)
    return np.clip(np.round(scaled / step) * step, -largest, largest) / scale


def product(left, right, scaling, forms):
    """`left` [M, K] times `right` [K, N] in float64, both rounded to fp8 along K or as a whole."""
    rowwise = scaling == "rowwise"
    axes = (1, 0) if rowwise else (None, None)
    pairs = zip((left, right), forms, axes, strict=True)
    left, right = (rounded(values, form, axis, rowwise) for values, form, axis in pairs)
    return left @ right


def a_layer_and_its_gradients(scaling):
    """A layer in bf16 with rows of very different sizes; input, output and gradients as float64."""
    torch.manual_seed(0)
    layer = fp8_linear(scaling)(48, 80, True).to(torch.bfloat16)
    sizes = torch.logspace(-3, 2, 64)[:, None]
    x = (torch.randn(64, 48) * sizes).to(torch.bfloat16).requires_grad_()
    given = (torch.randn(64, 80) * sizes.flip(0)).to(torch.bfloat16)
    with torch.no_grad():
        layer.bias.zero_()
    y = layer(x.view(4, 16, 48))
    y.backward(given.view(4, 16, 80))
    assert y.shape == (4, 16, 80)
    tensors = (x, layer.weight, given, y.flatten(0, 1), x.grad, layer.weight.grad, layer.bias.grad)
    assert {each.dtype for each in tensors} == {torch.bfloat16}
    return [each.detach().double().numpy() for each in tensors]


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_three_products_are_those_of_factors_rounded_to_fp8(scaling):
    x, weight, given, y, d_x, d_weight, d_bias = a_layer_and_its_gradients(scaling)
    back = "e4m3" if scaling == "rowwise" else "e5m2"
    wanted = {
        "output": (product(x, weight.T, scaling, ("e4m3", "e4m3")), x @ weight.T, y),
        "input": (product(given, weight, scaling, (back, "e4m3")), given @ weight, d_x),
        "weight": (product(given.T, x, scaling, (back, "e4m3")), given.T @ x, d_weight),
    }
    for name, (in_fp8, exact, found) in wanted.items():
        off = np.linalg.norm(found - in_fp8) / np.linalg.norm(in_fp8)
        assert off < 2.0**-8, f"{name}: the rest is that of bf16"
        assert np.linalg.norm(found - exact) > 4 * off * np.linalg.norm(exact), name
    np.testing.assert_allclose(d_bias, given.sum(0), rtol=0.05, atol=1e-2)


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_stays_so(scaling, value):
    """Or the guard would not see it."""
    layer = fp8_linear(scaling)(32, 16, False).to(torch.bfloat16)
    x = torch.randn(16, 32, dtype=torch.bfloat16, requires_grad=True)
    given = torch.ones(16, 16, dtype=torch.bfloat16)
    given[3, 5] = value
    layer(x).backward(given)
    assert not torch.isfinite(layer.weight.grad).all()
    assert not torch.isfinite(x.grad).all()


# ---- what of a model ----


def small(**changes):
    return Shape(32, 2, 64, 2, 4, 4, (12, 12), 5, pooling="map", representation=True, **changes)


def ops_in_fp8(scaling):
    return dataclasses.replace(PLAIN, linear=fp8_linear(scaling))


@TORCHAO
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_the_four_layers_of_each_block_are_in_fp8_and_nothing_else(activation):
    model = build_model(small(activation=activation), ops_in_fp8("rowwise"), seed=0)
    found = {n for n, m in model.named_modules() if type(m).__name__ == "Fp8Dense"}
    assert found == {f"blocks.{n}.{part}" for n in (0, 1) for part in ("qkv", "out", "fc1", "fc2")}


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
def test_weights_have_the_names_order_values_and_type_of_a_plain_model(scaling):
    """So commits, exports and optimizers know no difference."""
    ours = build_model(small(), ops_in_fp8(scaling), seed=3)
    plain = build_model(small(), seed=3)
    assert list(ours.state_dict()) == list(plain.state_dict())
    pairs = zip(ours.named_parameters(), plain.named_parameters(), strict=True)
    for (name, own), (other, value) in pairs:
        assert name == other
        assert type(own) is type(value)
        assert torch.equal(own, value)
    ours.load_state_dict(plain.state_dict())


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
def test_answers_outside_of_training_are_those_of_the_plain_model(scaling):
    """Bit for bit, also in inference mode, which torchao's rowwise tensors do not know."""
    ours, plain = (
        build_model(small(), ops, seed=3).to(torch.bfloat16) for ops in (ops_in_fp8(scaling), PLAIN)
    )
    head = torch.randn(5, 32, dtype=torch.bfloat16)
    images = torch.randn(4, 3, 12, 12, dtype=torch.bfloat16)
    for model in (ours, plain):
        model.head.weight.data.copy_(head)
    assert not torch.equal(ours(images), plain(images))
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images), plain.eval()(images))


@TORCHAO
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("images", range(1, 17))
def test_a_micro_batch_is_refused_exactly_where_cudas_product_would_be(scaling, images):
    """torch checks the shapes of `_scaled_mm` on tensors without values, as CUDA's product does when it runs."""
    shape = ModelConfig(variant="H/14").shape(10)
    shape = dataclasses.replace(shape, image=(70, 70), registers=1)  # 27 tokens
    wanted = OpsConfig(linear=f"fp8-{scaling}")
    with torch.device("meta"):
        layer = fp8_linear(scaling)(32, 64, True).to(torch.bfloat16)
        x = torch.empty(images, shape.tokens, 32, dtype=torch.bfloat16, requires_grad=True)
        given = torch.empty(images, shape.tokens, 64, dtype=torch.bfloat16)
    y = layer(x)
    if any(unfit_for_fp8(wanted, shape, images)):
        with pytest.raises(RuntimeError, match="divisible by 16"):
            y.backward(given)
    else:
        y.backward(given)
        assert images == 16


# ---- what is refused here ----


def test_auto_takes_no_fp8_and_torchao_is_not_loaded():
    """A fresh process, since another test may have loaded it."""
    ops = choose_ops(OpsConfig(), small(), device=CPU, dtype=torch.bfloat16)
    assert ops.linear in (Dense, ExplicitDense)
    code = (
        "import sys, torch\n"
        "from vitscale.config.ops import OpsConfig\n"
        "from vitscale.config.model import ModelConfig\n"
        "from vitscale.model.build import build_model\n"
        "from vitscale.ops.choice import choose_ops\n"
        "shape = ModelConfig(variant='mu/4', image_px=12).shape(5)\n"
        "ops = choose_ops(OpsConfig(), shape, device=torch.device('cpu'), dtype=torch.bfloat16)\n"
        "build_model(shape, ops, seed=0)\n"
        "assert 'torchao' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that torchao and the GPU are as given; None for no torchao."""

    def pretend(version, capability=(9, 0)):
        def known(name):
            if version is None:
                raise metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(fp8.metadata, "version", known)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.mark.parametrize(
    ("version", "capability", "linear", "words"),
    [
        (None, (9, 0), "fp8-rowwise", "torchao is not installed: pip install 'vitscale[fp8]'"),
        ("0.9.0", (9, 0), "fp8-rowwise", "torchao 0.9.0 is older than 0.18"),
        ("0.18.0", (8, 9), "fp8-rowwise", "fp8-rowwise needs compute capability 9.0"),
        ("0.18.0", (8, 6), "fp8-tensorwise", "needs compute capability 8.9, and this GPU has 8.6"),
        ("0.18.0+cu130", (8, 9), "fp8-tensorwise", ""),
        ("1.0", (10, 0), "fp8-rowwise", ""),
    ],
)
def test_what_stands_against_fp8_on_a_gpu(machine, version, capability, linear, words):
    machine(version, capability)
    found = fp8_obstacle(linear, CUDA)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize("name", FP8)
def test_a_run_on_a_cpu_is_refused_fp8_though_torch_can_compute_it(name):
    wanted = ASKED.model_copy(update={"linear": name})
    with pytest.raises(ResourceError, match="fp8 products gain nothing on a cpu") as error:
        choose_ops(wanted, small(), device=CPU, dtype=torch.bfloat16)
    assert (error.value.where, error.value.given) == ("ops.linear", name)


@pytest.mark.parametrize("name", FP8)
def test_what_was_asked_for_is_taken_and_said_to_be_untried(machine, monkeypatch, name):
    machine("0.18.0")
    monkeypatch.setattr("vitscale.ops.choice.triton_obstacle", lambda *given: "no Triton")
    wanted = ASKED.model_copy(update={"linear": name})
    ops = choose_ops(wanted, small(), device=CUDA, dtype=torch.bfloat16)
    assert ops.linear.args == (scaling_of(name),)
    (line,) = (line for line in ops.reasons if line.startswith("linear"))
    assert line.split(maxsplit=2)[1:] == [name, "asked for; it has not run on a GPU yet"]
