"""Parameters and floating-point operations of a ViT in closed form; never imports torch.

T tokens, P patches, p patch side, D width, F MLP width, L depth, K classes.
"""

from __future__ import annotations

from vitscale.config.model import Shape


def parameters(shape: Shape) -> int:
    """Weights and biases of the whole model, head included. Tested against the real module."""
    d = shape.width
    embedding = 3 * shape.patch**2 * d + d + shape.prefix * d + _positions(shape)
    pool = 0
    if shape.pooling == "map":
        pool = d + _dense_attention(shape) + _norm(shape, d) + _mlp(shape)
    representation = d * d + d if shape.representation else 0
    head = d * shape.classes + shape.classes
    blocks = shape.depth * block_parameters(shape)
    return embedding + blocks + _norm(shape, d) + pool + representation + head


def block_matrices(shape: Shape) -> int:
    """Numbers in the matrices of one encoder block."""
    d = shape.width
    return 4 * d * d + (_inputs(shape) + 1) * d * shape.mlp


def block_parameters(shape: Shape) -> int:
    """Weights and biases of one encoder block."""
    d = shape.width
    block = _attention(shape) + _mlp(shape) + (1 if shape.parallel else 2) * _norm(shape, d)
    if shape.layer_scale is not None:
        block += 2 * d
    if shape.positions == "relative":
        block += ((2 * shape.grid[0] - 1) * (2 * shape.grid[1] - 1) + 3) * shape.heads
    return block


def _positions(shape: Shape) -> int:
    if shape.positions == "learned":
        return (shape.tokens - shape.registers) * shape.width
    return sum(shape.grid) * shape.width // 2 if shape.positions == "learned-2d" else 0


def _attention(shape: Shape) -> int:
    normed = 2 * _norm(shape, shape.width // shape.heads) if shape.qk_norm else 0
    return _dense_attention(shape) + normed


def _dense_attention(shape: Shape) -> int:
    d = shape.width
    biases = {"all": 4 * d, "no-qkv": d, "none": 0}[shape.biases]
    return 4 * d * d + biases


def _mlp(shape: Shape) -> int:
    d, f, inputs = shape.width, shape.mlp, _inputs(shape)
    return (inputs + 1) * d * f + (0 if shape.biases == "none" else inputs * f + d)


def _inputs(shape: Shape) -> int:
    """Matrices of an MLP from D to F."""
    return 2 if shape.activation == "swiglu" else 1


def _norm(shape: Shape, width: int) -> int:
    return width if shape.norm == "rms" or shape.biases == "none" else 2 * width


def forward_flops(shape: Shape) -> int:
    """Operations (a multiply-add is two) of one image's forward pass; matrix products only.

    Tested against the published multiply-adds of ViT-Ti/16 to ViT-22B/14 at 224 px.
    """
    return _flops(shape, shape.tokens)


def train_flops(shape: Shape) -> int:
    """Operations of one image's forward and backward pass, without recomputation and without dropped patches.

    Of all tokens in the last block too, as published figures count, also where ours leaves some out (`Shape.read`).
    """
    return 3 * _flops(shape, shape.prefix + shape.kept_patches)


def dense_flops(shape: Shape) -> tuple[int, int]:
    """Operations of all blocks in an image's forward pass in training: of the first layers of the MLPs, and of all."""
    t, d, f = shape.prefix + shape.kept_patches, shape.width, shape.mlp
    first = 2 * t * d * f * _inputs(shape)
    return shape.depth * first, shape.depth * _block_flops(shape, t)


def _block_flops(shape: Shape, t: int) -> int:
    d, mlp = shape.width, 2 * (_inputs(shape) + 1) * shape.width * shape.mlp
    return 8 * t * d * d + t * mlp + 4 * t * t * d


def _flops(shape: Shape, t: int) -> int:
    """Of a forward pass whose blocks see `t` tokens."""
    d, f = shape.width, shape.mlp
    patch = 6 * shape.patches * shape.patch**2 * d
    mlp = 2 * (_inputs(shape) + 1) * d * f
    pool = 4 * d * d + 4 * t * d * d + 4 * t * d + mlp if shape.pooling == "map" else 0
    representation = 2 * d * d if shape.representation else 0
    return (
        patch + shape.depth * _block_flops(shape, t) + pool + representation + 2 * d * shape.classes
    )
