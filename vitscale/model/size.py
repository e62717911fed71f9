"""Parameters and floating-point operations of a ViT in closed form; never imports torch.

T tokens, P patches, p patch side, D width, F MLP width, L depth, K classes.
"""

from __future__ import annotations

from vitscale.config.model import Shape


def parameters(shape: Shape) -> int:
    """Weights and biases of the whole model, head included. Tested against the real module."""
    d, f = shape.width, shape.mlp
    patch = 3 * shape.patch**2 * d + d
    positions = shape.tokens * d if shape.positions == "learned" else 0
    cls = d if shape.pooling == "cls" else 0
    block = 4 * d * d + 2 * d * f + 9 * d + f
    representation = d * d + d if shape.representation else 0
    head = d * shape.classes + shape.classes
    return patch + positions + cls + shape.depth * block + 2 * d + representation + head


def forward_flops(shape: Shape) -> int:
    """Operations (a multiply-add is two) of one image's forward pass; matrix products only.

    Tested against the published multiply-adds of ViT-Ti/16 to ViT-G/14 at 224 px.
    """
    t, d, f = shape.tokens, shape.width, shape.mlp
    patches = shape.grid[0] * shape.grid[1]
    patch = 6 * patches * shape.patch**2 * d
    block = 8 * t * d * d + 4 * t * d * f + 4 * t * t * d
    representation = 2 * d * d if shape.representation else 0
    return patch + shape.depth * block + representation + 2 * d * shape.classes


def train_flops(shape: Shape) -> int:
    """Operations of one image's forward and backward pass, without recomputation."""
    return 3 * forward_flops(shape)
