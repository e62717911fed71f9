"""What ranks measure is to be read where Prometheus reads it, of a Ray cluster that was started with its metrics on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.launch.two_nodes import end_all
from tests.ranks import ROOT, free_port
from tests.train.recipes import make_data, make_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BIN = Path(sys.executable).parent
# ray_vitscale_loss{...,rank="0",...,run="run",...} 1.5
_LINE = re.compile(r"^ray_vitscale_(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
NAMES = {"step", "loss", "images_per_second", "data_wait_ratio", "memory_bytes"}


@pytest.fixture
def cluster(monkeypatch):
    """A head of two CPUs; its address, and the port of its metrics."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="ray-")  # its sockets need a short path
    monkeypatch.delenv("RAY_enable_metrics_collection")
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64, "RAY_TMPDIR": folder}
    settings |= {"RAY_metrics_report_interval_ms": "1000", "OMP_NUM_THREADS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    port, metrics = free_port(), free_port()
    command = [BIN / "ray", "start", "--head", f"--port={port}", f"--metrics-export-port={metrics}"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        yield f"127.0.0.1:{port}", metrics
    finally:
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def read(port):
    """{(rank, name): value} of the gauges of the run."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in _LINE.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if tags["run"] == "run":
            found[int(tags["rank"]), name] = float(value)
    return found


def test_the_gauges_of_both_ranks_are_exported_and_move(cluster, tmp_path):
    address, port = cluster
    recipe = make_recipe(tmp_path / "runs", make_data(tmp_path / "data"))
    profile = tmp_path / "two.toml"
    profile.write_text(f'[cluster]\nkind = "ray"\naddress = "{address}"\nworkers = 2\n')
    command = [sys.executable, "-m", "vitscale", "submit", str(tmp_path / "runs/recipe.toml")]
    command += ["--on", str(profile), "engine.kind=local", "train.duration=1000000 steps"]
    run = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen, first = {}, None
    deadline = time.monotonic() + 240
    while first is None or not all(seen[r, "step"] > first[r, "step"] for r in (0, 1)):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[0]
        seen = read(port)
        whole = {rank: {n for r, n in seen if r == rank} for rank in (0, 1)}
        if first is None and all(names >= NAMES for names in whole.values()):
            first = seen
        time.sleep(0.5)
    (recipe.config.folder / "STOP").touch()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 75, output
    for rank in (0, 1):
        assert seen[rank, "memory_bytes"] > 50e6
        assert 0 <= seen[rank, "data_wait_ratio"] <= 1
        assert seen[rank, "images_per_second"] > 0
    assert 0 < seen[0, "loss"] < 10
