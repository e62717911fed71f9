"""How our operators become known to torch: by name and schema, with a meta form for tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
