"""timm's models with random weights against ours on the same files, and ours read by timm."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.weights.models import command, images_of, randomise, vit_of
from tests.weights.test_npz import our_file
from vitscale.config.model import Shape
from vitscale.weights.timm import _ratio

SMALL = {"embed_dim": 96, "depth": 3, "num_heads": 4, "img_size": 48, "patch_size": 8}
V2 = SMALL | {"patch_size": 8}
CASES = {
    "vit": ("vit_base_patch16_224", SMALL, ()),
    "vit, no qkv biases, qk norm, layer scale": (
        "vit_base_patch16_224",
        SMALL | {"qkv_bias": False, "qk_norm": True, "init_values": 0.1},
        (),
    ),
    "vit, mean of patches": (
        "vit_base_patch16_224",
        SMALL | {"global_pool": "avg", "fc_norm": False, "class_token": False},
        (),
    ),
    "vit, mean of patches beside CLS and registers": (
        "vit_base_patch16_224",
        SMALL | {"global_pool": "avg", "fc_norm": False, "reg_tokens": 3},
        ("--pooling", "gap"),
    ),
    "vit, attention pooling": (
        "vit_base_patch16_224",
        SMALL | {"global_pool": "map", "class_token": False},
        (),
    ),
    "vit, tanh gelu": (
        "vit_base_patch16_224",
        SMALL | {"act_layer": "gelu_tanh"},
        ("--activation", "gelu-tanh"),
    ),
    "vit, registers with positions of their own": (
        "vit_base_patch16_224",
        SMALL | {"reg_tokens": 4},
        (),
    ),
    "deit3": ("deit3_small_patch16_224", SMALL, ()),
    "dinov2": ("vit_small_patch14_dinov2", V2 | {"num_classes": 10}, ()),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", V2 | {"num_classes": 10}, ()),
    "dinov2 swiglu": ("vit_giant_patch14_reg4_dinov2", V2 | {"num_classes": 10}, ()),
}


def built(name, settings):
    return randomise(timm.create_model(name, pretrained=False, **settings))


def imported(model, tmp_path, *words, name="ours"):
    file = tmp_path / "theirs.safetensors"
    if not file.exists():
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, file)
    to = tmp_path / f"{name}.safetensors"
    assert command("import", file, "--to", to, "--pixels", "half", *words) == 0
    return vit_of(to)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_are_timms_at_both_sizes(tmp_path, differ, case):
    name, settings, words = CASES[case]
    theirs = built(name, settings)
    words = ("--heads", settings["num_heads"], *words)
    ours = imported(theirs, tmp_path, *words)
    images = images_of(ours)
    differ("timm", f"{case}, 48 px", theirs(images), ours(images))
    larger = imported(theirs, tmp_path, *words, "--image-px", "64", name="larger")
    if case == "vit, registers with positions of their own":  # only the first size fits timm here
        return
    theirs.set_input_size((64, 64))
    images = images_of(larger)
    differ("timm", f"{case}, 64 px", theirs(images), larger(images))


@torch.no_grad()
def test_a_base_model_at_224_and_288_pixels(tmp_path, differ):
    theirs = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    ours = imported(theirs, tmp_path)
    images = images_of(ours, count=1)
    differ("timm", "B/16, 224 px", theirs(images), ours(images))
    larger = imported(theirs, tmp_path, "--image-px", "288", name="larger")
    theirs.set_input_size((288, 288))
    images = images_of(larger, count=1)
    differ("timm", "B/16, 288 px", theirs(images), larger(images))


@torch.no_grad()
def test_the_tokens_of_timms_dinov3(tmp_path, differ):
    for name in ("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3_qkvb"):
        theirs = built(name, {"depth": 3, "img_size": 64})
        (tmp_path / name).mkdir()
        ours = imported(theirs, tmp_path / name, "--source-px", 64)
        images = images_of(ours)
        tokens = ours.features(images)["encoded"]
        differ("timm", f"{name}, 64 px", theirs.forward_features(images), tokens)


BASE = Shape(96, 3, 200, 4, 8, 8, (48, 48), classes=10)
OURS = {
    "plain": {},
    "registers": {"registers": 3},
    "mean of patches": {"pooling": "gap", "cls_token": False},
    "mean of patches beside CLS": {"pooling": "gap", "cls_token": True, "registers": 2},
    "attention pooling": {"pooling": "map", "cls_token": False},
    "tanh gelu, qk norm, no qkv biases": {
        "activation": "gelu-tanh",
        "qk_norm": True,
        "biases": "no-qkv",
    },
    "swiglu, layer scale": {"activation": "swiglu", "layer_scale": 0.1},
    "fixed positions": {"positions": "sincos2d"},
    "no positions, not square": {"positions": "none", "image": (32, 48)},
}


@pytest.mark.parametrize("case", OURS)
@torch.no_grad()
def test_timm_reads_what_we_export(tmp_path, differ, case):
    shape = Shape.from_json({**BASE.as_json(), **OURS[case]})
    file = our_file(tmp_path / "ours.safetensors", shape)
    folder = tmp_path / "timm"
    assert command("export", file, "--to", folder, "--format", "timm") == 0
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = vit_of(file)
    images = images_of(ours)
    differ("timm reads our export", case, theirs(images), ours(images))
    data = timm.data.resolve_model_data_config(theirs)
    assert [*data["mean"], *data["std"]] == [0.5] * 6


@pytest.mark.parametrize("layout", ["npz", "npz-old"])
@torch.no_grad()
def test_timm_reads_our_npz(tmp_path, differ, layout):
    file = our_file(tmp_path / "ours.safetensors", BASE)
    out = tmp_path / "out.npz"
    assert command("export", file, "--to", out, "--format", layout) == 0
    settings = SMALL | {"mlp_ratio": _ratio(200, 96), "num_classes": 10}
    settings |= {"no_embed_class": layout == "npz"}
    theirs = timm.create_model("vit_base_patch16_224", pretrained=False, **settings).eval()
    theirs.load_pretrained(str(out))
    ours = vit_of(file)
    images = images_of(ours)
    differ("timm reads our npz", layout, theirs(images), ours(images))
