"""Kills at random moments until a run has finished all the same: python -m tests.faults.campaign ORDER.json OUT.json.

Attempts are forked from this process, which has imported everything and computed nothing, so that each starts in a
fraction of a second. The order names recipes, ranks, a seed and how many kills there are to be at least.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.ranks import free_port

_GRACE_S = 1.0  # others of a dead rank's group get so long; then they are ended, as Ray does
_LOOK_S = 0.005


def fork_rank(recipe: str, rank: int, world: int, port: int, log: Path) -> int:
    """Start one rank of an attempt; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        from vitscale.train.worker import run

        code = int(run({"recipe": recipe, "resume": "auto"})["exit_code"])
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    os._exit(code)


class Attempt:
    """The ranks of one start of a run."""

    def __init__(self, recipe: str, world: int, log: Path) -> None:
        port = free_port()
        self.running = {fork_rank(recipe, rank, world, port, log) for rank in range(world)}
        self.codes: dict[int, int] = {}

    def look(self) -> None:
        """Note which ranks have ended."""
        for pid in list(self.running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.running.discard(pid)
                self.codes[pid] = os.waitstatus_to_exitcode(status)

    def wait(self, seconds: float) -> bool:
        """Whether all ranks have ended within so long; returns as soon as one has failed."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            self.look()
            if any(self.codes.values()):
                break
            time.sleep(_LOOK_S)
        return not self.running

    def kill(self, random_: random.Random) -> None:
        """SIGKILL one rank, and after a moment those that its death has not ended."""
        os.kill(random_.choice(sorted(self.running)), signal.SIGKILL)
        deadline = time.monotonic() + _GRACE_S
        while self.running and time.monotonic() < deadline:
            self.look()
            time.sleep(_LOOK_S)
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        while self.running:
            self.look()


def straight(recipe: str, world: int, log: Path) -> float:
    """A run that nobody disturbs; its seconds."""
    began = time.monotonic()
    attempt = Attempt(recipe, world, log)
    while not attempt.wait(60.0):
        assert not any(attempt.codes.values()), f"the undisturbed run failed: {log.read_text()}"
    return time.monotonic() - began


def disturbed(recipe: str, folder: Path, world: int, usual_s: float, seed: int) -> dict[str, Any]:
    """A run that is killed until it has finished; what was seen after each kill."""
    random_ = random.Random(seed)
    log = folder.with_suffix(".log")
    kills, newest, problems = 0, 0, []
    while True:
        attempt = Attempt(recipe, world, log)
        over = attempt.wait(random_.uniform(0.1, 1.2) * usual_s)
        if over and not any(attempt.codes.values()):
            return {"kills": kills, "problems": problems, "folder": str(folder)}
        if not over and not any(attempt.codes.values()):
            attempt.kill(random_)
            kills += 1
        else:
            problems.append(f"an attempt failed by itself: {attempt.codes}")
            attempt.wait(60.0)
        now = newest_step(folder, problems)
        if now < newest:
            problems.append(f"the newest commit went back from {newest} to {now}")
        newest = now
        if problems:
            return {
                "kills": kills,
                "problems": [*problems, log.read_text()[-3000:]],
                "folder": str(folder),
            }


def newest_step(folder: Path, problems: list[str]) -> int:
    """The newest commit; every folder that looks like one must be one."""
    from vitscale.checkpoint.choose import problems_of
    from vitscale.checkpoint.layout import CHECKPOINTS, step_folders

    folders = step_folders(folder / CHECKPOINTS)
    for _, path in folders:
        problems += [f"{path.name}: {problem}" for problem in problems_of(path)]
    return folders[0][0] if folders else 0


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    import deepspeed  # noqa: F401 before the first fork, since it takes seconds

    import vitscale.train.setup
    import vitscale.train.worker  # noqa: F401

    outcomes = []
    for case in order["cases"]:
        usual_s = straight(case["straight"], case["world"], Path(order["log"]))
        kills = 0
        for number, recipe in enumerate(case["disturbed"]):
            if kills >= case["kills"]:
                break
            folder = Path(case["folders"][number])
            outcome = disturbed(recipe, folder, case["world"], usual_s, order["seed"] + number)
            kills += outcome["kills"]
            outcomes.append({**outcome, "case": case["name"]})
            if outcome["problems"]:
                break
    Path(sys.argv[2]).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
