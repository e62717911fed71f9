"""What each key of a recipe means: its type, bounds, default and help text, from the sections themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from vitscale.config.load import section_class
from vitscale.config.run import RunConfig
from vitscale.config.source import Source
from vitscale.errors import ConfigError, nearest
from vitscale.units import Duration

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """One key of a recipe, ready to be printed."""

    name: str
    kind: str
    bounds: str
    default: str
    help: str

    @property
    def section(self) -> str:
        """The table the key stands in."""
        return self.name.partition(".")[0]


def explain(name: str | None = None) -> list[Key]:
    """The key `name`, all keys of the section `name`, or every key there is.

    Raises:
        ConfigError: no such section or key; names the nearest.
    """
    keys = [key for section in sections() for key in _keys_of(section)]
    if name is None:
        return keys
    found = [key for key in keys if key.name == name or key.name.startswith(f"{name}.")]
    if found:
        return found
    section = name.partition(".")[0]
    inside = [key.name for key in keys if key.name.startswith(f"{section}.")]
    known = inside if "." in name and inside else [*sections(), *(key.name for key in keys)]
    hint = nearest(name, known)
    raise ConfigError("there is no such key", where=name, do=f"{hint[0].upper()}{hint[1:]}")


def sections() -> list[str]:
    """The tables of a recipe."""
    return list(RunConfig.model_fields)


def summary_of(section: str) -> str:
    """The first line of a section's docstring."""
    return (section_class(RunConfig, section).__doc__ or "").strip().splitlines()[0]


def _keys_of(section: str) -> list[Key]:
    model = section_class(RunConfig, section)
    return [_key(f"{section}.{name}", field) for name, field in model.model_fields.items()]


def _key(name: str, field: FieldInfo) -> Key:
    help_text = " ".join((field.description or "").split())
    return Key(name, _kind(field.annotation), _bounds(field), _default(field), help_text)


def _kind(annotation: Any) -> str:
    """A type as a reader of recipes would say it."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if annotation is Duration:
        return "duration"
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Literal:
        return " | ".join(_shown(value) for value in get_args(annotation))
    if get_origin(annotation) is tuple and Ellipsis in get_args(annotation):
        return f"list of {_kind(get_args(annotation)[0])}"
    if get_origin(annotation) is tuple:
        return "[" + ", ".join(_kind(part) for part in get_args(annotation)) + "]"
    if arguments := get_args(annotation):
        return " | ".join(_kind(part) for part in arguments)
    if annotation is Source:
        return "text or table"
    names = {str: "text", int: "whole number", float: "number", bool: "true | false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(field: FieldInfo) -> str:
    """`>= 0, < 1` and the like."""
    found: list[str] = []
    for rule in (*field.metadata, *_rules_of_choices(field.annotation)):
        found += [f"{sign} {getattr(rule, n)}" for n, sign in _BOUNDS.items() if hasattr(rule, n)]
        if pattern := getattr(rule, "pattern", None):
            found.append(f"matches {pattern}")
    return ", ".join(found)


def _rules_of_choices(annotation: Any) -> Iterator[Any]:
    """Bounds of the members of a union, such as those of the number in `number | "off"`."""
    for choice in get_args(annotation):
        for extra in getattr(choice, "__metadata__", ()):
            yield from getattr(extra, "metadata", ())


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else _shown(field.get_default())


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Duration):
        return f'"{value}"'
    return str(value).replace("(", "[").replace(")", "]")
