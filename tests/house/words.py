"""Words that must not stand in any file of the project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# Written in pieces so that this file does not offend itself. A home folder of `me` is nobody's: examples use it.
UNFINISHED = "|".join(["TO" + "DO", "FIX" + "ME", "HA" + "CK", "X" + "XX"])
MACHINES = "|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + r"me/(?!me\b)\w", "/Us" + r"ers/\w"])
_FORBIDDEN = re.compile(rf"\b(?:{UNFINISHED})\b|(?<![\w.])(?:{MACHINES})")
_TEXT = {".py", ".pyi", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".env", ".cpu", ".sh", ""}


def forbidden_words(root: Path, files: Iterable[Path]) -> Iterator[str]:
    """`file:line: word` for every unfinished note and every path of somebody's machine."""
    for file in files:
        if file.suffix not in _TEXT:
            continue
        for number, line in enumerate((root / file).read_text(encoding="utf-8").splitlines(), 1):
            for found in _FORBIDDEN.finditer(line):
                yield f"{file}:{number}: {found[0]}"
