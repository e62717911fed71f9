"""Which parameters decay, how much and how fast each goes; what is frozen; the worked example of docs/optim.md."""

from __future__ import annotations

import pytest
import torch

from tests.config.recipe_text import write_recipe
from vitscale.config.load import load_recipe
from vitscale.config.model import ModelConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.errors import ConfigError
from vitscale.model.build import build_model
from vitscale.optim.groups import freeze, layer_of, make_optimizer, parameter_groups, set_rate
from vitscale.optim.schedule import make_schedule
from vitscale.optim.span_optimizer import SpanOptimizer
from vitscale.optim.spans import Partition, Span, Weight, tiles

KERNELS = {
    "patch_embed.projection.weight",
    *(f"blocks.0.{name}.weight" for name in ("qkv", "out", "fc1", "fc2")),
    "head.weight",
}


def small_model(**changes):
    return build_model(ModelConfig(variant="mu/8", image_px=16, **changes).shape(3), seed=0)


def by_name(model, **optim):
    """(weight decay, factor on the rate) of every parameter that trains."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(model, OptimConfig(**optim))
        for p in group["params"]
    }


def test_kernels_decay_and_biases_norms_cls_and_positions_do_not():
    model = small_model()
    decay, rest = parameter_groups(model, OptimConfig(weight_decay=0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decay["params"]} == KERNELS
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) + len(rest["params"]) == len(names)


def test_the_mask_all_decays_everything():
    assert {decay for decay, _ in by_name(small_model(), decay_mask="all").values()} == {0.1}


def test_the_heads_of_vit_g_and_22b_decay_by_3_and_the_rest_by_0_03():
    decays = by_name(small_model(), weight_decay=0.03, head_decay=100.0)
    assert decays["head.weight"][0] == pytest.approx(3.0)
    assert {decays[name][0] for name in KERNELS - {"head.weight"}} == {0.03}
    assert decays["head.bias"][0] == 0


def test_layers_are_counted_as_in_beit():
    """`get_num_layer_for_vit`: cls, mask, positions and patch embedding 0, blocks from 1 on, the rest last."""
    layers = {
        "cls": 0,
        "positions": 0,
        "row_positions": 0,
        "column_positions": 0,
        "registers": 0,
        "patch_embed.projection.bias": 0,
        "blocks.0.norm1.weight": 1,
        "blocks.11.fc2.weight": 12,
        "blocks.11.relative_bias": 12,
        "norm.weight": 13,
        "pool.probe": 13,
        "representation.weight": 13,
        "head.bias": 13,
    }
    assert {name: layer_of(name, 12) for name in layers} == layers


def test_each_layer_goes_slower_than_the_one_above_it():
    scales = {name: scale for name, (_, scale) in by_name(small_model(), layer_decay=0.5).items()}
    assert scales["head.weight"] == scales["norm.weight"] == 1
    assert scales["blocks.0.fc1.bias"] == 0.5
    assert scales["positions"] == scales["patch_embed.projection.weight"] == 0.25
    optimizer = make_optimizer(
        OptimConfig(), parameter_groups(small_model(), OptimConfig(layer_decay=0.5))
    )
    set_rate(optimizer, 0.2)
    rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({1: 0.2, 0.5: 0.1, 0.25: 0.05})


def without_gradients(plan, **optim):
    """What is left of a weight of 1 that only decays, at the head and in the patch embedding."""
    config = OptimConfig(clip_norm="off", **optim)
    model = small_model()
    groups = parameter_groups(model, config)
    optimizer, rate = make_optimizer(config, groups), make_schedule(config, plan)
    ends = model.head.weight, model.patch_embed.projection.weight
    if isinstance(optimizer, SpanOptimizer):
        named = model.named_parameters()
        optimizer.attach(
            [
                Partition(p, (Span(n, 0, 0, p.numel()),), (Weight(n, tuple(p.shape), 1),))
                for n, p in named
            ]
        )
    for weight in ends:
        weight.data = torch.ones_like(weight, dtype=torch.float64)
        weight.grad = torch.zeros_like(weight)
    for step in range(plan.total_steps):
        set_rate(optimizer, rate(step))
        optimizer.step()
    return [float(weight.detach().flatten()[0]) for weight in ends]


HELD = Plan(1, 8, 8, 1, 80, 1000, 0, 1, 1, None, None)
RAMPED = Plan(1, 8, 8, 1, 80, 1000, 100, 1, 1, None, None)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_an_absolute_decay_of_1e_4_at_a_peak_of_1e_3_is_a_coupled_one_of_0_1(optimizer):
    """The worked example: after 1000 steps at the peak 0.9999^1000 is left; 1e-4 read as the other kind leaves all."""
    common = {"optimizer": optimizer, "lr": 1e-3, "schedule": "constant"}
    absolute = without_gradients(HELD, decay="absolute", weight_decay=1e-4, **common)
    coupled = without_gradients(HELD, decay="coupled-to-lr", weight_decay=0.1, **common)
    trap = without_gradients(HELD, decay="coupled-to-lr", weight_decay=1e-4, **common)
    assert absolute == pytest.approx([0.9048328935585562] * 2, rel=1e-12)
    assert coupled == pytest.approx(absolute, rel=1e-12)
    assert trap == pytest.approx([0.99990000499] * 2, rel=1e-10)


def test_an_absolute_decay_follows_the_schedule_and_not_the_peak_nor_the_layer():
    """Of 1000 steps with warmup and cosine the factors of the schedule add up to 500: about exp(-0.05) is left."""
    common = {"decay": "absolute", "weight_decay": 1e-4, "layer_decay": 0.5}
    slow, fast = (without_gradients(RAMPED, lr=lr, **common) for lr in (1e-5, 1e-2))
    shape = make_schedule(OptimConfig(lr=1.0), RAMPED)
    left = 1.0
    for step in range(1000):
        left *= 1 - 1e-4 * shape(step)
    assert slow == pytest.approx([left, left], rel=1e-12)
    assert fast == pytest.approx([left, left], rel=1e-12)
    assert left == pytest.approx(0.9512, abs=1e-4)


def test_a_coupled_decay_follows_the_rate_of_its_layer():
    head, embedding = without_gradients(
        HELD, lr=1e-3, weight_decay=0.1, layer_decay=0.5, schedule="constant"
    )
    assert head == pytest.approx(0.9999**1000, rel=1e-12)
    assert embedding == pytest.approx((1 - 0.25e-4) ** 1000, rel=1e-12)


def test_sgds_coupled_decay_goes_through_the_momentum_as_torchs_and_its_absolute_one_does_not():
    common = {"optimizer": "sgd", "momentum": 0.5, "lr": 0.1, "schedule": "constant"}
    two = Plan(1, 8, 8, 1, 80, 2, 0, 1, 1, None, None)
    # b = 0.2, w = 0.98; b = 0.1 + 0.196, w = 0.98 - 0.0296
    assert without_gradients(two, weight_decay=0.2, **common)[0] == pytest.approx(0.9504)
    absolute = without_gradients(two, weight_decay=0.02, decay="absolute", **common)
    assert absolute[0] == pytest.approx(0.98**2)


def test_what_is_frozen_is_in_no_group():
    model = small_model()
    freeze(model, ["patch_embed.*", r"blocks\.\d+\..*", "cls"])
    assert set(by_name(model)) == {
        "positions",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["head.*", "blocks"], "optim.freeze.1: matches the whole name of no parameter"),
        ([".*"], "nothing is left to train"),
    ],
)
def test_a_pattern_that_freezes_nothing_and_patterns_that_freeze_all_are_errors(patterns, words):
    with pytest.raises(ConfigError, match=words):
        freeze(small_model(), patterns)


@pytest.mark.parametrize(
    ("optim", "words"),
    [
        ({"optimizer": "lamb", "decay": "absolute"}, "optim.decay: LAMB multiplies the decay"),
        ({"freeze": ["("]}, r"optim.freeze.0: '\(' is no regular expression"),
        ({"optimizer": "adafactor", "eps": 1e-6}, "optim.eps: has no effect"),
        ({"optimizer": "lamb", "momentum": 0.9}, "optim.momentum: has no effect"),
        (
            {"optimizer": "sgd", "momentum": 0.0, "moment_dtype": "bf16"},
            "optim.moment_dtype: has no effect",
        ),
        ({"weight_decay": 0.0, "head_decay": 3.0}, "optim.head_decay: has no effect"),
        ({"weight_decay": 0.0, "decay": "absolute"}, "optim.decay: has no effect"),
        ({"weight_decay": 0.0, "decay_mask": "all"}, "optim.decay_mask: has no effect"),
        ({"layer_decay": 0.0}, "optim.layer_decay"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(tmp_path, optim, words):
    keys = {f"optim__{name}": value for name, value in optim.items()}
    with pytest.raises(ConfigError, match=words):
        load_recipe(write_recipe(tmp_path / "r.toml", **keys))


def test_muons_momentum_is_torchs_unless_it_is_given():
    assert OptimConfig(optimizer="muon").momentum_in_force == 0.95
    assert OptimConfig(optimizer="muon", momentum=0.9).momentum_in_force == 0.9
    assert OptimConfig(optimizer="sgd").momentum_in_force == 0.9


def test_one_adamw_step_is_the_papers_formula():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optim = OptimConfig(betas=(0.9, 0.99), eps=1e-8)
    adamw = make_optimizer(optim, [{"params": [weight], "weight_decay": 0.1}])
    adamw.param_groups[0]["lr"] = 0.01
    weight.grad = torch.tensor([0.5, -3.0])
    adamw.step()
    decayed = torch.tensor([1.0, -2.0]) * (1 - 0.01 * 0.1)
    torch.testing.assert_close(weight.data, decayed - 0.01 * torch.tensor([1.0, -1.0]))


def test_nothing_moves_before_a_rate_is_set():
    weight = torch.nn.Parameter(torch.ones(2))
    for name in ("adamw", "sgd", "lamb", "adafactor", "muon"):
        optimizer = make_optimizer(
            OptimConfig(optimizer=name),
            [{"params": [weight], "weight_decay": 0.1, "adapt": True}],
        )
        if isinstance(optimizer, SpanOptimizer):
            optimizer.attach([Partition(weight, (Span("w", 0, 0, 2),), (Weight("w", (2,), 1),))])
        weight.grad = torch.ones(2)
        optimizer.step()
    assert torch.equal(weight.data, torch.ones(2))


def test_tiles_cover_a_stretch_of_a_matrix_once_and_never_straddle_a_block():
    rows, columns, block = 12, 5, 4
    for start in range(rows * columns):
        for length in range(1, rows * columns - start + 1):
            seen = []
            for tile in tiles(start, length, columns, block):
                assert tile.width == columns or tile.rows == 1
                assert tile.rows % block == 0 or tile.row % block + tile.rows <= block
                assert tile.offset == len(seen)
                seen += [
                    (tile.row + row) * columns + tile.column + column
                    for row in range(tile.rows)
                    for column in range(tile.width)
                ]
            assert seen == list(range(start, start + length))
