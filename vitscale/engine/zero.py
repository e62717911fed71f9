"""DeepSpeed ZeRO, stages 0 to 3: the only room that imports deepspeed."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitscale.config.engine import EngineConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.config.preprocessing import PLAIN, Preprocessing
from vitscale.data.device import Normaliser
from vitscale.data.mix import Draw, mix
from vitscale.engine.collectives import join_alone
from vitscale.engine.disk import Disk, move_to_disk
from vitscale.engine.frozen import FrozenWeights
from vitscale.engine.loss_scale import LossScale
from vitscale.engine.precision import DTYPES
from vitscale.engine.state import (
    EMA,
    WEIGHT,
    Place,
    RankState,
    Record,
    Source,
    Stored,
    Writer,
    listed,
    whole_partitions,
    write_share,
)
from vitscale.engine.zero_settings import deepspeed_settings
from vitscale.errors import ResourceError
from vitscale.model.vit import ViT
from vitscale.objective import Objective
from vitscale.optim.groups import freeze, make_optimizer, parameter_groups, set_rate
from vitscale.optim.spans import Partition, Span, Weight
from vitscale.planner.buckets import buckets_of

TAG = "deepspeed"
# Under which keys DeepSpeed's optimizer files hold the float32 weights and torch's state of stages 1 and 2, and of 3.
_KEYS_1_2 = ("single_partition_of_fp32_groups", "base_optimizer_state")
_KEYS_3 = ("fp32_flat_groups", "optimizer_state_dict")


class ZeroEngine:
    """One DeepSpeed engine, with the same maths as `LocalEngine` at every stage."""

    def __init__(
        self,
        model: ViT,
        objective: Objective,
        config: EngineConfig,
        optim: OptimConfig,
        plan: Plan,
        *,
        device: torch.device,
        pixels: Preprocessing = PLAIN,
    ) -> None:
        deepspeed = _import_deepspeed(device)
        assert config.stage is not None, "the local engine has no stage"
        self.stage, self.device = config.stage, device
        dtype = DTYPES[config.precision]
        self.normalise = Normaliser(device, dtype, pixels.mean, pixels.std)
        self.objective, self.largest_norm = objective, optim.largest_norm
        self.scale = torch.ones((), device=device)
        self.loss_scale = LossScale()
        self.draw: Draw | None = None
        self.plain = self.stage == 0 and dtype == torch.float32
        self.offloads = config.offload != "none"
        disk = Disk(config.offload_folder) if config.offload_folder else None
        join_alone(device)
        freeze(model, optim.freeze)
        frozen = FrozenWeights(
            model, torch.distributed.get_rank(), torch.distributed.get_world_size()
        )
        model = model.to(device)
        kernel = model.ops.optimizer
        optimizer = make_optimizer(optim, parameter_groups(model, optim), kernel=kernel)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_settings(
                config, optim, plan, buckets_of(model.shape), clips_itself=self.plain
            ),
            dist_init_required=False,
        )
        if self.stage == 0 and not self.plain:
            _forget_warm_up_step(self.engine.optimizer.optimizer)
        if self.stage == 3:
            frozen.put = _put_gathered
        if disk:
            move_to_disk(self.engine.optimizer, disk)
        self.state = RankState(
            *(self._partitions(), self._base_optimizer(), self._publish),
            *(optim.ema_decay, frozen, disk),
        )
        self._shards = _Shards()
        self.engine.checkpoint_engine = _adapter(self._shards)
        # It copies scripts beside the shards; on a full disk that would fail on rank 0 alone, inside a collective.
        self.engine._copy_recovery_script = lambda folder: None

    @property
    def model(self) -> nn.Module:
        """The module to call for logits; under stage 3 every rank must call it equally often."""
        return self.engine.module

    def accumulate(self, images: Tensor, labels: Tensor, *, last: bool) -> Tensor:
        """Forward and backward of one micro-batch (uint8 [B, 3, H, W], int64 [B] or [B, L]); its loss, []."""
        self.engine.set_gradient_accumulation_boundary(last)
        labels = labels.to(self.device, non_blocking=True)
        views, labels, weights = mix(self.normalise(images), labels, self.draw)
        loss = self.scale * self.objective(self.engine(views), labels, weights, views)
        self.engine.backward(self._scaled(loss))
        return loss.detach()

    def _scaled(self, loss: Tensor) -> Tensor:
        """What DeepSpeed is to go backward from, once it knows the scale to divide gradients by.

        Stages 1 to 3 multiply the loss by it. Stage 0 does not, and leaves the norm multiplied (docs/log.md).
        """
        if not self.plain:
            self.engine.optimizer.loss_scale = self.loss_scale.value
        return loss * self.loss_scale.value if self.stage == 0 else loss

    def step(self, lr: float) -> Tensor:
        """Clip and update; the gradient norm before clipping, []. No update if it is not finite."""
        set_rate(self.engine.optimizer, lr)
        if self.plain:
            return self._plain_step()
        self.engine.step()
        scale, applied = self.loss_scale.value, self.engine.was_step_applied()
        self.loss_scale.update(applied)
        if not applied:  # its norm may then be that of the step before
            return torch.tensor(math.nan, device=self.device)
        self.state.stepped()
        norm = torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)
        return norm / scale if self.stage == 0 else norm

    def discard(self) -> None:
        """Drop what was accumulated since the last step, as if it had not been.

        DeepSpeed has no call for that. But it clears every buffer, at each stage in its own way, when it meets a
        gradient that is not finite; so that is what it is given.
        """
        if self.plain:
            return self.engine.zero_grad()
        if self.offloads:
            # Buffers in the host's memory are written anew by the next step; of this one it looks at norms.
            norms = self.engine.optimizer.norm_for_param_grads
            norms.update(dict.fromkeys(norms, torch.tensor(math.nan)))
        gradients = self._gradients()
        for gradient in gradients:
            gradient.fill_(math.nan)
        self.engine.step()
        assert not self.engine.was_step_applied(), "DeepSpeed took a step with NaN as gradient"
        # Stage 3 keeps its buffers, and nothing else ever writes to the padding in them.
        for gradient in gradients:
            gradient.zero_()

    def _gradients(self) -> list[Tensor]:
        """Whatever the next step of the optimizer would use on this rank's device."""
        if self.offloads:
            return []
        if self.stage == 0:
            return [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        groups = self.engine.optimizer.averaged_gradients.values()
        return [gradient for group in groups for gradient in group]

    def _plain_step(self) -> Tensor:
        """Stage 0 in float32 is torch's optimizer on averaged gradients; DeepSpeed keeps no norm."""
        parameters = list(self.engine.module.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, self.largest_norm)
        if torch.isfinite(norm):
            self.engine.step()
            self.state.stepped()
        self.engine.zero_grad()
        return norm.detach()

    def save(self, writer: Writer, rank: int) -> list[Stored]:
        """Hand this rank's part of the state to `writer`; where each part of it lies.

        Stages 1 to 3 write DeepSpeed's own files, which its tools read too.
        """
        if self.stage == 0:
            return write_share(self.state, writer, rank, self.engine.world_size)
        self._shards.writer = writer
        self.engine.save_checkpoint(str(writer.folder), tag=TAG, save_latest=False)
        self._shards.writer = None
        beside, record, stored = f"beside/rank-{rank:05d}.pt", Record(), []
        for index in range(len(self.state.partitions)):
            pieces, places = self.state.pieces(index), {}
            for piece in pieces:
                if piece.kind == EMA or (piece.shared and index % self.engine.world_size == rank):
                    places[piece.kind] = (beside, record.add(piece))
                elif not piece.shared:
                    places[piece.kind] = self._place(index, piece.kind)
            stored += listed(pieces, places)
        if record.tensors:
            writer.save(beside, record.tensors)
        return stored + self.state.save_frozen(writer, rank)

    def _place(self, index: int, kind: str) -> Place:
        """Where a tensor of partition `index` lies in DeepSpeed's files of stages 1 to 3."""
        weights, states = _KEYS_3 if self.stage == 3 else _KEYS_1_2
        keys = [weights, index] if kind == WEIGHT else [states, "state", index, kind]
        return self._shards.optimizer_file, ["optimizer_state_dict", *keys]

    def load(self, source: Source, updates: int) -> bool:
        """Take back the state after `updates` updates; whether the checkpoint had an average.

        DeepSpeed's own loading is not used: it wants the stage and ranks of the save, and its universal format loses
        the settings of parameter groups under stage 3 (docs/resume.md).
        """
        return self.state.load(source, updates)

    def _base_optimizer(self) -> torch.optim.Optimizer:
        return self.engine.optimizer if self.plain else self.engine.optimizer.optimizer

    def _partitions(self) -> list[Partition]:
        """What this rank's optimizer updates, in the order in which DeepSpeed saves it."""
        zero, heads = self.engine.optimizer, self.engine.module.shape.heads
        named = {n: p for n, p in self.engine.module.named_parameters() if p.requires_grad}
        names = {id(p): name for name, p in named.items()}
        if self.plain:
            return whole_partitions(named.items(), heads)
        if self.stage == 0:
            return whole_partitions(((names[id(low)], high) for low, high in _copies(zero)), heads)
        if self.stage == 3:
            rank = torch.distributed.get_rank()
            flats, groups = zero.fp32_partitioned_groups_flat, zero.fp16_groups
            spans = (_equal_parts(group, names, rank) for group in groups)
        else:
            flats, groups = zero.single_partition_of_fp32_groups, zero.bit16_groups
            spans = (_fragments(group, names) for group in groups)
        weights = (tuple(Weight(names[id(p)], _shape(p), heads) for p in g) for g in groups)
        return [
            Partition(flat, tuple(own), of_all, spread=True)
            for flat, own, of_all in zip(flats, spans, weights, strict=True)
        ]

    @torch.no_grad()
    def _publish(self) -> None:
        """Make the parameters that compute follow the float32 masters, on all ranks."""
        zero = self.engine.optimizer
        if self.stage == 3:
            _publish_parts(zero)
        elif self.stage in (1, 2):
            zero.update_lp_params()
        elif not self.plain:
            for low, high in _copies(zero):
                low.data.copy_(high)

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self.engine.destroy()


def _forget_warm_up_step(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's step counts back to 0.

    DeepSpeed's wrapper for stage 0 in 16 bits steps once with zero gradients to make the state and leaves the counts
    at 1, so the bias correction of every later step is that of the next one (docs/log.md).
    """
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()


def _import_deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it, also for one process
    try:
        import deepspeed
    except ImportError as error:
        raise ResourceError(
            "DeepSpeed is not installed",
            where="engine.kind",
            given="deepspeed",
            do="Install the extra: pip install 'vitscale[deepspeed]', or use engine.kind=local.",
        ) from error
    log = logging.getLogger("DeepSpeed")
    log.setLevel(logging.WARNING)
    log.addFilter(_is_news)
    # Its shared-memory all-reduce for CPUs would be compiled when first used; gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 has renamed, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    """All but the line on every update that was not applied; the guard tells of those, and why."""
    return "OVERFLOW! Skipping step" not in record.getMessage()


def _copies(zero: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Stage 0 in 16 bits: (parameter, its float32 copy)."""
    return zip(chain(*zero.fp16_groups), chain(*zero.fp32_groups), strict=True)


def _fragments(group: list[nn.Parameter], names: dict[int, str]) -> Iterator[Span]:
    """Stages 1 and 2: a flat partition per parameter group and rank, which may begin and end within a weight."""
    for parameter in group:
        mapping = parameter._hp_mapping  # pyright: ignore[reportAttributeAccessIssue] DeepSpeed's
        if mapping is not None:
            at, own = mapping.lp_fragment_address, mapping.hp_fragment_address
            yield Span(names[id(parameter)], at.start, own.start, own.numel)


def _equal_parts(group: list[Any], names: dict[int, str], rank: int) -> Iterator[Span]:
    """Stage 3: each rank holds an equal part of every parameter, the last one padded."""
    offset = 0
    for parameter in group:
        part = parameter.partition_numel()
        length = min(part, parameter.ds_numel - rank * part)
        if length > 0:
            yield Span(names[id(parameter)], rank * part, offset, length)
        offset += part


def _shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a whole weight; stage 3 leaves an empty placeholder and notes the shape beside it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _put_gathered(parameter: nn.Parameter, value: Tensor) -> None:
    """Set a parameter that stage 3 has cut into parts; all ranks call it together, with the same value."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.data.copy_(value)


def _publish_parts(zero: Any) -> None:
    """Stage 3: from float32 parts to the parts that are gathered.

    Whole parameters and a machine's own copies of them are let go: they are of the weights before. They are gathered
    where they are used next, small ones too: DeepSpeed fails at the first skipped step after a pass that met those
    whole and was its first (docs/log.md).
    """
    zero._partition_all_parameters()
    for index, flat in enumerate(zero.fp32_partitioned_groups_flat):
        zero.fp16_partitioned_groups_flat[index].data.copy_(flat.data)
        zero._unflatten_partitioned_parameters(index)
    zero.invalidate_secondary_tensor()


class _Shards:
    """Hands DeepSpeed's records to the writer of the moment."""

    def __init__(self) -> None:
        self.writer: Writer | None = None
        self.optimizer_file = ""

    def save(self, record: object, path: str) -> None:
        assert self.writer is not None, "saving outside ZeroEngine.save"
        name = Path(path).relative_to(self.writer.folder).as_posix()
        if name.endswith("optim_states.pt"):
            self.optimizer_file = name
        self.writer.save(name, record)


def _adapter(shards: _Shards) -> Any:
    """A DeepSpeed checkpoint engine whose files are ours; made here since its base is DeepSpeed's."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class Adapter(CheckpointEngine):
        def create(self, info):
            pass

        def makedirs(self, path, exist_ok=False):
            pass  # folders are made with the files, once those are written

        def save(self, state_dict, path):
            shards.save(state_dict, path)

        def load(self, path, map_location=None):
            raise AssertionError("loading is RankState's")

        def commit(self, info):  # pyright: ignore[reportIncompatibleMethodOverride] DeepSpeed wants True
            return True

    return Adapter()
