"""Machines that are about to be taken away, as Ray tells its workers; runs in the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any


def job_id() -> str:
    """The id of the Ray job this worker belongs to."""
    import ray

    return str(ray.get_runtime_context().get_job_id())


def notice_of_leaving() -> Callable[[], list[int]] | None:
    """Tells the ranks on machines that Ray drains; all ranks call it together. None where nobody watches for drains."""
    import ray.train

    watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
    ask = getattr(ray.train, "get_preemption_info", None)  # new in Ray 2.60
    if not watched or ask is None:
        return None

    def leaving() -> list[int]:
        info = ask()
        return [] if info is None else list(info.preempted_ranks)

    return leaving


def go_on_without(answer: dict[str, Any], worlds: Collection[int]) -> None:
    """Where ranks committed because some must leave: have Ray start the job again without these, if it can.

    A worker that returns is done, and Ray would restart the others only at the deadline of the drain; so each raises
    what Ray raises for a worker that died with its machine. It is counted with the preemptions, not the failures.

    Raises:
        RayActorError: enough workers stay.
    """
    from ray.exceptions import RayActorError

    leaving = answer.get("leaving", [])
    staying = int(os.environ["WORLD_SIZE"]) - len(leaving)
    if leaving and staying >= min(worlds):
        raise RayActorError(
            error_msg=f"ranks {leaving} are being taken away; committed, {answer['message']}",
            preempted=True,
        )
