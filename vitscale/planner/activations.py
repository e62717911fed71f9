"""What the forward pass keeps for the backward pass, in closed form (docs/scaling.md).

D width, F MLP width, H heads, N tokens.
"""

from __future__ import annotations

from vitscale.config.model import Shape

MODES = ("none", "cheap", "mlp", "full")
"""Of recomputation, from what holds most to what holds least on the device; `offload` holds nothing there."""
_POOLED = {"cls": 0, "gap": 1, "map": 4}
"""Numbers over D that a token holds behind the blocks: input of the last norm, its output, a key and a value."""


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


def last_bytes(shape: Shape, mode: str, number: int = 2, *, explicit: bool = False) -> int:
    """`block_bytes` of the last block, which under CLS pooling attends with one token alone, to keys and values of all.

    What that one token holds is not counted.
    """
    if shape.read is None or mode in ("offload", "full"):
        return block_bytes(shape, mode, number, explicit=explicit)
    d, weights = shape.width, shape.heads if explicit else 0
    if mode != "none":
        return number * ((1 + 3) * d + weights)  # input, q, k and v
    kept = (2 + 3) * d  # beside them the norm's output
    if shape.qk_norm:
        kept += 2 * d if explicit else d  # k once more, and a copy of v
    elif explicit:
        kept -= d  # copies of k and v in place of all three
    elif shape.positions == "rope":
        kept += d  # k once more
    return number * (kept + weights)


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
    each = block_bytes(shape, mode, number, explicit=explicit)
    last = last_bytes(shape, mode, number, explicit=explicit)
    return _tokens(shape) * ((shape.depth - 1) * each + last)


def working_bytes(shape: Shape, mode: str, number: int = 2, *, explicit: bool = False) -> int:
    """Bytes one image needs on top while the backward pass is inside a block: what is computed again, and gradients.

    The most is needed in the MLP, or in explicit attention, which the backward pass reaches when what the MLP held is
    gone: there gradients of scores before and after the softmax, of q, k, v, of their mixture and of the tokens.

    Where the last block computes one token alone, the most is needed there, for gradients of q, k and v, or in the
    block before it, when what the last one held is gone.
    """
    whole, held = (block_bytes(shape, each, number, explicit=explicit) for each in ("none", mode))
    gradients = _hidden(shape) + 2 * shape.width
    if explicit:
        scores = 2 * _weights(shape, explicit) + 5 * shape.width
        gradients = max(gradients, scores - _after_norm(shape) - shape.width)
    needed = whole - held + number * gradients
    if shape.read is not None:
        end_whole, end_held = (
            last_bytes(shape, each, number, explicit=explicit) for each in ("none", mode)
        )
        needed = max(end_whole - end_held + 3 * number * shape.width, needed - end_held)
    return _tokens(shape) * needed


def edge_bytes(shape: Shape, number: int = 2) -> int:
    """Bytes one image holds outside the blocks: its pixels twice, patches, the last norm, its pool, logits and loss."""
    height, width = shape.image
    pixels = 3 * height * width * (1 + number)
    patches = 3 * shape.patch**2 * shape.patches * number
    logits = shape.classes * (number + 3 * 4)
    pooled = _POOLED[shape.pooling] * _tokens(shape) * shape.width * number
    return pixels + patches + pooled + logits
