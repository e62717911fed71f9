"""What the front door loads, seen from a fresh process, and what that costs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

HEAVY = frozenset(
    {"torch", "numpy", "ray", "deepspeed", "mlflow", "matplotlib", "webdataset", "apex", "torchao"}
)
CPU_LIMIT_S = 0.3
_SHOW = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh Python has after running `code`."""
    command = [sys.executable, "-c", code + _SHOW]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(answer.stdout.splitlines()[-1])}


def cpu_seconds(words: list[str]) -> float:
    """CPU time of a finished child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(word):
    loaded = loaded_by(f"from vitscale.cli.main import main; assert main(['{word}']) == 0")
    assert loaded & (HEAVY | {"pydantic"}) == set()
    assert "vitscale" in loaded


@pytest.mark.parametrize(
    "module", ["vitscale.config.load", "vitscale.config.plan", "vitscale.place", "vitscale_launch"]
)
def test_config_and_launch_load_nothing_heavy(module):
    assert loaded_by(f"import {module}") & HEAVY == set()


@pytest.mark.parametrize(
    "command", ["train", "finetune", "evaluate", "submit", "config", "plan", "doctor"]
)
def test_the_help_of_a_command_loads_nothing_heavy(command):
    code = f"from vitscale.cli.main import main; assert main(['{command}', '--help']) == 0"
    assert loaded_by(code) & HEAVY == set()


def test_help_costs_little_cpu():
    words = [sys.executable, "-m", "vitscale", "--help"]
    assert min(cpu_seconds(words) for _ in range(3)) < CPU_LIMIT_S


def test_something_heavy_would_be_seen():
    assert loaded_by("import xml.dom, numpy") & HEAVY == {"numpy"}
