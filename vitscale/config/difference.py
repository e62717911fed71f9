"""Two recipes side by side: every key in force, and where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.config.load import Recipe, load_recipe
from vitscale.config.run import RunConfig
from vitscale.config.saved import saved_recipe
from vitscale.errors import ConfigError


@dataclass(frozen=True)
class Difference:
    """A key on which two configs differ; None where a side has no such key or null."""

    key: str
    left: Any
    right: Any


def keys_in_force(config: RunConfig) -> dict[str, Any]:
    """`section.key` to its JSON value, defaults included; a section that is absent has no keys."""
    tables = config.model_dump(mode="json")
    return {
        f"{section}.{name}": value
        for section, table in tables.items()
        if table is not None
        for name, value in table.items()
    }


def differences(left: RunConfig, right: RunConfig) -> list[Difference]:
    """Keys with different values, in the order of the recipe's sections."""
    ours, theirs = keys_in_force(left), keys_in_force(right)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    pairs = [Difference(key, ours.get(key), theirs.get(key)) for key in keys]
    return [pair for pair in pairs if pair.left != pair.right]


def read_any(path: str | Path) -> Recipe:
    """A TOML recipe, a saved `config.json`, or a run folder that holds one.

    Raises:
        ConfigError: it is none of these, or does not validate.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
        if not file.is_file():
            raise ConfigError(
                "the folder holds no config.json",
                where=str(path),
                do="Name a run folder or a recipe.",
            )
    return saved_recipe(file) if file.suffix == ".json" else load_recipe(file)
