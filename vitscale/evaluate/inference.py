"""Run a model for its answers only, and leave it as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Prepare = Callable[[Tensor], Tensor]
"""Bytes [B, 3, H, W] to what a model takes, where it takes them."""


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's mode is restored, also after an error."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
