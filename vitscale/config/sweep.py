"""A grid over a recipe: every combination of the values given for some keys is a run of its own, named after them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from vitscale.config.load import Recipe, load_recipe, section_class
from vitscale.config.run import RunConfig
from vitscale.errors import ConfigError, nearest

WHERE = "--sweep"
_LONGEST_NAME = 100  # of `run.name`
_LONGEST_VALUE = 24
_OPEN, _CLOSE = "[{", "]}"
# What all points share: the cluster, the folder they lie in and the place where they are grouped.
_SHARED = ("cluster.", "run.name", "run.home", "tracking.")


@dataclass(frozen=True)
class Axis:
    """One key of a recipe, and the values it takes in turn, as overrides spell them."""

    key: str
    values: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        return [f"{self.key}={value}" for value in self.values]


@dataclass(frozen=True)
class Point:
    """One run of a sweep: what it overrides, such as `optim.lr=1e-3`, and the recipe that comes of it."""

    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        return self.recipe.config.run.name


def sweep_points(path: str | Path, overrides: Sequence[str], sweep: Iterable[str]) -> list[Point]:
    """The runs of a sweep, the last key varying fastest; nothing is started.

    Args:
        path: the recipe.
        overrides: `section.key=value` texts that hold for all points.
        sweep: `key=value,value` texts, one a key.

    Raises:
        ConfigError: a key is unknown, shared by all points, given twice or overridden; a value is missing; a point is
            no valid recipe, occurs twice, or has the name of another.
    """
    axes = [_axis(text) for text in sweep]
    _insist_on_own_keys(axes, overrides)
    grid = list(itertools.product(*(axis.overrides for axis in axes)))
    keys = _short_names([axis.key for axis in axes])
    points = [Point(own, _named(loaded, keys)) for own, loaded in _loaded(path, overrides, grid)]
    _insist_on_difference(points)
    return points


def _axis(text: str) -> Axis:
    name, _, values = text.partition("=")
    key = _full_key(name.strip())
    found = tuple(_values_of(values, key))
    if not all(found):
        raise ConfigError(
            "a value is missing, so the grid is empty",
            where=WHERE,
            given=repr(text),
            do=f"Write {key}=VALUE,VALUE.",
        )
    for shared in _SHARED:
        if key == shared or (shared.endswith(".") and key.startswith(shared)):
            raise ConfigError(
                "all points of a sweep share it; names of runs and their group follow from the points",
                where=WHERE,
                given=key,
                do=f"Give one value for all, without {WHERE}, or submit twice.",
            )
    return Axis(key, found)


def _full_key(name: str) -> str:
    """`section.key`; a key that only one section has may stand alone, so `seed` is `run.seed`."""
    if "." in name:
        return name
    keys = [
        f"{section}.{key}"
        for section in RunConfig.model_fields
        for key in section_class(RunConfig, section).model_fields
    ]
    found = [key for key in keys if key.partition(".")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"several sections have a key '{name}'",
            where=WHERE,
            given=name,
            do=f"Write one of: {', '.join(found)}.",
        )
    hint = nearest(name, {key.partition(".")[2] for key in keys})
    raise ConfigError(
        f"unknown key '{name}'", where=WHERE, given=name, do=f"{hint[0].upper()}{hint[1:]}"
    )


def _values_of(text: str, key: str) -> Iterator[str]:
    """The parts of a text between commas that stand in no bracket, brace or quote."""
    part, inside, quote = "", 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        inside += 0 if quote else (sign in _OPEN) - (sign in _CLOSE)
        if sign == "," and not quote and not inside:
            yield part.strip()
            part = ""
        else:
            part += sign
    if quote or inside:
        raise ConfigError(
            f"{quote or 'a bracket'} is not closed",
            where=WHERE,
            given=repr(text),
            do=f'Lists stand in brackets, {key}=[1,2],[3,4], and text with a comma in quotes, "a,b".',
        )
    yield part.strip()


def _insist_on_own_keys(axes: Sequence[Axis], overrides: Iterable[str]) -> None:
    keys = [axis.key for axis in axes]
    given = {text.partition("=")[0].strip() for text in overrides}
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise ConfigError("the key is given twice", where=WHERE, given=key, do="Name it once.")
        if key in given:
            raise ConfigError(
                "the command also gives this key one value for all points",
                where=WHERE,
                given=key,
                do="Take it from the overrides or from the sweep.",
            )


def _loaded(
    path: str | Path, overrides: Sequence[str], grid: Sequence[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], Recipe]]:
    """Every point with its recipe; what is wrong with any of them comes as one error."""
    good: list[tuple[tuple[str, ...], Recipe]] = []
    bad: dict[str, list[str]] = {}
    for own in grid:
        try:
            good.append((own, load_recipe(path, [*overrides, *own])))
        except ConfigError as error:
            bad.setdefault(str(error).strip(), []).append(" ".join(own))
    if bad:
        count = sum(map(len, bad.values()))
        lines = [f"{_first(points)}: {text}" for text, points in bad.items()]
        raise ConfigError(
            f"{count} of {len(grid)} points cannot be run:\n  " + "\n  ".join(lines) + "\n",
            where=WHERE,
            do="Nothing was started.",
        )
    return iter(good)


def _first(points: Sequence[str]) -> str:
    more = f" and {len(points) - 1} more" if len(points) > 1 else ""
    return points[0] + more


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key to what stands for it in a name: its last part, or all of it where two end alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {
        key: _plain(end if ends.count(end) == 1 else key)
        for key, end in zip(keys, ends, strict=True)
    }


def _named(recipe: Recipe, keys: dict[str, str]) -> Recipe:
    """The recipe under a name made of the point, in the group of the sweep."""
    config = recipe.config
    parts = [f"{short}-{_spelled(_value(config, key))}" for key, short in keys.items()]
    name = "-".join([config.run.name, *parts])
    if len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"the name of a point has more than {_LONGEST_NAME} characters",
            where=WHERE,
            given=name,
            do="Choose a shorter run.name.",
        )
    group = config.tracking.group or config.run.name
    run = config.run.model_copy(update={"name": name})
    tracking = config.tracking.model_copy(update={"group": group})
    sources = recipe.sources | {"run.name": "sweep"}
    sources.setdefault("tracking.group", "sweep")
    return replace(
        recipe,
        config=config.model_copy(update={"run": run, "tracking": tracking}),
        sources=sources,
    )


def _value(config: RunConfig, key: str) -> Any:
    """What the checked config has under a key, as JSON."""
    found: Any = config.model_dump(mode="json")
    for name in key.split("."):
        found = found[name]
    return found


def _spelled(value: Any) -> str:
    """A value in letters, digits and dashes, which folders and Kubernetes take; long ones as a hash."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    text = value if isinstance(value, str) else json.dumps(value)
    plain = _plain(text.replace("%", " percent"))
    if plain and len(plain) <= _LONGEST_VALUE:
        return plain
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _number(value: float) -> str:
    """Without a dot: 0.001 as 1e-3, 0.95 as 95e-2, 2.0 as 2, 300.0 as 300."""
    if not math.isfinite(value):
        return _plain(str(value))
    sign = "minus-" if value < 0 else ""
    if value == int(value) and abs(value) < 1e15:
        return f"{sign}{abs(int(value))}"
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    return f"{sign}{''.join(map(str, digits))}e{exponent}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _insist_on_difference(points: Sequence[Point]) -> None:
    """No two points may be one run, and no two may share a folder."""
    configs: dict[str, Point] = {}
    names: dict[str, Point] = {}
    for point in points:
        table = point.recipe.config.model_dump(mode="json")
        table["run"].pop("name")
        same = configs.setdefault(json.dumps(table), point)
        if same is not point:
            raise ConfigError(
                f"two points are the same run: {' '.join(same.overrides)} and {' '.join(point.overrides)}",
                where=WHERE,
                do="Leave one of them out.",
            )
        twin = names.setdefault(point.name, point)
        if twin is not point:
            raise ConfigError(
                f"{' '.join(twin.overrides)} and {' '.join(point.overrides)} would share a folder",
                where=WHERE,
                given=point.name,
                do="Submit them under two names: run.name=NAME.",
            )
