"""Folders of Hugging Face transformers: `config.json`, `model.safetensors`, `preprocessor_config.json`.

The names are those of the files; transformers 5 has others in memory and still writes these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.errors import CheckpointError, ConfigError
from vitscale.weights.format import Format, Hints
from vitscale.weights.forms import HALF_OF_TWO, Form
from vitscale.weights.table import Rule, same, stacked

_LAYER = "encoder.layer.{n}"
_SELF = f"{_LAYER}.attention.attention"

_SHARED: tuple[Rule, ...] = (
    Rule("cls", ("embeddings.cls_token",)),
    *same("patch_embed.projection", "embeddings.patch_embeddings.projection"),
    Rule("positions", ("embeddings.position_embeddings",)),
    *stacked("blocks.{n}.qkv", f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value"),
    *same("blocks.{n}.out", f"{_LAYER}.attention.output.dense"),
    *same("norm", "layernorm"),
)
_VIT: tuple[Rule, ...] = (
    *_SHARED,
    *same("blocks.{n}.norm1", f"{_LAYER}.layernorm_before"),
    *same("blocks.{n}.norm2", f"{_LAYER}.layernorm_after"),
    *same("blocks.{n}.fc1", f"{_LAYER}.intermediate.dense"),
    *same("blocks.{n}.fc2", f"{_LAYER}.output.dense"),
    *same("representation", "pooler.dense"),
    *same("head", "classifier"),
)


def _scales(layer: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"blocks.{{n}}.scale{k}", (f"{layer}.layer_scale{k}.lambda1",)) for k in (1, 2)
    )


def _head(form: Form) -> tuple[Rule, ...]:
    return (
        Rule("head.weight", ("classifier.weight",), form),
        Rule("head.bias", ("classifier.bias",)),
    )


_DINOV2: tuple[Rule, ...] = (
    *_SHARED,
    Rule("registers", ("embeddings.register_tokens",)),
    *same("blocks.{n}.norm1", f"{_LAYER}.norm1"),
    *same("blocks.{n}.norm2", f"{_LAYER}.norm2"),
    *_scales(_LAYER),
    *_head(HALF_OF_TWO),
)
_PLAIN_MLP: tuple[Rule, ...] = (
    *same("blocks.{n}.fc1", f"{_LAYER}.mlp.fc1"),
    *same("blocks.{n}.fc2", f"{_LAYER}.mlp.fc2"),
)
_SWIGLU: tuple[Rule, ...] = (
    *same("blocks.{n}.fc1", f"{_LAYER}.mlp.weights_in"),
    *same("blocks.{n}.fc2", f"{_LAYER}.mlp.weights_out"),
)
_V3 = "layer.{n}"
_UP, _GATE = f"{_V3}.mlp.up_proj", f"{_V3}.mlp.gate_proj"
_DINOV3: tuple[Rule, ...] = (
    Rule("cls", ("embeddings.cls_token",)),
    Rule("registers", ("embeddings.register_tokens",)),
    *same("patch_embed.projection", "embeddings.patch_embeddings"),
    *stacked(
        "blocks.{n}.qkv",
        *(f"{_V3}.attention.{part}_proj" for part in "qkv"),
        may_lack=f"{_V3}.attention.k_proj",
    ),
    *same("blocks.{n}.out", f"{_V3}.attention.o_proj"),
    *same("blocks.{n}.norm1", f"{_V3}.norm1"),
    *same("blocks.{n}.norm2", f"{_V3}.norm2"),
    *same("blocks.{n}.fc2", f"{_V3}.mlp.down_proj"),
    *_scales(_V3),
    *same("norm", "norm"),
)
_V3_PLAIN = tuple(same("blocks.{n}.fc1", _UP))
_V3_SWIGLU = tuple(stacked("blocks.{n}.fc1", _GATE, _UP))

_IGNORED = (r"embeddings\.mask_token",)
_FOREIGN = {
    r"distillation_classifier\..*": "the classifier of DeiT's distillation token, averaged with the other",
    r"decoder\..*": "a decoder of masked image modelling",
    r"head\..*|.*patch_embeddings\.(query|key).*": "another model of the family",
}
_COMMON = {
    "pooling": ("cls",),
    "representation": (False,),
    "qk_norm": (False,),
    "biases": ("all", "no-qkv"),
}


@dataclass(frozen=True)
class Kind:
    """One `model_type`: its format with either MLP, and the names of its classes."""

    plain: Format
    swiglu: Format
    classes: str
    prefix: str

    def format(self, activation: str) -> Format:
        return self.swiglu if activation == "swiglu" else self.plain


def _kind(
    name: str,
    classes: str,
    rules: tuple[Rule, ...],
    plain: tuple[Rule, ...] = (),
    swiglu: tuple[Rule, ...] = (),
    **limits: tuple[Any, ...],
) -> Kind:
    activations = ("gelu", "gelu-tanh", *(["swiglu"] if swiglu else []))
    bounds = _COMMON | {"activation": activations} | limits
    made = Format(f"hf/{name}", (*rules, *plain), _IGNORED, _FOREIGN, "cls", "hf-bicubic", bounds)
    gated = replace(made, rules=(*rules, *swiglu))
    return Kind(made, gated, classes, f"{name}.")


_LEARNED = ("learned", "learned-2d", "sincos2d")
_DEIT: tuple[Rule, ...] = (
    *_VIT,
    Rule("registers", ("embeddings.distillation_token",)),
    *same("head", "cls_classifier"),
)
KINDS: dict[str, Kind] = {
    "vit": _kind("vit", "ViT", _VIT, positions=_LEARNED, registers=(0,), layer_scale=(None,)),
    "deit": _kind("deit", "DeiT", _DEIT, positions=_LEARNED, registers=(1,), layer_scale=(None,)),
    "dinov2": _kind(
        "dinov2", "Dinov2", _DINOV2, _PLAIN_MLP, _SWIGLU, positions=_LEARNED, registers=(0,)
    ),
    "dinov2_with_registers": _kind(
        "dinov2_with_registers",
        "Dinov2WithRegisters",
        _DINOV2,
        _PLAIN_MLP,
        _SWIGLU,
        positions=_LEARNED,
    ),
    "dinov3_vit": _kind(
        "dinov3_vit",
        "DINOv3ViT",
        _DINOV3,
        tuple(same("blocks.{n}.fc1", _UP)),
        tuple(stacked("blocks.{n}.fc1", _GATE, _UP)),
        positions=("rope",),
    ),
}
_OWN: dict[str, dict[str, Any]] = {
    "deit": {"layout": "all"},
    "dinov2_with_registers": {"resample": "timm-bicubic"},  # the one that antialiases
}
KINDS |= {
    name: replace(
        KINDS[name],
        plain=replace(KINDS[name].plain, **own),
        swiglu=replace(KINDS[name].swiglu, **own),
    )
    for name, own in _OWN.items()
}

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "silu": "swiglu",
}


def read(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Format, Hints]:
    """Tensors under the names of the table of their `model_type`, that table, and what the config tells.

    Raises:
        CheckpointError: a `model_type` or an activation that is not known here.
    """
    name = config.get("model_type")
    if name not in KINDS:
        raise CheckpointError(
            f"model_type {name!r} is not known",
            where="config.json",
            do=f"Known are {', '.join(KINDS)}.",
        )
    kind = KINDS[name]
    swiglu = bool(config.get("use_swiglu_ffn") or config.get("use_gated_mlp"))
    activation = "swiglu" if swiglu else _ACTIVATIONS.get(config.get("hidden_act", "gelu"))
    if activation is None or (activation == "swiglu" and not swiglu):
        raise CheckpointError(
            "an activation we do not have", where="config.json", given=config["hidden_act"]
        )
    side = config.get("image_size", 224)
    hints = Hints(
        heads=config["num_attention_heads"],
        image=(side, side) if isinstance(side, int) else (side[0], side[1]),
        positions="rope" if name == "dinov3_vit" else None,
        activation=activation,
        norm_eps=config.get("layer_norm_eps", 1e-12),
        rope_base=float(config.get("rope_theta", 100.0)),
        layer_scale=config.get("layerscale_value", 1.0),
        preprocessing=_preprocessing(preprocessor),
    )
    found = {key.removeprefix(kind.prefix): tensor for key, tensor in tensors.items()}
    return found, kind.format(activation), hints


_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _preprocessing(given: Mapping[str, Any]) -> Preprocessing | None:
    if "image_mean" not in given:
        return None
    crop, size = given.get("crop_size"), given.get("size")
    seen = crop.get("height") if isinstance(crop, dict) else crop
    whole = size.get("shortest_edge") if isinstance(size, dict) else size
    cut = bool(given.get("do_center_crop", crop is not None)) and seen and whole
    return Preprocessing(
        tuple(given["image_mean"]),
        tuple(given["image_std"]),
        float(seen or 1) / (whole or 1) if cut else 1.0,
        _FILTERS.get(given.get("resample", 2), "bilinear"),
    )


def kind_for(shape: Shape) -> str:
    """The `model_type` that a shape is written as."""
    if shape.positions == "rope":
        return "dinov3_vit"
    if shape.layer_scale is not None:
        return "dinov2_with_registers" if shape.registers else "dinov2"
    return "deit" if shape.registers == 1 else "vit"


def config_of(shape: Shape, *, headless: bool) -> dict[str, Any]:
    """The `config.json` of a shape.

    Raises:
        ConfigError: transformers has no such SwiGLU width, or no classifier on this backbone.
    """
    name = kind_for(shape)
    if name == "dinov3_vit" and not headless:
        raise ConfigError(
            "transformers has no classifier on DINOv3",
            where="--format hf",
            do="Give --drop-head to write the backbone alone.",
        )
    kind = KINDS[name]
    hidden = {"gelu": "gelu", "gelu-tanh": "gelu_pytorch_tanh", "swiglu": "silu"}
    config: dict[str, Any] = {
        "architectures": [kind.classes + ("Model" if headless else "ForImageClassification")],
        "model_type": name,
        "dtype": "float32",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "hidden_act": hidden[shape.activation],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": shape.norm_eps,
        "image_size": shape.image[0] if shape.image[0] == shape.image[1] else list(shape.image),
        "patch_size": shape.patch,
        "num_channels": 3,
        "qkv_bias": shape.biases == "all",
    }
    if not headless:
        names = {index: f"LABEL_{index}" for index in range(shape.classes)}
        config["id2label"] = {str(index): label for index, label in names.items()}
        config["label2id"] = {label: index for index, label in names.items()}
    return config | _own_keys(shape, name)


def _own_keys(shape: Shape, name: str) -> dict[str, Any]:
    """What one `model_type` alone has in its config."""
    if name in ("vit", "deit"):
        return {"intermediate_size": shape.mlp}
    own: dict[str, Any] = {"layerscale_value": shape.layer_scale or 1.0, "drop_path_rate": 0.0}
    if shape.registers or name == "dinov3_vit":
        own["num_register_tokens"] = shape.registers
    if name == "dinov3_vit":
        biased = shape.biases == "all"
        return own | {
            "intermediate_size": shape.mlp,
            "use_gated_mlp": shape.activation == "swiglu",
            "rope_theta": shape.rope_base,
            "query_bias": biased,
            "key_bias": biased,
            "value_bias": biased,
            "mlp_bias": True,
            "proj_bias": True,
        }
    swiglu = shape.activation == "swiglu"
    return own | {"use_swiglu_ffn": swiglu, "mlp_ratio": _ratio(shape)}


def _ratio(shape: Shape) -> int:
    """DINOv2's `mlp_ratio`, a whole number; of a SwiGLU two thirds count, rounded up to a multiple of 8."""
    for ratio in range(1, 17):
        hidden = shape.width * ratio
        if shape.activation == "swiglu":
            hidden = (hidden * 2 // 3 + 7) // 8 * 8
        if hidden == shape.mlp:
            return ratio
    raise ConfigError(
        "transformers' DINOv2 has an MLP of a whole number of widths, of which SwiGLU takes two thirds",
        where="--format hf",
        given=f"mlp {shape.mlp}, width {shape.width}",
        do="Export as safetensors or onnx.",
    )


def preprocessor_of(shape: Shape, preprocessing: Preprocessing) -> dict[str, Any]:
    """The `preprocessor_config.json`: shortest side, centre, scale to 0..1, mean and spread."""
    height, width = shape.image
    filters = {name: number for number, name in _FILTERS.items()}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(max(height, width) / preprocessing.crop_share)},
        "resample": filters.get(preprocessing.interpolation, 2),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def constants_of(shape: Shape) -> dict[str, Tensor]:
    """Tensors that transformers asks for and the model does without: a mask token, scales of one."""
    name = kind_for(shape)
    if name in ("vit", "deit"):
        return {}
    mask = torch.zeros(1, shape.width) if name != "dinov3_vit" else torch.zeros(1, 1, shape.width)
    empty = {"embeddings.register_tokens": torch.zeros(1, 0, shape.width)}
    extra = empty if name == "dinov3_vit" and not shape.registers else {}
    if shape.layer_scale is None:
        scales = [rule.theirs[0] for rule in _scales(_V3)]
        names = [name.format(n=n) for n in range(shape.depth) for name in scales]
        extra |= {name: torch.ones(shape.width) for name in names}
    return {"embeddings.mask_token": mask} | extra
