"""What a checkpoint is on disk: names, the manifest, and whether a folder is a checkpoint at all.

A commit is `checkpoints/step-00001000/` with a `MANIFEST.json` that lists every file with size and SHA-256 and carries
the SHA-256 of itself. A folder without a manifest that verifies does not exist for any reader. Never imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 2
MANIFEST = "MANIFEST.json"
STATE = "state.json"
CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"^step-(\d{8,})$")


@dataclass(frozen=True)
class FileRecord:
    """One file of a commit, `name` relative to its folder."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a commit holds; `facts` are the run's (step, images, world, engine, shape, data, versions)."""

    facts: dict[str, Any]
    files: tuple[FileRecord, ...]

    @property
    def step(self) -> int:
        return self.facts["step"]

    @property
    def world(self) -> int:
        return self.facts["world"]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def body(self) -> dict[str, Any]:
        files = [asdict(file) for file in self.files]
        return {"format": FORMAT, "facts": self.facts, "files": files}

    @property
    def digest(self) -> str:
        """SHA-256 of what the manifest says, and so of every byte of the commit."""
        return _digest(self.body)

    def to_json(self) -> str:
        record = {"sha256": self.digest, "body": self.body}
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            ValueError: not a manifest, another format, or its own hash does not match.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or "body" not in record:
            raise ValueError("not a manifest")
        body = record["body"]
        if _digest(body) != record.get("sha256"):
            raise ValueError("the manifest does not match its own hash")
        if body["format"] != FORMAT:
            raise ValueError(f"manifest format {body['format']}, this vitscale reads {FORMAT}")
        files = tuple(FileRecord(**file) for file in body["files"])
        return cls(body["facts"], files)


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the commit of `step` lies; eight digits, so that names sort as numbers do."""
    return checkpoints / f"step-{step:08d}"


def step_folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything named like a commit, newest first; none of it verified."""
    if not checkpoints.is_dir():
        return []
    found = [(_STEP.match(path.name), path) for path in checkpoints.iterdir() if path.is_dir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a commit.

    Raises:
        ValueError: the folder is no commit; the message says why.
    """
    try:
        return Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("it has no MANIFEST.json, so it was never committed") from None
    except (OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"its manifest cannot be read: {error!r}") from error


def damage(folder: Path, files: Iterable[FileRecord], *, deep: bool = True) -> list[str]:
    """What is wrong with these files, a sentence each; `deep` reads and hashes every byte."""
    return [problem for file in files if (problem := _damage_of(folder / file.name, file, deep))]


def _damage_of(path: Path, file: FileRecord, deep: bool) -> str:
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"{file.name} has {size} bytes, the manifest says {file.size}"
        if deep and sha256_of(path) != file.sha256:
            return f"{file.name} does not match its SHA-256"
    except OSError as error:
        return f"{file.name} cannot be read: {error.strerror or error}"
    return ""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
