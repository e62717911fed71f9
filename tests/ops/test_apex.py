"""NVIDIA apex, PyPI's apex and no apex are told apart without importing anything."""

import sys

import pytest

from vitscale.errors import ResourceError
from vitscale.ops.apex import find_apex, refuse_wrong_apex


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
    assert not apex.lacks("amp_C")
    assert "built without xentropy_cuda. Build NVIDIA apex from" in apex.lacks("xentropy_cuda")
    assert "apex" not in sys.modules
