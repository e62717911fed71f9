"""What DeepSpeed is told: stage, precision, and buckets that suit the model."""

from __future__ import annotations

from typing import Any

from vitscale.config.engine import EngineConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.planner.buckets import Buckets

SUB_GROUP = 10**8
"""Numbers updated at a time where they come from a disk: the update goes over them several times."""


def deepspeed_settings(
    config: EngineConfig, optim: OptimConfig, plan: Plan, buckets: Buckets, *, clips_itself: bool
) -> dict[str, Any]:
    """The settings of `deepspeed.initialize`."""
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        # DeepSpeed's word for "never" is 0.
        "gradient_clipping": 0.0 if clips_itself or optim.clip_norm == "off" else optim.clip_norm,
        "zero_optimization": {
            "stage": config.stage,
            "reduce_bucket_size": buckets.reduce,
            "allgather_bucket_size": buckets.reduce,
            "stage3_prefetch_bucket_size": buckets.prefetch,
            # Buckets travel while the backward pass goes on; DeepSpeed would do so under stage 3 alone.
            "overlap_comm": True,
            "zero_hpz_partition_size": config.zero_hpz or 1,
            **_offloaded(config.offload, config.offload_folder),
        },
        "bf16": {"enabled": config.precision == "bf16"},
        # A number, or DeepSpeed would change the scale by a rule of its own; ours is set before each backward pass.
        "fp16": {"enabled": config.precision == "fp16", "loss_scale": 1.0},
        # Stage 0 adds up gradients before it divides them by the ranks, unless told; the other stages divide first.
        "prescale_gradients": config.precision == "fp16" and config.stage == 0,
        "zero_allow_untested_optimizer": True,
        # Offloaded or not, the optimizer is torch's or ours; DeepSpeed's own is compiled when first used.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _offloaded(what: str, folder: str | None) -> dict[str, Any]:
    """Which parts wait in the host's memory, pinned unless they are then laid on a disk."""
    device = {"device": "cpu", "pin_memory": folder is None}
    parts = {
        "none": (),
        "optimizer": ("offload_optimizer",),
        "optimizer+parameters": ("offload_optimizer", "offload_param"),
    }
    pieces = {} if folder is None else {"sub_group_size": SUB_GROUP}
    return dict.fromkeys(parts[what], device) | pieces
