"""Facts of a run that follow from the recipe, the number of ranks and the size of the data."""

from __future__ import annotations

from dataclasses import dataclass

from vitscale.config.optim import OptimConfig
from vitscale.config.run import RunConfig
from vitscale.errors import ConfigError
from vitscale.units import Duration


@dataclass(frozen=True)
class Plan:
    """Whole numbers the loop needs. Steps are optimizer steps of the whole job."""

    world: int
    batch: int
    micro_batch: int
    accumulation: int
    epoch_images: int
    total_steps: int
    warmup_steps: int
    log_every: int
    save_every: int
    keep_every: int | None
    evaluate_every: int | None
    cooldown_steps: int = 0
    timescale_steps: int | None = None
    """Of the rsqrt schedule; None for the others."""

    @property
    def total_images(self) -> int:
        return self.total_steps * self.batch

    @property
    def epochs(self) -> float:
        return self.total_images / self.epoch_images

    @property
    def rank_batch(self) -> int:
        """Images per optimizer step on one rank."""
        return self.micro_batch * self.accumulation


def make_plan(config: RunConfig, *, world: int, epoch_images: int) -> Plan:
    """Work out accumulation and every interval in steps.

    Args:
        config: the checked recipe.
        world: ranks in the job.
        epoch_images: samples in the training set.

    Raises:
        ConfigError: the batch cannot be cut evenly, or a duration comes to nothing.
    """
    batch = config.train.batch
    accumulation = _accumulation(config, world)
    optim = config.optim
    total = _steps("train.duration", config.train.duration, batch, epoch_images, None)
    warmup, cooldown = _ramps(optim, batch, epoch_images, total)
    rsqrt = optim.schedule == "rsqrt"

    def every(key: str, duration: Duration | None) -> int | None:
        return _steps(key, duration, batch, epoch_images, total) if duration else None

    return Plan(
        world=world,
        batch=batch,
        micro_batch=config.train.micro_batch,
        accumulation=accumulation,
        epoch_images=epoch_images,
        total_steps=total,
        warmup_steps=warmup,
        log_every=_steps("train.log_every", config.train.log_every, batch, epoch_images, total),
        save_every=_steps("checkpoint.every", config.checkpoint.every, batch, epoch_images, total),
        keep_every=every("checkpoint.keep_every", config.checkpoint.keep_every),
        evaluate_every=every("evaluate.every", config.evaluate.every),
        cooldown_steps=cooldown,
        timescale_steps=every("optim.timescale", optim.timescale if rsqrt else None),
    )


def worlds_that_fit(config: RunConfig, lowest: int, highest: int) -> tuple[int, ...]:
    """The numbers of ranks between the two, both included, on which the batch can be cut evenly."""
    batch, micro_batch = config.train.batch, config.train.micro_batch
    return tuple(w for w in range(lowest, highest + 1) if batch % (micro_batch * w) == 0)


def _steps(key: str, duration: Duration, batch: int, epoch_images: int, total: int | None) -> int:
    steps = duration.steps(batch=batch, epoch_images=epoch_images, total_steps=total)
    if steps < 1:
        raise ConfigError(
            "comes to no step at all", where=key, given=duration, do="Make it longer."
        )
    return steps


def _ramps(optim: OptimConfig, batch: int, epoch_images: int, total: int) -> tuple[int, int]:
    """Steps of warmup and cooldown."""
    warmup, cooldown = (
        each.steps(batch=batch, epoch_images=epoch_images, total_steps=total)
        for each in (optim.warmup, optim.cooldown)
    )
    if warmup >= total:
        raise ConfigError(
            f"the warmup takes {warmup} of {total} steps, so the peak rate would never be held",
            where="optim.warmup",
            given=optim.warmup,
            do="Shorten it or train longer.",
        )
    if warmup + cooldown > total:
        raise ConfigError(
            f"the cooldown takes {cooldown} of {total} steps, and the warmup before it {warmup}",
            where="optim.cooldown",
            given=optim.cooldown,
            do="Shorten one of them or train longer.",
        )
    return warmup, cooldown


def _accumulation(config: RunConfig, world: int) -> int:
    batch, micro_batch = config.train.batch, config.train.micro_batch
    at_once = micro_batch * world
    if worlds_that_fit(config, world, world):
        return batch // at_once
    fits = [m for m in range(1, batch // world + 1) if batch % (m * world) == 0]
    near = sorted(fits, key=lambda m: abs(m - micro_batch))[:3]
    choices = f"micro_batch {' or '.join(map(str, sorted(near)))}" if near else "fewer ranks"
    raise ConfigError(
        f"batch {batch} cannot be cut into micro-batches of {micro_batch} on {world} ranks "
        f"({at_once} images at a time)",
        where="train.batch",
        do=f"Choose a batch that is a multiple of {at_once}, or {choices}.",
    )
