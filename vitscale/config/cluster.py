"""Cluster profiles: where a job runs, with how many workers, and what each of them gets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from vitscale.config.base import Section
from vitscale.config.load import all_at_once, merge, parse_override, read_toml, sentences
from vitscale.errors import ConfigError, nearest

FOLDER = Path("configs/cluster")
LOCAL = "local"


class ClusterProfile(Section):
    """A place to run jobs; a file of `configs/cluster/` with one table `[cluster]`."""

    address: str = LOCAL
    """"local" starts Ray inside the command; else a cluster: "auto", "HOST:6379" or "ray://HOST:10001"."""

    workers: int = Field(default=2, ge=1)
    """Ranks of the job, at most; one process each."""

    workers_min: int | None = Field(default=None, ge=1)
    """Ranks the job goes on with where machines are missing; as many as `workers` where not given."""

    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPU cores Ray reserves for each rank."""

    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """1 gives each rank a GPU of its own; 0 trains on the CPU."""

    omp_threads: int | None = Field(default=None, ge=1)
    """Threads of the numerical libraries in each rank; its CPU cores where not given."""

    max_failures: int = Field(default=3, ge=0)
    """Times the job is restarted, from its last commit, after a worker died; machines taken away do not count."""

    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the workers; nothing else is sent to a cluster."""

    connect_s: int = Field(default=20, ge=1)
    """Seconds after which a cluster that does not answer is an error."""

    @field_validator("address")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in (LOCAL, "auto") or value.rpartition(":")[2].isdigit():
            return value
        raise ValueError(f'{value!r} is neither "local", "auto", "HOST:PORT" nor "ray://HOST:PORT"')

    @model_validator(mode="after")
    def _ordered(self) -> ClusterProfile:
        if self.fewest > self.workers:
            raise ValueError(f"workers_min {self.workers_min} is above workers {self.workers}")
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
        return self.address == LOCAL

    @property
    def threads(self) -> int:
        """Threads of the numerical libraries in each rank."""
        return self.omp_threads or max(1, int(self.cpus_per_worker))


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
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    path = FOLDER / f"{name}.toml"
    if path.exists():
        return path
    if name == LOCAL:
        return None
    known = {LOCAL, *(file.stem for file in FOLDER.glob("*.toml"))}
    hint = nearest(name, known)
    raise ConfigError(
        f"there is no cluster profile '{name}'",
        where=str(FOLDER),
        do=f"{hint[0].upper()}{hint[1:]} A path to a .toml file works too.",
    )
