"""Submitting a recipe: check, connect, run, reply; or only say what would happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from vitscale.attempts import attempts_of, committed_step
from vitscale.config.cluster import ClusterProfile
from vitscale.config.load import Recipe
from vitscale.config.redaction import redact_table
from vitscale_launch.handing import apply_manifests, queue_script, standing_of_rayjob
from vitscale_launch.job import FINISHED, Job, Resume, check_machine, make_job
from vitscale_launch.jobs_api import ENTRYPOINT, ORDER, stop_patience
from vitscale_launch.kuberay import manifests
from vitscale_launch.package import package_here
from vitscale_launch.slurm import batch_script
from vitscale_launch.yaml import to_yaml


def submit(
    recipe: Recipe,
    profile: ClusterProfile,
    *,
    resume: Resume = "auto",
    allow_dirty: bool = False,
) -> dict[str, Any]:
    """Run the recipe on the cluster of `profile`.

    Args:
        recipe: what to run.
        profile: where.
        resume: as in `vitscale train`.
        allow_dirty: ship code that differs from its commit.

    Returns:
        The worker's reply, where the command itself is the job; else `status` "submitted", and where it can be seen.

    Raises:
        ConfigError: recipe and profile do not fit together, or the code may not be shipped.
        DataError: the training set cannot be read.
        ResourceError: no Ray, no cluster at the address, or too little of something.
        LeaseError: the run is at work already.
    """
    job = make_job(recipe, profile, resume)
    return way_to(profile, allow_dirty=allow_dirty).start(job)


class Way(NamedTuple):
    """How jobs of one profile are started, and how those that were started before are asked after."""

    start: Callable[[Job], dict[str, Any]]
    """The worker's reply, or where the job can be seen."""

    standing: Callable[[Job], str | None]
    """`finished`, or what a job at work is called where it runs; None where the run is to be started."""


def way_to(profile: ClusterProfile, *, allow_dirty: bool) -> Way:
    """Look at the package and reach the cluster, once for any number of jobs.

    Raises:
        ConfigError: the code may not be shipped.
        ResourceError: no Ray, or no cluster at the address.
    """
    if profile.kind == "kuberay":
        return Way(apply_manifests, standing_of_rayjob)
    if not profile.ships:
        return Way(run_job, standing_of_folder)
    package = package_here()
    package.insist(allow_dirty=allow_dirty, limit_mb=profile.package_mb)
    if profile.kind == "slurm":
        return Way(partial(queue_script, package=package), standing_of_folder)
    _insist_on_ray()
    from vitscale_launch.jobs import Jobs

    jobs = Jobs(profile)
    return Way(partial(jobs.submit, package=package), jobs.standing)


def standing_of_folder(job: Job) -> str | None:
    """What the run folder says, where this machine sees it."""
    from vitscale.checkpoint.lease import is_running

    if is_running(job.folder):
        return "running"
    attempts = attempts_of(job.folder)
    over = bool(attempts) and attempts[-1].end.get("status") == FINISHED
    return FINISHED if over and committed_step(job.folder) >= job.plan.total_steps else None


def run_job(
    job: Job, ready: Callable[[Mapping[str, float]], None] | None = None, **options: str
) -> dict[str, Any]:
    """Check this machine, connect to Ray and run.

    Args:
        job: what to run.
        ready: called with the resources of the cluster once all checks have passed.
        options: go to `run_on_ray`.
    """
    check_machine(job)
    _insist_on_ray()
    from vitscale.checkpoint.lease import insist_on_vacancy
    from vitscale_launch.cluster import connected
    from vitscale_launch.follower import followed
    from vitscale_launch.ray_train import run_on_ray
    from vitscale_launch.stopping import stop_signals

    insist_on_vacancy(job.folder, job.submission)
    # Ray installs a SIGTERM handler of its own when it connects, so ours comes after.
    with connected(job.profile) as resources, stop_signals(job.folder) as signals:
        if ready is not None:
            ready(resources)
        with followed(job, signals) as told:
            return told(run_on_ray(job, signals, **options))


def dry_run(recipe: Recipe, profile: ClusterProfile, *, resume: Resume = "auto") -> dict[str, Any]:
    """Profile, plan and resolved config of a job, secrets hidden; starts and writes nothing.

    Raises:
        ConfigError, DataError: whatever `submit` would find wrong before it connects.
    """
    job = make_job(recipe, profile, resume)
    plan = vars(job.plan) | {"total_images": job.plan.total_images, "epochs": job.plan.epochs}
    return redact_table(
        {
            "folder": str(job.folder),
            "resume": resume,
            "cluster": profile.table(),
            "data": {"samples": job.data.samples, "classes": len(job.data.classes)},
            "plan": plan | {"worlds": list(job.worlds)},
            "config": job.recipe.config.model_dump(mode="json"),
        }
    ) | handed_over(job)


def handed_over(job: Job) -> dict[str, str]:
    """What another program is given: a manifest, a script or a request; values of the environment are not shown."""
    if job.profile.is_remote:
        names = [*job.profile.pass_environment, *stop_patience(job.profile)]
        request = {
            "entrypoint": ENTRYPOINT,
            "working_dir": [ORDER, "vitscale/", "vitscale_launch/"],
            "env_vars": names,
        }
        return {"handed_over": to_yaml(request)}
    if job.profile.kind == "kuberay":
        return {"handed_over": manifests(job)}
    if job.profile.kind == "slurm":
        return {"handed_over": batch_script(job)}
    return {}


def _insist_on_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        from vitscale.errors import ResourceError

        raise ResourceError(
            "ray is not installed",
            do='Install it: pip install "vitscale[cluster]", or use `vitscale train`.',
        )
