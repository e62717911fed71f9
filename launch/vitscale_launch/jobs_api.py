"""The Jobs API of a running Ray cluster, over HTTP and with a token: submit, list, read logs, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from vitscale.config.cluster import ClusterProfile
from vitscale.errors import ResourceError
from vitscale_launch.cluster import insist_on_listener, no_answer, prepare_environment
from vitscale_launch.events import Story, events_in, is_event, story_of

_MODE = "RAY_AUTH_MODE"
ENTRYPOINT = "exec python -m vitscale_launch.inside order.json"
ORDER = "order.json"
OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_TALKERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_OWN = "vitscale.run"


class JobsApi:
    """A cluster whose token we have and whose Ray is the version of ours."""

    def __init__(self, profile: ClusterProfile) -> None:
        """Connect.

        Raises:
            ResourceError: nobody answers, the token is missing or wrong, anybody may submit there, or its Ray is
                another version.
        """
        self.url = (profile.address or "").rstrip("/")
        self._profile = profile
        insist_on_listener(profile)
        prepare_environment()
        os.environ.setdefault(_MODE, "token")
        _insist_on_token()
        if os.environ[_MODE] == "token":
            self._insist_on_lock()
        from ray.job_submission import JobSubmissionClient

        for name in _TALKERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._answering():
            self._client = JobSubmissionClient(self.url)
            self._insist_on_version(self._get("/api/version")["ray_version"])

    def submit(
        self, job_id: str, folder: Path, metadata: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        """Upload `folder`, which holds the package and its order, and have Ray run it."""
        with self._answering():
            self._client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=job_id,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {**environment, **stop_patience(self._profile)},
                },
                metadata=dict(metadata),
            )

    def jobs(self) -> list[Any]:
        """Ray's details of every job that vitscale submitted, oldest first."""
        with self._answering():
            found = self._client.list_jobs()
        own = [job for job in found if job.submission_id and _OWN in (job.metadata or {})]
        return sorted(own, key=lambda job: (job.start_time or 0, job.submission_id))

    def details(self, job_id: str) -> Any:
        """Ray's details of one job."""
        with self._answering():
            return self._client.get_job_info(job_id)

    def story(self, job_id: str) -> Story:
        """What the job has told so far; nothing where it has not begun."""
        return story_of(events_in(self.log(job_id)))

    def log(self, job_id: str) -> str:
        """All a job wrote, events included."""
        with self._answering():
            return self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> None:
        """Send SIGTERM to the job; Ray kills it after the `grace_s` it was submitted with."""
        with self._answering():
            self._client.stop_job(job_id)

    def follow(self, job_id: str, show: Callable[[str], None]) -> None:
        """Hand each line of the log to `show` until the job is over; a lost connection is made anew."""
        asyncio.run(self._follow(job_id, show))

    async def _follow(self, job_id: str, show: Callable[[str], None]) -> None:
        shown = 0
        while True:
            text = ""
            try:
                async for piece in self._client.tail_job_logs(job_id):
                    text += piece
                    lines = text.splitlines(keepends=True)
                    whole = [line for line in lines if line.endswith("\n")]
                    for line in whole[shown:]:
                        if not is_event(line):
                            show(line.rstrip("\n"))
                    shown = max(shown, len(whole))
            except (OSError, RuntimeError):  # Ray sends the log from its beginning again
                await asyncio.sleep(1)
            if self.details(job_id).status in OVER:
                return

    def nodes(self) -> list[dict[str, Any]]:
        """`node`, `host`, `head` and (used, total) of `CPU` and `GPU` of each node that lives."""
        with self._answering():
            data = self._get("/nodes?view=summary")["data"]
        used = data.get("nodeLogicalResources", {})
        return [
            _node(summary, used.get(summary["raylet"]["nodeId"], ""))
            for summary in data["summary"]
            if summary["raylet"]["state"] == "ALIVE"
        ]

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._client._do_request(
            "GET", path
        )  # adds the token; the public calls do the same
        answer.raise_for_status()
        return answer.json()

    @contextmanager
    def _answering(self) -> Generator[None]:
        """Whatever the client raises, in words."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ResourceError(
                "the cluster refuses the token",
                where="RAY_AUTH_TOKEN",
                do=f"{self.url} was started with another one: use that of its ~/.ray/auth_token.",
            ) from error
        except (OSError, RuntimeError) as error:  # those of requests are OSErrors
            raise no_answer(self._profile, _gist(error)) from error

    def _insist_on_lock(self) -> None:
        """Whoever reaches the Jobs API of an open cluster runs what he likes on it."""
        try:
            urllib.request.urlopen(f"{self.url}/api/version", timeout=self._profile.connect_s)
        except urllib.error.HTTPError:
            return  # it asks for a token
        except OSError as error:
            raise no_answer(self._profile, str(error)) from error
        raise ResourceError(
            "the cluster takes jobs from anybody who can reach it",
            where="cluster.address",
            given=self.url,
            do=f"Start its nodes with {_MODE}=token; or, to use it as it is, set {_MODE}=disabled.",
        )

    def _insist_on_version(self, there: str) -> None:
        import ray

        if there != ray.__version__:
            raise ResourceError(
                f"the cluster runs Ray {there} and this is Ray {ray.__version__}",
                where="cluster.address",
                given=self.url,
                do=f"Install the same version here: pip install 'ray[default,train]=={there}'.",
            )


def stop_patience(profile: ClusterProfile) -> dict[str, str]:
    """Ray gives a job three seconds between the signal to stop and the kill, unless told otherwise."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(profile.grace_s)}


def _gist(error: Exception) -> str:
    """The line that says it: of a traceback, which the dashboard sends for its own errors, the last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if lines[0].endswith("Traceback (most recent call last):") else lines[0]


def _insist_on_token() -> None:
    raylet: Any = import_module("ray._raylet")
    has_token = raylet.AuthenticationTokenLoader.instance().has_token
    if os.environ[_MODE] == "token" and not has_token(ignore_auth_mode=True):
        raise ResourceError(
            "there is no token to show to the cluster",
            where="RAY_AUTH_TOKEN",
            do="Set it, or put the token of the cluster's head into ~/.ray/auth_token.",
        )


def _node(summary: Mapping[str, Any], usage: str) -> dict[str, Any]:
    raylet = summary["raylet"]
    total = raylet["resourcesTotal"]
    used = {
        words[1]: float(words[0].partition("/")[0])
        for line in usage.splitlines()
        if (words := line.split()) and words[-1] in ("CPU", "GPU")
    }
    return {
        "node": raylet["nodeId"],
        "host": summary.get("hostname", raylet.get("nodeManagerHostname", "")),
        "head": bool(raylet.get("isHeadNode")),
        **{name: [used.get(name, 0.0), total.get(name, 0.0)] for name in ("CPU", "GPU")},
    }
