"""Initial values, all in one table; each parameter's depends on the seed and its name only.

Values as in the paper's code (vit_jax/models_vit.py): Xavier-uniform kernels, MLP biases of spread 1e-6, positions of
spread 0.02, everything else zero or one, and a zero head. Registers as positions; the pooling query Xavier-uniform
(big_vision `MAPHead`), relative biases zero (BEiT).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from vitscale.config.model import Shape

Fill = Callable[[Tensor, torch.Generator], object]


def _zeros(tensor: Tensor, generator: torch.Generator) -> object:
    return tensor.zero_()


def _ones(tensor: Tensor, generator: torch.Generator) -> object:
    return tensor.fill_(1.0)


def _constant(value: float) -> Fill:
    return lambda tensor, generator: tensor.fill_(value)


def _normal(spread: float) -> Fill:
    return lambda tensor, generator: tensor.normal_(0.0, spread, generator=generator)


def _lecun(tensor: Tensor, generator: torch.Generator) -> object:
    """Truncated normal of variance 1 / fan-in (flax's default for the patch convolution)."""
    spread = math.sqrt(1 / tensor[0].numel()) / 0.87962566103423978
    return nn.init.trunc_normal_(tensor, 0.0, spread, -2 * spread, 2 * spread, generator=generator)


def _xavier(tensor: Tensor, generator: torch.Generator) -> object:
    return nn.init.xavier_uniform_(tensor, generator=generator)


def _xavier_rows(tensor: Tensor, generator: torch.Generator) -> object:
    """The last axis is the fan-out, all others the fan-in (flax's reading of [1, 1, D])."""
    return nn.init.xavier_uniform_(tensor.flatten(0, -2).T, generator=generator)


def _xavier_each(matrices: int) -> Fill:
    """Several matrices stored as one; each gets the bound of its own fan-out."""

    def fill(tensor: Tensor, generator: torch.Generator) -> object:
        for part in tensor.chunk(matrices):
            nn.init.xavier_uniform_(part, generator=generator)
        return tensor

    return fill


TABLE: tuple[tuple[str, Fill], ...] = (
    (r"patch_embed\.projection\.weight", _lecun),
    (r"cls", _zeros),
    (r"(row_|column_)?positions|registers", _normal(0.02)),
    (r"blocks\.\d+\.qkv\.weight", _xavier_each(3)),
    (r"pool\.kv\.weight", _xavier_each(2)),
    (r"(blocks\.\d+|pool)\.(q|out|fc1|fc2)\.weight", _xavier),
    (r"(blocks\.\d+|pool)\.fc[12]\.bias", _normal(1e-6)),
    (r"((blocks\.\d+|pool)\.)?([qk]_)?norm[12]?\.weight", _ones),
    (r"pool\.probe", _xavier_rows),
    (r"blocks\.\d+\.relative_bias", _zeros),
    (r"representation\.weight", _lecun),
    (r"head\.weight", _zeros),
    (r".*\.bias", _zeros),
)


@torch.no_grad()
def initialise(model: nn.Module, seed: int, shape: Shape) -> None:
    """Fill every parameter in place from `TABLE`, and those whose values stand in `shape`.

    A parameter's values depend on (seed, name) alone, so they are the same for every rank, world size and
    order of construction.
    """
    table = (*_own_values(shape), *TABLE)
    for name, parameter in model.named_parameters():
        _fill_of(name, table)(parameter, _generator(seed, name))


def _own_values(shape: Shape) -> Iterator[tuple[str, Fill]]:
    """What a shape says of its initial values."""
    yield r"head\.bias", _constant(shape.head_bias)
    if shape.layer_scale is not None:
        yield r"blocks\.\d+\.scale[12]", _constant(shape.layer_scale)
    if shape.activation == "swiglu":
        yield r"(blocks\.\d+|pool)\.fc1\.weight", _xavier_each(2)


def _fill_of(name: str, table: tuple[tuple[str, Fill], ...]) -> Fill:
    for pattern, fill in table:
        if re.fullmatch(pattern, name):
            return fill
    raise AssertionError(
        f"no initial value for parameter {name}: add it to vitscale.model.init.TABLE"
    )


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
