"""The model against an independent implementation, and its parts against their definitions."""

import pytest
import torch
from torch import nn

from tests.model.test_options import trained_like
from tests.planner.test_size import OPTIONS
from tests.planner.test_size import shape_with as sized
from vitscale.config.model import Shape
from vitscale.model.build import build_model
from vitscale.model.init import TABLE, initialise
from vitscale.model.patch import PatchEmbed, patches_of
from vitscale.ops.attention import explicit, sdpa
from vitscale.ops.choice import PLAIN, Ops

SHAPE = Shape(32, 3, 64, 2, 4, 4, (12, 16), classes=7)


def shape_with(**changes):
    return Shape.from_json({**SHAPE.as_json(), "cls_token": None, **changes})


class TorchEncoder(nn.Module):
    """The same ViT out of torch's own transformer layers."""

    def __init__(self, vit):
        super().__init__()
        self.vit, shape = vit, vit.shape
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                shape.width, shape.heads, shape.mlp, 0.0, "gelu", 1e-6, True, True
            )
            for _ in range(shape.depth)
        )
        for layer, block in zip(self.layers, vit.blocks, strict=True):
            layer.self_attn.in_proj_weight.data = block.qkv.weight.data
            layer.self_attn.in_proj_bias.data = block.qkv.bias.data
            layer.self_attn.out_proj.load_state_dict(block.out.state_dict())
            layer.linear1.load_state_dict(block.fc1.state_dict())
            layer.linear2.load_state_dict(block.fc2.state_dict())
            layer.norm1.load_state_dict(block.norm1.state_dict())
            layer.norm2.load_state_dict(block.norm2.state_dict())

    def forward(self, images):
        conv = self.vit.patch_embed.projection
        tokens = conv(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.vit.cls.expand(len(images), -1, -1), tokens], 1)
        tokens = tokens + self.vit.positions
        for layer in self.layers:
            tokens = layer(tokens)
        return self.vit.head(self.vit.norm(tokens)[:, 0])


@pytest.mark.parametrize("stride", [4, 2])
def test_logits_equal_those_of_torchs_own_encoder(stride):
    model = trained_like(shape_with(stride=stride))
    images = torch.randn(2, 3, 12, 16)
    torch.testing.assert_close(
        model(images), TorchEncoder(model).eval()(images), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_the_projection_is_a_convolution_and_a_linear_map_of_unfolded_patches(stride):
    embed = PatchEmbed(8, 4, stride)
    images = torch.randn(2, 3, 13, 16)
    unfolded = torch.nn.functional.unfold(images, 4, stride=stride).transpose(1, 2)
    linear = unfolded @ embed.projection.weight.flatten(1).T + embed.projection.bias
    torch.testing.assert_close(
        embed(images[..., : 13 // 4 * 4, :] if stride == 4 else images),
        linear,
        rtol=1e-5,
        atol=1e-5,
    )


def test_patches_are_cut_row_by_row():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = patches_of(images, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(patches[1, 4].reshape(3, 2, 2), images[1, :, 2:4, 2:4])


def test_a_new_classifier_says_nothing_yet():
    model = build_model(SHAPE, seed=0)
    assert torch.equal(model(torch.randn(2, 3, 12, 16)), torch.zeros(2, 7))
    biased = build_model(shape_with(head_bias=-10.0), seed=0)
    assert torch.equal(biased(torch.randn(2, 3, 12, 16)), torch.full((2, 7), -10.0))


@pytest.mark.parametrize(
    "changes", [{}, {"pooling": "gap"}, {"representation": True}, {"positions": "none"}]
)
def test_features_end_in_the_logits_of_a_plain_call(changes):
    model = trained_like(shape_with(**changes))
    images = torch.randn(2, 3, 12, 16)
    named = model.features(images)
    torch.testing.assert_close(named["logits"], model(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(named["pre_logits"], model.represent(images), rtol=1e-5, atol=1e-5)
    assert named["pre_logits"].shape == (2, 32)
    assert named["block02"].shape == (2, model.shape.tokens, 32)
    assert list(named) == [
        "embedded",
        "block00",
        "block01",
        "block02",
        "encoded",
        "pre_logits",
        "logits",
    ]


@pytest.mark.parametrize("attention", [sdpa, explicit])
@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_what_the_head_does_not_read_of_the_last_block_changes_nothing(changes, attention):
    """Against a pass that computes it, in float64: logits and every gradient."""
    shape = sized({**changes, "drop_path": 0.5})
    model = trained_like(shape, Ops(PLAIN.norm, attention)).double().train()
    images = torch.randn(3, 3, *shape.image, dtype=torch.float64)
    found = []
    for logits_of in (model, lambda images: model.features(images)["logits"]):
        torch.manual_seed(0)  # both drop the same branches
        logits = logits_of(images)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        found.append((logits, *gradients))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_without_positions_the_order_of_patches_does_not_matter():
    """Appendix D.4 of the paper: such a model sees a bag of patches."""
    images = torch.randn(2, 3, 12, 16)
    swapped = torch.cat([images[..., 8:], images[..., :8]], dim=-1)
    bag = trained_like(shape_with(positions="none"))
    torch.testing.assert_close(bag(images), bag(swapped), rtol=1e-4, atol=1e-4)
    ordered = trained_like(SHAPE)
    assert (ordered(images) - ordered(swapped)).abs().max() > 1e-2


def test_initial_values_depend_on_seed_and_name_alone():
    one, two = build_model(SHAPE, seed=3), build_model(shape_with(depth=2), seed=3)
    other = build_model(SHAPE, seed=4)
    weight = "blocks.1.fc1.weight"
    assert torch.equal(one.get_parameter(weight), two.get_parameter(weight))
    assert not torch.equal(one.get_parameter(weight), other.get_parameter(weight))


def test_initial_spreads_are_those_of_the_table():
    shape = Shape(256, 1, 512, 4, 8, 8, (64, 64), classes=10, representation=True)
    model = build_model(shape, seed=0)
    spread = {name: p.std().item() for name, p in model.named_parameters()}
    assert spread["positions"] == pytest.approx(0.02, rel=0.02)
    assert spread["patch_embed.projection.weight"] == pytest.approx((1 / 192) ** 0.5, rel=0.02)
    for name, fan in (("qkv", 512), ("out", 512), ("fc1", 768), ("fc2", 768)):
        assert spread[f"blocks.0.{name}.weight"] == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    assert spread["blocks.0.fc1.bias"] == pytest.approx(1e-6, rel=0.1)


def test_a_parameter_that_the_table_does_not_name_is_noticed():
    model = build_model(SHAPE)
    model.surprise = nn.Parameter(torch.empty(3))
    with pytest.raises(AssertionError, match="surprise"):
        initialise(model, 0, SHAPE)
    assert len(TABLE) == len({pattern for pattern, _ in TABLE})


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    from vitscale.model.block import Drop

    torch.manual_seed(0)
    kept = Drop(0.0, 0.25).train().kept(torch.ones(4000, 2, 3))
    per_image = kept.flatten(1)
    assert per_image.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (per_image == per_image[:, :1]).all()
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)


def test_the_attention_of_the_ops_is_the_one_that_runs():
    calls = []

    def counting(q, k, v, bias):
        calls.append(q.shape)
        return PLAIN.attention(q, k, v, bias)

    build_model(SHAPE, Ops(PLAIN.norm, counting), seed=0)(torch.randn(2, 3, 12, 16))
    assert calls == [(2, 2, 13, 16)] * 2 + [(2, 2, 1, 16)]  # of the last block CLS alone is read
