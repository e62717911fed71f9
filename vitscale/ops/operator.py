"""How our operators become known to torch: by name and schema, with a meta form for tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def operator(schema: str, meta: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Declare the function below as `torch.ops.vitscale.NAME`.

    To checkpointing, compilers and profilers it is then one. It has no gradient: an autograd.Function calls it.

    Args:
        schema: name, arguments and results, in torch's notation.
        meta: makes results of the right shapes, dtypes and layouts from arguments without data.
    """
    name = f"vitscale::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :])

    def declared(function: Callable[..., Any]) -> Any:
        torch.library.impl(name, "default")(function)
        torch.library.register_fake(name)(meta)
        return getattr(torch.ops.vitscale, name.partition("::")[2]).default

    return declared


def stand_in(like: Tensor, *shape: int) -> Tensor:
    """For a result that is yet to be computed: its shape, dtype and device, and one number of memory.

    A function of autograd has kept its inputs when it is left. So one that returns a stand-in, computes the gradients
    of the result and is given to `resolve` lets a checkpoint stop before the result, as with torch's own operators,
    which keep their inputs before they compute.
    """
    return like.new_empty(()).expand(shape)


def resolve(promised: Tensor, result: Tensor) -> Tensor:
    """`result`, which was computed without gradients, in the graph in the place of its stand-in `promised`."""
    return _Resolved.apply(promised, result)  # pyright: ignore[reportReturnType] untyped in torch


class _Resolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, promised: Tensor, result: Tensor) -> Tensor:
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
