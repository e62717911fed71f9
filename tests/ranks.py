"""Run a function of a test module on several real ranks: fresh processes, gloo, one result a rank."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(world: int, function: str, *args: Any, timeout_s: int = 300, **env: str) -> list[Any]:
    """Call `module:function(*args)` in `world` processes; their results in rank order.

    A rank that fails fails the test with its output; after `timeout_s` all are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "args").write_bytes(pickle.dumps(args))
        ranks = start_ranks(world, function, folder, **env)
        try:
            outputs = [rank.communicate(timeout=timeout_s)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        for number, (rank, output) in enumerate(zip(ranks, outputs, strict=True)):
            assert rank.returncode == 0, f"rank {number} ended with {rank.returncode}:\n{output}"
        return [pickle.loads((Path(folder) / f"result-{n}").read_bytes()) for n in range(world)]


def start_ranks(world: int, function: str, folder: str, **env: str) -> list[subprocess.Popen[str]]:
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", function, folder],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | env | _environment(rank, world, port),
        )
        for rank in range(world)
    ]


def _environment(rank: int, world: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }


def _main() -> None:
    name, folder = sys.argv[1:]
    module, _, function = name.partition(":")
    args = pickle.loads((Path(folder) / "args").read_bytes())
    result = getattr(importlib.import_module(module), function)(*args)
    (Path(folder) / f"result-{os.environ['RANK']}").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _main()
