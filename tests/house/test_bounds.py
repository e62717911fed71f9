"""Files and functions stay small, names say something, public things are explained."""

from __future__ import annotations

import pytest

from tests.house.bounds import empty_names, oversized, unexcused, without_docstring
from tests.house.tree import Module, package_modules, python_files

# "path:function" or "path" to the reason why it may be larger; entries that are not needed any more fail.
_POINTERS = "a kernel takes a pointer for each tensor"
EXCUSES: dict[str, str] = {
    "vitscale/ops/kernels/add_norm.py:add_norm_forward()": _POINTERS,
    "vitscale/ops/kernels/add_norm.py:add_norm_backward()": _POINTERS,
    "vitscale/ops/kernels/add_norm.py:_AddNorm.forward()": "eight, and torch's context",
    "vitscale/ops/kernels/bias_gelu.py:bias_gelu_backward()": _POINTERS,
    "vitscale/ops/kernels/sparse_sigmoid.py:sparse_sigmoid_backward()": _POINTERS,
}


@pytest.fixture
def module(tmp_path):
    def write(text, name="a.py"):
        path = tmp_path / name
        path.write_text(text)
        return [Module(name, path, name)]

    return write


def test_files_functions_and_argument_lists_stay_within_bounds():
    found = unexcused(oversized(python_files()), EXCUSES)
    assert not found, "\n".join(found)


def test_names_say_what_things_are():
    found = empty_names(python_files())
    assert not found, "\n".join(found)


def test_public_things_have_a_docstring():
    found = without_docstring(package_modules())
    assert not found, "\n".join(found)


def test_a_long_file_is_found(module):
    assert dict(oversized(module("x = 1\n" * 401))) == {"a.py": "401 lines, at most 400"}
    assert dict(oversized(module("x = 1\n" * 400))) == {}


def test_a_long_method_is_found_and_a_limit_is_not(module):
    for lines, count in ((60, 1), (59, 0)):
        text = "class A:\n    def f(self):\n" + "        x = 1\n" * lines
        assert len(list(oversized(module(text)))) == count


def test_many_arguments_are_found_without_counting_self(module):
    eight = ", ".join("abcdefgh")
    assert not list(oversized(module(f"class A:\n    def f(self, {eight}): ...")))
    found = dict(oversized(module(f"def outer():\n    def f({eight}, *, i): ...")))
    assert found == {"a.py:outer.f()": "9 arguments, at most 8"}


def test_an_excuse_covers_its_offender_only_and_stale_ones_fail():
    found = [("a.py", "long"), ("b.py", "long")]
    assert unexcused(found, {"a.py": "why", "c.py": "why"}) == [
        "b.py: long",
        "c.py: is excused for nothing",
    ]


def test_empty_names_are_found(module):
    assert empty_names(module("class TensorManager: ...", "utils.py")) == [
        "utils.py: utils",
        "utils.py: class TensorManager",
    ]


def test_missing_docstrings_are_found(module):
    text = '"""A."""\ndef f(): ...\ndef _g(): ...\nclass C:\n    def short(self): ...\n'
    text += "    def long(self):\n" + "        x = 1\n" * 11
    assert without_docstring(module(text)) == ["a.py: f", "a.py: C", "a.py: C.long"]
    assert without_docstring(module("x = 1")) == ["a.py"]
