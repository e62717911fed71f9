"""The `[health]` table: how a rank that hangs is noticed."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from vitscale.config.base import Section


class HealthConfig(Section):
    """When a rank counts as hung."""

    hang_s: Annotated[int, Field(ge=1)] | Literal["off"] = 300
    """Seconds without progress after which a rank writes its stacks and ends, to be started again; five times as
    many in the first step, saves and evaluations. Longer than any step; "off" waits for ever."""

    @property
    def limit_s(self) -> float:
        """`hang_s` as a number; infinite where it is off."""
        return math.inf if self.hang_s == "off" else float(self.hang_s)
