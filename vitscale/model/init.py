"""Initial values, all in one table; each parameter's depends on the seed and its name only.

Values as in the paper's code (vit_jax/models_vit.py): Xavier-uniform kernels, MLP biases of spread 1e-6, positions of
spread 0.02, everything else zero or one, and a zero head.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

Fill = Callable[[Tensor, torch.Generator], object]


def _zeros(tensor: Tensor, generator: torch.Generator) -> object:
    return tensor.zero_()


def _ones(tensor: Tensor, generator: torch.Generator) -> object:
    return tensor.fill_(1.0)


def _normal(spread: float) -> Fill:
    return lambda tensor, generator: tensor.normal_(0.0, spread, generator=generator)


def _lecun(tensor: Tensor, generator: torch.Generator) -> object:
    """Truncated normal of variance 1 / fan-in (flax's default for the patch convolution)."""
    spread = math.sqrt(1 / tensor[0].numel()) / 0.87962566103423978
    return nn.init.trunc_normal_(tensor, 0.0, spread, -2 * spread, 2 * spread, generator=generator)


def _xavier(tensor: Tensor, generator: torch.Generator) -> object:
    return nn.init.xavier_uniform_(tensor, generator=generator)


def _xavier_qkv(tensor: Tensor, generator: torch.Generator) -> object:
    """q, k and v are three matrices stored as one; each gets the bound of its own fan-out."""
    for part in tensor.chunk(3):
        nn.init.xavier_uniform_(part, generator=generator)
    return tensor


TABLE: tuple[tuple[str, Fill], ...] = (
    (r"patch_embed\.projection\.weight", _lecun),
    (r"cls", _zeros),
    (r"positions", _normal(0.02)),
    (r"blocks\.\d+\.qkv\.weight", _xavier_qkv),
    (r"blocks\.\d+\.(out|fc1|fc2)\.weight", _xavier),
    (r"blocks\.\d+\.fc[12]\.bias", _normal(1e-6)),
    (r"(blocks\.\d+\.)?norm[12]?\.weight", _ones),
    (r"representation\.weight", _lecun),
    (r"head\.weight", _zeros),
    (r".*\.bias", _zeros),
)


@torch.no_grad()
def initialise(model: nn.Module, seed: int, *, head_bias: float = 0.0) -> None:
    """Fill every parameter in place from `TABLE`.

    A parameter's values depend on (seed, name) alone, so they are the same for every rank, world size and
    order of construction.
    """
    for name, parameter in model.named_parameters():
        _fill_of(name)(parameter, _generator(seed, name))
    if head_bias:
        model.get_parameter("head.bias").fill_(head_bias)


def _fill_of(name: str) -> Fill:
    for pattern, fill in TABLE:
        if re.fullmatch(pattern, name):
            return fill
    raise AssertionError(
        f"no initial value for parameter {name}: add it to vitscale.model.init.TABLE"
    )


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
