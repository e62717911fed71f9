"""open_clip: its blocks compute what ours do, its own counts are ours, and its SigLIP towers can be imported."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from safetensors.torch import save_file

from tests.weights.models import command, images_of, randomise, vit_of
from vitscale.config.model import ModelConfig, Shape
from vitscale.model.block import Block, Drop
from vitscale.ops.choice import PLAIN
from vitscale.planner.size import parameters

NAMES = {
    "norm1": "ln_1",
    "qkv": "attn.in_proj_",
    "out": "attn.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def theirs_of(name: str) -> str:
    """open_clip's name of a tensor of our block."""
    part, _, kind = name.rpartition(".")
    if not part:
        return name.replace("scale", "ls_") + ".gamma"
    return NAMES[part] + kind if part == "qkv" else f"{NAMES[part]}.{kind}"


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@torch.no_grad()
def test_a_block_is_open_clips(differ, layer_scale):
    theirs = randomise(ResidualAttentionBlock(96, 4, 4.0, ls_init_value=layer_scale))
    shape = Shape(96, 1, 384, 4, 8, 8, (48, 48), classes=10, norm_eps=1e-5, layer_scale=layer_scale)
    ours = Block(shape, Drop(0.0, 0.0), PLAIN)
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[theirs_of(name)] for name in ours.state_dict()})
    tokens = torch.randn(2, shape.tokens, 96)
    case = f"block, layer scale {layer_scale}"
    differ("open_clip", case, theirs(tokens), ours(tokens))


@pytest.mark.parametrize(
    ("model", "variant"),
    [("ViT-B-32", "B/32"), ("ViT-B-16", "B/16"), ("ViT-L-14", "L/14"), ("ViT-H-14", "H/14"),
     ("ViT-g-14", "g/14"), ("ViT-bigG-14", "G/14")],
)  # fmt: skip
def test_its_towers_have_our_parameters_but_for_what_only_clip_has(model, variant):
    config = open_clip.get_model_config(model)
    with torch.device("meta"):
        tower = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    count = sum(p.numel() for p in tower.parameters())
    shape = ModelConfig(variant=variant).shape(classes=1)
    width = shape.width
    only_clip = 2 * width + width * config["embed_dim"]  # a norm in front, and the projection
    only_ours = width + width + 1  # the bias of the patches, and a classifier of one class
    assert count - only_clip == parameters(shape) - only_ours


@torch.no_grad()
def test_a_siglip_tower_is_imported_from_beside_its_text_tower(tmp_path, differ):
    vision = {
        "image_size": 48,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    theirs = randomise(open_clip.model._build_vision_tower(768, vision))
    beside = {"text.positional_embedding": torch.randn(64, 8), "logit_scale": torch.ones(1)}
    tensors = {f"visual.{name}": tensor for name, tensor in theirs.state_dict().items()}
    file = tmp_path / "open_clip_model.safetensors"
    save_file(beside | {name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    to = tmp_path / "ours.safetensors"
    assert command("import", file, "--to", to, "--pixels", "half") == 0
    ours = vit_of(to)
    images = images_of(ours)
    differ("open_clip", "SigLIP tower", theirs(images), ours.features(images)["pre_logits"])


def test_clips_own_towers_are_refused_with_the_reason(tmp_path, capsys):
    tower = open_clip.transformer.VisionTransformer(48, 16, 64, 2, 4, 4.0)
    file = tmp_path / "clip.safetensors"
    save_file({f"visual.{n}": t.contiguous() for n, t in tower.state_dict().items()}, file)
    assert command("import", file, "--to", tmp_path / "ours.safetensors") == 5
    assert "a norm in front of its blocks" in capsys.readouterr().err
