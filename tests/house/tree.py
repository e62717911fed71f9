"""The files of the project, and its Python modules as parsed trees."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"vitscale": "vitscale", "launch/vitscale_launch": "vitscale_launch"}


@dataclass(frozen=True)
class Module:
    """One Python file: its dotted name where it belongs to a package, else its path."""

    name: str
    path: Path
    where: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))


def package_modules(root: Path = ROOT) -> list[Module]:
    """Every module of vitscale and vitscale_launch."""
    return [
        module
        for folder, name in PACKAGES.items()
        for module in _modules(root, root / folder, name)
    ]


def _modules(root: Path, folder: Path, package: str) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield Module(name, path, str(path.relative_to(root)))


def python_files(root: Path = ROOT) -> list[Module]:
    """Every Python file of the project, tests and benches too."""
    return [
        Module(str(path), root / path, str(path)) for path in files(root) if path.suffix == ".py"
    ]


def files(root: Path = ROOT) -> list[Path]:
    """Files that git tracks or would track, relative to the root; without git, all files."""
    if not (root / ".git").exists():
        return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return sorted(path for path in paths if (root / path).is_file())
