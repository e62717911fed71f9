"""What a job on a cluster tells of itself: lines in its log that `vitscale jobs` reads and does not show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_MARK = "::vitscale "


def tell(event: str, **facts: Any) -> None:
    """Write one event into the log of the job this process is."""
    print(_MARK + json.dumps({"event": event, **facts}), flush=True)


def events_in(log: str) -> Iterator[dict[str, Any]]:
    """The events of a log, in order; a line that was cut off is left out."""
    for line in log.splitlines():
        if line.startswith(_MARK):
            try:
                yield json.loads(line.removeprefix(_MARK))
            except ValueError:
                continue


def is_event(line: str) -> bool:
    """Whether a line of a log is for programs and not for people."""
    return line.startswith(_MARK)


@dataclass
class Story:
    """What the events of one job come to."""

    checked: dict[str, Any] = field(default_factory=dict)
    """`from_step`, `nodes`, `resources` and `python`, once the checks on the cluster have passed."""

    refused: dict[str, Any] = field(default_factory=dict)
    """The error for which nothing was started: `what`, `where`, `given`, `do`, `type`, `exit_code`."""

    ended: dict[str, Any] = field(default_factory=dict)
    """The reply of the run, once it is over."""

    attempts: int = 0
    workers: int | None = None
    """Ranks of the newest attempt."""

    committed: int | None = None
    """The last step that was committed."""

    mlflow: str | None = None

    @property
    def restarts(self) -> int:
        return max(0, self.attempts - 1)


def story_of(events: Iterable[dict[str, Any]]) -> Story:
    """Read the events of a job in order."""
    story = Story()
    for event in events:
        kind = event.pop("event", None)
        if kind in ("checked", "refused", "ended"):
            setattr(story, kind, event)
        elif kind == "attempt":
            story.attempts += 1
            story.workers = event["workers"]
        elif kind == "commit":
            story.committed = event["step"]
        elif kind == "mlflow":
            story.mlflow = event["url"]
    return story
