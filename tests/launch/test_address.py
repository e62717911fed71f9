"""A job on a Ray cluster that somebody else started, with token authentication."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.ranks import ROOT, free_port
from tests.train.recipes import make_data, make_recipe

pytestmark = pytest.mark.ray

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}


@pytest.fixture(scope="module")
def address():
    """HOST:PORT of a cluster of two CPUs in a process of its own."""
    port, folder = free_port(), tempfile.mkdtemp(dir="/tmp", prefix="ray-")
    words = f"start --head --port={port} --num-cpus=2 --include-dashboard=false --block"
    ray = Path(sys.executable).with_name("ray")
    head = subprocess.Popen(
        [ray, *words.split(), "--disable-usage-stats", f"--temp-dir={folder}"],
        env=os.environ | TOKEN,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait_for(port, head)
    yield f"127.0.0.1:{port}"
    _end(head)
    shutil.rmtree(folder, ignore_errors=True)


def _end(head):
    """Ray's own processes too: a polite request takes the head more than half a minute."""
    own = psutil.Process(head.pid)
    for process in (*own.children(recursive=True), own):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(timeout=30)


def _wait_for(port, head):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and head.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the Ray head did not start")


def submit(recipe_folder, address, token):
    command = [sys.executable, "-m", "vitscale", "submit", str(recipe_folder / "recipe.toml")]
    command += [
        "--on",
        "local",
        "cluster.kind=ray",
        f"cluster.address={address}",
        "engine.kind=local",
    ]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | token, capture_output=True, text=True, timeout=180
    )


def test_a_job_runs_on_a_cluster_at_an_address(tmp_path, address):
    make_recipe(tmp_path, make_data(tmp_path / "data"))
    done = submit(tmp_path, address, TOKEN)
    assert done.returncode == 0, done.stderr
    assert "finished at step 10" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "step-00000010" / "MANIFEST.json").is_file()


@pytest.mark.slow
def test_a_wrong_token_is_refused_in_words(tmp_path, address):
    make_recipe(tmp_path, make_data(tmp_path / "data"))
    done = submit(tmp_path, address, TOKEN | {"RAY_AUTH_TOKEN": "f" * 32})
    assert done.returncode == 2
    assert "no Ray cluster answers" in done.stderr
    assert not (tmp_path / "run").exists()
