"""The whole recipe, and the checks that need more than one table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from vitscale.config.base import Section
from vitscale.config.data import DataConfig
from vitscale.config.engine import EngineConfig, idle_engine, impossible_engine
from vitscale.config.health import HealthConfig
from vitscale.config.model import ModelConfig
from vitscale.config.ops import OpsConfig, idle_ops, impossible_ops, unfit_for_fp8
from vitscale.config.optim import OptimConfig, idle_optim, impossible_optim
from vitscale.config.source import Source
from vitscale.config.train import (
    CheckpointConfig,
    DistillConfig,
    EvaluateConfig,
    GuardConfig,
    InitConfig,
    RunSection,
    TrackingConfig,
    TrainConfig,
)
from vitscale.errors import ConfigError

SCHEMA_VERSION = 1


class RunConfig(Section):
    """A run, completely described; saved as JSON next to every checkpoint."""

    run: RunSection
    model: ModelConfig = ModelConfig()
    data: DataConfig
    train: TrainConfig
    optim: OptimConfig = OptimConfig()
    engine: EngineConfig = EngineConfig()
    ops: OpsConfig = OpsConfig()
    guard: GuardConfig = GuardConfig()
    init: InitConfig | None = None
    distill: DistillConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
    health: HealthConfig = HealthConfig()

    @property
    def folder(self) -> Path:
        """The run's folder: `home/name`."""
        return Path(self.run.home) / self.run.name


def conflicts(config: RunConfig, given: Collection[str]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for every setting that cannot take effect or contradicts another.

    Args:
        config: the recipe, with defaults filled in.
        given: keys that were set by somebody; a default that idles is nobody's mistake.
    """
    for key, text in _idle_settings(config):
        if key in given:
            yield key, text
    yield from _impossible_values(config)


def _impossible_values(config: RunConfig) -> Iterator[tuple[str, str]]:
    for key, duration in _durations(config):
        if duration.is_time:
            yield (
                key,
                f"{duration} is a time, which differs from rank to rank: use steps, images or epochs",
            )
        elif duration.unit == "%" and key == "train.duration":
            yield key, f"{duration} of what? Use epochs, images or steps"
    yield from _impossible_data(config)
    yield from impossible_optim(config.optim)
    yield from impossible_engine(config.engine, config.optim.optimizer)
    low, high = config.data.crop_area
    if not 0 < low <= high <= 1:
        yield "data.crop_area", f"[{low}, {high}] must satisfy 0 < smallest <= largest <= 1"
    yield from impossible_ops(config.ops, config.engine)
    with suppress(ConfigError):  # numbers that make no shape are complained of where it is made
        shape = config.model.shape(config.model.classes or 1)
        yield from unfit_for_fp8(config.ops, shape, config.train.micro_batch)
    if config.train.batch % config.train.micro_batch:
        yield (
            "train.micro_batch",
            f"batch {config.train.batch} is no multiple of micro_batch {config.train.micro_batch}",
        )
    if config.init is not None and (config.init.weights is None) == (
        config.init.checkpoint is None
    ):
        yield "init", "wants either weights or checkpoint"
    if config.evaluate.every is not None and config.data.held_out is None:
        yield (
            "evaluate.every",
            "there is no data.held_out to evaluate on: add it or remove this key",
        )


def _idle_settings(config: RunConfig) -> Iterator[tuple[str, str]]:
    yield from idle_engine(config.engine)
    yield from idle_optim(config.optim)
    yield from idle_ops(config.train.objective, config.optim)
    if config.guard.loss_spike == "off":
        yield (
            "guard.window",
            'has no effect with guard.loss_spike = "off": set that, or remove this',
        )
    if config.init is not None and config.init.checkpoint is not None:
        for name in ("head", "which", "resample", "patches"):
            yield f"init.{name}", "has no effect with init.checkpoint: all of its state is taken"
    if config.model.positions != "rope":
        yield "model.rope_base", f'has no effect with model.positions = "{config.model.positions}"'
    if config.distill is not None:
        if config.distill.kind == "hard":
            yield "distill.temperature", 'has no effect with distill.kind = "hard": remove it'
        if config.distill.share == 1:
            yield (
                "train.label_smoothing",
                "has no effect: with distill.share = 1 no loss has labels",
            )
    yield from _idle_data(config)


def _idle_data(config: RunConfig) -> Iterator[tuple[str, str]]:
    if not any(source.is_remote for source in sources_of(config)):
        for name in ("cache", "cache_gb"):
            yield f"data.{name}", "has no effect: all shards are on local disks"
    if not any(source.shards.startswith("pipe:") for source in sources_of(config)):
        yield "data.allow_pipe", "has no effect: no source is a pipe: command"
    if not (config.data.mixup and config.data.cutmix):
        yield "data.cutmix_share", "has no effect unless data.mixup and data.cutmix are both on"
    if config.data.crop.startswith("inception"):
        yield "data.resize_px", f'has no effect with data.crop = "{config.data.crop}": remove it'
    else:
        yield "data.crop_area", f'has no effect with data.crop = "{config.data.crop}": remove it'


def sources_of(config: RunConfig) -> tuple[Source, ...]:
    """Every shard set the run reads, the held-out one last."""
    held_out = config.data.held_out
    return (*config.data.train, held_out) if held_out is not None else config.data.train


def _impossible_data(config: RunConfig) -> Iterator[tuple[str, str]]:
    train, held_out = config.data.train, config.data.held_out
    for name in ("mixup", "cutmix"):
        if getattr(config.data, name) and config.train.micro_batch < config.data.least_micro_batch:
            yield f"data.{name}", "has no effect: a micro-batch of 1 holds no partner to mix with"
    if len(train) == 1 and train[0].weight != 1:
        yield "data.train.0.weight", "has no effect on a single source: remove it"
    if held_out is not None and held_out.weight != 1:
        yield "data.held_out.weight", "has no effect: all of a held-out set is scored"
    if config.data.crop == "random" and config.data.resize_px is None:
        yield "data.resize_px", 'is needed with data.crop = "random": 448 for views of 384 px'
    size = config.model.image_px
    longest = size if isinstance(size, int) else max(size)
    for key, px in (
        ("data.resize_px", config.data.resize_px),
        ("evaluate.resize_px", config.evaluate.resize_px),
    ):
        if px is not None and px < longest:
            yield key, f"{px} px are less than the {longest} px of a view: give at least that"
    remote = [source.shards for source in sources_of(config) if source.is_remote]
    if remote and config.data.cache is None:
        yield "data.cache", f"is needed to read {remote[0]}: name a folder on a local disk"


def _durations(config: RunConfig):
    yield "train.duration", config.train.duration
    yield "train.log_every", config.train.log_every
    yield "optim.warmup", config.optim.warmup
    yield "optim.cooldown", config.optim.cooldown
    yield "optim.timescale", config.optim.timescale
    yield "checkpoint.every", config.checkpoint.every
    if config.checkpoint.keep_every is not None:
        yield "checkpoint.keep_every", config.checkpoint.keep_every
    if config.evaluate.every is not None:
        yield "evaluate.every", config.evaluate.every
