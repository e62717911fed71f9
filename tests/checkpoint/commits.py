"""A commit that is waited for, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitscale.checkpoint.commit import Part, Terms, Writing, make_aside
from vitscale.checkpoint.layout import step_folder
from vitscale.checkpoint.snapshot import Snapshot
from vitscale.engine.collectives import Ranks


def commit(
    checkpoints: Path,
    facts: dict[str, Any],
    write: Callable[[Snapshot], list[Any]],
    ranks: Ranks,
    *,
    expected_bytes: int = 1,
    timeout_s: float = 60.0,
) -> Path:
    """Commit what `write` saves and says where it lies; on all ranks together."""
    aside = ranks.first(lambda: make_aside(checkpoints, facts["step"], expected_bytes))
    if aside is not None:
        snapshot = Snapshot()
        snapshot.begin(aside)
        stored = write(snapshot)
        terms = Terms(checkpoints, facts, timeout_s)
        part = Part(snapshot.finish(), stored)
        writing = Writing(aside, terms, part, ranks.place, lambda folder, seconds: None)
        writing.run()
        errors = ranks.gather(writing.error)
        if errors[0] is not None:
            raise errors[0]
    return step_folder(checkpoints, facts["step"])
