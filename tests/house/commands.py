"""Commands that the documentation tells a reader to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from vitscale.cli.main import command_parser, front_parser, parse
from vitscale.errors import ConfigError

_BLOCK = re.compile(r"^```(?:bash|console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_STARTS = ("vitscale ", "make ")
_ENDS = {"|", ">", ">>", "&", "&&", ";", "2>&1"}


def commands_in(text: str) -> Iterator[str]:
    """Lines of bash and console blocks that call vitscale or make, prompts and comments taken off."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if f"{line} ".startswith(_STARTS):
                yield line


def problem_of(command: str, root: Path) -> str:
    """Why a command line could not be run from the root of the project, or nothing."""
    words = []
    for word in shlex.split(command, comments=True):
        if word in _ENDS:
            break
        words.append(word)
    if words[0] == "make":
        targets = targets_of((root / "Makefile").read_text(encoding="utf-8"))
        strangers = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"no target {strangers[0]}" if strangers else ""
    return _problem_of_vitscale(words[1:], root)


def _problem_of_vitscale(words: list[str], root: Path) -> str:
    missing = [w for w in words if w.startswith("configs/") and not (root / w).exists()]
    if missing:
        return f"no file {missing[0]}"
    try:
        if not words or words[0].startswith("-"):
            parse(front_parser(), words)
        else:
            parse(command_parser(words[0]), words[1:])
    except ConfigError as error:
        return str(error)
    except SystemExit:  # --help and --version
        return ""
    return ""


def targets_of(makefile: str) -> set[str]:
    """Names that `make` takes."""
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
