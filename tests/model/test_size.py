"""Closed forms against the real module and published tables."""

import pytest

from vitscale.config.model import ModelConfig, Shape
from vitscale.model.build import build_model
from vitscale.model.size import forward_flops, parameters, train_flops

# Parameters in millions and multiply-adds in 1e9 with 1000 classes at 224 px, as timm publishes them
# (huggingface/pytorch-image-models, results/benchmark-infer-amp-nchw-pt240-cu124-rtx4090.csv).
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
    assert forward_flops(shape) / 2e9 == pytest.approx(gmacs, rel=0.007)


# Images and exaFLOPs of pretraining on JFT: arXiv 2010.11929, table 6.
@pytest.mark.parametrize(
    ("variant", "images", "exaflops"), [("B/16", 7, 224), ("L/16", 7, 783), ("H/14", 14, 4262)]
)
def test_training_flops_reproduce_table_6_of_the_paper(variant, images, exaflops):
    shape = ModelConfig(variant=variant).shape(1)
    assert train_flops(shape) * images * 303e6 / 1e18 == pytest.approx(exaflops, rel=0.004)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "gap"},
        {"positions": "none"},
        {"representation": True},
        {"stride": 2},
        {"image": (16, 24)},
        {"pooling": "gap", "positions": "none", "representation": True},
    ],
)
def test_parameters_of_every_option_are_those_of_the_module(changes):
    record = {**Shape(32, 2, 80, 2, 4, 4, (16, 16), classes=7).as_json(), **changes}
    shape = Shape.from_json(record)
    counted = sum(p.numel() for p in build_model(shape).parameters())
    assert counted == parameters(shape)
