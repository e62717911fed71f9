"""Weights of one model in another: what is loaded, resampled, new and dropped is said."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscale.config.model import Shape
from vitscale.errors import CheckpointError
from vitscale.model.build import Fitting, build_model, load_pretrained
from vitscale.model.resample import resample_patches, resample_positions

SHAPE = Shape(32, 2, 64, 2, 4, 4, (12, 12), classes=7)


def shape_with(**changes):
    return Shape.from_json({**SHAPE.as_json(), "cls_token": None, **changes})


def weights_of(shape):
    return {name: p.detach().clone() for name, p in build_model(shape, seed=9).named_parameters()}


def test_the_head_is_new_and_everything_else_is_loaded():
    model = build_model(shape_with(classes=3), seed=0)
    weights = weights_of(SHAPE)
    report = load_pretrained(model, weights, SHAPE)
    assert report.new == ("head.bias [3]", "head.weight [3, 32]")
    assert report.dropped == ("head.bias [7]", "head.weight [7, 32]")
    body = [name for name in weights if not name.startswith("head.")]
    assert report.loaded == len(body) == len(weights) - 2
    for name in body:
        assert torch.equal(model.get_parameter(name), weights[name])
    assert torch.count_nonzero(model.head.weight) == 0


def test_the_representation_layer_of_a_pretraining_head_is_dropped_and_listed():
    source = shape_with(representation=True)
    report = load_pretrained(build_model(SHAPE, seed=0), weights_of(source), source)
    assert "representation.weight [32, 32]" in report.dropped
    assert any("not loaded  representation.bias" in line for line in report.lines())


def test_positions_are_resampled_to_the_grid_of_another_resolution():
    larger = shape_with(image=(20, 24))
    model = build_model(larger, seed=0)
    report = load_pretrained(model, weights_of(SHAPE), SHAPE)
    assert report.resampled == ("positions from grid (3, 3) to (5, 6)",)
    assert model.positions.shape == (1, 31, 32)


def test_a_smaller_stride_is_another_grid_too():
    report = load_pretrained(build_model(shape_with(stride=2), seed=0), weights_of(SHAPE), SHAPE)
    assert report.resampled == ("positions from grid (3, 3) to (5, 5)",)


def test_resampling_is_bilinear_with_the_corners_held():
    """Against numpy's 1-D interpolation along rows and then columns; the CLS position is kept."""
    positions = torch.randn(1, 1 + 3 * 4, 5)
    found = resample_positions(positions, (3, 4), (6, 5), "bv-linear")
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
    wider = shape_with(width=64)
    with pytest.raises(CheckpointError, match="width 32 -> 64") as error:
        load_pretrained(build_model(wider, seed=0), weights_of(SHAPE), SHAPE)
    assert error.value.exit_code == 5


def test_a_missing_weight_is_refused_by_name():
    weights = weights_of(SHAPE)
    del weights["blocks.1.fc2.bias"]
    with pytest.raises(CheckpointError, match=r"blocks\.1\.fc2\.bias is missing"):
        load_pretrained(build_model(SHAPE, seed=0), weights, SHAPE)


@pytest.mark.parametrize(
    "changes", [{"heads": 4}, {"activation": "gelu-tanh"}, {"norm_eps": 1e-5}, {"parallel": True}]
)
def test_what_no_tensor_shows_must_be_the_same(changes):
    model = build_model(shape_with(**changes), seed=0)
    with pytest.raises(CheckpointError, match=f"Set model.{next(iter(changes))} to"):
        load_pretrained(model, weights_of(SHAPE), SHAPE)


def test_a_tensor_without_a_place_is_refused_by_name():
    source = shape_with(layer_scale=0.1)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.scale1 has no place"):
        load_pretrained(build_model(SHAPE, seed=0), weights_of(source), source)


def test_a_model_that_averages_patches_does_without_the_cls_token_of_its_weights():
    mean = shape_with(pooling="gap")
    model, weights = build_model(mean, seed=0), weights_of(SHAPE)
    report = load_pretrained(model, weights, SHAPE)
    assert "cls [1, 1, 32]" in report.dropped
    assert torch.equal(model.positions, weights["positions"][:, 1:])


def test_another_patch_size_is_refused_unless_asked_for():
    weights, model = weights_of(SHAPE), build_model(shape_with(patch=6, image=(18, 18)), seed=0)
    with pytest.raises(CheckpointError, match=r'init\.patches = "flexi-pinv"'):
        load_pretrained(model, weights, SHAPE)
    stepwise = build_model(shape_with(patch=6, stride=6, image=(18, 18)), seed=0)
    report = load_pretrained(stepwise, weights, SHAPE, Fitting(patches="flexi-pinv"))
    assert report.resampled == ("patch_embed.projection.weight from 4 to 6 px",)


def test_enlarged_patches_get_the_same_answers_from_a_resampled_kernel():
    """FlexiViT (arXiv 2212.08013), section 3.3: <w, x> = <resized w, resized x> for every x when enlarging."""
    kernel = torch.randn(5, 3, 4, 4)
    patches = torch.randn(7, 3, 4, 4)
    larger = torch.nn.functional.interpolate(patches, size=(9, 9), mode="bilinear", antialias=True)
    answers = torch.einsum("dcij,ncij->nd", resample_patches(kernel, 9), larger)
    wanted = torch.einsum("dcij,ncij->nd", kernel, patches)
    torch.testing.assert_close(answers, wanted, rtol=1e-4, atol=1e-4)


def test_smaller_patches_get_the_nearest_answers():
    """A least-squares fit over random patches finds no better kernel."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(1, 1, 6, 6, generator=generator).double()
    patches = torch.randn(20000, 1, 6, 6, generator=generator).double()
    smaller = torch.nn.functional.interpolate(patches, size=(4, 4), mode="bilinear", antialias=True)
    answers = patches.flatten(1) @ kernel.flatten()
    fitted = torch.linalg.lstsq(smaller.flatten(1), answers).solution
    found = resample_patches(kernel, 4).flatten()
    assert (found - fitted).abs().max() < 0.05 * found.abs().max()


@pytest.mark.parametrize(("mode", "antialias"), [("timm-bicubic", True), ("hf-bicubic", False)])
def test_bicubic_modes_are_pillows_or_keyss_filter(mode, antialias):
    """Antialiased as Pillow resizes; else the four nearest samples, the outer ones repeated (Keys, a = -0.75)."""
    grid = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    positions = torch.from_numpy(grid).view(1, 108, 1)
    found = resample_positions(positions, (12, 9), (5, 4), mode).view(5, 4).numpy()
    if antialias:
        wanted = np.asarray(Image.fromarray(grid).resize((4, 5), Image.Resampling.BICUBIC))
    else:
        wanted = keys(keys(grid, 5).T, 4).T
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def keys(values, size):
    """Cubic convolution along the first axis."""
    found = []
    for place in (np.arange(size) + 0.5) * len(values) / size - 0.5:
        first = int(np.floor(place))
        near = [values[min(max(first + k, 0), len(values) - 1)] for k in (-1, 0, 1, 2)]
        distances = [abs(place - first - k) for k in (-1, 0, 1, 2)]
        found.append(sum(cubic(d) * v for d, v in zip(distances, near, strict=True)))
    return np.array(found)


def cubic(d, a=-0.75):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4)


@pytest.mark.parametrize("positions", ["learned-2d", "relative"])
def test_other_kinds_of_positions_are_resampled_too(positions):
    source = shape_with(positions=positions)
    larger = shape_with(positions=positions, image=(20, 24))
    model, weights = build_model(larger, seed=0), weights_of(source)
    report = load_pretrained(model, weights, source)
    assert len(report.resampled) == 2
    if positions == "learned-2d":
        ends = [0, -1]
        assert torch.equal(model.row_positions[:, ends], weights["row_positions"][:, ends])
        assert model.column_positions.shape == (1, 6, 16)
    else:
        name = "blocks.1.relative_bias"
        assert torch.equal(model.get_parameter(name)[-3:], weights[name][-3:])
        assert len(model.get_parameter(name)) == 9 * 11 + 3
