"""Submitting a recipe: check, connect, run, reply; or only say what would happen."""

from __future__ import annotations

from typing import Any

from vitscale.config.cluster import ClusterProfile
from vitscale.config.load import Recipe
from vitscale.config.redaction import redact_table
from vitscale_launch.job import Job, Resume, check_machine, make_job


def submit(recipe: Recipe, profile: ClusterProfile, *, resume: Resume = "auto") -> dict[str, Any]:
    """Run the recipe on the cluster of `profile` and wait for it; returns the worker's reply.

    Raises:
        ConfigError: recipe and profile do not fit together.
        DataError: the training set cannot be read.
        ResourceError: no Ray, no cluster at the address, or too little of something.
    """
    return run_job(make_job(recipe, profile, resume))


def run_job(job: Job, **options: str) -> dict[str, Any]:
    """Check this machine, then connect to Ray and run; `options` go to `run_on_ray`."""
    check_machine(job)
    _insist_on_ray()
    from vitscale_launch.cluster import connected
    from vitscale_launch.ray_train import run_on_ray
    from vitscale_launch.stopping import stop_signals

    # Ray installs a SIGTERM handler of its own when it connects, so ours comes after.
    with connected(job.profile), stop_signals(job.folder) as signals:
        return run_on_ray(job, signals, **options)


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
            "cluster": profile.model_dump(mode="json") | {"omp_threads": profile.threads},
            "data": {"samples": job.data.samples, "classes": len(job.data.classes)},
            "plan": plan | {"worlds": list(job.worlds)},
            "config": recipe.config.model_dump(mode="json"),
        }
    )


def _insist_on_ray() -> None:
    from importlib.util import find_spec

    if find_spec("ray") is None:
        from vitscale.errors import ResourceError

        raise ResourceError(
            "ray is not installed",
            do='Install it: pip install "vitscale[cluster]", or use `vitscale train`.',
        )
