"""Which samples of which shard set a run reads: `"data/i21k[51200:]"`, or a table with filters and a weight."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from vitscale.config.base import Section

_PART = re.compile(r"(?P<shards>.+)\[(?P<begin>[^\[\]:]*):(?P<end>[^\[\]]*)\]", re.DOTALL)
_EDGE = re.compile(r"\s*(?:(?P<percent>\d+(?:\.\d+)?)\s*%|(?P<count>-?\d+))?\s*")


@dataclass(frozen=True)
class Edge:
    """Where a part begins or ends: a count of samples (from the end if negative), or a share in percent."""

    count: int | None = None
    percent: float | None = None

    def of(self, samples: int) -> int:
        """The place in a set of `samples`, within 0 and `samples`; shares are rounded down."""
        if self.percent is not None:
            return min(samples, int(samples * self.percent / 100))
        count = self.count or 0
        return min(samples, count if count >= 0 else max(0, samples + count))


@dataclass(frozen=True)
class Part:
    """A stretch of a set in the order of its sample ids, as Python slices: `[51200:]`, `[:99%]`, `[-500:]`."""

    begin: Edge | None
    end: Edge | None

    def of(self, samples: int) -> tuple[int, int]:
        """First sample and the one behind the last, of a set of `samples`; equal if the part is empty."""
        begin = self.begin.of(samples) if self.begin else 0
        end = self.end.of(samples) if self.end else samples
        return begin, max(begin, end)


def split_part(text: str) -> tuple[str, Part | None]:
    """`"data/i21k[51200:]"` as the place of the shards and the part; without brackets all of it.

    Raises:
        ValueError: brackets that hold no slice.
    """
    found = _PART.fullmatch(text)
    if found is None:
        return text, None
    return found["shards"], Part(_edge(found["begin"], text), _edge(found["end"], text))


def _edge(text: str, whole: str) -> Edge | None:
    found = _EDGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{whole!r}: a part is written [51200:], [:99%] or [1000:2000]")
    if found["percent"]:
        if float(found["percent"]) > 100:
            raise ValueError(f"{whole!r}: a share is at most 100 %")
        return Edge(percent=float(found["percent"]))
    return Edge(count=int(found["count"])) if found["count"] else None


class Source(Section):
    """Samples of one shard set. Filters apply in the order of this table; each must leave something."""

    shards: str = Field(min_length=1)
    """Folder or URL of the shards (it holds `manifest.json`), with a part of it in brackets if wanted."""

    weight: float = Field(default=1.0, gt=0)
    """Share in a mixture, relative to the other sources."""

    classes: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Keep only samples with one of these classes; they become the classes of the source, in this order."""

    ids: str | None = None
    """File of sample numbers to keep, one a line, counted in the whole set from 0."""

    keys: str | None = None
    """File of sample keys to keep, one a line."""

    without: str | None = None
    """File of sample keys to leave out, one a line."""

    @field_validator("shards")
    @classmethod
    def _has_a_readable_part(cls, text: str) -> str:
        split_part(text)
        return text

    @field_validator("classes")
    @classmethod
    def _names_classes_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ValueError("name at least one class, and each once")
        return names

    @property
    def place(self) -> str:
        """Folder or URL, without the part."""
        return split_part(self.shards)[0]

    @property
    def part(self) -> Part | None:
        return split_part(self.shards)[1]

    @property
    def is_filtered(self) -> bool:
        """Whether single samples are chosen, by class or by a list."""
        return self != Source(shards=self.shards, weight=self.weight)

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the set is read under its own label."""
        return self.part is None and not self.is_filtered

    @property
    def is_remote(self) -> bool:
        """Whether the shards come from a store by way of the cache; `file://` is a folder of this machine."""
        return is_url(self.shards) and not self.shards.startswith("file://")


def _listed(value: object) -> object:
    """A text or a table stands for a list of one."""
    if isinstance(value, list):
        return [_tabled(each) for each in cast("list[object]", value)]
    return [_tabled(cast("object", value))] if isinstance(value, str | dict) else value


def _tabled(value: object) -> object:
    return {"shards": value} if isinstance(value, str) else value


def _short(source: Source) -> str | dict[str, Any]:
    table = source.model_dump(mode="json", exclude_defaults=True)
    return source.shards if list(table) == ["shards"] else table


def _short_list(sources: tuple[Source, ...]) -> object:
    return _short(sources[0]) if len(sources) == 1 else [_short(source) for source in sources]


SourceField = Annotated[Source, BeforeValidator(_tabled), PlainSerializer(_short)]
SourcesField = Annotated[
    tuple[Source, ...],
    BeforeValidator(_listed),
    PlainSerializer(_short_list),
    Field(min_length=1, strict=False),
]


def absolute_paths(value: Any, absolute: Any) -> Any:
    """The same text, table or list with `absolute` applied to every path in it that is no URL."""
    if isinstance(value, list):
        return [absolute_paths(each, absolute) for each in cast("list[Any]", value)]
    if isinstance(value, str):
        return value if is_url(value) else absolute(value)
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    paths = ("shards", "ids", "keys", "without")
    return {
        key: absolute_paths(text, absolute) if key in paths and isinstance(text, str) else text
        for key, text in table.items()
    }


def is_url(text: str) -> bool:
    """Whether `text` names a store rather than a folder; `pipe:` commands count too."""
    return "://" in text or text.startswith("pipe:")
