"""Where this process stands in the job, read once from the environment that torchrun, Slurm or Ray set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vitscale.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """`rank` of `world` processes in all; `local_rank` of those on node number `node`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    node: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"


def place_of(environment: Mapping[str, str] | None = None) -> Place:
    """Read RANK, WORLD_SIZE, LOCAL_RANK and GROUP_RANK (torchrun's names; Ray Train sets the same).

    Raises:
        ConfigError: a value is not a whole number, or the rank is not below the world size.
    """
    env = os.environ if environment is None else environment
    numbers: dict[str, int] = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("GROUP_RANK", 0)):
        text = env.get(name, str(default))
        if not text.isdigit():
            raise ConfigError(
                f"{name} must be a whole number",
                where="environment",
                given=repr(text),
                do="Start with torchrun or vitscale submit, or unset it.",
            )
        numbers[name] = int(text)
    place = Place(*numbers.values())
    if place.rank >= place.world:
        raise ConfigError(
            "RANK must be below WORLD_SIZE",
            where="environment",
            given=f"RANK={place.rank}, WORLD_SIZE={place.world}",
            do="Start with torchrun or vitscale submit, or unset both.",
        )
    return place
