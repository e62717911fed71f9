"""A job as it runs on a cluster: `python -m vitscale_launch.inside ORDER.json`, on Ray's head.

It does what `vitscale submit` does on one machine, and tells of it in its log for those who are elsewhere.
"""

from __future__ import annotations

import json
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitscale.attempts import attempts_of, committed_step
from vitscale.durable import write_text_atomically
from vitscale.errors import VitscaleError
from vitscale_launch.events import tell
from vitscale_launch.job import Job, insist_on_versions, ordered_job
from vitscale_launch.submit import run_job

_LOOK_S = 2.0


def main(words: Sequence[str]) -> int:
    """Run the order in the file `words[0]`; the reply also goes to the file `words[1]`, where one is given."""
    try:
        reply = _run(json.loads(Path(words[0]).read_text(encoding="utf-8")))
    except VitscaleError as error:
        given = None if error.given is None else str(error.given)
        refusal = {"what": error.what, "where": error.where, "given": given, "do": error.do}
        reply = {"exit_code": error.exit_code, "message": str(error)}
        tell("refused", type=type(error).__name__, exit_code=error.exit_code, **refusal)
    else:
        tell("ended", **reply)
    print(f"vitscale: {reply['message']}", flush=True)
    if len(words) > 1:
        write_text_atomically(Path(words[1]), json.dumps(reply) + "\n")
    return int(reply["exit_code"])


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    insist_on_versions(order)
    job = ordered_job(order)
    teller = _Teller(job)

    def ready(resources: Mapping[str, float]) -> None:
        step = committed_step(job.folder)
        amounts = {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}
        tell("checked", from_step=step, resources=amounts, python=platform.python_version())
        teller.start()

    try:
        return run_job(job, ready)
    finally:
        teller.close()


class _Teller(threading.Thread):
    """Tells of new attempts, commits and the run's page in MLflow, as the run folder shows them."""

    def __init__(self, job: Job) -> None:
        super().__init__(name="teller", daemon=True)
        self._job, self._over = job, threading.Event()
        self._attempts = 0
        self._committed = committed_step(job.folder)
        self._mlflow = ""

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._look()
        self._look()

    def close(self) -> None:
        """Tell what is left to tell."""
        self._over.set()
        if self.is_alive():
            self.join()

    def _look(self) -> None:
        folder = self._job.folder
        own = attempts_of(folder, self._job.submission)
        for attempt in own[self._attempts :]:
            tell("attempt", number=attempt.number, workers=attempt.start.get("world"))
        self._attempts = len(own)
        step = committed_step(folder)
        if step != self._committed:
            self._committed = step
            tell("commit", step=step)
        url = mlflow_page(folder)
        if url != self._mlflow:
            self._mlflow = url
            tell("mlflow", url=url)


def mlflow_page(run_folder: Path) -> str:
    """Where the run is to be seen in MLflow: a URL, or the command that serves it; empty until it is there."""
    try:
        state = json.loads((run_folder / "mlflow.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not state.get("run_id"):
        return ""
    if not state["tracking_uri"].startswith(("http://", "https://")):
        return f"vitscale ui --home {run_folder.parent}"
    base = state["tracking_uri"].rstrip("/")
    return f"{base}/#/experiments/{state['experiment_id']}/runs/{state['run_id']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
