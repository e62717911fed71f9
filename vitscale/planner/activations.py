"""What the forward pass keeps for the backward pass, in closed form (docs/scaling.md).

D width, F MLP width, H heads, N tokens.
"""

from __future__ import annotations

from vitscale.config.model import Shape

MODES = ("none", "cheap", "mlp", "full")
"""Of recomputation, from what holds most to what holds least on the device; `offload` holds nothing there."""


def block_bytes(shape: Shape, mode: str, number: int = 2, *, explicit: bool = False) -> int:
    """Bytes a token holds in one block under a mode of recomputation (engine/recompute.py).

    Args:
        shape: of the model.
        mode: one of `MODES`, or "offload".
        number: bytes of a number, 2 in bf16 and 4 in fp32.
        explicit: attention is `vitscale.ops.attention.explicit`, which keeps H N weights a token.
    """
    d, f = shape.width, shape.mlp
    if mode == "offload":
        return 0
    if mode == "full":
        return number * d
    hidden, weights = _hidden(shape), _weights(shape, explicit)
    # Input, q, k and v, attention, output of `out`.
    kept = (1 + 3 + 1 + 1) * d + weights
    if mode == "mlp":
        return number * kept
    if mode == "cheap":
        return number * (kept + hidden)
    # With one norm there is neither a second one's output nor a sum in front of it.
    norms = 1 if shape.parallel else 2
    numbers = (norms + 3 + 1 + norms) * d + weights + _after_norm(shape)
    if shape.qk_norm:
        numbers += 3 * d  # q and k once more, and v apart from them
    elif shape.positions == "rope" and not explicit:
        numbers += 2 * d  # q and k once more; explicit attention has copies in their place
    if shape.layer_scale is not None:
        numbers += 2 * d
    if shape.dropout:
        numbers += 2 * d + f  # masks
    sums = 0 if explicit else 4 * shape.heads  # of the softmax, which stay in float32
    return number * numbers + sums


def _hidden(shape: Shape) -> int:
    """Numbers a token has after the first layer of the MLP."""
    return 2 * shape.mlp if shape.activation == "swiglu" else shape.mlp


def _after_norm(shape: Shape) -> int:
    """Numbers a token holds in the MLP: in front of the activation, the gate of SwiGLU apart, and behind it."""
    return _hidden(shape) + shape.mlp + (shape.mlp if shape.activation == "swiglu" else 0)


def _weights(shape: Shape, explicit: bool) -> int:
    """Numbers a token keeps of what it takes of every other, over all heads."""
    return shape.heads * _tokens(shape) if explicit else 0


def _tokens(shape: Shape) -> int:
    """What blocks see in training."""
    return shape.prefix + shape.kept_patches


def image_bytes(shape: Shape, mode: str, number: int = 2, *, explicit: bool = False) -> int:
    """Bytes one image holds in all blocks, on the device, between forward and backward pass."""
    return shape.depth * _tokens(shape) * block_bytes(shape, mode, number, explicit=explicit)


def working_bytes(shape: Shape, mode: str, number: int = 2, *, explicit: bool = False) -> int:
    """Bytes one image needs on top while the backward pass is inside a block: what is computed again, and gradients.

    The most is needed in the MLP, or in explicit attention, which the backward pass reaches when what the MLP held is
    gone: there gradients of scores before and after the softmax, of q, k, v, of their mixture and of the tokens.
    """
    whole, held = (block_bytes(shape, each, number, explicit=explicit) for each in ("none", mode))
    gradients = _hidden(shape) + 2 * shape.width
    if explicit:
        scores = 2 * _weights(shape, explicit) + 5 * shape.width
        gradients = max(gradients, scores - _after_norm(shape) - shape.width)
    return _tokens(shape) * (whole - held + number * gradients)


def edge_bytes(shape: Shape, number: int = 2) -> int:
    """Bytes one image holds outside the blocks: its pixels twice, patches, the last norm, logits and loss."""
    height, width = shape.image
    pixels = 3 * height * width * (1 + number)
    patches = 3 * shape.patch**2 * shape.patches * number
    logits = shape.classes * (number + 3 * 4)
    return pixels + patches + 2 * _tokens(shape) * shape.width * number + logits
