"""The folders `attempts/NNNN/` of a run, one a start: who began it, how far its ranks are, how it ended.

The number of a folder is a fencing epoch: folders are made whole under the next free number by one rename that only
one process can win, so the newest attempt owns the run folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.durable import write_text_atomically

ATTEMPTS = "attempts"
STACKS = "stacks"
BEATS = "beats"


@dataclass(frozen=True)
class AttemptRecord:
    """What lies in one attempt's folder; read anew at each question."""

    number: int
    folder: Path

    @property
    def start(self) -> dict[str, Any]:
        """`submission`, `host`, `pid`, `born`, `job`, `world` and the committed `step` it began with."""
        return _read(self.folder / "start.json")

    @property
    def end(self) -> dict[str, Any]:
        """`status` (finished, stopped, preempted, resized, failed, died) and `message`; empty while it may be alive."""
        return _read(self.folder / "end.json")

    @property
    def failures(self) -> list[dict[str, Any]]:
        """`rank`, `step`, `phase`, `type`, `message` and `peer_lost` of each rank that raised something."""
        return [_read(path) for path in sorted(self.folder.glob("failure-rank-*.json"))]

    @property
    def beats(self) -> list[dict[str, Any]]:
        """`rank`, `step`, `phase` and `count` of the last beat of each rank."""
        return [
            beat for path in sorted((self.folder / BEATS).glob("rank-*")) if (beat := _read(path))
        ]

    @property
    def stacks(self) -> dict[int, Path]:
        """Stack dumps by rank; there are some where a rank hung."""
        files = (self.folder / STACKS).glob("rank-*.txt")
        return {int(path.stem[5:]): path for path in sorted(files) if path.stat().st_size}


def attempt_folder(run_folder: Path, number: int) -> Path:
    """`attempts/NNNN` of the run."""
    return run_folder / ATTEMPTS / f"{number:04d}"


def attempts_of(run_folder: Path, submission: str | None = None) -> list[AttemptRecord]:
    """All attempts of a run, or those of one submission, oldest first."""
    records = [
        AttemptRecord(n, attempt_folder(run_folder, n)) for n in sorted(_numbers(run_folder))
    ]
    return [r for r in records if submission is None or r.start.get("submission") == submission]


def newest_attempt(run_folder: Path) -> int:
    """The number of the newest attempt; 0 where there is none."""
    return max(_numbers(run_folder), default=0)


def new_attempt(run_folder: Path, number: int, files: Mapping[str, str]) -> bool:
    """Make the folder of attempt `number` with `files` (name to text); False if somebody else was faster."""
    aside = run_folder / ATTEMPTS / f".new-{uuid.uuid4().hex[:8]}"
    for name, text in files.items():
        path = aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    try:
        # Onto a folder that is not empty a rename fails, which makes it exclusive.
        os.rename(aside, attempt_folder(run_folder, number))
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if attempt_folder(run_folder, number).exists():
            return False
        raise
    return True


def note_end(run_folder: Path, number: int, status: str, message: str = "") -> None:
    """Say that attempt `number` is over; the first word stands."""
    path = attempt_folder(run_folder, number) / "end.json"
    if not path.exists():
        write_text_atomically(path, json.dumps({"status": status, "message": message}))


def note_failure(run_folder: Path, number: int, failure: Mapping[str, Any]) -> None:
    """Write down what a rank raised, for the attempts that follow."""
    path = attempt_folder(run_folder, number) / f"failure-rank-{failure['rank']:05d}.json"
    write_text_atomically(path, json.dumps(failure))


def committed_step(run_folder: Path) -> int:
    """The last step that was committed; 0 where none was."""
    return int(_read(run_folder / "committed.json").get("step", 0))


def restarts_of(run_folder: Path, submission: str) -> int:
    """How often the attempts of a submission were begun again."""
    return max(0, len(attempts_of(run_folder, submission)) - 1)


def this_process() -> dict[str, Any]:
    """`host`, `pid` and `born` (its start in the kernel's ticks), so that a pid used again is told apart."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether what `this_process` said of a process of this host is over; False where nobody can know."""
    if process.get("host") != socket.gethostname() or not Path("/proc/self/stat").exists():
        return False
    return _born(int(process["pid"])) != process.get("born")


def _born(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return "" if state in "ZX" else fields[18]


def _numbers(run_folder: Path) -> Iterator[int]:
    try:
        with os.scandir(run_folder / ATTEMPTS) as entries:
            yield from (int(entry.name) for entry in entries if entry.name.isdigit())
    except FileNotFoundError:
        return


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or none yet."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
