"""Tests against packages of the environment of `bench/peers.txt`; elsewhere they are not collected."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "peers.json"
PACKAGES = ("torch", "timm", "open_clip_torch", "onnx", "onnxscript", "onnxruntime")

if not all(find_spec(name.removesuffix("_torch")) for name in PACKAGES):
    collect_ignore_glob = ["test_*.py"]
elif not torch.cuda.is_available():
    from bench.contestants.operators import declare_missing

    declare_missing()


@pytest.fixture(scope="session")
def measured():
    """Largest differences by peer and case; written to `bench/results/peers.json` if every one was measured."""
    found: dict[str, dict[str, float]] = {}
    yield found
    versions = {name: version(name) for name in PACKAGES}
    record = {"versions": versions, "largest absolute difference": found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def differ(measured, request):
    """Notes the largest absolute difference of two answers and holds it to a limit."""

    def note(peer: str, case: str, one, other, limit: float = 1e-5) -> None:
        difference = (one - other).abs().max().item()
        measured.setdefault(peer, {})[case] = float(f"{difference:.2e}")
        assert difference < limit, f"{peer}, {case}: {difference}"

    return note
