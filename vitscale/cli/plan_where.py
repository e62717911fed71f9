"""What `vitscale plan` reckons with: GPUs and ranks of a cluster profile, of options, or of both where they agree."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from vitscale.config.cluster import ClusterProfile, load_profile
from vitscale.errors import ConfigError
from vitscale.planner.hardware import Cluster, accelerator, kinds_of

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """Where a job would run."""

    world: int
    cluster: Cluster | None
    """None where no GPU is named."""
    of_profile: bool
    measured: float | None
    """Images a second that one machine reached."""
    kinds: tuple[str, ...] = ()
    """What the named GPU may be, the one it is taken for first."""
    device: str = "cuda"
    """Of a rank: "cpu" with a profile that gives its workers no GPUs."""


def where_of(arguments: argparse.Namespace, overrides: Iterable[str]) -> Where:
    """What --on, --world, --gpu, --per-node and --measured say together.

    Args:
        arguments: of `vitscale plan`.
        overrides: of the profile.

    Raises:
        ConfigError: an option contradicts the profile or has no effect, or a GPU is unknown.
    """
    profile = None if arguments.on is None else load_profile(arguments.on, overrides)
    world = arguments.world
    if profile is not None:
        world = _agreed("--world", world, "workers", profile.workers)
    world = 1 if world is None else world
    if world < 1:
        raise ConfigError("a job has at least one rank", where="--world", given=world)
    device = "cpu" if profile is not None and not profile.gpus_per_worker else "cuda"
    if device == "cpu":
        when = "with a profile that gives its workers no GPUs"
        insist_on_effect(arguments, ("gpu", "per_node", "measured"), when)
    name = arguments.gpu if profile is None else _gpu(arguments.gpu, profile.accelerator)
    cluster = _cluster(arguments, profile, world, name)
    kinds = () if name is None else kinds_of(name)
    return Where(world, cluster, profile is not None, arguments.measured, kinds, device)


def _gpu(given: str | None, known: str | None) -> str | None:
    """What --gpu and the profile name; --gpu may say which of several kinds of one name the profile means."""
    if given and known and set() < set(kinds_of(given)) <= set(kinds_of(known)):
        return given
    return _agreed("--gpu", given, "accelerator", known)


def _cluster(
    arguments: argparse.Namespace, profile: ClusterProfile | None, world: int, name: str | None
) -> Cluster | None:
    per_node = arguments.per_node
    if profile is not None:
        per_node = _agreed("--per-node", per_node, "workers_per_node", profile.workers_per_node)
    if name is None:
        without = "without --gpu" if profile is None else "without --gpu or cluster.accelerator"
        insist_on_effect(arguments, ("per_node", "measured"), without)
        return None
    gpu = accelerator(name)
    per_node = gpu.per_node if per_node is None else per_node
    if per_node < 1:
        raise ConfigError("a machine has at least one GPU", where="--per-node", given=per_node)
    return Cluster(gpu, world, per_node)


def _agreed(option: str, given: T | None, key: str, known: T | None) -> T | None:
    """What option and profile say, if they do not say two things."""
    if given is not None and known is not None and given != known:
        raise ConfigError(
            f"the profile says cluster.{key} = {known}",
            where=option,
            given=given,
            do=f"Leave one of them out, or change the profile: cluster.{key}={given}.",
        )
    return known if given is None else given


def insist_on_effect(arguments: argparse.Namespace, names: tuple[str, ...], when: str) -> None:
    """Refuse options that were given and would change nothing."""
    for name in names:
        given = getattr(arguments, name)
        if given is not None:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"has no effect {when}", where=option, given=given, do="Leave it out."
            )
