"""Jobs that their accelerators cannot hold, refused with the nearest that they can."""

from __future__ import annotations

from dataclasses import replace

from vitscale.config.cluster import ClusterProfile
from vitscale.config.dataset import DatasetFacts
from vitscale.config.model import Shape
from vitscale.config.ops import on_device, too_old_for
from vitscale.config.plan import Plan, make_plan
from vitscale.config.run import RunConfig
from vitscale.errors import ConfigError
from vitscale.planner.choice import chosen, insist_on_hpz
from vitscale.planner.forecast import Job, alternatives, fewest_ranks, settings_of
from vitscale.planner.hardware import ACCELERATORS, USABLE, Cluster, cluster_of, kinds_of
from vitscale.units import human_bytes


def job_on(cluster: Cluster, config: RunConfig, shape: Shape, plan: Plan) -> Job:
    """The recipe's job on a cluster, with every `auto` decided by the memory of its accelerators.

    Raises:
        ConfigError: engine.zero_hpz does not suit the cluster, or ops.linear its accelerators.
    """
    insist_on_hpz(config.engine, plan.world, min(cluster.per_node, plan.world))
    linear = config.ops.linear
    if obstacle := too_old_for(linear, cluster.gpu.capability):
        able = [n for n, gpu in ACCELERATORS.items() if not too_old_for(linear, gpu.capability)]
        do = f'Use "torch", or {", ".join(able)}.'
        raise ConfigError(obstacle, where="ops.linear", given=linear, do=do)
    room = USABLE * cluster.gpu.memory
    ops = on_device(config.ops, "cuda", config.engine.precision)
    engine = chosen(config.engine, shape, config.optim, plan, room, ops).engine
    least = config.data.least_micro_batch
    return Job(shape, engine, config.optim, plan, ops, cluster, least)


def insist_on_room(job: Job) -> None:
    """Refuse a job that its accelerators cannot hold, with the nearest that they can.

    Raises:
        ConfigError: more memory is needed than there is.
    """
    if job.fits:
        return
    others = alternatives(job)
    if others:
        advice = f"Fits: {settings_of(others[0], job)}."
    elif (more := fewest_ranks(job)) is not None:
        advice = (
            f"No settings fit on {job.plan.world}; {more.plan.world} ranks would do with "
            f"{settings_of(more, job)}."
        )
    else:
        advice = "No number of these accelerators holds it: take larger ones or a smaller model."
    limit = human_bytes(USABLE * job.cluster.gpu.memory)
    raise ConfigError(
        f"a rank needs {human_bytes(job.memory.peak)} and has {limit}",
        where="engine, train.micro_batch",
        given=settings_of(job),
        do=advice,
    )


def insist_on_profile(config: RunConfig, profile: ClusterProfile, facts: DatasetFacts) -> None:
    """Refuse a job that the accelerators of its profile cannot hold, on all of its workers or on the fewest.

    A profile that names no accelerator, or one that the planner does not know, passes.

    Raises:
        ConfigError: more memory is needed than there is, or what `job_on` raises.
    """
    if not kinds_of(profile.accelerator or "") or (cluster := cluster_of(profile)) is None:
        return
    shape = config.model.shape(config.model.classes or len(facts.classes))
    for world in dict.fromkeys((profile.workers, profile.fewest)):
        plan = make_plan(config, world=world, epoch_images=facts.samples)
        insist_on_room(job_on(replace(cluster, world=world), config, shape, plan))
