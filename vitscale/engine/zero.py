"""DeepSpeed ZeRO, stages 0 to 3: the only room that imports deepspeed."""

from __future__ import annotations

import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitscale.config.engine import EngineConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.data.device import Normaliser
from vitscale.data.mix import Draw, mix
from vitscale.engine.collectives import join_alone
from vitscale.engine.precision import DTYPES
from vitscale.engine.shards import Piece, Reader, Writer, whole_pieces
from vitscale.errors import ResourceError
from vitscale.model.vit import ViT
from vitscale.objective import Objective
from vitscale.optim.groups import make_optimizer, parameter_groups

TAG = "deepspeed"


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
    ) -> None:
        deepspeed = _import_deepspeed(device)
        assert config.stage is not None, "the local engine has no stage"
        self.stage, self.device = config.stage, device
        dtype = DTYPES[config.precision]
        self.normalise = Normaliser(device, dtype)
        self.objective, self.largest_norm = objective, optim.largest_norm
        self.scale = torch.ones((), device=device)
        self.draw: Draw | None = None
        self.plain = self.stage == 0 and dtype == torch.float32
        join_alone(device)
        model = model.to(device)
        optimizer = make_optimizer(optim, parameter_groups(model, optim.weight_decay))
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=_deepspeed_config(self.stage, config, optim, plan, clips_itself=self.plain),
            dist_init_required=False,
        )
        if self.stage == 0 and not self.plain:
            _forget_warm_up_step(self.engine.optimizer.optimizer)
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
        loss = self.scale * self.objective(self.engine(views), labels, weights)
        self.engine.backward(loss)
        return loss.detach()

    def step(self, lr: float) -> Tensor:
        """Clip and update; the gradient norm before clipping, []. No update if it is not finite."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        if self.plain:
            return self._plain_step()
        self.engine.step()
        if not self.engine.was_step_applied():  # its norm may then be that of the step before
            return torch.tensor(math.nan, device=self.device)
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def discard(self) -> None:
        """Drop what was accumulated since the last step, as if it had not been.

        DeepSpeed has no call for that. But it clears every buffer, at each stage in its own way, when it meets a
        gradient that is not finite; so that is what it is given.
        """
        if self.plain:
            return self.engine.zero_grad()
        gradients = self._gradients()
        for gradient in gradients:
            gradient.fill_(math.nan)
        self.engine.step()
        assert not self.engine.was_step_applied(), "DeepSpeed took a step with NaN as gradient"
        for (
            gradient
        ) in gradients:  # stage 3 keeps its buffers and never writes to the padding in them
            gradient.zero_()

    def _gradients(self) -> list[Tensor]:
        """Whatever the next step of the optimizer would use on this rank."""
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
        self.engine.zero_grad()
        return norm.detach()

    def save(self, writer: Writer, rank: int) -> dict[str, list[Piece]]:
        """Write this rank's shards through `writer`; where this rank's parts of each weight lie."""
        self._shards.writer = writer
        self.engine.save_checkpoint(str(writer.folder), tag=TAG, save_latest=False)
        self._shards.writer = None
        return self._pieces(rank)

    def load(self, reader: Reader, rank: int) -> None:
        """Take back this rank's shards; the world size must be that of the save."""
        self._shards.reader = reader
        found, _ = self.engine.load_checkpoint(str(reader.folder), tag=TAG)
        self._shards.reader = None
        assert found is not None, "DeepSpeed found no checkpoint where the manifest lists one"

    def _pieces(self, rank: int) -> dict[str, list[Piece]]:
        if self.stage == 3:
            return self._partitioned_pieces(rank)
        if self.stage == 0:
            return self._whole_pieces(rank)
        return self._fragment_pieces()

    def _whole_pieces(self, rank: int) -> dict[str, list[Piece]]:
        """Stage 0: everything lies whole in rank 0's file; in bf16 the float32 copies by group and place."""
        if rank != 0:
            return {}
        file = f"{TAG}/mp_rank_00_model_states.pt"
        if self.plain:
            sizes = [(name, p.numel()) for name, p in self.engine.module.named_parameters()]
            return whole_pieces(sizes, file, ["module"])
        names = {id(p): name for name, p in self.engine.module.named_parameters()}
        return {
            names[id(p)]: [(0, file, ["optimizer", "fp32_groups", index, place], 0, p.numel())]
            for index, group in enumerate(self.engine.optimizer.fp16_groups)
            for place, p in enumerate(group)
        }

    def _fragment_pieces(self) -> dict[str, list[Piece]]:
        """Stages 1 and 2: a flat float32 partition per parameter group and rank."""
        file = self._shards.optimizer_file
        names = {id(p): name for name, p in self.engine.module.named_parameters()}
        pieces: dict[str, list[Piece]] = {}
        for index, group in enumerate(self.engine.optimizer.bit16_groups):
            path = ["optimizer_state_dict", "single_partition_of_fp32_groups", index]
            for parameter in group:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    at, hp = mapping.lp_fragment_address, mapping.hp_fragment_address
                    piece: Piece = (at.start, file, path, hp.start, hp.numel)
                    pieces[names[id(parameter)]] = [piece]
        return pieces

    def _partitioned_pieces(self, rank: int) -> dict[str, list[Piece]]:
        """Stage 3: each rank holds an equal part of every parameter, the last one padded."""
        file = self._shards.optimizer_file
        names = {id(p): name for name, p in self.engine.module.named_parameters()}
        pieces: dict[str, list[Piece]] = {}
        for index, group in enumerate(self.engine.optimizer.fp16_groups):
            path: list[str | int] = ["optimizer_state_dict", "fp32_flat_groups", index]
            start = 0
            for parameter in group:
                part = parameter.partition_numel()
                length = min(part, parameter.ds_numel - rank * part)
                if length > 0:
                    pieces[names[id(parameter)]] = [(rank * part, file, path, start, length)]
                start += part
        return pieces

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers."""
        self.engine.destroy()


def _deepspeed_config(
    stage: int, config: EngineConfig, optim: OptimConfig, plan: Plan, *, clips_itself: bool
) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        # DeepSpeed's word for "never" is 0.
        "gradient_clipping": 0.0 if clips_itself or optim.clip_norm == "off" else optim.clip_norm,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


def _forget_warm_up_step(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's step counts back to 0.

    DeepSpeed's wrapper for stage 0 in bf16 steps once with zero gradients to make the state and leaves the counts
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
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Its shared-memory all-reduce for CPUs would be compiled when first used; gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 has renamed, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    return deepspeed


class _Shards:
    """Hands DeepSpeed's records to the writer or reader of the moment."""

    def __init__(self) -> None:
        self.writer: Writer | None = None
        self.reader: Reader | None = None
        self.optimizer_file = ""

    def save(self, record: object, path: str) -> None:
        assert self.writer is not None, "saving outside ZeroEngine.save"
        name = Path(path).relative_to(self.writer.folder).as_posix()
        if name.endswith("optim_states.pt"):
            self.optimizer_file = name
        self.writer.save(name, record)

    def load(self, path: str) -> Any:
        assert self.reader is not None, "loading outside ZeroEngine.load"
        return self.reader.load(Path(path).relative_to(self.reader.folder).as_posix())


def _adapter(shards: _Shards) -> Any:
    """A DeepSpeed checkpoint engine whose files are ours; made here since its base is DeepSpeed's."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class Adapter(CheckpointEngine):
        def create(self, info):
            pass

        def save(self, state_dict, path):
            shards.save(state_dict, path)

        def load(self, path, map_location=None):
            return shards.load(path)

        def commit(self, info):  # pyright: ignore[reportIncompatibleMethodOverride] DeepSpeed wants True
            return True

    return Adapter()
