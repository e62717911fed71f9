"""Step times against published ones, and bytes held against the closed forms of the literature."""

from __future__ import annotations

import dataclasses

import pytest

from tests.engine.test_recompute import held
from tests.ranks import run_ranks
from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig, Shape
from vitscale.ops.attention import explicit, sdpa
from vitscale.ops.choice import Ops, torch_norm
from vitscale.planner.activations import MODES, block_bytes, edge_bytes, image_bytes
from vitscale.planner.hardware import ACCELERATORS, Accelerator, Cluster
from vitscale.planner.size import parameters
from vitscale.planner.speed import (
    AMP,
    BANDWIDTH_SHARE,
    UPDATE_BYTES,
    exposed_seconds,
    mfu,
    micro_batch_seconds,
    step_seconds,
    traffic_bytes,
)

# Images a second and batch: timm's training on one RTX 3090 with AMP, torch 1.12 (huggingface/pytorch-image-models,
# results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv).
TIMM = {
    "Ti/16": (2293.54, 512),
    "S/16": (1052.92, 384),
    "B/32": (1703.57, 512),
    "B/16": (390.86, 192),
    "L/32": (521.73, 256),
    "L/16": (117.08, 64),
    "L/14": (85.27, 48),
    "H/14": (39.94, 16),
    "g/14": (22.29, 8),
}


@pytest.mark.parametrize("variant", TIMM)
def test_a_step_on_an_rtx_3090_takes_what_timm_published(variant):
    images_per_s, batch = TIMM[variant]
    shape, gpu = ModelConfig(variant=variant).shape(1000), ACCELERATORS["RTX3090"]
    update = UPDATE_BYTES * parameters(shape) / (gpu.bandwidth * BANDWIDTH_SHARE)
    seconds = micro_batch_seconds(shape, gpu, batch, kernels=AMP) + update
    assert batch / seconds == pytest.approx(images_per_s, rel=0.15)


# Images a second on 1, 2, 4, 8 and 16 machines of 8: NVIDIA's NeMo with ViT-g/14, MLP of 6144, 8 class tokens, batches
# of 4096 with 64 images on each GPU (docs.nvidia.com, NeMo framework, ViT: performance, training).
NEMO = {
    "A100-80G": (693, 1347, 2642, 5454, 10644),
    "H100": (1428, 2846, 5737, 11222, 21561),
}
NEMO_SHAPE = ModelConfig(variant="g/14", mlp=6144, registers=7).shape(1000)


def nemo(gpu: Accelerator, nodes: int) -> float:
    micro_batch = min(64, 4096 // (8 * nodes))
    cluster = Cluster(gpu, 8 * nodes, 8)
    step = step_seconds(
        NEMO_SHAPE,
        EngineConfig(),
        cluster,
        micro_batch=micro_batch,
        accumulation=4096 // (8 * nodes * micro_batch),
    )
    return 4096 / step.total


@pytest.mark.parametrize("name", NEMO)
def test_scaling_to_sixteen_machines_is_nemos_after_calibration_on_one(name):
    gpu, seen = ACCELERATORS[name], NEMO[name]
    gpu = dataclasses.replace(gpu, reached=gpu.reached * seen[0] / nemo(gpu, 1))
    for doublings, images_per_s in enumerate(seen):
        assert nemo(gpu, 2**doublings) == pytest.approx(images_per_s, rel=0.06)


@pytest.mark.parametrize("name", NEMO)
def test_the_share_that_is_reached_is_what_one_machine_showed(name):
    assert nemo(ACCELERATORS[name], 1) == pytest.approx(NEMO[name][0], rel=0.03)


def test_mfu_of_vit_22b_is_that_of_its_paper():
    """1150 tokens/s on each TPUv4 of 275 TFLOP/s are 54.9 % (arXiv 2302.05442, section 3); it counts no head."""
    shape = ModelConfig(variant="22B/14", pooling="map").shape(1000)
    assert mfu(shape, 1150 / shape.tokens, 275e12) == pytest.approx(0.549, rel=0.01)


def test_what_each_rank_sends_is_what_zero_says():
    """ZeRO (arXiv 1910.02054), section 7: 2 numbers a parameter without a stage, 3 where weights are gathered twice.

    DeepSpeed sums the buckets of stages 1 and 2 on all ranks, one number more than there.
    """
    small, large = (ModelConfig(variant=name).shape(1000) for name in ("B/16", "e/14"))
    kept = 1e9 / parameters(large)
    for shape, times in ((small, (2, 3, 3, 2)), (large, (2, 3, 3, 3 - kept))):
        for stage, numbers in enumerate(times):
            engine = EngineConfig(zero_stage=stage)
            bytes_sent = numbers * 2 * parameters(shape) * 63 / 64
            assert traffic_bytes(shape, engine, 64, 1) == pytest.approx(bytes_sent)
            assert traffic_bytes(shape, engine, 1, 1) == 0


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_each_rank_sends_is_what_it_was_seen_to_send(stage, accumulation):
    """But that stage 3 keeps small weights whole between micro-batches, half a percent of this model."""
    case = {"stage": stage, "accumulation": accumulation, "precision": "bf16"}
    for seen, foreseen in run_ranks(2, "tests.planner.measured:sent", case):
        assert foreseen == pytest.approx(seen, rel=0.01 if stage == 3 else 1e-4)


def test_hierarchical_partitioning_gathers_weights_between_machines_once_a_step():
    """ZeRO++ (arXiv 2306.10209): what the backward pass gathers, and later micro-batches, comes from the machine."""
    shape = ModelConfig(variant="e/14").shape(1000)
    n, engine = parameters(shape), EngineConfig(zero_stage=3, zero_hpz=8)
    far, within, again = 2 * n * 63 / 64, 2 * n * 7 / 8, 1 - 1e9 / n
    assert traffic_bytes(shape, engine, 64, 1) == pytest.approx(2 * far + again * within)
    assert traffic_bytes(shape, engine, 64, 4) == pytest.approx(5 * far + (3 + 4 * again) * within)
    gpu = dataclasses.replace(ACCELERATORS["A100-80G"], network=3e9)
    cluster = Cluster(gpu, 64, 8)
    plain = EngineConfig(zero_stage=3)
    for accumulation in (1, 4):
        hierarchical = exposed_seconds(shape, engine, cluster, 0.1, accumulation)
        assert hierarchical < exposed_seconds(shape, plain, cluster, 0.1, accumulation)


def test_offloading_waits_for_the_inputs_of_all_blocks_to_go_and_come():
    shape, gpu = ModelConfig(variant="L/16").shape(1000), ACCELERATORS["H100"]
    full, offload = (
        micro_batch_seconds(shape, gpu, 64, recompute=mode) for mode in ("full", "offload")
    )
    moved = 2 * 64 * 24 * 197 * 2 * 1024
    assert offload - full == pytest.approx(moved / 20e9)


def test_an_offloaded_update_takes_what_the_hosts_memory_takes():
    shape = ModelConfig(variant="L/16").shape(1000)
    n, cluster = parameters(shape), Cluster(ACCELERATORS["H100"], 8, 8)
    batches = {"micro_batch": 64, "accumulation": 2}
    kept, moved, all_moved = (
        step_seconds(shape, EngineConfig(zero_stage=3, offload=what), cluster, **batches)
        for what in ("none", "optimizer", "optimizer+parameters")
    )
    assert moved.update == all_moved.update == pytest.approx(34 * n / 8 / 20e9)
    assert moved.compute == kept.compute
    assert all_moved.compute - moved.compute == pytest.approx(2 * 2 * 2 * n / 8 / 20e9)


def test_ranks_of_a_machine_share_the_disk_to_which_they_offload():
    shape = ModelConfig(variant="L/16").shape(1000)
    n, cluster = parameters(shape), Cluster(ACCELERATORS["H100"], 16, 8)
    engine = EngineConfig(zero_stage=3, offload="optimizer+parameters", offload_folder="/disk")
    kept = step_seconds(shape, EngineConfig(zero_stage=3), cluster, micro_batch=64, accumulation=2)
    step = step_seconds(shape, engine, cluster, micro_batch=64, accumulation=2)
    assert step.update == pytest.approx(34 * n / 16 / (3e9 / 8))
    assert step.compute - kept.compute == pytest.approx(2 * 2 * 2 * n / 16 / (3e9 / 8))


def test_a_job_of_one_rank_waits_for_nobody_and_more_machines_wait_longer():
    shape, gpu = ModelConfig(variant="g/14").shape(1000), ACCELERATORS["H100"]
    for stage in range(4):
        waits = [
            exposed_seconds(shape, EngineConfig(zero_stage=stage), Cluster(gpu, n, 8), 0.1, 1)
            for n in (1, 8, 64, 512)
        ]
        assert waits[0] == 0 < waits[1] and waits == sorted(waits)


OPTIONS = [
    {},
    {"parallel": True},
    {"qk_norm": True},
    {"positions": "rope"},
    {"layer_scale": 0.1},
    {"activation": "swiglu"},
    {"patch_drop": 0.5},
    {"drop_path": 0.2},
    {"dropout": 0.1},
    {"positions": "rope", "layer_scale": 0.1, "qk_norm": True, "activation": "swiglu"},
]


@pytest.mark.parametrize("attention", [sdpa, explicit])
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_bytes_of_a_block_are_what_a_model_holds(changes, attention):
    shape = Shape(256, 3, 1024, 4, 4, 4, (32, 32), classes=5, **changes)
    deep, tokens = dataclasses.replace(shape, depth=5), 4 * (shape.prefix + shape.kept_patches)
    ops = Ops(torch_norm, attention)
    for mode in MODES:
        found = (held(deep, mode, ops=ops) - held(shape, mode, ops=ops)) / 2 / tokens
        foreseen = block_bytes(shape, mode, explicit=attention is explicit)
        assert found == pytest.approx(foreseen, rel=0.05), mode


@pytest.mark.parametrize("pooling", ["gap", "map"])
@pytest.mark.parametrize("attention", [sdpa, explicit])
@pytest.mark.parametrize(
    "changes",
    [{}, {"parallel": True}, {"qk_norm": True}, {"positions": "rope"}, {"patch_drop": 0.5}],
    ids=str,
)
def test_bytes_of_the_last_block_are_what_a_model_holds(changes, attention, pooling):
    """Against a model of the same tokens that pools all of them."""
    shape = Shape(256, 3, 1024, 4, 2, 2, (32, 32), classes=5, **changes)
    whole = dataclasses.replace(shape, pooling=pooling, cls_token=True)
    tokens, ops = 4 * (shape.prefix + shape.kept_patches), Ops(torch_norm, attention)
    one = 16 * shape.width + 4 * shape.mlp  # what the one token of each image holds
    for mode in MODES:
        found = held(whole, mode, ops=ops) - held(shape, mode, ops=ops)
        more, less = (
            image_bytes(s, mode, explicit=attention is explicit) + edge_bytes(s)
            for s in (whole, shape)
        )
        block = block_bytes(shape, mode, explicit=attention is explicit)
        assert found == pytest.approx(4 * (more - less), abs=0.03 * tokens * block + 4 * one), mode
