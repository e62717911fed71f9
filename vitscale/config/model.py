"""The `[model]` table: a variant by name, every number of it overridable, and the shape it stands for."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from vitscale.config.base import Section
from vitscale.errors import ConfigError, nearest

# width, depth, MLP width, heads. Ti to e: big_vision `models/vit.py:decode_variant`; So400m: "Getting ViT in
# Shape" (arXiv 2305.13035); g, G: "Scaling Vision Transformers" (arXiv 2106.04560), table 2.
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
}
_VARIANT = re.compile(r"^([A-Za-z0-9-]+?)/(\d+)(?:s(\d+))?$")

Positions = Literal["learned", "none"]
Pooling = Literal["cls", "gap"]


@dataclass(frozen=True)
class Shape:
    """Every number that decides a ViT's parameters and its forward pass. Pixels for image, patch, stride."""

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
    representation: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    head_bias: float = 0.0

    def __post_init__(self) -> None:
        for problem in _problems_of(self):
            raise ConfigError(problem[0], where="model", given=problem[1], do=problem[2])

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along height and width."""
        height, width = self.image
        return (grid_of(height, self.patch, self.stride), grid_of(width, self.patch, self.stride))

    @property
    def tokens(self) -> int:
        """Tokens the encoder sees: patches, and the CLS token where there is one."""
        return self.grid[0] * self.grid[1] + (self.pooling == "cls")

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


def _problems_of(shape: Shape):
    if shape.width % shape.heads:
        yield (
            "width must be a multiple of heads",
            f"width {shape.width}, heads {shape.heads}",
            "Change one of them.",
        )
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
    """Position encodings: learned 1-D as in the paper, or none (its appendix D.4 ablation)."""

    pooling: Pooling = "cls"
    """What the head reads: the CLS token, or the mean over patch tokens (gap; then there is no CLS token)."""

    representation: bool = False
    """Add the paper's pre-training head: a hidden tanh layer of the token width before the classifier."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout after the position encodings and every dense layer except the q, k, v projection (paper, B.1)."""

    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block; earlier blocks rise linearly from 0 (arXiv 1603.09382)."""

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
        return Shape(
            width=self.width or width,
            depth=self.depth or depth,
            mlp=self.mlp or mlp,
            heads=self.heads or heads,
            patch=patch,
            stride=stride,
            image=(size, size) if isinstance(size, int) else size,
            classes=classes,
            positions=self.positions,
            pooling=self.pooling,
            representation=self.representation,
            dropout=self.dropout,
            drop_path=self.drop_path,
            head_bias=self.head_bias,
        )


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
