"""Cluster profiles: where a job runs, with how many workers, and what each of them gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from vitscale.config.base import DurationField, Section
from vitscale.config.load import (
    all_at_once,
    merge,
    named_file,
    parse_override,
    read_toml,
    sentences,
)

FOLDER = Path("configs/cluster")
LOCAL = "local"
Kind = Literal["local", "ray", "kuberay", "slurm"]
_HTTP = ("http://", "https://")
_LABEL = re.compile(r"[^\s=]+=[^\s=]*")
_TOLERATION = re.compile(r"[^\s:=]+(=[^\s:=]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")
_JOBS_API = {"address", "connect_s", "package_mb"}
# What would change nothing with each kind, and is refused where somebody sets it.
_NOT_WITH: dict[Kind, set[str]] = {
    "local": {
        *_JOBS_API,
        *("workers_per_node", "accelerator", "placement", "storage", "pass_environment"),
        *("queue", "time_limit", "grace_s", "kuberay", "slurm"),
    },
    "ray": {"queue", "time_limit", "kuberay", "slurm"},
    "kuberay": {*_JOBS_API, "pass_environment", "slurm"},
    "slurm": {"address", "connect_s", "workers_min", "pass_environment", "kuberay"},
}
_INSIDE = {
    *("workers", "workers_min", "workers_per_node", "cpus_per_worker", "gpus_per_worker"),
    *("accelerator", "placement", "omp_threads", "max_failures", "environment"),
}


class Kuberay(Section):
    """What Kubernetes has to know besides: `[cluster.kuberay]`, only with `kind = "kuberay"`."""

    image: str
    """Image of head and workers, best with its digest; vitscale of the same version and Ray are in it."""

    claim: str
    """The persistent volume claim that is mounted at `cluster.storage`; its volume must be shared by all nodes."""

    namespace: str = "default"
    """Namespace of all that is made."""

    secret: str | None = None
    """A secret whose keys become environment variables, such as credentials of an object store or of MLflow."""

    memory_gb: int = Field(default=64, ge=1)
    """Memory of a worker in GiB, requested and at most."""

    shared_memory_gb: int = Field(default=8, ge=1)
    """GiB of /dev/shm in each pod; Ray's object store lives there. It counts as memory of the pod."""

    node_selector: list[str] = Field(default_factory=list)
    """Labels that the nodes of the workers must carry, as "KEY=VALUE"."""

    tolerations: list[str] = Field(default_factory=list)
    """Taints that the workers bear, as "KEY:EFFECT" or "KEY=VALUE:EFFECT"."""

    retries: int = Field(default=3, ge=0)
    """Times KubeRay makes the cluster and the job anew, from the last commit, after a head was lost."""

    @field_validator("node_selector")
    @classmethod
    def _labels(cls, value: list[str]) -> list[str]:
        for text in value:
            if not _LABEL.fullmatch(text):
                raise ValueError(f'{text!r} is no "KEY=VALUE"')
        return value

    @field_validator("tolerations")
    @classmethod
    def _readable(cls, value: list[str]) -> list[str]:
        for text in value:
            if not _TOLERATION.fullmatch(text):
                raise ValueError(f'{text!r} is neither "KEY:EFFECT" nor "KEY=VALUE:EFFECT"')
        return value


class Slurm(Section):
    """What Slurm has to know besides: `[cluster.slurm]`, only with `kind = "slurm"`."""

    launcher: Literal["ray", "torchrun"] = "ray"
    """Who starts the ranks on the nodes: Ray, which also starts lost ones again, or torchrun without Ray."""

    account: str | None = None
    """The account that pays."""

    memory_gb: int | None = Field(default=None, ge=1)
    """Memory of a worker in GiB; what the partition gives where not given."""

    setup: list[str] = Field(default_factory=list)
    """Lines of bash before anything else, such as `source /shared/venv/bin/activate`."""

    port: int = Field(default=6379, ge=1024, le=65535)
    """Port on the first node on which the others find it."""


class Follow(Section):
    """A follower beside the ranks, `[cluster.follow]`: it scores every commit while training goes on."""

    suite: str
    """A suite of transfer tasks, by name or file (docs/transfer.md); its data must be readable on the cluster."""

    gpus: float = Field(default=0.0, ge=0, le=1)
    """A GPU, or the share of one, that is reserved for it; without one it computes on cores that nobody reserved."""


class ClusterProfile(Section):
    """A place to run jobs; a file of `configs/cluster/` with one table `[cluster]`."""

    kind: Kind = "local"
    """local: Ray inside the command. ray: a running Ray cluster. kuberay: Kubernetes. slurm: a batch script."""

    address: str | None = None
    """Of a Ray cluster: "http://HOST:8265" submits to its Jobs API; "auto" and "HOST:6379" join it from here."""

    workers: int = Field(default=2, ge=1)
    """Ranks of the job, at most; one process each."""

    workers_min: int | None = Field(default=None, ge=1)
    """Ranks the job goes on with where machines are missing; as many as `workers` where not given."""

    workers_per_node: int | None = Field(default=None, ge=1)
    """Ranks on each node: what a pod or a Slurm task holds, and what the plan reckons with."""

    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPU cores reserved for each rank."""

    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """1 gives each rank a GPU of its own; 0 trains on the CPU."""

    accelerator: str | None = None
    """Kind of the GPUs as Ray names it, such as "H100" or "A100"; the ranks get no others."""

    placement: Literal["pack", "spread"] = "pack"
    """How Ray lays the ranks, one bundle each, onto nodes: few nodes, or as many as there are."""

    omp_threads: int | None = Field(default=None, ge=1)
    """Threads of the numerical libraries in each rank; its CPU cores where not given."""

    max_failures: int = Field(default=3, ge=0)
    """Times the job is restarted, from its last commit, after a worker died; machines taken away do not count."""

    storage: str | None = None
    """Folder of all runs on the cluster, on a disk all nodes share; takes the place of the recipe's run.home."""

    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the workers; nothing else is sent to a cluster."""

    pass_environment: list[str] = Field(default_factory=list)
    """Names of variables that are sent with the values they have where the job is submitted, such as tokens."""

    queue: str | None = None
    """Slurm's partition, or the local queue of Kueue."""

    time_limit: DurationField | None = None
    """Wall time after which the job is stopped, such as "24 h"."""

    grace_s: int = Field(default=600, ge=1)
    """Seconds a job has for its last commit once it is asked to stop; after that it is killed."""

    package_mb: int = Field(default=20, ge=1)
    """The most that may be shipped to the cluster with a job, in MB."""

    connect_s: int = Field(default=20, ge=1)
    """Seconds after which a cluster that does not answer is an error."""

    follow: Follow | None = None
    """Who scores the commits of the job, if anybody does."""

    kuberay: Kuberay | None = None
    """Only with `kind = "kuberay"`."""

    slurm: Slurm | None = None
    """Only with `kind = "slurm"`."""

    @model_validator(mode="after")
    def _sensible(self) -> ClusterProfile:
        problems = [*_idle(self), *_impossible(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def fewest(self) -> int:
        """Ranks the job goes on with at least."""
        return self.workers if self.workers_min is None else self.workers_min

    @property
    def is_elastic(self) -> bool:
        return self.fewest < self.workers

    @property
    def is_local(self) -> bool:
        return self.kind == "local"

    @property
    def is_remote(self) -> bool:
        """Whether the job goes to the Jobs API of a running cluster, and the command does not wait for it."""
        return self.kind == "ray" and (self.address or "").startswith(_HTTP)

    @property
    def ships(self) -> bool:
        """Whether the code goes along with the job; an image has its own, and here it lies already."""
        return self.is_remote or self.kind == "slurm"

    @property
    def uses_torchrun(self) -> bool:
        return self.slurm is not None and self.slurm.launcher == "torchrun"

    @property
    def ranks_per_node(self) -> int:
        """Ranks that a pod or a Slurm node holds."""
        return min(self.workers_per_node or 1, self.workers)

    def nodes(self, workers: int) -> int:
        """Pods or Slurm nodes for so many ranks."""
        return -(-workers // self.ranks_per_node)

    @property
    def threads(self) -> int:
        """Threads of the numerical libraries in each rank."""
        return self.omp_threads or max(1, int(self.cpus_per_worker))

    def table(self) -> dict[str, Any]:
        """The settings that have an effect, for showing."""
        absent = {"follow"} if self.follow is None else set[str]()
        return self.model_dump(mode="json", exclude=_NOT_WITH[self.kind] | absent) | {
            "omp_threads": self.threads
        }

    def inside(self) -> ClusterProfile:
        """What a job that runs on the cluster needs of this profile: it joins the Ray it finds itself in."""
        given = {name: getattr(self, name) for name in self.model_fields_set & _INSIDE}
        return ClusterProfile(kind="ray", address="auto", **given)


def _idle(profile: ClusterProfile) -> Iterator[str]:
    """A sentence for each setting that was given and has no effect."""
    kind, given = profile.kind, profile.model_fields_set
    for name in sorted(given & _NOT_WITH[kind]):
        yield f'{name} has no effect with kind = "{kind}": remove it'
    if kind == "ray" and not profile.is_remote:
        for name in sorted(given & {"storage", "pass_environment", "grace_s", "package_mb"}):
            yield f'{name} has no effect where the command joins the cluster: use "http://HOST:8265"'
    for name in sorted(given & {"follow", "placement"} if profile.uses_torchrun else ()):
        yield f'{name} has no effect with slurm.launcher = "torchrun": remove it'
    if profile.accelerator and not profile.gpus_per_worker:
        yield "accelerator has no effect without GPUs: set gpus_per_worker = 1"


def _impossible(profile: ClusterProfile) -> Iterator[str]:
    """A sentence for each setting that is missing, malformed or contradicts another."""
    kind = profile.kind
    if profile.fewest > profile.workers:
        yield f"workers_min {profile.workers_min} is above workers {profile.workers}"
    if kind == "ray" and not _is_address(profile.address):
        yield f'address {profile.address!r} is neither "http://HOST:8265", "auto" nor "HOST:PORT"'
    if profile.storage is not None and not profile.storage.startswith("/"):
        yield (
            f"storage {profile.storage!r} must be a folder that all nodes have mounted: commits are made real "
            "by a rename, which object stores do not have"
        )
    if profile.time_limit is not None and not profile.time_limit.is_time:
        yield f'time_limit {profile.time_limit} is no time: write "24 h" or "30 min"'
    if kind in ("kuberay", "slurm"):
        yield from _impossible_layout(profile)
    if kind == "kuberay" and (profile.kuberay is None or profile.storage is None):
        yield 'kind = "kuberay" needs storage, and kuberay.image and kuberay.claim'


def _impossible_layout(profile: ClusterProfile) -> Iterator[str]:
    each = profile.ranks_per_node
    for name in ("workers", "workers_min"):
        ranks = getattr(profile, name)
        if ranks is not None and ranks % each:
            yield f"{name} {ranks} is no multiple of workers_per_node {each}"


def _is_address(value: str | None) -> bool:
    return value is not None and (
        value == "auto" or value.startswith(_HTTP) or value.rpartition(":")[2].isdigit()
    )


class _File(Section):
    """What stands in a profile's file."""

    cluster: ClusterProfile = ClusterProfile()


def load_profile(name: str, overrides: Iterable[str] = ()) -> ClusterProfile:
    """Read the profile called `name` in `configs/cluster/`, or at the path `name`, and apply overrides.

    Args:
        name: "local" works without a file too.
        overrides: `cluster.key=value` texts.

    Raises:
        ConfigError: no such profile, or keys that are unknown or impossible; all are listed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = _path_of(name)
    if path is not None:
        merge(values, read_toml(path), sources, str(path))
    for text in overrides:
        merge(values, parse_override(text), sources, "override")
    try:
        return _File.model_validate_json(json.dumps(values, default=str)).cluster
    except ValidationError as error:
        raise all_at_once(sentences(error, sources, _File), "cluster profile") from None


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides of the recipe, and those of the profile, which begin with `cluster.`."""
    recipe: list[str] = []
    profile: list[str] = []
    for text in overrides:
        (profile if text.startswith("cluster.") else recipe).append(text)
    return recipe, profile


def _path_of(name: str) -> Path | None:
    if name == LOCAL and not (FOLDER / f"{LOCAL}.toml").exists():
        return None
    return named_file(name, FOLDER, "cluster profile", others=(LOCAL,))
