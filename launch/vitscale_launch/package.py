"""What a job takes along to a cluster: the two packages as they lie here, and from which commit they are."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import vitscale
from vitscale.errors import ConfigError
from vitscale.units import human_bytes

_MEGABYTE = 10**6
_SHOWN = 5


@dataclass(frozen=True)
class Package:
    """The folders `vitscale` and `vitscale_launch`, and nothing else."""

    folders: tuple[Path, ...]
    version: str
    commit: str | None
    """The git commit they were taken from; None outside a git checkout."""

    changed: tuple[str, ...]
    """Files in them that differ from that commit, or are new."""

    @cached_property
    def files(self) -> dict[str, Path]:
        """Names in the package to files here; compiled modules are among them, byte code is not."""
        return {
            str(path.relative_to(folder.parent)): path
            for folder in self.folders
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }

    @cached_property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    @cached_property
    def digest(self) -> str:
        """Changes with any name or byte; 16 hex digits of a SHA-256."""
        whole = hashlib.sha256()
        for name, path in self.files.items():
            whole.update(f"{name}\0{path.stat().st_size}\0".encode())
            whole.update(path.read_bytes())
        return whole.hexdigest()[:16]

    @property
    def record(self) -> dict[str, Any]:
        """What is written down about it with the job."""
        return {
            "version": self.version,
            "commit": self.commit,
            "changed": list(self.changed),
            "digest": self.digest,
        }

    def insist(self, *, allow_dirty: bool, limit_mb: int) -> None:
        """Pass where it may be shipped.

        Raises:
            ConfigError: files differ from the commit, or it is larger than `limit_mb`.
        """
        if self.changed and not allow_dirty:
            more = f" and {len(self.changed) - _SHOWN} more" if len(self.changed) > _SHOWN else ""
            raise ConfigError(
                f"the code differs from its commit, so nobody could tell later what ran: "
                f"{', '.join(self.changed[:_SHOWN])}{more}",
                where=str(self.folders[0].parent),
                do="Commit it, or submit with --allow-dirty.",
            )
        if self.bytes > limit_mb * _MEGABYTE:
            name, largest = max(self.files.items(), key=lambda item: item[1].stat().st_size)
            raise ConfigError(
                f"the package has {human_bytes(self.bytes)}, the most of it {name} "
                f"with {human_bytes(largest.stat().st_size)}",
                where="cluster.package_mb",
                given=limit_mb,
                do="Remove what does not belong there, or allow more.",
            )

    def copy_to(self, folder: Path) -> None:
        """Write the files below `folder`."""
        for name, path in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def package_here() -> Package:
    """The package this process runs from."""
    folders = (Path(vitscale.__file__).parent, Path(__file__).parent)
    return package_of(folders, vitscale.__version__)


def package_of(folders: tuple[Path, ...], version: str) -> Package:
    """The package in `folders`, with what git says of them."""
    commit = next(iter(_git(folders[0], "rev-parse", "HEAD")), None)
    changed = sorted({name for folder in folders for name in _changes(folder)}) if commit else ()
    return Package(folders, version, commit, tuple(changed))


def _changes(folder: Path) -> Iterator[str]:
    for line in _git(folder, "status", "--porcelain", "--untracked-files=all", "--", "."):
        yield line[3:]


def _git(folder: Path, *words: str) -> list[str]:
    """The lines git prints; none where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
