"""Runs the tasks of an evaluation on the cluster of a profile, each with its share of cores and GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from vitscale.config.cluster import LOCAL, ClusterProfile
from vitscale.errors import ConfigError, ResourceError
from vitscale_launch.cluster import connected
from vitscale_launch.pieces import RayPieces

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class RayTasks:
    """Takes the place of local processes: Ray is connected while the pieces run.

    Args:
        profile: where; its `cpus_per_worker` and `gpus_per_worker` are what a task gets.
        cpus: instead of the profile's, also a share of a core.
        gpus: instead of the profile's, also a share of a GPU, so that several tasks use one.
    """

    def __init__(
        self, profile: ClusterProfile, *, cpus: float | None = None, gpus: float | None = None
    ) -> None:
        self._profile, self._address = profile, _address_of(profile)
        self._cpus = profile.cpus_per_worker if cpus is None else cpus
        self._gpus = profile.gpus_per_worker if gpus is None else gpus
        for name, share in (("--task-cpus", self._cpus), ("--task-gpus", self._gpus)):
            if share < 0 or (share > 1 and share != int(share)):
                raise ConfigError(
                    "must be a whole number, or a share below 1",
                    where=name,
                    given=share,
                    do="Such as 0.5, 1 or 2.",
                )

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Sequence[Piece]
    ) -> Iterator[tuple[int, Result]]:
        """(number of the piece, result) in the order of completion.

        Raises:
            ResourceError: the cluster cannot be reached or lacks room, or a task was lost time and again.
        """
        if not pieces:
            return
        with connected(self._profile) as resources:
            self._insist_on_room(resources)
            run = RayPieces(self._address, cpus=self._cpus, gpus=self._gpus)
            yield from run(work, pieces)

    def _insist_on_room(self, resources: Mapping[str, float]) -> None:
        """Ray would wait for a machine that is large enough, and there is none."""
        for name, share in (("CPU", self._cpus), ("GPU", self._gpus)):
            if share > resources.get(name, 0.0):
                raise ResourceError(
                    f"the Ray cluster has {resources.get(name, 0):g} {name}s, too few for one task",
                    where=f"--task-{name.lower()}s",
                    given=f"{share:g}",
                    do="Ask for less, or for a share such as 0.5.",
                )


def _address_of(profile: ClusterProfile) -> str:
    """Where a command of this machine joins the profile's Ray.

    Raises:
        ConfigError: it cannot.
    """
    if profile.is_local:
        return LOCAL
    if profile.kind != "ray" or profile.is_remote or profile.address is None:
        raise ConfigError(
            "tasks of an evaluation run on a Ray cluster that this command can join",
            where="--on",
            given=profile.address or profile.kind,
            do='Take "local", or on a machine of the cluster a profile with kind = "ray" and address = "auto".',
        )
    return profile.address
