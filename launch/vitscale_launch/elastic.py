"""How many workers an elastic job gets: Ray's own policy, kept to numbers that can cut the batch.

Ray's policy takes every worker for which there is room, counts machines that are about to be taken away, and grows a
running job at any moment, which throws away the steps since the last commit. This one does none of the three.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vitscale_launch.job import Job

log = logging.getLogger(__name__)


def scaling_policy(job: Job, config: Any) -> Any:
    """A policy for `config`, a `ScalingConfig` whose `num_workers` is a pair; it lives in Ray's controller."""
    from ray.train.v2._internal.execution.scaling_policy import (
        ElasticScalingPolicy,
        NoopDecision,
        ResizeDecision,
    )

    folder, worlds = job.folder, job.worlds

    class CommittedScaling(ElasticScalingPolicy):
        """Elastic, in sizes that fit, growing right after a commit."""

        committed: str | None = None

        def _count_possible_workers(self, reserved_resources: dict[str, Any]) -> int:
            leaving = nodes_being_drained()
            staying = {n: has for n, has in reserved_resources.items() if n not in leaving}
            return largest_fit(worlds, super()._count_possible_workers(staying))

        def make_decision_for_running_worker_group(
            self, worker_group_state: Any, worker_group_status: Any
        ) -> Any:
            before, self.committed = self.committed, commit_mark(folder)
            if before is None or self.committed == before:
                self._maybe_send_resource_request()
                return NoopDecision()
            decision = super().make_decision_for_running_worker_group(
                worker_group_state, worker_group_status
            )
            if not isinstance(decision, ResizeDecision):
                return decision
            if decision.num_workers <= worker_group_state.num_workers:
                return NoopDecision()  # the ranks hear of a drain themselves, and commit first
            note_resize(folder)
            return decision

    return CommittedScaling(config)


def nodes_being_drained() -> Collection[str]:
    """Ids of the nodes that will be taken away; Ray's policy sees them as any other."""
    from ray._private.state import state
    from ray.exceptions import RayError

    try:
        return state.get_draining_nodes() or {}
    except (
        RayError,
        RuntimeError,
    ) as error:  # an error here would end the job; Ray finds out later
        log.warning("Ray does not say which nodes are drained: %s", error)
        return {}


def largest_fit(worlds: Collection[int], room: int) -> int:
    """The largest number of workers that fits the batch and for which there is room; 0 where none does."""
    return max((world for world in worlds if world <= room), default=0)


def commit_mark(folder: Path) -> str:
    """What changes with every commit."""
    try:
        return (folder / "committed.json").read_text(encoding="utf-8")
    except OSError:
        return ""


def note_resize(folder: Path) -> None:
    """Say that the newest attempt ends on purpose, so that it is not counted among the failures."""
    from vitscale.attempts import newest_attempt, note_end

    try:
        note_end(folder, newest_attempt(folder), "resized")
    except OSError as error:  # nothing but a restart that is counted as a failure
        log.warning("the end of an attempt could not be noted: %s", error)
