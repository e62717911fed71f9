"""Our Triton kernels without a GPU: what they compute, by the interpreter, and what they compile to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.compiled import build, cases

INTERPRETED = Path(__file__).with_name("interpreted.py")


def test_kernels_compute_what_they_should_in_the_interpreter():
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(INTERPRETED)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernels_compile_without_spills_and_load_128_bits(capability, tmp_path, monkeypatch):
    """For A100, H100 and B200; a stack would be registers that did not suffice."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for name, case in cases():
        found = build(case, capability, tmp_path)
        assert found.stack == 0 and found.registers < 255, (name, found)
        assert found.wide_loads and (found.wide_stores or name == "sigmoid forward"), (name, found)


def test_the_gate_would_find_narrow_loads(tmp_path, monkeypatch):
    """A width that is no multiple of 16 leaves rows unaligned."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    case = dict(cases())["add_norm backward layer 384"]
    odd = case._replace(constants=case.constants | {"WIDTH": 383})
    assert build(odd, 90, tmp_path).wide_loads == 0
