"""The `[model]` table: a variant by name, every number of it overridable, and the shape it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vitscale.config.base import Section
from vitscale.errors import ConfigError, nearest

# width, depth, MLP width, heads. Ti to e: big_vision `models/vit.py:decode_variant`; So400m: "Getting ViT in
# Shape" (arXiv 2305.13035); g, G: "Scaling Vision Transformers" (arXiv 2106.04560), table 2; 22B: arXiv 2302.05442,
# whose other choices (parallel blocks, QK norm, ...) are options and stand in configs/pretrain/vit_22b14_jft.toml.
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
    "22B": (6144, 48, 24576, 48),
}
_VARIANT = re.compile(r"^([A-Za-z0-9-]+?)/(\d+)(?:s(\d+))?$")

Positions = Literal["learned", "learned-2d", "sincos2d", "rope", "relative", "none"]
Pooling = Literal["cls", "gap", "map"]
Activation = Literal["gelu", "gelu-tanh", "swiglu"]
Norm = Literal["layer", "rms"]
Biases = Literal["all", "no-qkv", "none"]


@dataclass(frozen=True)
class Shape:
    """Every number that decides a ViT's parameters and its forward pass. Pixels for image, patch, stride.

    The fields mean what `ModelConfig` says of the keys of the same names.
    """

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int
    stride: int
    image: tuple[int, int]
    classes: int
    positions: Positions = "learned"
    pooling: Pooling = "cls"
    cls_token: bool | None = None
    registers: int = 0
    representation: bool = False
    activation: Activation = "gelu"
    norm: Norm = "layer"
    norm_eps: float = 1e-6
    biases: Biases = "all"
    qk_norm: bool = False
    layer_scale: float | None = None
    parallel: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    patch_drop: float = 0.0
    rope_base: float = 100.0
    head_bias: float = 0.0

    def __post_init__(self) -> None:
        if self.cls_token is None:
            object.__setattr__(self, "cls_token", self.pooling == "cls")
        for problem in _problems_of(self):
            raise ConfigError(problem[0], where="model", given=problem[1], do=problem[2])

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        height, width = self.image
        return (grid_of(height, self.patch, self.stride), grid_of(width, self.patch, self.stride))

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: CLS and registers."""
        return bool(self.cls_token) + self.registers

    @property
    def tokens(self) -> int:
        """Tokens the encoder sees: CLS, registers and patches."""
        return self.prefix + self.patches

    @property
    def kept_patches(self) -> int:
        """Patches that are left in training after patch dropout."""
        return max(1, int(self.patches * (1 - self.patch_drop)))

    @property
    def read(self) -> int | None:
        """How many of the last block's tokens the head reads, counted from the first; None: all."""
        return 1 if self.pooling == "cls" else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Shape:
        """Read what `as_json` wrote."""
        height, width = record["image"]
        numbers: dict[str, Any] = {**record, "image": (height, width)}
        return cls(**numbers)


def grid_of(image_px: int, patch_px: int, stride_px: int) -> int:
    """Patches along one side. With a stride below the patch size neighbours share pixels.

    The last `(image_px - patch_px) % stride_px` pixels belong to no patch; callers that mind ask
    `leftover_of`.
    """
    return (image_px - patch_px) // stride_px + 1


def leftover_of(image_px: int, patch_px: int, stride_px: int) -> int:
    """Pixels at the right or lower edge that no patch covers."""
    return (image_px - patch_px) % stride_px


def _problems_of(shape: Shape) -> Iterator[tuple[str, str, str]]:
    if shape.width % shape.heads:
        yield (
            "width must be a multiple of heads",
            f"width {shape.width}, heads {shape.heads}",
            "Change one of them.",
        )
    yield from _unfit_options(shape)
    if shape.stride > shape.patch:
        yield (
            "stride is larger than the patch, so some pixels would never be seen",
            f"patch {shape.patch}, stride {shape.stride}",
            "Use a stride of at most the patch size.",
        )
    for side, pixels in zip(("height", "width"), shape.image, strict=True):
        if pixels < shape.patch:
            yield (
                f"the image {side} is smaller than a patch",
                f"{pixels} px, patch {shape.patch} px",
                "Use larger images or smaller patches.",
            )
        elif left := leftover_of(pixels, shape.patch, shape.stride):
            grid = grid_of(pixels, shape.patch, shape.stride)
            fit = pixels - left
            yield (
                f"{left} px of the image {side} belong to no patch",
                f"image {pixels}, patch {shape.patch}, stride {shape.stride}",
                f"Use an image {side} of {fit} ({grid} patches) or {fit + shape.stride}.",
            )


def _unfit_options(shape: Shape) -> Iterator[tuple[str, str, str]]:
    parts = {"learned-2d": 2, "sincos2d": 4}.get(shape.positions, 1)
    if shape.width % parts:
        yield (
            f"positions {shape.positions} need a width that is a multiple of {parts}",
            f"width {shape.width}",
            "Change one of them.",
        )
    head = shape.width // shape.heads
    if shape.positions == "rope" and head % 4:
        yield (
            "rope turns a quarter of a head at a time, so its width must be a multiple of 4",
            f"width {shape.width}, heads {shape.heads}: {head}",
            "Change one of them.",
        )
    if shape.positions == "relative" and shape.patch_drop:
        yield (
            "relative positions belong to all pairs of patches, so none can be dropped",
            f"patch_drop {shape.patch_drop}",
            "Use other positions, or no patch dropout.",
        )
    if shape.pooling == "cls" and not shape.cls_token:
        yield (
            "there is no CLS token to pool",
            "pooling cls, cls_token false",
            'Use pooling "gap" or "map".',
        )


class ModelConfig(Section):
    """Which Vision Transformer is trained ("An Image is Worth 16x16 Words", arXiv 2010.11929)."""

    variant: str = "B/16"
    """Preset, patch size and optional stride: "B/16", "L/14", or "B/16s12" for overlapping patches."""

    image_px: int | tuple[int, int] = Field(default=224)
    """Side of the square input in pixels, or [height, width]."""

    width: int | None = Field(default=None, ge=1)
    """Token width; the variant's where not given."""

    depth: int | None = Field(default=None, ge=1)
    """Encoder blocks; the variant's where not given."""

    mlp: int | None = Field(default=None, ge=1)
    """Hidden width of the MLP; the variant's where not given."""

    heads: int | None = Field(default=None, ge=1)
    """Attention heads; the variant's where not given."""

    positions: Positions = "learned"
    """Learned 1-D as in the paper; learned-2d, relative, none (its appendix D.4); sincos2d (MoCo v3); rope (DINOv3)."""

    rope_base: float = Field(default=100.0, gt=1)
    """Longest over shortest period of the rotations of rope (DINOv3: 100)."""

    pooling: Pooling = "cls"
    """What the head reads: the CLS token, the mean over patches (gap), or an attention with one learned query (map)."""

    cls_token: bool | None = None
    """Whether there is a CLS token; by default only where it is pooled."""

    registers: int = Field(default=0, ge=0)
    """Learned tokens without position or output that the encoder can write to (arXiv 2309.16588)."""

    representation: bool = False
    """Add the paper's pre-training head: a hidden tanh layer of the token width before the classifier."""

    activation: Activation = "gelu"
    """Of the MLP: exact GELU, its tanh form (flax's default), or SwiGLU (arXiv 2002.05202; a third matrix)."""

    norm: Norm = "layer"
    """LayerNorm, or RMSNorm (arXiv 1910.07467)."""

    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the variance; 1e-6 in the paper's code, 1e-5 in DINOv3."""

    biases: Biases = "all"
    """Biases of the encoder's dense layers and norms: all, none for q, k and v (ViT-22B), or none at all."""

    qk_norm: bool = False
    """Normalise queries and keys over the width of a head (ViT-22B, arXiv 2302.05442)."""

    layer_scale: Annotated[float, Field(gt=0)] | None = None
    """Initial value of a learned scale per channel of each branch (LayerScale, arXiv 2103.17239); none by default."""

    parallel: bool = False
    """Attention and MLP side by side on one norm (ViT-22B), not one after the other."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after the position encodings and every dense layer except the q, k, v projection (paper, B.1)."""

    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block; earlier blocks rise linearly from 0 (arXiv 1603.09382)."""

    patch_drop: float = Field(default=0.0, ge=0, lt=1)
    """Share of each image's patches that training leaves out, drawn anew each time (arXiv 2212.00794)."""

    head_bias: float = 0.0
    """Initial bias of the classifier; -10 suits sigmoid losses over 21k classes."""

    classes: int | None = Field(default=None, ge=1)
    """Outputs of the classifier; taken from the training set where not given."""

    @field_validator("variant")
    @classmethod
    def _known(cls, variant: str) -> str:
        parse_variant(variant)
        return variant

    def shape(self, classes: int) -> Shape:
        """The shape with `classes` outputs.

        Raises:
            ConfigError: the numbers do not fit together; the message says which.
        """
        preset, patch, stride = parse_variant(self.variant)
        width, depth, mlp, heads = PRESETS[preset]
        size = self.image_px
        options = {field.name for field in fields(Shape)} & set(type(self).model_fields)
        numbers = {
            "width": self.width or width,
            "depth": self.depth or depth,
            "mlp": self.mlp or mlp,
            "heads": self.heads or heads,
            "image": (size, size) if isinstance(size, int) else size,
            "classes": classes,
        }
        chosen: dict[str, Any] = {name: getattr(self, name) for name in options} | numbers
        return Shape(patch=patch, stride=stride, **chosen)


def parse_variant(variant: str) -> tuple[str, int, int]:
    """Split `"B/16s12"` into preset, patch and stride in pixels (the stride defaults to the patch).

    Raises:
        ValueError: the text has another form or names no preset.
    """
    found = _VARIANT.match(variant)
    if not found:
        raise ValueError(
            f'{variant!r} is not a variant: write preset/patch, such as "B/16", or "B/16s12"'
        )
    if found[1] not in PRESETS:
        raise ValueError(f"no preset {found[1]!r}: {nearest(found[1], PRESETS)}")
    patch = int(found[2])
    return found[1], patch, int(found[3] or patch)
