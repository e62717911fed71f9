"""A worker that takes no time to learn nothing: stands in for `vitscale.train.worker` in launch tests."""

import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist


def run(request, leaving=None, export=None):
    """Behave as TINY_WORKER says: finish, fail, hear of nothing, or wait for STOP or for one's machine to leave."""
    run_table = json.loads(request["recipe"])["config"]["run"]
    folder = Path(run_table["home"]) / run_table["name"]
    behaviour = os.environ["TINY_WORKER"]
    note = {"pid": os.getpid(), "time": time.time(), "threads": torch.get_num_threads()}
    note |= {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")}
    starts = len(list(folder.glob(f"start-{note['RANK']}-*")))
    aside = folder / f"aside-{note['RANK']}"
    aside.write_text(json.dumps(note))
    aside.rename(folder / f"start-{note['RANK']}-{starts}")
    if behaviour == "fail":
        return _reply("failed", 3, "the shards are gone")
    while behaviour == "deaf":
        time.sleep(0.05)
    step = 0
    while behaviour == "wait" or (behaviour == "wait once" and starts == 0):
        ranks = torch.tensor([float((folder / "STOP").exists())])
        dist.all_reduce(ranks)
        if ranks.item():
            return _reply("stopped", 75, f"stopped at step {step}")
        step += 1
        time.sleep(0.05)
        if leaving and step % 20 == 0 and (gone := leaving()):
            return _reply("stopped", 75, f"stopped at step {step}") | {"leaving": gone}
    return _reply("finished", 0, request["resume"])


def _reply(status, code, message):
    return {"status": status, "exit_code": code, "message": message, "step": 7}
