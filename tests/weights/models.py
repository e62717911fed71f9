"""Models of ours from files, and what they answer."""

from __future__ import annotations

import torch

from vitscale.checkpoint.weights import load_weights
from vitscale.cli.main import main
from vitscale.model.build import build_model


def command(*words) -> int:
    """`vitscale weights ...` in this process."""
    return main(["weights", *map(str, words)])


def vit_of(file):
    """The model of a file of ours, ready to answer."""
    weights = load_weights(file)
    model = build_model(weights.shape)
    model.load_state_dict(weights.tensors)
    return model.eval()


def images_of(model, count=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.shape.image, generator=generator)


@torch.no_grad()
def randomise(model, seed=3):
    """Values of some size everywhere, so that nothing is zero or one by chance and no layer blows up."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and parameter.shape[0] > 1
        spread = parameter[0].numel() ** -0.5 if matrix else 0.2
        noise = torch.randn(parameter.shape, generator=generator) * spread
        one = parameter.ndim == 1 and name.endswith(("weight", "gamma", "lambda1"))
        parameter.copy_(noise + one)
    return model.eval()
