"""A ladder of a scaling study: sizes of the model and lengths of training, every pair of them a rung."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from vitscale.config.base import DurationField, Section, plain_names
from vitscale.config.load import all_at_once, named_file, read_toml, sentences
from vitscale.units import Duration

FOLDER = Path("configs/scaling")
LEAST_POINTS = 6
"""A law of four parameters through fewer points says nothing of its own error."""

Number = Annotated[int, Field(ge=1)] | None


class Size(Section):
    """One size of the model, a table `[size.NAME]`; what is left out stays as the recipe has it."""

    variant: str | None = None
    """A preset such as S/16."""

    width: Number = None
    """As `model.width` of a recipe, and so the three that follow."""

    depth: Number = None
    mlp: Number = None
    heads: Number = None

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Peak rate of this size; a study of sizes at one rate is partly a study of that rate."""

    @property
    def keys(self) -> dict[str, object]:
        """The keys of a recipe that it sets."""
        given = self.model_dump(exclude_none=True)
        return {("optim.lr" if name == "lr" else f"model.{name}"): v for name, v in given.items()}


class Ladder(Section):
    """Sizes and budgets; a file of `configs/scaling/`."""

    budgets: Annotated[tuple[DurationField, ...], Field(min_length=1, strict=False)]
    """Lengths of training, in images, epochs or steps; each is a run of its own with its own schedule."""

    size: Annotated[dict[str, Size], Field(min_length=1)]

    @field_validator("budgets")
    @classmethod
    def _countable(cls, budgets: tuple[Duration, ...]) -> tuple[Duration, ...]:
        for budget in budgets:
            if budget.is_time or budget.unit == "%":
                raise ValueError(f'"{budget}": count a budget in images, epochs or steps')
        return budgets

    @field_validator("size")
    @classmethod
    def _plain_names(cls, size: dict[str, Size]) -> dict[str, Size]:
        plain_names(size, "a size")
        return size


@dataclass(frozen=True)
class Step:
    """A rung before it is put on a recipe: what it is called, and the keys that it sets."""

    name: str
    size: str
    keys: dict[str, object]


@dataclass(frozen=True)
class LoadedLadder:
    """A ladder and what it is called."""

    name: str
    ladder: Ladder

    @property
    def steps(self) -> list[Step]:
        """Every size with every budget."""
        return [
            Step(
                f"{name}-{str(budget).replace(' ', '-')}",
                name,
                {**size.keys, "train.duration": str(budget)},
            )
            for name, size in self.ladder.size.items()
            for budget in self.ladder.budgets
        ]


def load_ladder(name: str) -> LoadedLadder:
    """Read the ladder called `name` in `configs/scaling/`, or the file `name`.

    Raises:
        ConfigError: no such ladder, keys that are unknown or impossible, or too few rungs; all are listed.
    """
    path = named_file(name, FOLDER, "ladder")
    try:
        ladder = Ladder.model_validate_json(json.dumps(read_toml(path), default=str))
    except ValidationError as error:
        raise all_at_once(sentences(error, {}, Ladder), f"ladder {path}") from None
    if problems := [f"{key}: {text}" for key, text in _problems(ladder)]:
        raise all_at_once(problems, f"ladder {path}")
    return LoadedLadder(path.stem, ladder)


def _problems(ladder: Ladder) -> Iterator[tuple[str, str]]:
    if len(set(map(str, ladder.budgets))) < len(ladder.budgets):
        yield "budgets", "the same length stands there twice"
    names = list(ladder.size)
    for number, name in enumerate(names):
        twins = [other for other in names[:number] if ladder.size[other] == ladder.size[name]]
        if twins:
            yield f"size.{name}", f"is size.{twins[0]} once more: remove one of them"
    rungs = len(ladder.budgets) * len(ladder.size)
    if rungs < LEAST_POINTS:
        yield (
            "budgets",
            f"{rungs} rungs cannot bear a law of four parameters: take at least {LEAST_POINTS}",
        )
