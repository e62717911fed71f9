"""Closed forms against the real module and published tables."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.house.tree import ROOT
from vitscale.config.model import PRESETS, ModelConfig, Shape
from vitscale.model.vit import ViT
from vitscale.planner.size import forward_flops, parameters, train_flops

# Parameters in millions and multiply-adds in 1e9 with 1000 classes at 224 px, as timm publishes them
# (huggingface/pytorch-image-models, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv). Its counter takes norms
# for products too, 0.1 to 0.4 %.
TIMM = {
    "Ti/16": (5.72, 1.26),
    "S/16": (22.05, 4.61),
    "B/32": (88.22, 4.41),
    "B/16": (86.57, 17.58),
    "L/16": (304.33, 61.60),
    "L/14": (304.20, 81.08),
    "H/14": (632.05, 167.40),
    "g/14": (1012.61, 267.18),
    "G/14": (1844.44, 483.95),
}


@pytest.mark.parametrize("variant", TIMM)
def test_parameters_and_multiply_adds_are_those_of_the_published_table(variant):
    shape = ModelConfig(variant=variant).shape(1000)
    millions, gmacs = TIMM[variant]
    assert round(parameters(shape) / 1e6, 2) == millions
    assert forward_flops(shape) / 2e9 == pytest.approx(gmacs, rel=4e-3, abs=0.01)


# Parameters in millions and multiply-adds in 1e9 at 224 px with a CLS token and without a classifier, as printed in
# the preset's row; ViT-22B's blocks alone are the 21,743 M of its paper (arXiv 2302.05442, table 1).
BACKBONES = {
    "mu/16": ("0.04", None),
    "Ti/16": ("5.52", "1.26"),
    "S/16": ("21.67", "4.6"),
    "M/16": ("38.32", "8.0"),
    "B/16": ("85.80", "17.6"),
    "L/16": ("303.30", "61.6"),
    "So400m/16": ("412.58", "83.6"),
    "H/14": ("630.76", "167.3"),
    "g/14": ("1011.20", "267.0"),
    "g-opt/16": ("1134.75", "228.1"),
    "G/14": ("1842.78", "483.7"),
    "G-opt/16": ("1663.49", "333.2"),
    "e/14": ("3805.42", "990.7"),
    "22B/14": ("21752", "5628"),
}


def places(text):
    return len(text.partition(".")[2])


@pytest.mark.parametrize("variant", BACKBONES)
def test_every_preset_has_the_parameters_and_multiply_adds_of_its_row(variant):
    millions, gmacs = BACKBONES[variant]
    shape = ModelConfig(variant=variant).shape(1)
    head = shape.width + 1
    assert f"{(parameters(shape) - head) / 1e6:.{places(millions)}f}" == millions
    if gmacs is not None:
        found = (forward_flops(shape) - 2 * shape.width) / 2e9
        assert found == pytest.approx(float(gmacs), rel=1e-3, abs=0.75 * 10 ** -places(gmacs))


def test_every_preset_has_a_row():
    assert {variant.partition("/")[0] for variant in BACKBONES} == set(PRESETS)


def test_the_page_about_the_family_has_the_numbers_of_the_code():
    text = (ROOT / "docs/vit.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    rows = {name: cells for name, *cells in lines if name in PRESETS}
    assert set(rows) == set(PRESETS)
    for name, (*numbers, patch, millions, gflops) in rows.items():
        shape = ModelConfig(variant=f"{name}/{patch}").shape(1)
        assert tuple(map(int, numbers)) == PRESETS[name]
        assert f"{(parameters(shape) - shape.width - 1) / 1e6:.2f}" == millions
        assert f"{(forward_flops(shape) - 2 * shape.width) / 1e9:.2f}" == gflops


def test_the_blocks_of_22b_have_the_parameters_of_its_paper():
    width, depth, mlp, _ = PRESETS["22B"]
    assert round(depth * (4 * width**2 + 2 * width * mlp) / 1e6) == 21743


# GFLOPs of the image towers, as open_clip publishes them (docs/model_profile.csv, image_gflops).
OPEN_CLIP = {
    "B/16": 35.13,
    "L/16": 123.11,
    "L/14": 162.03,
    "H/14": 334.59,
    "g/14": 534.06,
    "G/14": 967.50,
    "e/14": 1981.35,
}


@pytest.mark.parametrize("variant", OPEN_CLIP)
def test_operations_are_those_of_open_clips_table(variant):
    shape = ModelConfig(variant=variant).shape(1000)
    assert forward_flops(shape) / 1e9 == pytest.approx(OPEN_CLIP[variant], rel=1e-3)


# Epochs over 303 M images of 18k classes, and exaFLOPs of pretraining on JFT: arXiv 2010.11929, table 6.
@pytest.mark.parametrize(
    ("variant", "epochs", "exaflops"), [("B/16", 7, 224), ("L/16", 7, 783), ("H/14", 14, 4262)]
)
def test_training_flops_reproduce_table_6_of_the_paper(variant, epochs, exaflops):
    shape = ModelConfig(variant=variant).shape(18_000)
    assert train_flops(shape) * epochs * 303e6 / 1e18 == pytest.approx(exaflops, rel=0.002)


OPTIONS = [
    {},
    {"pooling": "gap"},
    {"positions": "none"},
    {"positions": "learned-2d", "image": (16, 24)},
    {"positions": "sincos2d"},
    {"positions": "rope"},
    {"positions": "relative", "image": (16, 24), "registers": 2},
    {"registers": 3},
    {"pooling": "gap", "cls_token": True},
    {"pooling": "map"},
    {"pooling": "map", "activation": "swiglu", "biases": "none"},
    {"representation": True},
    {"activation": "swiglu"},
    {"activation": "gelu-tanh", "norm": "rms"},
    {"biases": "no-qkv", "qk_norm": True},
    {"biases": "none", "qk_norm": True, "layer_scale": 1e-5},
    {"parallel": True, "norm": "rms", "qk_norm": True},
    {"stride": 2},
    {"image": (16, 24)},
    {"pooling": "gap", "positions": "none", "representation": True},
]
SHAPE = Shape(32, 2, 80, 2, 4, 4, (16, 16), classes=7)


def shape_with(changes):
    return Shape.from_json({**SHAPE.as_json(), "cls_token": None, **changes})


@pytest.mark.parametrize("changes", OPTIONS)
def test_parameters_of_every_option_are_those_of_the_module(changes):
    shape = shape_with(changes)
    with torch.device("meta"):
        counted = sum(p.numel() for p in ViT(shape).parameters())
    assert counted == parameters(shape)


@pytest.mark.parametrize("changes", OPTIONS)
def test_flops_of_every_option_are_those_that_torch_counts(changes):
    """torch's counter sees matrix products, convolutions and attention, at stride 2 the convolution of overlaps.

    Of all tokens in every block, as published figures count; a plain call computes less of the last one.
    """
    shape = shape_with(changes)
    with torch.device("meta"):
        model, images = ViT(shape).eval(), torch.empty(1, 3, *shape.image)
    with FlopCounterMode(display=False) as counter:
        model.features(images)
    assert forward_flops(shape) == counter.get_total_flops()


def test_dropped_patches_cost_no_training():
    shape = shape_with({"patch_drop": 0.5})
    half = shape_with({"image": (8, 16), "patch_drop": 0.0})
    dropped = 6 * 8 * 16 * 32  # 8 patches of 16 px are embedded and then dropped
    assert train_flops(shape) == train_flops(half) + 3 * dropped
