"""How an image becomes the numbers a model was trained on; it travels with the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Channels = tuple[float, float, float]
HALF: Channels = (0.5, 0.5, 0.5)
"""As mean and as spread: pixels in [-1, 1], as big_vision and AugReg have it."""


@dataclass(frozen=True)
class Preprocessing:
    """Mean and spread of the pixels (red, green, blue; in units of the full range, 0 to 1), and how they were cut.

    Ours follows `mean` and `std` exactly. The rest says what others did with these weights: our images are cut to the
    central square and resized bilinearly with antialiasing.
    """

    mean: Channels = HALF
    std: Channels = HALF
    crop_share: float = 1.0
    """Side of the square that is seen, as a share of the resized image's shorter side."""
    interpolation: str = "bilinear"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any] | None) -> Preprocessing:
        """Read what `as_json` wrote; files older than this record were trained on [-1, 1]."""
        if record is None:
            return cls()
        values: dict[str, Any] = {**record}
        for name in ("mean", "std"):
            values[name] = tuple(record[name])
        return cls(**values)

    def fits(self, mean: Channels, std: Channels) -> bool:
        """Whether mean and spread are these, up to the sixth digit."""
        pairs = zip((*self.mean, *self.std), (*mean, *std), strict=True)
        return all(abs(own - other) < 1e-6 for own, other in pairs)


PLAIN = Preprocessing()
"""That of a recipe which says nothing about it."""
