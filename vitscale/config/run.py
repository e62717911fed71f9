"""The whole recipe, and the checks that need more than one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vitscale.config.base import Section
from vitscale.config.data import DataConfig
from vitscale.config.engine import EngineConfig, OpsConfig
from vitscale.config.model import ModelConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.train import (
    CheckpointConfig,
    EvaluateConfig,
    InitConfig,
    RunSection,
    TrackingConfig,
    TrainConfig,
)

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
    init: InitConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def folder(self) -> Path:
        """The run's folder: `home/name`."""
        return Path(self.run.home) / self.run.name


def conflicts(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(key, sentence) for every setting that cannot take effect or contradicts another."""
    yield from _idle_engine_settings(config)
    yield from _idle_optim_settings(config)
    yield from _idle_data_settings(config)
    for key, duration in _durations(config):
        if duration.is_time:
            yield (
                key,
                f"{duration} is a time, which differs from rank to rank: use steps, images or epochs",
            )
        elif duration.unit == "%" and key == "train.duration":
            yield key, f"{duration} of what? Use epochs, images or steps"
    if config.train.batch % config.train.micro_batch:
        yield (
            "train.micro_batch",
            f"batch {config.train.batch} is no multiple of micro_batch {config.train.micro_batch}",
        )
    if config.evaluate.every is not None and config.data.held_out is None:
        yield (
            "evaluate.every",
            "there is no data.held_out to evaluate on: add it or remove this key",
        )


def _idle_engine_settings(config: RunConfig) -> Iterator[tuple[str, str]]:
    engine = config.engine
    if engine.kind == "local" and engine.zero_stage is not None:
        yield (
            "engine.zero_stage",
            'has no effect with engine.kind = "local": remove it or use "deepspeed"',
        )
    if config.ops.norm == "apex" and engine.device == "cpu":
        yield (
            "ops.norm",
            'apex has CUDA kernels only: use "torch" or "auto" with engine.device = "cpu"',
        )


def _idle_optim_settings(config: RunConfig) -> Iterator[tuple[str, str]]:
    optim = config.optim
    idle = ("momentum",) if optim.optimizer == "adamw" else ("betas", "eps")
    for name in idle:
        if name in optim.model_fields_set:
            yield (
                f"optim.{name}",
                f'has no effect with optim.optimizer = "{optim.optimizer}": remove it',
            )


def _idle_data_settings(config: RunConfig) -> Iterator[tuple[str, str]]:
    data = config.data
    if data.crop != "inception" and "crop_area" in data.model_fields_set:
        yield "data.crop_area", f'has no effect with data.crop = "{data.crop}": remove it'
    low, high = data.crop_area
    if not 0 < low <= high <= 1:
        yield "data.crop_area", f"[{low}, {high}] must satisfy 0 < smallest <= largest <= 1"


def _durations(config: RunConfig):
    yield "train.duration", config.train.duration
    yield "train.log_every", config.train.log_every
    yield "optim.warmup", config.optim.warmup
    yield "checkpoint.every", config.checkpoint.every
    if config.evaluate.every is not None:
        yield "evaluate.every", config.evaluate.every
