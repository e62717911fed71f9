"""Which implementation is chosen, and what is said where one cannot run."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import vitscale
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig
from vitscale.errors import ResourceError
from vitscale.model.build import build_model
from vitscale.ops import choice
from vitscale.ops.apex import ApexState
from vitscale.ops.choice import choose_ops

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = ModelConfig(variant="S/16", image_px=224).shape(1000)
NO_APEX = ApexState("absent", "NVIDIA apex is not installed")
APEX = ApexState("nvidia", "NVIDIA apex", ("fused_layer_norm_cuda",))


@pytest.fixture
def machine(monkeypatch):
    """Pretend that Triton and apex are as given."""

    def pretend(triton="", apex=NO_APEX):
        monkeypatch.setattr(choice, "triton_obstacle", lambda *given: triton)
        monkeypatch.setattr(choice, "find_apex", lambda: apex)

    return pretend


def names(wanted, device=CPU, dtype=torch.float32, shape=SHAPE, **kwargs):
    ops = choose_ops(wanted, shape, device=device, dtype=dtype, **kwargs)
    return {line.split()[0]: line.split()[1] for line in ops.reasons}


def refused(op, wanted, words, device=CPU, shape=SHAPE):
    with pytest.raises(ResourceError, match=words) as error:
        choose_ops(wanted, shape, device=device, dtype=torch.float32)
    assert error.value.where == f"ops.{op}"
    assert error.value.do


def test_a_cpu_gets_torch_and_a_line_for_each_op():
    found = names(OpsConfig())
    assert found == {
        "block": "eager",
        "attention": "sdpa",
        "linear": "torch",
        "norm": "torch",
        "residual": "torch",
        "mlp": "torch",
        "loss": "torch",
        "optimizer": "fused",
        "patch": "linear",
    }


def test_a_gpu_gets_our_kernels_then_apex_then_torch(machine):
    ours = {"norm": "triton", "residual": "triton", "mlp": "triton", "loss": "triton"}
    machine(apex=APEX)
    assert names(OpsConfig(), CUDA).items() >= ours.items()
    machine(triton="Triton is not installed", apex=APEX)
    plain = dict.fromkeys(("residual", "mlp", "loss"), "torch")
    assert names(OpsConfig(), CUDA).items() >= {"norm": "apex", **plain}.items()
    machine(triton="Triton is not installed")
    assert names(OpsConfig(), CUDA).items() >= {"norm": "torch", **plain}.items()


def test_what_was_passed_over_is_said(machine):
    machine(triton="Triton is not installed")
    ops = choose_ops(OpsConfig(), SHAPE, device=CUDA, dtype=torch.bfloat16)
    (line,) = (line for line in ops.reasons if line.startswith("norm"))
    assert "triton: Triton is not installed; apex: NVIDIA apex is not installed" in line


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(torch.float32, "sdpa"), (torch.bfloat16, "explicit"), (torch.float16, "explicit")],
)
def test_auto_takes_the_faster_attention_of_a_cpu_and_says_so(dtype, wanted):
    ops = choose_ops(OpsConfig(), SHAPE, device=CPU, dtype=dtype)
    assert ops.attention.__name__ == wanted
    assert any(line.startswith("attention") and wanted in line for line in ops.reasons)


@pytest.mark.parametrize("known", [True, False])
def test_auto_takes_explicit_products_in_16_bits_where_the_processor_has_them(known, monkeypatch):
    monkeypatch.setattr(choice, "onednn_knows", lambda dtype: known)
    assert names(OpsConfig(), dtype=torch.float32)["linear"] == "torch"
    found = names(OpsConfig(), dtype=torch.bfloat16)["linear"]
    assert found == ("explicit" if known else "torch")
    if not known:
        refused("linear", OpsConfig(linear="explicit"), "on this processor")


def test_explicit_products_are_for_a_cpu(machine):
    machine()
    assert names(OpsConfig(), CUDA, torch.bfloat16)["linear"] == "torch"
    refused("linear", OpsConfig(linear="explicit"), "for CPUs", CUDA)


@pytest.mark.parametrize("op", ["norm", "residual", "mlp", "loss"])
def test_our_kernels_on_a_cpu_are_refused(op, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    words = "normalises|no cpu kernels"
    with pytest.raises(ResourceError, match=words):
        choose_ops(OpsConfig(**{op: "triton"}), SHAPE, device=CPU, dtype=torch.float32)


def test_a_machine_without_triton_is_told_so(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    refused("norm", OpsConfig(norm="triton"), "Triton is not installed")


def test_apex_is_refused_where_it_would_be_something_else(machine):
    """Without bias apex has no LayerNorm, under torch.compile none at all; it would run torch's without a word."""
    machine(apex=APEX)
    refused("norm", OpsConfig(norm="apex"), "apex has no cpu kernels")
    refused("norm", OpsConfig(norm="apex", block="compile"), "silently becomes torch's", CUDA)
    bare = ModelConfig(variant="S/16", image_px=224, biases="none").shape(10)
    refused("norm", OpsConfig(norm="apex"), "no LayerNorm with a weight and no bias", CUDA, bare)
    machine(apex=NO_APEX)
    refused("norm", OpsConfig(norm="apex"), "apex is not installed", CUDA)


def test_apexs_adam_is_taken_where_it_is_asked_for_only_and_can_run(machine):
    wanted = OpsConfig(optimizer="apex")
    machine(apex=ApexState("nvidia", "NVIDIA apex", ("amp_C",)))
    assert choose_ops(OpsConfig(), SHAPE, device=CUDA, dtype=torch.float32).optimizer == "fused"
    ops = choose_ops(wanted, SHAPE, device=CUDA, dtype=torch.float32)
    assert ops.optimizer == "apex"
    (line,) = (line for line in ops.reasons if line.startswith("optimizer"))
    assert line.split(maxsplit=2)[1:] == ["apex", "asked for; it has not run on a GPU yet"]
    refused("optimizer", wanted, "apex has no cpu kernels")
    machine(apex=APEX)
    refused("optimizer", wanted, "built without amp_C. Build NVIDIA apex from source", CUDA)
    machine(apex=NO_APEX)
    refused("optimizer", wanted, "apex is not installed", CUDA)


def test_the_loop_is_a_loop():
    ops = choose_ops(OpsConfig(optimizer="loop"), SHAPE, device=CPU, dtype=torch.float32)
    assert ops.optimizer == "loop"


def test_our_mlp_is_for_gelu_without_dropout(machine):
    machine()
    for change, words in (({"activation": "swiglu"}, "for GELU"), ({"dropout": 0.1}, "dropout")):
        shape = ModelConfig(variant="S/16", image_px=224, **change).shape(10)
        refused("mlp", OpsConfig(mlp="triton"), words, CUDA, shape)
        assert names(OpsConfig(), CUDA, shape=shape)["mlp"] == "torch"


def test_the_joined_addition_takes_our_norm_along(machine):
    machine()
    assert names(OpsConfig(residual="triton"))["norm"] == "triton"
    assert names(OpsConfig(norm="torch"), CUDA)["residual"] == "torch"


def test_overlapping_patches_are_convolved():
    shape = ModelConfig(variant="S/16s12", image_px=220).shape(10)
    assert names(OpsConfig(), shape=shape)["patch"] == "conv"
    refused("patch", OpsConfig(patch="linear"), "patches overlap", shape=shape)


def test_both_ways_to_embed_patches_are_the_same_map():
    shape = Shape(48, 1, 96, 3, 4, 4, (16, 12), classes=5)
    images, found = torch.randn(2, 3, 16, 12), []
    for patch in ("linear", "conv"):
        ops = choose_ops(OpsConfig(patch=patch), shape, device=CPU, dtype=torch.float32)
        found.append(build_model(shape, ops, seed=0).patch_embed(images))
        assert ops.convolves == (patch == "conv")
    torch.testing.assert_close(*found)


def test_compiled_blocks_leave_to_the_compiler_what_it_joins(machine):
    machine(apex=APEX)
    found = names(OpsConfig(block="compile"), CUDA)
    assert [found[op] for op in ("block", "norm", "residual", "mlp")] == ["compile"] + 3 * ["torch"]


def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(choice.shutil, "which", lambda name: None)
    refused("block", OpsConfig(block="compile"), "needs a C\\+\\+ compiler")


def test_ops_that_a_recipe_does_not_use_are_not_spoken_of():
    assert not {"loss", "optimizer"} & set(names(OpsConfig(), idle=("loss", "optimizer")))


@pytest.mark.parametrize(
    ("word", "trap"),
    [
        ("xentropy", "padding_idx defaults to 0, which drops the loss of class 0"),
        ("FastLayerNorm", "has no kernel for widths such as 192, 384 and 1280"),
        ("FusedDenseGeluDense", "is GELU by tanh whatever the model says, with unset parameters"),
        ("_addmm_activation", "is GELU by tanh on CUDA and by erf on a CPU"),
        ("FusedLAMB", "is not among the optimizers ZeRO partitions"),
    ],
)
def test_what_has_a_trap_is_used_nowhere(word, trap):
    """docs/kernels.md says of each why not; so it cannot slip in."""
    root = Path(vitscale.__file__).parent
    users = [
        str(path)
        for path in root.rglob("*.py")
        if re.search(rf"(import .*|\.){word}\b", path.read_text())
    ]
    assert not users, trap
    assert word in (root.parent / "docs/kernels.md").read_text()


def test_torch_does_gelu_by_erf_on_a_cpu_where_cuda_does_it_by_tanh():
    """The reason why its product with an activation is not used: another function on each device."""
    x, weight, zero = torch.randn(16, 8), torch.eye(8), torch.zeros(8)
    found = torch._addmm_activation(zero, x, weight, use_gelu=True)
    torch.testing.assert_close(found, F.gelu(x))
    assert (found - F.gelu(x, approximate="tanh")).abs().max() > 1e-5
