"""Tables of names, read in both directions: one rule says what a tensor of ours is called elsewhere.

`{n}` stands for the number of a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vitscale.weights.forms import SAME, STACKED, Form


@dataclass(frozen=True)
class Rule:
    """One tensor of ours and the tensors it is made of elsewhere.

    Of several rules for one tensor of ours the first that finds its names reads, and the first that writes, writes.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = SAME
    may_lack: frozenset[str] = frozenset()
    """Those of `theirs` that may be absent while others are there; they count as zero."""
    writes: bool = True

    def at(self, number: int) -> Rule:
        """The rule of one block."""
        names = tuple(name.format(n=number) for name in self.theirs)
        lack = frozenset(name.format(n=number) for name in self.may_lack)
        return Rule(self.ours.format(n=number), names, self.form, lack, self.writes)


def same(ours: str, *theirs: str, form: Form = SAME) -> Iterator[Rule]:
    """Rules for weight and bias; the first spelling is written, the others are only read."""
    for index, name in enumerate(theirs):
        for kind in ("weight", "bias"):
            yield Rule(f"{ours}.{kind}", (f"{name}.{kind}",), form, writes=index == 0)


def stacked(ours: str, *theirs: str, may_lack: str = "", writes: bool = True) -> Iterator[Rule]:
    """Rules for weight and bias of layers that are one in ours; the bias of `may_lack` may be absent."""
    for kind in ("weight", "bias"):
        names = tuple(f"{name}.{kind}" for name in theirs)
        lack = frozenset({f"{may_lack}.{kind}"} if may_lack and kind == "bias" else ())
        yield Rule(f"{ours}.{kind}", names, STACKED, lack, writes)


@dataclass
class Reading:
    """What a table made of a source."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


def depth_of(rules: Iterable[Rule], names: Iterable[str]) -> int:
    """Blocks that a source has, by the names of the table."""
    texts = {re.escape(name) for rule in rules for name in rule.theirs if "{n}" in name}
    pattern = re.compile("|".join(text.replace(r"\{n\}", r"(\d+)") for text in sorted(texts)))
    found = (pattern.fullmatch(name) for name in names)
    numbers = [int(group) for one in found if one for group in one.groups() if group is not None]
    return 1 + max(numbers, default=-1)


def for_depth(rules: Iterable[Rule], depth: int) -> Iterator[Rule]:
    """Every rule of a model of `depth` blocks."""
    for rule in rules:
        if "{n}" in rule.ours:
            yield from (rule.at(number) for number in range(depth))
        else:
            yield rule


def read(rules: Iterable[Rule], tensors: Mapping[str, Tensor]) -> Reading:
    """Our tensors of those of a source; what a rule found in part only is `missing`."""
    reading = Reading()
    rules = list(rules)
    for rule in for_depth(rules, depth_of(rules, tensors)):
        found = [name for name in rule.theirs if name in tensors]
        if not set(found) - rule.may_lack or rule.ours in reading.tensors:
            continue
        lacking = [name for name in rule.theirs if name not in tensors.keys() | rule.may_lack]
        reading.used |= set(found)
        reading.missing += lacking
        if not lacking:
            parts = [tensors.get(name) for name in rule.theirs]
            reading.tensors[rule.ours] = rule.form.read(parts)
    return reading


def write(
    rules: Iterable[Rule], tensors: Mapping[str, Tensor], depth: int, heads: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors of ours, and the names of ours for which the table has no word."""
    written: dict[str, Tensor] = {}
    done: set[str] = set()
    for rule in for_depth(rules, depth):
        if rule.writes and rule.ours in tensors and rule.ours not in done:
            done.add(rule.ours)
            parts = rule.form.write(tensors[rule.ours], len(rule.theirs), heads)
            written |= dict(zip(rule.theirs, parts, strict=False))
    return written, sorted(tensors.keys() - done)


def names_of(rules: Iterable[Rule], ours: str, depth: int) -> str:
    """What a tensor of ours is called in a table, as it is written there."""
    for rule in for_depth(rules, depth):
        if rule.ours == ours:
            return " + ".join(rule.theirs)
    return ours
