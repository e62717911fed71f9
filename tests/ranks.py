"""Run a function of a test module on several real ranks: processes of their own, gloo, one result a rank."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import tempfile
import time
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
_GPU = Path("/dev/nvidiactl").exists()
_LOADED = ["deepspeed.runtime.zero.muon.muon_optimizer", "tests.engine.scenarios"]
"""DeepSpeed loads the first of them, and torch.compile with it, when it makes an optimizer."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(
    world: int, function: str, *args: Any, timeout_s: int = 300, fresh: bool = _GPU, **env: str
) -> list[Any]:
    """Call `module:function(*args)` in `world` processes; their results in rank order.

    A rank that fails fails the test with its output; after `timeout_s` all are ended. Ranks are forks of a process that
    has torch and DeepSpeed, which takes seconds to load; `fresh` ones begin with `env`, and with nothing in memory.
    """
    port = str(free_port())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "args").write_bytes(pickle.dumps(args))
        ranks = [
            _start(_context(fresh), function, folder, os.environ | env | _place(rank, world, port))
            for rank in range(world)
        ]
        deadline = time.monotonic() + timeout_s
        try:
            for rank in ranks:
                rank.join(max(0, deadline - time.monotonic()))
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        for number, rank in enumerate(ranks):
            output = (folder / f"output-{number}").read_text(errors="replace")
            assert rank.exitcode == 0, f"rank {number} ended with {rank.exitcode}:\n{output}"
        return [pickle.loads((folder / f"result-{n}").read_bytes()) for n in range(world)]


def _context(fresh: bool) -> SpawnContext | ForkServerContext:
    if fresh:  # as on a GPU, where no fork can use what its parent looked at
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    return context


def _start(
    context: SpawnContext | ForkServerContext, function: str, folder: Path, env: dict[str, str]
) -> BaseProcess:
    process = context.Process(target=_run, args=(function, folder, env))
    with mock.patch.dict(os.environ, env, clear=True):  # of a fresh rank, and of what forks
        process.start()
    return process


def _place(rank: int, world: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }


def _run(name: str, folder: Path, env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    rank = env["RANK"]
    output = os.open(folder / f"output-{rank}", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    module, _, function = name.partition(":")
    args = pickle.loads((folder / "args").read_bytes())
    result = getattr(importlib.import_module(module), function)(*args)
    (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
