"""Jobs on a running Ray cluster, from outside: submit, list, tell, follow, stop, submit again."""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import vitscale.errors
from vitscale.config.cluster import ClusterProfile
from vitscale.errors import (
    STOPPED_EXIT_CODE,
    ConfigError,
    LeaseError,
    ResourceError,
    VitscaleError,
    nearest,
)
from vitscale_launch.events import Story, is_event
from vitscale_launch.job import FINISHED, Job, ordered_job
from vitscale_launch.jobs_api import ORDER, OVER, JobsApi
from vitscale_launch.package import Package

_LOOK_S = 0.5
_CHECK_S = 300.0
_END_S = 60.0
_LINES = 15
_GROUP = "vitscale.group"
_STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": FINISHED,
    "STOPPED": "stopped",
    "FAILED": "failed",
}


def metadata_of(job: Job, package: Package) -> dict[str, str]:
    """What Ray keeps with the job, the whole order among it, so that it can be submitted again."""
    config = job.recipe.config
    group = {} if config.tracking.group is None else {_GROUP: config.tracking.group}
    return group | {
        "vitscale.run": config.run.name,
        "vitscale.folder": str(job.folder),
        "vitscale.package": json.dumps(package.record),
        "vitscale.order": json.dumps(job.order),
    }


def passed_environment(profile: ClusterProfile) -> dict[str, str]:
    """The variables that the profile sends along, with their values here.

    Raises:
        ConfigError: one of them is not set.
    """
    missing = [name for name in profile.pass_environment if name not in os.environ]
    if missing:
        raise ConfigError(
            f"not set here: {', '.join(missing)}",
            where="cluster.pass_environment",
            do="Set it before you submit, or take it off the list.",
        )
    return {name: os.environ[name] for name in profile.pass_environment}


class Jobs:
    """The jobs of vitscale on one cluster. A job is named by its id, or by its run for the newest one of that."""

    def __init__(self, profile: ClusterProfile) -> None:
        """Connect; raises what `JobsApi` raises."""
        if not profile.is_remote:
            raise ConfigError(
                "this profile has no cluster to ask",
                where="cluster.address",
                given=profile.address,
                do='Jobs are asked after at "http://HOST:8265", as configs/cluster/ray.toml has it.',
            )
        self._api = JobsApi(profile)
        self._profile = profile

    def submit(self, job: Job, package: Package) -> dict[str, Any]:
        """Start a job and wait until its checks on the cluster have passed.

        Raises:
            LeaseError: the run is at work already.
            VitscaleError: what the checks found; nothing was started then.
        """
        metadata = metadata_of(job, package)
        environment = passed_environment(self._profile)
        job_id = self._next_id(metadata)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "job"
            package.copy_to(folder)
            (folder / ORDER).write_text(metadata["vitscale.order"], encoding="utf-8")
            self._api.submit(job_id, folder, metadata, environment)
        story = self._checked(job_id)
        step = story.checked.get("from_step", 0)
        begins = f"goes on from step {step}" if step else "begins at step 0"
        tracking = job.recipe.config.tracking.mlflow
        return {
            "status": "submitted",
            "exit_code": 0,
            "message": f"{job_id} runs; it {begins}",
            "job": job_id,
            "run": job.recipe.config.run.name,
            "folder": str(job.folder),
            "dashboard": f"{self._api.url}/#/jobs/{job_id}",
            "mlflow": {"off": None, "auto": f"vitscale ui --home {job.folder.parent}"}.get(
                tracking, tracking
            ),
            "commit": package.commit,
        }

    def standing(self, job: Job) -> str | None:
        """What is to be said of the newest job of this run: its state where it is at work, `finished` where it is.

        One that finished with another config is not: the run goes on then.
        """
        name, folder = job.recipe.config.run.name, str(job.folder)
        for details in reversed(self._api.jobs()):
            known = details.metadata
            if (known["vitscale.run"], known["vitscale.folder"]) != (name, folder):
                continue
            state = _STATES[details.status]
            same = json.loads(known["vitscale.order"])["recipe"]["config"]
            if details.status not in OVER or (
                state == FINISHED and same == job.order["recipe"]["config"]
            ):
                return state
            return None
        return None

    def list(self, group: str | None = None) -> list[dict[str, Any]]:
        """One row a job, oldest first; all, or those of one group.

        Raises:
            ConfigError: there is no such group.
        """
        rows = [_row(details) for details in self._api.jobs()]
        known = {row["group"] for row in rows if row["group"] is not None}
        if group is not None and group not in known:
            hint = nearest(group, known) if known else "no job has one."
            raise ConfigError(
                "the cluster knows no such group",
                where="--group",
                given=group,
                do=f"{hint[0].upper()}{hint[1:]}",
            )
        return [row for row in rows if group is None or row["group"] == group]

    def status(self, name: str) -> dict[str, Any]:
        """The row of a job, and what it has told of itself."""
        details = self._find(name)
        story = self._api.story(details.submission_id)
        return _row(details, story) | {
            "folder": details.metadata["vitscale.folder"],
            "attempts": story.attempts,
            "restarts": story.restarts,
            "workers": story.workers,
            "committed_step": story.committed,
            "message": story.ended.get("message") or _waiting(details, story),
            "dashboard": f"{self._api.url}/#/jobs/{details.submission_id}",
            "mlflow": story.mlflow,
            "package": json.loads(details.metadata["vitscale.package"]),
        }

    def log(self, name: str) -> str:
        """What a job wrote so far, without its events."""
        lines = self._api.log(self._find(name).submission_id).splitlines(keepends=True)
        return "".join(line for line in lines if not is_event(line))

    def follow(self, name: str, show: Callable[[str], None]) -> dict[str, Any]:
        """Show each line until the job is over, and go on with the one that was submitted after it, if any."""
        details = self._find(name)
        while True:
            self._api.follow(details.submission_id, show)
            newest = self._find(details.metadata["vitscale.run"])
            if name == details.submission_id or newest.submission_id == details.submission_id:
                return self.status(details.submission_id)
            details = newest
            show(f"--- {details.submission_id} ---")

    def stop(self, name: str) -> dict[str, Any]:
        """Have a job commit and end, and wait for it.

        Raises:
            ResourceError: it ended without a commit, or has not ended in time.
        """
        details = self._find(name)
        if details.status in OVER:
            raise ConfigError(
                f"{details.submission_id} is over: {_row(details)['state']}",
                where="jobs stop",
                do="There is nothing to stop; `vitscale jobs resubmit` goes on with it.",
            )
        self._api.stop(details.submission_id)
        self._wait_for_end(details.submission_id, self._profile.grace_s + _END_S)
        status = self.status(details.submission_id)
        if status["exit_code"] not in (0, STOPPED_EXIT_CODE):
            raise ResourceError(
                "the job ended without the commit it was asked for",
                where=details.submission_id,
                given=f"exit code {status['exit_code']}",
                do=f"It goes on from step {status['committed_step'] or 0}: `vitscale jobs resubmit`.",
            )
        return status

    def resubmit(self, name: str, package: Package) -> dict[str, Any]:
        """Submit a job's order once more; the run goes on from its last commit.

        Raises:
            ConfigError: the code here is not that of the job.
        """
        details = self._find(name)
        kept, here = json.loads(details.metadata["vitscale.package"]), package.record
        if kept["digest"] != here["digest"]:
            raise ConfigError(
                f"the job ran the code of commit {_short(kept)} and here is {_short(here)}",
                where="jobs resubmit",
                given=details.submission_id,
                do="Check that commit out; or submit the recipe again, which goes on with the new code.",
            )
        order = json.loads(details.metadata["vitscale.order"])
        job = ordered_job(order | {"submission": uuid.uuid4().hex})
        return self.submit(job, package)

    def resources(self) -> list[dict[str, Any]]:
        """The nodes that live, with (used, total) of their CPUs and GPUs."""
        return self._api.nodes()

    def _find(self, name: str) -> Any:
        jobs = self._api.jobs()
        for details in reversed(jobs):
            if name in (details.submission_id, details.metadata["vitscale.run"]):
                return details
        known = {job.metadata["vitscale.run"] for job in jobs}
        hint = nearest(name, known) if known else "there are none of vitscale."
        raise ConfigError(
            "the cluster knows no such job",
            where="jobs",
            given=name,
            do=f"{hint[0].upper()}{hint[1:]}",
        )

    def _next_id(self, metadata: Mapping[str, str]) -> str:
        """NAME-N with the next free N.

        Raises:
            LeaseError: a job is at work on the same run folder.
        """
        run, numbers = metadata["vitscale.run"], [0]
        for other in self._api.jobs():
            if other.metadata["vitscale.run"] != run:
                continue
            numbers.append(int(other.submission_id.rpartition("-")[2]))
            if other.status not in OVER and (
                other.metadata["vitscale.folder"] == metadata["vitscale.folder"]
            ):
                raise LeaseError(
                    f"the run is taken: {other.submission_id} is {_STATES[other.status]}",
                    where=metadata["vitscale.folder"],
                    do=f"Follow it, stop it with `vitscale jobs stop {run}`, or choose another run.name.",
                )
        return f"{run}-{max(numbers) + 1}"

    def _checked(self, job_id: str) -> Story:
        """What the job told once its checks have passed."""
        deadline = time.monotonic() + _CHECK_S
        while time.monotonic() < deadline:
            details = self._api.details(job_id)
            story = self._api.story(job_id)
            if story.checked:
                return story
            if story.refused:
                self._wait_for_end(job_id, _END_S)
                raise _error_of(story.refused)
            if details.status in OVER:
                text = self._api.log(job_id) or details.message or "no output"
                last = "\n  ".join(text.strip().splitlines()[-_LINES:])
                raise ResourceError(
                    f"the job ended before it had begun; its last lines:\n  {last}\n",
                    where=job_id,
                    do="Is vitscale's environment active where the head was started?",
                )
            time.sleep(_LOOK_S)
        raise ResourceError(
            f"the job has not begun within {_CHECK_S:.0f} s",
            where=job_id,
            do=f"It is left as it is: see `vitscale jobs logs {job_id}`.",
        )

    def _wait_for_end(self, job_id: str, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self._api.details(job_id).status not in OVER:
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"the job has not ended within {patience_s:.0f} s",
                    where=job_id,
                    do=f"See `vitscale jobs logs {job_id}`.",
                )
            time.sleep(_LOOK_S)


def _row(details: Any, story: Story | None = None) -> dict[str, Any]:
    ended = story.ended if story else {}
    code = ended.get("exit_code", details.driver_exit_code)
    state = _STATES[details.status]
    if state == "failed" and code == STOPPED_EXIT_CODE:
        state = "stopped"
    if state == "stopped" and story and not ended:
        state = "killed"
    return {
        "job": details.submission_id,
        "run": details.metadata["vitscale.run"],
        "group": details.metadata.get(_GROUP),
        "state": state,
        "exit_code": code,
        "started": (details.start_time or 0) / 1e3,
        "ended": details.end_time and details.end_time / 1e3,
    }


def _waiting(details: Any, story: Story) -> str | None:
    """Said of a job that has passed its checks and has no rank yet."""
    waits = details.status not in OVER and story.checked and not story.attempts
    return "waits for room on the cluster" if waits else None


def _error_of(refused: Mapping[str, Any]) -> VitscaleError:
    kind = getattr(vitscale.errors, refused["type"])
    return kind(refused["what"], where=refused["where"], given=refused["given"], do=refused["do"])


def _short(record: Mapping[str, Any]) -> str:
    commit = (record["commit"] or f"version {record['version']}")[:12]
    return f"{commit} with changes" if record["changed"] else commit
