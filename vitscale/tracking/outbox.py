"""`mlflow_outbox.jsonl` and `mlflow.json`: what MLflow should be told, and how far it has been.

Both outlive the process, so an outage of MLflow, or a kill, loses nothing: `vitscale report sync` goes on here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vitscale.config.redaction import redact_table
from vitscale.durable import write_text_atomically
from vitscale.errors import ConfigError
from vitscale.tracking.journal import complete_lines

OUTBOX_NAME = "mlflow_outbox.jsonl"
STATE_NAME = "mlflow.json"
PARENT_TAG = "mlflow.parentRunId"
"""The tag by which MLflow shows a run below another."""


@dataclass
class ShipState:
    """The run in MLflow, and the byte offsets up to which journal and outbox have arrived there.

    `key` is a tag on the run in MLflow: it finds a run whose creation was answered too late. `parent_id` is the run of
    the group that this one was put below.
    """

    key: str
    name: str
    experiment: str
    tracking_uri: str
    artifact_root: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    group: str | None = None
    parent_id: str | None = None
    offset: int = 0
    outbox_offset: int = 0

    def save(self, folder: Path) -> None:
        """Replace `mlflow.json` in one step."""
        text = json.dumps(redact_table(asdict(self)), indent=2)
        write_text_atomically(folder / STATE_NAME, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> ShipState | None:
        """The saved state; None where MLflow was never wanted.

        Raises:
            ConfigError: the file is damaged.
        """
        path = folder / STATE_NAME
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{f.name: row[f.name] for f in fields(cls) if f.name in row})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"is not what vitscale wrote: {error}",
                where=str(path),
                do="Remove the file; the run is then sent to MLflow anew.",
            ) from error


class Outbox:
    """Appends messages: the start of an attempt, tags, an artifact, the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / OUTBOX_NAME

    def add(self, kind: str, **message: Any) -> None:
        line = json.dumps({"kind": kind, **redact_table(message)}, default=str)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)


def read_outbox(folder: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Messages from byte `offset` on, each with the offset behind it; torn lines are skipped."""
    for line, end in complete_lines(folder / OUTBOX_NAME, offset):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "kind" in message:
            yield message, end
