"""What all sections of a recipe share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from vitscale.units import Duration


class Section(BaseModel):
    """One table of a recipe. Unknown keys are refused, values are never coerced or changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
    )


def _read_duration(value: object) -> Duration:
    if isinstance(value, Duration):
        return value
    if not isinstance(value, str):
        raise ValueError('a duration is text with a unit, such as "300 epochs" or "2000 steps"')
    return Duration.parse(value)


DurationField = Annotated[Duration, BeforeValidator(_read_duration), PlainSerializer(str)]
