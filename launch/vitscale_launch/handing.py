"""Handing a job to a program that queues it: kubectl or sbatch."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from vitscale.errors import ResourceError
from vitscale_launch.job import FINISHED, Job, check_machine
from vitscale_launch.kuberay import manifests, settings
from vitscale_launch.package import Package
from vitscale_launch.slurm import batch_script, handed_folder


def apply_manifests(job: Job) -> dict[str, Any]:
    """Make the RayJob in the cluster kubectl is set to; a RayJob of that name must not be there.

    Raises:
        ResourceError: there is no kubectl, or it refuses.
    """
    _hand(["kubectl", "create", "-f", "-"], manifests(job), "run.name")
    name = job.recipe.config.run.name
    return _submitted(job, f"rayjob/{name}", f"made rayjob/{name}; see `kubectl get rayjob {name}`")


def standing_of_rayjob(job: Job) -> str | None:
    """What KubeRay says of the RayJob of that name; None where there is none, or one that ended otherwise.

    Raises:
        ResourceError: there is no kubectl, or it refuses.
    """
    name = job.recipe.config.run.name
    wanted = ["kubectl", "get", "rayjob", name, "--namespace", settings(job.profile).namespace]
    said = _hand([*wanted, "--ignore-not-found", "--output", "json"], "", "run.name")
    if not said.strip():
        return None
    status = json.loads(said).get("status", {}).get("jobStatus", "")
    return {"": "pending", "PENDING": "pending", "RUNNING": "running", "SUCCEEDED": FINISHED}.get(
        status
    )


def queue_script(job: Job, package: Package) -> dict[str, Any]:
    """Write package and order into the run folder, which the nodes share, and queue the script that reads them.

    Raises:
        LeaseError: the run is at work already.
        ResourceError: the folder cannot be written, there is no sbatch, or it refuses.
    """
    from vitscale.checkpoint.lease import insist_on_vacancy

    tool = _tool("sbatch")
    check_machine(job)
    insist_on_vacancy(job.folder, job.submission)
    folder = handed_folder(job)
    shutil.rmtree(folder, ignore_errors=True)
    package.copy_to(folder)
    (folder / "package.json").write_text(json.dumps(package.record), encoding="utf-8")
    (folder / "order.json").write_text(json.dumps(job.order), encoding="utf-8")
    number = _hand([tool, "--parsable"], batch_script(job), "cluster").strip().partition(";")[0]
    return _submitted(job, number, f"queued as Slurm job {number}")


def _submitted(job: Job, name: str, message: str) -> dict[str, Any]:
    return {
        "status": "submitted",
        "exit_code": 0,
        "message": message,
        "job": name,
        "run": job.recipe.config.run.name,
        "folder": str(job.folder),
    }


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ResourceError(
            f"{name} is not installed here",
            where="cluster.kind",
            do="Submit where it is, or print what it would be given: --dry-run.",
        )
    return str(Path(found))


def _hand(command: list[str], text: str, where: str) -> str:
    command = [_tool(command[0]), *command[1:]]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ResourceError(
            f"{Path(command[0]).name} refuses: {done.stderr.strip()}",
            where=where,
            do="Nothing was started.",
        )
    return done.stdout
