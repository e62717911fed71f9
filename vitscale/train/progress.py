"""How far a run is; never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """Finished optimizer steps of `total_steps`, and samples consumed by them over the whole job."""

    total_steps: int
    step: int = 0
    images: int = 0

    @property
    def done(self) -> bool:
        return self.step >= self.total_steps

    def after(self, images: int) -> Progress:
        """One more step that consumed `images` samples."""
        return replace(self, step=self.step + 1, images=self.images + images)

    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps, and at the end, happens now."""
        return every is not None and (self.step % every == 0 or self.done)
