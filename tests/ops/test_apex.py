"""NVIDIA apex, PyPI's apex and no apex are told apart without importing anything."""

import sys

import pytest
import torch

from vitscale.errors import ResourceError
from vitscale.ops.apex import find_apex, refuse_wrong_apex
from vitscale.ops.choice import choose_ops


def make(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise ImportError('this must never be imported')\n")


PYRAMID = ("apex/__init__.py", "apex/forms.py", "apex/views.py")
NVIDIA = (
    "apex/__init__.py",
    "apex/normalization/fused_layer_norm.py",
    "apex/optimizers/fused_adam.py",
)


def test_nothing_there_is_absent(tmp_path):
    assert find_apex([str(tmp_path)]).state == "absent"


def test_pypis_apex_is_the_wrong_package_and_refused_with_the_remedy(tmp_path):
    make(tmp_path, *PYRAMID)
    apex = find_apex([str(tmp_path)])
    assert apex.state == "wrong-package"
    with pytest.raises(ResourceError, match="pip uninstall apex") as error:
        refuse_wrong_apex(apex)
    assert error.value.exit_code == 2


def test_nvidia_apex_without_extensions_cannot_run(tmp_path):
    make(tmp_path, *NVIDIA)
    apex = find_apex([str(tmp_path)])
    assert apex.state == "nvidia-python-only"
    refuse_wrong_apex(apex)


def test_nvidia_apex_with_extensions_names_them(tmp_path):
    make(tmp_path, *NVIDIA, "fused_layer_norm_cuda.py", "amp_C.py")
    apex = find_apex([str(tmp_path)])
    assert apex.state == "nvidia"
    assert apex.has("fused_layer_norm_cuda") and not apex.has("xentropy_cuda")
    assert "apex" not in sys.modules


def test_asking_for_apex_on_a_cpu_says_why_it_cannot_run():
    with pytest.raises(ResourceError, match="no cpu kernels"):
        choose_ops("apex", "auto", device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("dtype", "wanted"), [(torch.float32, "sdpa"), (torch.bfloat16, "explicit")]
)
def test_auto_takes_the_faster_attention_of_a_cpu_and_says_so(dtype, wanted):
    ops = choose_ops("auto", "auto", device=torch.device("cpu"), dtype=dtype)
    assert ops.attention.__name__ == wanted
    assert any(line.startswith("attention") and wanted in line for line in ops.reasons)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_both_attentions_agree_forward_and_backward(dtype, near):
    from vitscale.ops.attention import explicit, sdpa

    generator = torch.Generator().manual_seed(0)
    found = []
    q, k, v = (torch.randn(2, 3, 17, 16, generator=generator) for _ in range(3))
    for attention in (explicit, sdpa):
        own = [t.to(dtype).requires_grad_() for t in (q, k, v)]
        out = attention(*own)
        out.float().square().sum().backward()
        found.append([out, *(t.grad for t in own)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=near, atol=near)
