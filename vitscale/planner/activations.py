"""What the forward pass keeps for the backward pass, in closed form (docs/scaling.md).

D width, F MLP width, H heads.
"""

from __future__ import annotations

from vitscale.config.model import Shape

MODES = ("none", "cheap", "mlp", "full")
"""Of recomputation, from what holds most to what holds least on the device; `offload` holds nothing there."""


def block_bytes(shape: Shape, mode: str, number: int = 2) -> int:
    """Bytes a token holds in one block under a mode of recomputation (engine/recompute.py).

    Args:
        shape: of the model.
        mode: one of `MODES`, or "offload".
        number: bytes of a number, 2 in bf16 and 4 in fp32.
    """
    d, f = shape.width, shape.mlp
    if mode == "offload":
        return 0
    if mode == "full":
        return number * d
    hidden = 2 * f if shape.activation == "swiglu" else f
    # Input, q, k and v, attention, output of `out`.
    kept = (1 + 3 + 1 + 1) * d
    if mode == "mlp":
        return number * kept
    if mode == "cheap":
        return number * (kept + hidden)
    # With one norm there is neither a second one's output nor a sum in front of it.
    norms = 1 if shape.parallel else 2
    numbers = (norms + 3 + 1 + norms) * d + hidden + f + (f if shape.activation == "swiglu" else 0)
    if shape.qk_norm or shape.positions == "rope":
        numbers += (3 if shape.qk_norm else 2) * d  # q and k once more, and v apart from them
    if shape.layer_scale is not None:
        numbers += 2 * d
    if shape.dropout:
        numbers += 2 * d + f  # masks
    return number * numbers + 4 * shape.heads  # the sums of the softmax stay in float32


def image_bytes(shape: Shape, mode: str, number: int = 2) -> int:
    """Bytes one image holds in all blocks, on the device, between forward and backward pass."""
    tokens = shape.prefix + shape.kept_patches
    return shape.depth * tokens * block_bytes(shape, mode, number)


def working_bytes(shape: Shape, mode: str, number: int = 2) -> int:
    """Bytes one image needs on top while the backward pass is inside a block: what is computed again, and gradients."""
    tokens = shape.prefix + shape.kept_patches
    again = block_bytes(shape, "none", number) - block_bytes(shape, mode, number)
    hidden = 2 * shape.mlp if shape.activation == "swiglu" else shape.mlp
    gradients = number * (hidden + 2 * shape.width)
    return tokens * (again + gradients)


def edge_bytes(shape: Shape, number: int = 2) -> int:
    """Bytes one image holds outside the blocks: its pixels twice, patches, the last norm, logits and loss."""
    height, width = shape.image
    tokens = shape.prefix + shape.kept_patches
    pixels = 3 * height * width * (1 + number)
    patches = 3 * shape.patch**2 * shape.patches * number
    logits = shape.classes * (number + 3 * 4)
    return pixels + patches + 2 * tokens * shape.width * number + logits
