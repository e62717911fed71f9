"""A follower of the job as an actor of its Ray: it scores each commit while the ranks train (docs/transfer.md).

Ray starts it again where it dies. What it has scored is in the run folder, so it goes on where it was, as does the one
of the next submission.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from vitscale_launch.job import Job
from vitscale_launch.stopping import StopSignals

FOLLOW = "vitscale.train.follower:run"
WHICH = "raw"
_LOOK_S = 1.0
_LOG_S = 1.0  # Ray looks for new lines of its processes ten times a second; the last ones are on their way
_RESTARTS = 20  # one that can never start must not hold a finished job for ever

Reply = dict[str, Any]


@contextmanager
def followed(
    job: Job, signals: StopSignals, follow: str = FOLLOW
) -> Generator[Callable[[Reply], Reply]]:
    """A follower at work, where the job asks for one; gives a function that the job's reply has to go through.

    Once the job has finished it waits until the last commit is scored. After a stop or a failure it does not: the
    machine may be wanted, and the follower of the next submission goes on.

    Args:
        job: what runs.
        signals: stop requests of this process; one of them ends the wait.
        follow: the function that the actor calls with its request, as "module:name".
    """
    if job.follow is None:
        yield lambda reply: reply
        return
    import ray

    from vitscale.checkpoint.following import mark_of

    # Before a rank starts, so that no commit goes before the actor is there to copy it.
    mark_of(job.folder, job.follow["suite"]["name"], WHICH)
    follower = _start(job, follow)

    def told(reply: Reply) -> Reply:
        if reply["status"] != "finished":
            return reply
        return reply | {"message": f"{reply['message']}; {_last_word(job, *follower, signals)}"}

    try:
        yield told
    finally:
        ray.kill(follower[0])


class Follower:
    """What runs in the actor: one thread follows, another hears that the job is over."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def run(self, follow: str, request: dict[str, Any]) -> str:
        """Follow to the end; a sentence that says how it went."""
        module, _, name = follow.partition(":")
        return getattr(importlib.import_module(module), name)(request, self._over.is_set)

    def finish(self) -> None:
        """No more commits will come."""
        self._over.set()


def _start(job: Job, follow: str) -> tuple[Any, Any]:
    """The actor, and its word once it is done."""
    import ray

    from vitscale_launch.ray_train import worker_environment

    assert job.follow is not None
    gpus = float(job.follow["gpus"])
    request = {
        "folder": str(job.folder),
        "suite": job.follow["suite"],
        "which": WHICH,
        # Without a share of one it would take its memory from a rank.
        "device": "auto" if gpus else "cpu",
        "threads": job.profile.threads,
    }
    made: Any = ray.remote(
        num_cpus=0,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
        runtime_env={"env_vars": worker_environment(job)},
    )(Follower)
    actor = made.options(num_gpus=gpus, max_concurrency=2).remote()
    return actor, actor.run.remote(follow, request)


def _last_word(job: Job, actor: Any, done: Any, signals: StopSignals) -> str:
    import ray
    from ray.exceptions import RayError, RayTaskError

    while not signals.count:
        actor.finish.remote()  # again and again, since an actor that was started anew has not heard it
        if ray.wait([done], timeout=_LOOK_S)[0]:
            break
    else:
        return f"the follower was not waited for. {_catch_up(job)}"
    time.sleep(_LOG_S)
    try:
        return str(ray.get(done))
    except RayTaskError as error:
        return f"the follower failed: {error.cause}. {_catch_up(job)}"
    except RayError as error:
        return f"the follower was lost: {error}. {_catch_up(job)}"


def _catch_up(job: Job) -> str:
    assert job.follow is not None
    suite = job.follow["called"]
    return f"`vitscale evaluate --follow {job.folder} --suite {suite}` scores what is left"
