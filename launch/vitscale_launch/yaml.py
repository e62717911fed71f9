"""YAML as far as a manifest needs it: tables, lists and plain values, in the order given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
# Words that YAML 1.1 reads as something else than text.
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def to_yaml(value: Mapping[str, Any]) -> str:
    """One document; ends with a newline."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in cast("Mapping[str, Any]", value).items():
            yield from _entry(f"{_scalar(key)}:", each, indent="  ")
    else:
        for each in value:
            yield from _entry("-", each, indent="  ")


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    """A key or a dash, and what belongs to it."""
    nested = isinstance(value, Mapping | Sequence) and not isinstance(value, str)
    if nested and value:
        lines = _lines(value)
        if head == "-":
            yield f"- {next(lines)}"
        else:
            yield head
        yield from (indent + line for line in lines)
    elif isinstance(value, str) and "\n" in value:
        yield f"{head} |"
        yield from (indent + line for line in value.rstrip("\n").split("\n"))
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
