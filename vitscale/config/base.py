"""What all sections of a recipe share."""

from __future__ import annotations

from collections.abc import Iterable
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


def plain_names(names: Iterable[str], what: str) -> None:
    """Pass names that can stand in the names of files and folders.

    Args:
        names: given by the user, as keys of tables.
        what: they name, such as "a data set".

    Raises:
        ValueError: one has other characters than letters, digits, - and _.
    """
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{name!r}: {what} is named by letters, digits, - and _")


def _read_duration(value: object) -> Duration:
    if isinstance(value, Duration):
        return value
    if not isinstance(value, str):
        raise ValueError('a duration is text with a unit, such as "300 epochs" or "2000 steps"')
    return Duration.parse(value)


DurationField = Annotated[Duration, BeforeValidator(_read_duration), PlainSerializer(str)]
