"""The runs of a sweep as jobs of one profile: all looked at before the first is started."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vitscale.config.cluster import ClusterProfile
from vitscale.config.dataset import DatasetFacts
from vitscale.config.load import Recipe
from vitscale.errors import STOPPED_EXIT_CODE, ConfigError, DataError, VitscaleError
from vitscale_launch.job import FINISHED, Job, Resume, make_job
from vitscale_launch.submit import Way, handed_over, way_to


def sweep_jobs(recipes: Iterable[Recipe], profile: ClusterProfile, resume: Resume) -> list[Job]:
    """A job for each recipe; starts and writes nothing. Data that several recipes share are looked at once.

    Raises:
        ConfigError, DataError: one of them could not be submitted; its run is named.
    """
    jobs: list[Job] = []
    read: dict[str, DatasetFacts] = {}
    for recipe in recipes:
        data = recipe.config.data.model_dump_json(include={"train", "allow_pipe"})
        try:
            job = make_job(recipe, profile, resume, read.get(data))
            handed_over(job)  # manifest or script, which have demands of their own
        except (ConfigError, DataError) as error:
            what = f"{recipe.config.run.name}: {error.what}"
            raise type(error)(what, where=error.where, given=error.given, do=error.do) from error
        read[data] = job.data
        jobs.append(job)
    return jobs


def submit_jobs(
    jobs: Sequence[Job], profile: ClusterProfile, *, allow_dirty: bool
) -> Iterator[dict[str, Any]]:
    """Start the jobs in order, or run them one after another where the command itself is the job.

    What is finished or at work is left alone. A job that fails or is refused does not keep the next ones from running;
    a stop does.

    Yields:
        Of each job at once `run`, `folder`, `state`, `exit_code` (0 where nothing is wrong) and `message`; `job` where
        it has a name on the cluster.

    Raises:
        ConfigError, ResourceError: no job at all can be started.
    """
    way = way_to(profile, allow_dirty=allow_dirty)
    stopped = False
    for job in jobs:
        if stopped:
            yield _row(job, "not started", STOPPED_EXIT_CODE, "the run before it was stopped")
            continue
        row = _started(job, way)
        stopped = row["state"] == "stopped"
        yield row


def _started(job: Job, way: Way) -> dict[str, Any]:
    try:
        state = way.standing(job)
        if state == FINISHED:
            return _row(job, state, 0, "was finished before")
        if state is not None:
            return _row(job, state, 0, "is at work already")
        reply = way.start(job)
    except VitscaleError as error:
        return _row(job, "refused", error.exit_code, str(error))
    row = _row(job, reply["status"], reply["exit_code"], reply["message"])
    return row | ({"job": reply["job"]} if "job" in reply else {})


def _row(job: Job, state: str, exit_code: int, message: str) -> dict[str, Any]:
    run = job.recipe.config.run.name
    return {
        "run": run,
        "folder": str(job.folder),
        "state": state,
        "exit_code": exit_code,
        "message": message,
    }
