"""Which checkpoint a run goes on from: the newest that verifies on every rank, by rank 0's list."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from vitscale.checkpoint.layout import CHECKPOINTS, Manifest, damage, read_manifest, step_folders
from vitscale.checkpoint.retention import holding
from vitscale.errors import CheckpointError
from vitscale.place import Place

T = TypeVar("T")


class Agreement(Protocol):
    """How the ranks agree; `vitscale.engine.collectives.Ranks` is one."""

    place: Place

    def gather(self, value: T) -> list[T]: ...

    def first(self, compute: Callable[[], T]) -> T: ...


@dataclass(frozen=True)
class Found:
    """A verified commit."""

    folder: Path
    manifest: Manifest


def newest_good(checkpoints: Path, ranks: Agreement) -> tuple[Found | None, list[str]]:
    """The newest commit whose every file matches the manifest, the same on all ranks.

    Returns:
        It, or None where there is none; and a sentence for each newer one that was rejected.
    """
    rejected: list[str] = []
    for _, folder in ranks.first(lambda: step_folders(checkpoints)):
        problems = sorted({p for found in ranks.gather(_check(folder, ranks)) for p in found})
        if not problems:
            return Found(folder, read_manifest(folder)), rejected
        rejected.append(f"{folder.name}: {'; '.join(problems)}")
    return None, rejected


def _check(folder: Path, ranks: Agreement) -> list[str]:
    """Problems of this rank's share of the files; together the ranks read every byte."""
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    return damage(folder, manifest.files[ranks.place.rank :: ranks.place.world])


@contextmanager
def found_commit(path: Path) -> Generator[Found]:
    """The commit at `path`, kept from being deleted while it is read.

    `path` is a step folder, or a run folder whose newest good commit is taken.

    Raises:
        CheckpointError: nothing there verifies; says what was tried.
    """
    if path.is_file():
        raise CheckpointError(
            "files of this kind are not read; a pickle could run code",
            where=str(path),
            do="Give a run folder, a step folder, or a file of `vitscale checkpoint export`.",
        )
    folders = [path] if not (path / CHECKPOINTS).is_dir() else []
    folders += [folder for _, folder in step_folders(path / CHECKPOINTS)]
    rejected: list[str] = []
    for folder in folders:
        with holding(folder):
            problems = problems_of(folder)
            if not problems:
                yield Found(folder, read_manifest(folder))
                return
        rejected.append(f"{folder.name}: {'; '.join(problems)}")
    raise CheckpointError(
        "no usable checkpoint" + "".join(f"\n  {line}" for line in rejected) + "\n",
        where=str(path),
        do="Give a run folder or one of its checkpoints/step-... folders.",
    )


def problems_of(folder: Path) -> list[str]:
    """What is wrong with a step folder, every byte read; nothing for a good commit."""
    try:
        return damage(folder, read_manifest(folder).files)
    except ValueError as error:
        return [str(error)]
