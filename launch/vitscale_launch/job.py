"""What is submitted, checked before anything starts. Imports neither ray nor torch."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vitscale import __version__
from vitscale.config.cluster import ClusterProfile
from vitscale.config.dataset import DatasetFacts
from vitscale.config.load import Recipe
from vitscale.config.plan import Plan, make_plan, worlds_that_fit
from vitscale.config.suite import load_suite
from vitscale.errors import ConfigError, ResourceError
from vitscale.units import human_bytes

Resume = Literal["auto", "must", "never"]
FINISHED = "finished"
_FREE_BYTES = 1 << 30  # room for the journal, the MLflow store and Ray's own files


@dataclass(frozen=True)
class Job:
    """A recipe, where it runs, and what it comes to there."""

    recipe: Recipe
    profile: ClusterProfile
    plan: Plan
    data: DatasetFacts
    resume: Resume
    submission: str
    """Tells the restarts of this job from other launches of the same run."""

    worlds: tuple[int, ...]
    """The numbers of workers the job may run on."""

    follow: dict[str, Any] | None = None
    """The `suite` (JSON of a `LoadedSuite`) a follower scores every commit with, what it is `called`, and `gpus`."""

    @property
    def folder(self) -> Path:
        return self.recipe.config.folder

    @property
    def request(self) -> dict[str, Any]:
        """What every rank hands to `vitscale.train.worker.run`."""
        return {
            "recipe": self.recipe.to_json(),
            "resume": self.resume,
            "submission": self.submission,
            "max_failures": self.profile.max_failures,
        }

    @property
    def order(self) -> dict[str, Any]:
        """What `ordered_job` makes this job of again, on the cluster; JSON."""
        profile = self.profile.inside().model_dump(mode="json", exclude_unset=True)
        return {
            "vitscale": __version__,
            "python": python_version(),
            "recipe": json.loads(self.recipe.to_json()),
            "profile": profile,
            "resume": self.resume,
            "submission": self.submission,
            "follow": self.follow,
        }


def ordered_job(order: Mapping[str, Any]) -> Job:
    """The job of an order, checked anew.

    Raises:
        ConfigError, DataError: as `make_job`, where the cluster sees it otherwise than the submitter did.
    """
    recipe = Recipe.from_json(json.dumps(order["recipe"]))
    profile = ClusterProfile.model_validate_json(json.dumps(order["profile"]))
    return replace(
        make_job(recipe, profile, order["resume"]),
        submission=order["submission"],
        follow=order.get("follow"),
    )


def insist_on_versions(order: Mapping[str, Any]) -> None:
    """Pass where the versions here are those the job was submitted with.

    Raises:
        ConfigError: vitscale or Python are others.
    """
    for what, here in (("vitscale", __version__), ("python", python_version())):
        if order[what] != here:
            raise ConfigError(
                f"the job was submitted with {what} {order[what]} and the cluster has {here}",
                where=what,
                do="Use the same version on both sides: another image, or another environment.",
            )


def python_version() -> str:
    """Of this process, such as "3.11"; compiled modules fit one of them only."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def make_job(
    recipe: Recipe,
    profile: ClusterProfile,
    resume: Resume = "auto",
    facts: DatasetFacts | None = None,
) -> Job:
    """Work out the plan on the profile's number of workers; writes nothing.

    `facts` are those of the recipe's data where they have been read before.

    Raises:
        ConfigError: recipe and profile contradict each other, the batch cannot be cut, the accelerators are too small,
            or the suite to follow is none.
        DataError: the training set cannot be read from here.
    """
    _insist_on_one_device(recipe, profile)
    if resume == "never" and profile.kind in ("kuberay", "slurm"):
        raise ConfigError(
            f'a job of kind "{profile.kind}" is started again by itself, and would then refuse its own commits',
            where="--resume",
            given=resume,
            do="Choose a run.name that is new, and --resume auto.",
        )
    if profile.storage is not None:
        recipe = _stored(recipe, profile.storage)
    if facts is None:
        from vitscale.data.facts import facts_of  # numpy and image libraries, no torch

        facts = facts_of(recipe.config.data)
    plan = make_plan(recipe.config, world=profile.workers, epoch_images=facts.samples)
    worlds = worlds_that_fit(recipe.config, profile.fewest, profile.workers)
    if profile.fewest not in worlds:
        raise _cannot_shrink(recipe, profile)
    from vitscale.planner.room import insist_on_profile

    insist_on_profile(recipe.config, profile, facts)
    submission, follow = uuid.uuid4().hex, _follow(profile)
    return Job(recipe, profile, plan, facts, resume, submission, worlds, follow)


def _follow(profile: ClusterProfile) -> dict[str, Any] | None:
    """The suite is read where the job is submitted, since its file may not be where the job runs."""
    if profile.follow is None:
        return None
    called, gpus = profile.follow.suite, profile.follow.gpus
    return {"suite": load_suite(called).as_json(), "called": called, "gpus": gpus}


def check_machine(job: Job) -> None:
    """Look at what the job needs here: a home that can be written, free space, GPUs for a local job.

    Raises:
        ResourceError: something is missing.
    """
    home = Path(job.recipe.config.run.home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise _unwritable(home, error.strerror) from error
    if not os.access(home, os.W_OK | os.X_OK):
        raise _unwritable(home, "permission denied")
    if free < _FREE_BYTES:
        raise ResourceError(
            f"the disk is nearly full: {human_bytes(free)} free, {human_bytes(_FREE_BYTES)} needed at least",
            where="run.home",
            given=home,
            do="Free some space, or choose another run.home.",
        )
    if job.profile.is_local and job.profile.gpus_per_worker:
        _insist_on_gpus(job.profile.workers)


def _stored(recipe: Recipe, storage: str) -> Recipe:
    """The recipe with the cluster's folder of all runs."""
    run = recipe.config.run.model_copy(update={"home": storage})
    config = recipe.config.model_copy(update={"run": run})
    return replace(recipe, config=config, sources=recipe.sources | {"run.home": "cluster.storage"})


def _insist_on_one_device(recipe: Recipe, profile: ClusterProfile) -> None:
    device = recipe.config.engine.device
    if device == "cuda" and not profile.gpus_per_worker:
        raise ConfigError(
            "the recipe asks for GPUs and the cluster profile gives none",
            where="engine.device",
            given=device,
            do="Set cluster.gpus_per_worker=1, or engine.device=cpu.",
        )
    if device == "cpu" and profile.gpus_per_worker:
        raise ConfigError(
            "the cluster profile reserves GPUs that the recipe would not use",
            where="cluster.gpus_per_worker",
            given=profile.gpus_per_worker,
            do="Set it to 0, or engine.device=auto.",
        )


def _insist_on_gpus(wanted: int) -> None:
    """Count the device files, since asking torch costs seconds and this is the front door."""
    found = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
    if found < wanted:
        raise ResourceError(
            f"this machine has {found} GPUs and the job needs {wanted}",
            where="cluster.workers",
            do="Use fewer workers, or cluster.gpus_per_worker=0 to train on the CPU.",
        )


def _cannot_shrink(recipe: Recipe, profile: ClusterProfile) -> ConfigError:
    batch, micro_batch = recipe.config.train.batch, recipe.config.train.micro_batch
    fit = worlds_that_fit(recipe.config, 1, profile.workers)
    return ConfigError(
        f"batch {batch} cannot be cut into micro-batches of {micro_batch} on {profile.fewest} workers",
        where="cluster.workers_min",
        given=profile.fewest,
        do=f"Up to {profile.workers} workers these numbers can: {', '.join(map(str, fit))}.",
    )


def _unwritable(home: Path, reason: str | None) -> ResourceError:
    return ResourceError(
        f"the folder of all runs cannot be written: {reason}",
        where="run.home",
        given=home,
        do="Choose a folder you may write to, such as run.home=runs.",
    )
