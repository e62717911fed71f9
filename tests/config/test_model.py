"""Variants, grids and shapes."""

from __future__ import annotations

import pytest

from vitscale.config.model import PRESETS, ModelConfig, Shape, grid_of, leftover_of, parse_variant


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("B/16", ("B", 16, 16)),
        ("Ti/16s12", ("Ti", 16, 12)),
        ("So400m/14", ("So400m", 14, 14)),
        ("g-opt/16", ("g-opt", 16, 16)),
    ],
)
def test_a_variant_is_preset_patch_and_stride(variant, parts):
    assert parse_variant(variant) == parts


@pytest.mark.parametrize(
    ("name", "width", "depth", "mlp", "heads"),
    [  # arXiv 2010.11929, table 1
        ("B", 768, 12, 3072, 12),
        ("L", 1024, 24, 4096, 16),
        ("H", 1280, 32, 5120, 16),
    ],
)
def test_presets_are_the_papers(name, width, depth, mlp, heads):
    assert PRESETS[name] == (width, depth, mlp, heads)
    shape = ModelConfig(variant=f"{name}/14").shape(10)
    assert (shape.width, shape.depth, shape.mlp, shape.heads) == (width, depth, mlp, heads)


@pytest.mark.parametrize(
    ("image", "patch", "stride", "grid", "left"),
    [
        (224, 16, 16, 14, 0),
        (224, 14, 14, 16, 0),
        (384, 16, 16, 24, 0),
        (32, 8, 4, 7, 0),
        (30, 8, 4, 6, 2),
    ],
)
def test_the_grid_counts_whole_patches_only(image, patch, stride, grid, left):
    starts = [s for s in range(0, image, stride) if s + patch <= image]
    assert grid_of(image, patch, stride) == len(starts) == grid
    assert leftover_of(image, patch, stride) == image - starts[-1] - patch == left


def test_tokens_count_the_cls_token_only_where_there_is_one():
    assert ModelConfig().shape(10).tokens == 197
    assert ModelConfig(pooling="gap").shape(10).tokens == 196
    assert ModelConfig(image_px=(32, 64), variant="mu/8s4").shape(10).tokens == 7 * 15 + 1


def test_single_numbers_of_a_preset_can_be_replaced():
    shape = ModelConfig(variant="B/16", depth=3, heads=6).shape(5)
    assert (shape.depth, shape.heads, shape.width, shape.classes) == (3, 6, 768, 5)


def test_a_shape_survives_json():
    shape = ModelConfig(variant="mu/8s4", image_px=(32, 64), representation=True).shape(7)
    assert Shape.from_json(shape.as_json()) == shape
