"""The `[run]`, `[train]`, `[guard]`, `[init]`, `[distill]`, `[checkpoint]`, `[evaluate]` and `[tracking]` tables."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from vitscale.config.base import DurationField, Section
from vitscale.units import Duration


class RunSection(Section):
    """Who the run is."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run and of its folder below `home`; letters, digits, dot, dash and underscore."""

    home: str = "runs"
    """Folder that holds all runs and the MLflow store; shared by all nodes."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides initial weights, sample order, augmentation and dropout."""


class TrainConfig(Section):
    """How long, how much at a time, for which objective."""

    duration: DurationField
    """Length of the training: epochs, images or steps."""

    batch: int = Field(ge=1)
    """Images per optimizer step over all ranks; independent of the number of GPUs."""

    micro_batch: int = Field(ge=1)
    """Images per forward pass on one device; accumulation follows from batch and world size."""

    objective: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax cross-entropy, or sigmoid cross-entropy summed over classes (i21k, JFT)."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability mass spread evenly over all classes."""

    log_every: DurationField = Duration(50, "steps")
    """How often the meters are read and metrics written."""


class GuardConfig(Section):
    """Steps that are skipped because their loss or gradient is bad, and when a run goes back (docs/guard.md)."""

    loss_spike: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["off"] = "off"
    """Skip a step whose loss lies more than so many robust standard deviations above the median of the window."""

    window: int = Field(default=128, ge=8)
    """Losses of applied steps that median and deviation are taken from."""

    skips: int = Field(default=3, ge=1)
    """Skipped steps in a row after which the run rewinds to its last good commit."""

    rewinds: int = Field(default=3, ge=0)
    """Most rewinds of a run; one more ends it with exit code 4."""


class InitConfig(Section):
    """Where a run starts from that has no commit of its own; without it weights are drawn at random."""

    weights: str | None = None
    """Weights of a committed checkpoint: a step folder, a run folder (its newest good one), or an exported file."""

    checkpoint: str | None = None
    """A checkpoint to go on from with all of its state, as if it were the run's own."""

    head: Literal["new", "keep"] = "new"
    """A new zero-initialised classifier, or the checkpoint's own."""

    which: Literal["raw", "ema"] = "raw"
    """The weights as trained, or their exponential moving average."""

    resample: Literal["bv-linear", "timm-bicubic", "hf-bicubic"] = "bv-linear"
    """How learned positions get to another grid: bilinear with the corners held (the paper), or as the peers do."""

    patches: Literal["same", "flexi-pinv"] = "same"
    """Patch size of the weights: as the model's, or resampled by FlexiViT's pseudo-inverse (arXiv 2212.08013)."""


class DistillConfig(Section):
    """A frozen teacher that the model learns from, beside the labels or in their place (docs/augment.md)."""

    weights: str
    """The teacher: a step folder, a run folder (its newest good commit), or an exported file; read at every start."""

    which: Literal["raw", "ema"] = "raw"
    """The teacher's weights as trained, or their exponential moving average."""

    kind: Literal["soft", "hard"] = "soft"
    """Match the teacher's probabilities (arXiv 1503.02531, 2106.05237), or take its decision for the label (DeiT, arXiv
    2012.12877)."""

    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """What the logits of both are divided by before they are compared; the loss is multiplied by its square."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Weight of the teacher in the loss; the labels have the rest, with 1 none at all."""


class CheckpointConfig(Section):
    """When the run is saved and what is kept."""

    every: DurationField = Duration(1000, "steps")
    """How often a checkpoint is committed; the last step always is."""

    keep: int = Field(default=2, ge=1)
    """Newest commits that are kept; older ones go after a newer commit."""

    keep_every: DurationField | None = None
    """Commits at multiples of this are kept for good; a multiple of `every`."""

    background: bool = True
    """Write on a thread while training goes on, from a copy in host memory; false waits for every commit."""


class EvaluateConfig(Section):
    """Evaluation during and after training."""

    every: DurationField | None = None
    """How often the held-out set is scored during training; at the end always, where there is one."""

    batch: int = Field(default=256, ge=1)
    """Images per forward pass of an evaluation on one device."""

    crop: Literal["center", "none"] = "center"
    """What is shown of an image: its central part with the model's aspect, or all of it, squeezed."""

    resize_px: int | None = Field(default=None, ge=1)
    """As `data.resize_px`: 256 at 224 px shows big_vision's `resize_small(256)|central_crop(224)`."""


class TrackingConfig(Section):
    """Where metrics go besides `metrics.jsonl`, which is always written."""

    mlflow: str = "auto"
    """auto: a SQLite store below `run.home`; off; or the URI of an MLflow server."""

    experiment: str = "vitscale"
    """MLflow experiment the run belongs to."""

    group: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Runs of one group, such as a sweep, are children of one run in MLflow; `jobs list --group` lists its jobs."""

    @field_validator("mlflow")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in ("auto", "off") or "://" in value:
            return value
        raise ValueError(f'{value!r} is neither "auto", "off" nor a URI such as "http://host:5000"')
