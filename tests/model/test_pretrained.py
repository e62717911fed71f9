"""Weights of one model in another: what is loaded, resampled, new and dropped is said."""

import numpy as np
import pytest
import torch

from vitscale.config.model import Shape
from vitscale.errors import CheckpointError
from vitscale.model.build import build_model, load_pretrained
from vitscale.model.position import resample_positions

SHAPE = Shape(32, 2, 64, 2, 4, 4, (12, 12), classes=7)


def shape_with(**changes):
    return Shape.from_json({**SHAPE.as_json(), **changes})


def weights_of(shape):
    return {name: p.detach().clone() for name, p in build_model(shape, seed=9).named_parameters()}


def test_the_head_is_new_and_everything_else_is_loaded():
    model = build_model(shape_with(classes=3), seed=0)
    weights = weights_of(SHAPE)
    report = load_pretrained(model, weights, SHAPE)
    assert report.new == ["head.bias [3]", "head.weight [3, 32]"]
    assert report.unused == ["head.bias [7]", "head.weight [7, 32]"]
    assert len(report.loaded) == len(weights) - 2
    for name in report.loaded:
        assert torch.equal(model.get_parameter(name), weights[name])
    assert torch.count_nonzero(model.head.weight) == 0


def test_the_representation_layer_of_a_pretraining_head_is_dropped_and_listed():
    source = shape_with(representation=True)
    report = load_pretrained(build_model(SHAPE, seed=0), weights_of(source), source)
    assert "representation.weight [32, 32]" in report.unused
    assert any("not loaded  representation.bias" in line for line in report.lines())


def test_positions_are_resampled_to_the_grid_of_another_resolution():
    larger = shape_with(image=(20, 24))
    model = build_model(larger, seed=0)
    report = load_pretrained(model, weights_of(SHAPE), SHAPE)
    assert report.resampled == ["positions from grid (3, 3) to (5, 6)"]
    assert model.positions.shape == (1, 31, 32)


def test_a_smaller_stride_is_another_grid_too():
    report = load_pretrained(build_model(shape_with(stride=2), seed=0), weights_of(SHAPE), SHAPE)
    assert report.resampled == ["positions from grid (3, 3) to (5, 5)"]


def test_resampling_is_bilinear_with_the_corners_held():
    """Against numpy's 1-D interpolation along rows and then columns; the CLS position is kept."""
    positions = torch.randn(1, 1 + 3 * 4, 5)
    found = resample_positions(positions, (3, 4), (6, 5))
    grid = positions[0, 1:].reshape(3, 4, 5).numpy()
    rows = np.stack(
        [
            [np.interp(np.linspace(0, 2, 6), range(3), grid[:, j, d]) for d in range(5)]
            for j in range(4)
        ]
    )
    wanted = np.stack(
        [
            [np.interp(np.linspace(0, 3, 5), range(4), rows[:, d, i]) for d in range(5)]
            for i in range(6)
        ]
    )
    np.testing.assert_allclose(
        found[0, 1:].reshape(6, 5, 5).numpy(), wanted.transpose(0, 2, 1), atol=1e-5
    )
    assert torch.equal(found[:, :1], positions[:, :1])


def test_another_width_is_refused_with_both_numbers():
    wider = shape_with(width=64, heads=4)
    with pytest.raises(CheckpointError, match="width 32 -> 64") as error:
        load_pretrained(build_model(wider, seed=0), weights_of(SHAPE), SHAPE)
    assert error.value.exit_code == 5


def test_a_missing_weight_is_refused_by_name():
    weights = weights_of(SHAPE)
    del weights["blocks.1.fc2.bias"]
    with pytest.raises(CheckpointError, match=r"blocks\.1\.fc2\.bias is missing"):
        load_pretrained(build_model(SHAPE, seed=0), weights, SHAPE)
