"""Recipes hold only their differences, and say at their head what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitscale.config.load import read_toml, section_class
from vitscale.config.run import RunConfig
from vitscale.units import Duration

_HEAD_MUST_SAY = ("command", "expected", "hardware")


def recipes(configs: Path) -> list[Path]:
    """Every recipe that can be run: all but bases, cluster profiles, ladders and suites of transfer tasks."""
    others = ("_base", "cluster", "scaling", "transfer")
    return sorted(file for file in configs.rglob("*.toml") if file.parent.name not in others)


def bases(configs: Path) -> list[Path]:
    """Files that only stand below other recipes."""
    return sorted((configs / "_base").glob("*.toml"))


def redundant_keys(file: Path) -> list[str]:
    """Keys whose value is the base's, or the default where no base sets the key."""
    own = read_toml(file)
    inherited: dict[str, Any] = {}
    for base in own.pop("base", []):
        inherited |= _everything(file.parent / base)
    return [
        f"{key} = {value!r} is the {'base' if key in inherited else 'default'}'s already"
        for key, value in _flat(own)
        if _same(key, value, inherited)
    ]


def _everything(file: Path) -> dict[str, Any]:
    """All keys of a recipe, its bases' included."""
    own = read_toml(file)
    values: dict[str, Any] = {}
    for base in own.pop("base", []):
        values |= _everything(file.parent / base)
    return values | dict(_flat(own))


def _flat(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, keys in table.items():
        for name, value in keys.items():
            yield f"{section}.{name}", value


def _same(key: str, value: Any, inherited: dict[str, Any]) -> bool:
    if key in inherited:
        return inherited[key] == value
    section, name = key.split(".")
    field = section_class(RunConfig, section).model_fields[name]
    if field.is_required():
        return False
    default = field.get_default()
    if isinstance(default, Duration):
        return Duration.parse(value) == default
    return default == (tuple(value) if isinstance(value, list) else value)


def head_problems(file: Path, where: str) -> list[str]:
    """What the comment at the top of a recipe leaves out."""
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = "\n".join(lines[:first])
    missing = [f"says nothing of '{word}'" for word in _HEAD_MUST_SAY if word not in head.lower()]
    if where not in head:
        missing.append("gives no command with its own path")
    return missing
