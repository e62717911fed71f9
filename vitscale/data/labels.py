"""Reads the labels of a sample from the files beside its image: any number of them, as numbers or names.

A sample without labels is allowed: training masks it. A label file that is there but cannot be understood is an error,
since labels that go missing unnoticed cost more than a run that does not start.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from vitscale.data.index import LONGEST

JSON_KEY = "label"
_SHOWN = 40
_BETWEEN = re.compile(rb"\s*,\s*|\s+")


@dataclass(frozen=True)
class LabelRule:
    """Where labels are written: in `KEY.cls`, or in the field `json_key` of `KEY.json`.

    Without `json_key`, `.cls` is taken where it stands, otherwise the field "label" of `.json`; a
    `.json` without that field then says nothing about labels.
    """

    json_key: str | None = None
    """A field, or a path of fields with dots between."""
    classes: tuple[str, ...] | None = None
    """Class names by label: makes names in `.json` readable, and labels beyond them an error."""

    @property
    def extensions(self) -> tuple[str, ...]:
        return ("json",) if self.json_key else ("cls", "json")

    @property
    def digest(self) -> int:
        """XXH3-64 that differs where two rules could read the same files differently."""
        return xxhash.xxh3_64_intdigest(json.dumps([self.json_key, self.classes]).encode())

    @functools.cached_property
    def _label_of(self) -> dict[str, int]:
        """Labels by name; names that stand for two classes are left out."""
        names = self.classes or ()
        times = Counter(names)
        return {name: label for label, name in enumerate(names) if times[name] == 1}

    def read(self, files: Mapping[str, bytes]) -> tuple[int, ...]:
        """The labels in the first of `files` that the rule knows: sorted, each once; none when there is none.

        Raises:
            ValueError: the file holds something else than labels; the message says what.
        """
        if "cls" in files and not self.json_key:
            labels = _whole_numbers(files["cls"])
        elif "json" in files:
            labels = self._of_json(files["json"])
        else:
            return ()
        for label in labels:
            self._check(label)
        return labels if len(labels) < 2 else tuple(sorted(set(labels)))

    def _of_json(self, text: bytes) -> tuple[int, ...]:
        key = self.json_key or JSON_KEY
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its .json is damaged: {str(error)[:80]}") from error
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return ()
        values = value if isinstance(value, list) else [value]
        return tuple(self._label(one, key) for one in values)

    def _label(self, value: Any, key: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value in self._label_of:
            return self._label_of[value]
        shown = f'its .json has "{key}": {str(value)[:_SHOWN]!r}'
        if not isinstance(value, str):
            raise ValueError(f"{shown}, not a whole number or a class name")
        if self.classes is None:
            raise ValueError(f"{shown}, a name, and no class names were given (--classes)")
        if value in self.classes:
            raise ValueError(f"{shown}, which is the name of two classes")
        raise ValueError(f"{shown}, which is none of the {len(self.classes)} class names")

    def _check(self, label: int) -> None:
        if not 0 <= label <= LONGEST:
            raise ValueError(f"its label is {_short(label)}; labels run from 0 to {LONGEST}")
        if self.classes is not None and label >= len(self.classes):
            raise ValueError(
                f"label {label} has no class name; {len(self.classes)} names were given"
            )


ANY_LABELS = LabelRule()
"""Wherever labels stand, without class names."""


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 128 else "a number of very many digits"


def _whole_numbers(text: bytes) -> tuple[int, ...]:
    """Whole numbers in ASCII between white space or commas; at least one."""
    stripped = text.strip()
    if stripped.isdigit() and len(stripped) < 20:
        return (int(stripped),)
    parts = _BETWEEN.split(stripped)
    if not all(part.isdigit() and len(part) < 20 for part in parts):
        raise ValueError(f"its .cls holds {stripped[:_SHOWN]!r}, not whole numbers")
    return tuple(int(part) for part in parts)
