"""big_vision's `.npz` and its ancestors: flax names, `/` between the levels.

| layout | blocks | positions | who |
|---|---|---|---|
| `npz` | `Transformer/encoderblock_N/...` | patches | big_vision |
| `npz-scan` | `Transformer/encoderblock/...`, stacked | patches | big_vision with `scan=True` |
| `npz-old` | as `npz`, sub-layers numbered together | CLS and patches | vision_transformer, AugReg, the paper |

Sources: big_vision `models/vit.py` (`fix_old_checkpoints`, `pyloop_to_scan`) and timm's reader of the old names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vitscale.config.preprocessing import Preprocessing
from vitscale.weights.format import Format, Hints
from vitscale.weights.forms import (
    HEADS_BIAS,
    INTO_HEADS,
    OUT_OF_HEADS,
    PATCHES_LAST,
    TRANSPOSED,
)
from vitscale.weights.table import Rule

_BLOCK = "Transformer/encoderblock_{n}/"
_ATTENTION = "MultiHeadDotProductAttention_0"


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.weight", (f"{theirs}/scale",)), Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def _dense(ours: str, theirs: str) -> list[Rule]:
    kernel = Rule(f"{ours}.weight", (f"{theirs}/kernel",), TRANSPOSED)
    return [kernel, Rule(f"{ours}.bias", (f"{theirs}/bias",))]


def _heads(ours: str, theirs: str, *parts: str) -> list[Rule]:
    kernels = tuple(f"{theirs}/{part}/kernel" for part in parts)
    biases = tuple(f"{theirs}/{part}/bias" for part in parts)
    return [
        Rule(f"{ours}.weight", kernels, INTO_HEADS),
        Rule(f"{ours}.bias", biases, HEADS_BIAS),
    ]


def _joined(ours: str, theirs: str) -> list[Rule]:
    kernel = Rule(f"{ours}.weight", (f"{theirs}/kernel",), OUT_OF_HEADS)
    return [kernel, Rule(f"{ours}.bias", (f"{theirs}/bias",))]


RULES: tuple[Rule, ...] = (
    Rule("patch_embed.projection.weight", ("embedding/kernel",), PATCHES_LAST),
    Rule("patch_embed.projection.bias", ("embedding/bias",)),
    Rule("cls", ("cls",)),
    Rule("positions", ("pos_embedding",)),
    *_norm("blocks.{n}.norm1", f"{_BLOCK}LayerNorm_0"),
    *_heads("blocks.{n}.qkv", f"{_BLOCK}{_ATTENTION}", "query", "key", "value"),
    *_joined("blocks.{n}.out", f"{_BLOCK}{_ATTENTION}/out"),
    *_norm("blocks.{n}.norm2", f"{_BLOCK}LayerNorm_1"),
    *_dense("blocks.{n}.fc1", f"{_BLOCK}MlpBlock_0/Dense_0"),
    *_dense("blocks.{n}.fc2", f"{_BLOCK}MlpBlock_0/Dense_1"),
    *_norm("norm", "Transformer/encoder_norm"),
    Rule("pool.probe", ("MAPHead_0/probe",)),
    *_heads("pool.q", f"MAPHead_0/{_ATTENTION}", "query"),
    *_heads("pool.kv", f"MAPHead_0/{_ATTENTION}", "key", "value"),
    *_joined("pool.out", f"MAPHead_0/{_ATTENTION}/out"),
    *_norm("pool.norm", "MAPHead_0/LayerNorm_0"),
    *_dense("pool.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
    *_dense("pool.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
    *_dense("representation", "pre_logits"),
    *_dense("head", "head"),
)

_LIMITS = {
    "positions": ("learned", "sincos2d"),
    "registers": (0,),
    "activation": ("gelu", "gelu-tanh"),
    "norm_eps": (1e-6,),
    "biases": ("all",),
    "qk_norm": (False,),
    "layer_scale": (None,),
}
NPZ = Format(
    "npz",
    RULES,
    foreign={r"t|b": "temperature and bias of a contrastive pair", r"txt/.*": "a text tower"},
    layout="patches",
    resample="bv-linear",
    limits=_LIMITS,
)
OLD = Format(
    "npz-old",
    RULES,
    layout="cls",
    resample="bv-linear",
    limits=_LIMITS | {"pooling": ("cls", "gap"), "positions": ("learned",)},
)

_PREFIXES = ("params/", "opt/target/")
# (old, new) within a name; the old code numbered all sub-layers of a block in one row.
_OLD_NAMES = (
    ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
    ("/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    ("/LayerNorm_2/", "/LayerNorm_1/"),
    ("/MlpBlock_3/", "/MlpBlock_0/"),
)
_STACK = "Transformer/encoderblock/"
_NUMBERED = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")


def looks_like(names: Mapping[str, object]) -> bool:
    """Whether these are names of flax's ViT."""
    return any(name.endswith("embedding/kernel") for name in names)


def read(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Hints]:
    """Tensors under the names of `RULES`, whatever the layout, and the hints that lie in them."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        for old, new in _OLD_NAMES:
            name = name.replace(old, new)
        if name == "Transformer/pos_embedding":  # of 2021, between the two
            name = "pos_embedding"
        if name.startswith(_STACK):
            rest = name.removeprefix(_STACK)
            found |= {f"{_STACK[:-1]}_{n}/{rest}": part for n, part in enumerate(tensor)}
        else:
            found[name] = tensor
    kernel = found.get(f"{_BLOCK.format(n=0)}{_ATTENTION}/query/kernel")
    heads = None if kernel is None or kernel.ndim != 3 else kernel.shape[1]
    return found, Hints(heads=heads, preprocessing=Preprocessing())


def laid_out(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Tensors under the names of `RULES` in the names of `npz`, `npz-scan` or `npz-old`."""
    if layout == "npz-old":
        return {_old_name(name): tensor for name, tensor in tensors.items()}
    if layout == "npz":
        return {f"params/{name}": tensor for name, tensor in tensors.items()}
    stacks: dict[str, dict[int, Tensor]] = {}
    written: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            stacks.setdefault(f"params/{_STACK}{numbered[2]}", {})[int(numbered[1])] = tensor
        else:
            written[f"params/{name}"] = tensor
    for name, parts in stacks.items():
        written[name] = torch.stack([parts[number] for number in sorted(parts)])
    return written


def _old_name(name: str) -> str:
    if name != "pos_embedding" and not name.startswith("Transformer/"):
        return name
    for old, new in _OLD_NAMES:
        name = name.replace(new, old)
    return name
