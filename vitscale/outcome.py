"""How an attempt of a run ended, as ranks tell each other and whoever started them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitscale.durable import write_text_atomically
from vitscale.errors import VitscaleError


def reply(
    folder: Path, status: str, exit_code: int, message: str, step: int | None = None
) -> dict[str, Any]:
    """What a worker and a submission answer; `status` is finished, stopped or failed."""
    return {
        "status": status,
        "exit_code": exit_code,
        "message": message,
        "step": step,
        "folder": str(folder),
    }


def leave_word(folder: Path, rank: int, error: VitscaleError, submission: str = "") -> None:
    """Write down why this rank ends for good, so that nobody of its submission asks for a retry."""
    record = {"rank": rank, "exit_code": error.exit_code, "message": str(error)}
    record |= {"submission": submission}
    write_text_atomically(folder / f"fatal-{rank:05d}.json", json.dumps(record))


def last_word(folder: Path, since: float, submission: str = "") -> dict[str, Any] | None:
    """What a rank of this submission wrote after `since` (Unix time), with its `time`; None if nothing."""
    for path in sorted(folder.glob("fatal-*.json")):
        written = path.stat().st_mtime
        if written < since:
            continue
        word = json.loads(path.read_text(encoding="utf-8"))
        if word.get("submission", "") == submission:
            return {**word, "time": written}
    return None
