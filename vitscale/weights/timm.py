"""State dicts of timm, DeiT and DINO: one family of names with local words for single parts.

timm `models/vision_transformer.py` and `models/eva.py` (its DINOv3), DeiT's repository, dinov2 and dinov3 of
facebookresearch, whose blocks may be numbered in chunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitscale.config.model import PRESETS, Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.weights.format import IMAGENET, Format, Hints, Layout
from vitscale.weights.forms import MASKED, STACKED
from vitscale.weights.table import Rule, same, stacked

_QKV = "blocks.{n}.attn.qkv.bias"
_MASK = "blocks.{n}.attn.qkv.bias_mask"

RULES: tuple[Rule, ...] = (
    *same("patch_embed.projection", "patch_embed.proj"),
    Rule("cls", ("cls_token",)),
    Rule("registers", ("reg_token",)),
    Rule("registers", ("register_tokens",), writes=False),
    Rule("registers", ("storage_tokens",), writes=False),
    Rule("registers", ("dist_token",), writes=False),
    Rule("positions", ("pos_embed",)),
    *same("blocks.{n}.norm1", "blocks.{n}.norm1"),
    Rule("blocks.{n}.qkv.weight", ("blocks.{n}.attn.qkv.weight",)),
    Rule("blocks.{n}.qkv.bias", (_QKV, _MASK), MASKED, frozenset({_MASK})),
    Rule(
        "blocks.{n}.qkv.bias",
        ("blocks.{n}.attn.q_bias", "blocks.{n}.attn.k_bias", "blocks.{n}.attn.v_bias"),
        STACKED,
        frozenset({"blocks.{n}.attn.k_bias"}),
        writes=False,
    ),
    *same("blocks.{n}.q_norm", "blocks.{n}.attn.q_norm"),
    *same("blocks.{n}.k_norm", "blocks.{n}.attn.k_norm"),
    *same("blocks.{n}.out", "blocks.{n}.attn.proj"),
    *same("blocks.{n}.norm2", "blocks.{n}.norm2"),
    *same("blocks.{n}.fc1", "blocks.{n}.mlp.fc1", "blocks.{n}.mlp.w12"),
    *stacked("blocks.{n}.fc1", "blocks.{n}.mlp.w1", "blocks.{n}.mlp.w2", writes=False),
    *stacked("blocks.{n}.fc1", "blocks.{n}.mlp.fc1_g", "blocks.{n}.mlp.fc1_x", writes=False),
    *same("blocks.{n}.fc2", "blocks.{n}.mlp.fc2", "blocks.{n}.mlp.w3"),
    Rule("blocks.{n}.scale1", ("blocks.{n}.ls1.gamma",)),
    Rule("blocks.{n}.scale1", ("blocks.{n}.gamma_1",), writes=False),
    Rule("blocks.{n}.scale2", ("blocks.{n}.ls2.gamma",)),
    Rule("blocks.{n}.scale2", ("blocks.{n}.gamma_2",), writes=False),
    *same("norm", "norm"),
    Rule("pool.probe", ("attn_pool.latent",)),
    *same("pool.q", "attn_pool.q"),
    *same("pool.kv", "attn_pool.kv"),
    *same("pool.out", "attn_pool.proj"),
    *same("pool.norm", "attn_pool.norm"),
    *same("pool.fc1", "attn_pool.mlp.fc1"),
    *same("pool.fc2", "attn_pool.mlp.fc2"),
    *same("representation", "pre_logits.fc"),
    *same("head", "head"),
)

_IGNORED = (r"mask_token", r"rope_embed\.periods", r"local_cls_norm\..*")
_FOREIGN = {
    r"fc_norm\..*": "a norm after pooling; ours is before it",
    r"norm_pre\..*": "a norm in front of the blocks (CLIP)",
    r"cls_norm\..*": "another norm for CLS than for patches",
    r"head_dist\..*": "the classifier of DeiT's distillation token, averaged with the other",
    r".*\.mlp\.norm\..*|.*\.attn\.norm\..*": "a norm inside a sub-layer (EVA-02)",
    r"rope\.freqs": "learned rotations",
    r"blocks\.\d+\.attn\.relative_position_.*": "BEiT's own table of relative positions",
}
_LIMITS: dict[str, tuple[Any, ...]] = {
    "positions": ("learned", "learned-2d", "sincos2d", "none"),
    "representation": (False,),
    "norm_eps": (1e-6,),
    "biases": ("all", "no-qkv"),
}
TIMM = Format("timm", RULES, _IGNORED, _FOREIGN, "cls", "timm-bicubic", _LIMITS)
DINO = Format("dino", RULES, _IGNORED, _FOREIGN, "cls", "hf-bicubic", _LIMITS)

_CHUNKED = re.compile(r"blocks\.\d+\.(\d+)\.(.*)")


def looks_like(names: Mapping[str, object]) -> bool:
    """Whether these are names of this family."""
    return "patch_embed.proj.weight" in names


def is_dino(names: Mapping[str, object]) -> bool:
    """Whether they are those of a DINO repository: timm drops the mask token."""
    return "mask_token" in names or "storage_tokens" in names


def read(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Hints]:
    """Tensors under the names of `RULES`, and the hints of names and of timm's `config.json`."""
    found = {_CHUNKED.sub(r"blocks.\1.\2", name): tensor for name, tensor in tensors.items()}
    if "rope_embed.periods" in found or ("pos_embed" not in found and "reg_token" in found):
        hints = Hints(image=(224, 224), positions="rope", norm_eps=1e-5, preprocessing=IMAGENET)
        return found, hints
    if is_dino(found):
        return found, Hints(preprocessing=IMAGENET)
    given = config.get("model_args", {})
    return found, Hints(
        heads=given.get("num_heads"),
        image=_image(config),
        pooling={"avg": "gap", "map": "map", "token": "cls"}.get(config.get("global_pool", "")),
        activation="gelu-tanh" if given.get("act_layer") == "gelu_tanh" else "gelu",
        layer_scale=given.get("init_values") or 1e-5,
        preprocessing=_preprocessing(config.get("pretrained_cfg", {})),
    )


def _image(config: Mapping[str, Any]) -> tuple[int, int] | None:
    size = config.get("pretrained_cfg", {}).get("input_size")
    return None if size is None else (size[1], size[2])


def _preprocessing(given: Mapping[str, Any]) -> Preprocessing | None:
    if "mean" not in given:
        return None
    return Preprocessing(
        tuple(given["mean"]),
        tuple(given["std"]),
        given.get("crop_pct", 0.875),
        given.get("interpolation", "bicubic"),
    )


_GATED = "vit_giant_patch14_dinov2"
"""The one architecture of timm with a packed SwiGLU; its numbers are overridden like those of any other."""
_NAMES = {
    ("Ti", 16): "tiny_patch16",
    ("S", 32): "small_patch32",
    ("S", 16): "small_patch16",
    ("B", 32): "base_patch32",
    ("B", 16): "base_patch16",
    ("B", 8): "base_patch8",
    ("L", 32): "large_patch32",
    ("L", 16): "large_patch16",
    ("L", 14): "large_patch14",
    ("H", 14): "huge_patch14",
    ("g", 14): "giant_patch14",
    ("G", 14): "gigantic_patch14",
}


def architecture_of(shape: Shape) -> str:
    """The name `timm.create_model` takes; all numbers are in `model_args` anyway, so any plain ViT can carry them."""
    if shape.activation == "swiglu":
        return _GATED
    preset = {numbers: name for name, numbers in PRESETS.items()}.get(
        (shape.width, shape.depth, shape.mlp, shape.heads), ""
    )
    return f"vit_{_NAMES.get((preset, shape.patch), 'base_patch16')}_224"


def config_of(shape: Shape, preprocessing: Preprocessing, *, headless: bool) -> dict[str, Any]:
    """The `config.json` of timm's hub folders."""
    height, width = shape.image
    pool = {"cls": "token", "gap": "avg", "map": "map"}[shape.pooling]
    hidden = shape.mlp * (2 if shape.activation == "swiglu" else 1)
    args: dict[str, Any] = {
        "img_size": [height, width],
        "patch_size": shape.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": _ratio(hidden, shape.width),
        "qkv_bias": shape.biases == "all",
        "qk_norm": shape.qk_norm,
        "init_values": shape.layer_scale,
        "class_token": bool(shape.cls_token),
        "reg_tokens": shape.registers,
        "no_embed_class": layout_of(shape) == "patches",
        "pos_embed": "learn" if shape.positions != "none" else "none",
        "global_pool": pool,
        "fc_norm": False,
    }
    if shape.activation == "gelu-tanh":
        args["act_layer"] = "gelu_tanh"
    classes = 0 if headless else shape.classes
    return {
        "architecture": architecture_of(shape),
        "num_classes": classes,
        "num_features": shape.width,
        "global_pool": pool,
        "model_args": args,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, height, width],
            "fixed_input_size": True,
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_share,
            "crop_mode": "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def layout_of(shape: Shape) -> Layout:
    """With registers timm has positions for patches alone, as in its DINOv2."""
    return "patches" if shape.registers or not shape.cls_token else "cls"


def _ratio(hidden: int, width: int) -> float:
    """A ratio from which timm's `int(width * ratio)` gets `hidden` back."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
