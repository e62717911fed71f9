"""The tracker of a run: journal, console and MLflow on rank 0, silence on all other ranks."""

from __future__ import annotations

import logging
import platform
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal, Protocol

from vitscale.config.redaction import redact_text
from vitscale.config.train import TrackingConfig
from vitscale.place import Place
from vitscale.tracking.console import Console
from vitscale.tracking.journal import Journal
from vitscale.tracking.outbox import Outbox, ShipState
from vitscale.tracking.system import SystemMeter
from vitscale.tracking.target import Target, target_of

Status = Literal["FINISHED", "KILLED", "FAILED"]
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run's numbers go. No call waits for a network."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def artifact(self, path: str | Path, folder: str = "") -> None: ...

    def tag(self, name: str, text: str) -> None: ...

    def rewound(self, text: str) -> None: ...

    def close(self, status: Status) -> None: ...


class SilentTracker:
    """Takes everything and keeps nothing: the tracker of ranks other than 0."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        pass

    def artifact(self, path: str | Path, folder: str = "") -> None:
        pass

    def tag(self, name: str, text: str) -> None:
        pass

    def rewound(self, text: str) -> None:
        pass

    def close(self, status: Status) -> None:
        pass


class JournalTracker:
    """Writes the journal; a shipper, where there is one, reads it and tells MLflow."""

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        console: Console | None,
        outbox: Outbox | None,
        shipper: Any,
    ) -> None:
        self._attempt = attempt
        self._journal = Journal(folder, attempt)
        self._system = SystemMeter(folder)
        self._console, self._outbox, self._shipper = console, outbox, shipper
        self._closed = False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append one record, which costs a file write; nothing where there are no values."""
        if not values:
            return
        self._journal.append({**values, **self._system.sample()}, step)
        if self._console:
            self._console.show(values, step)

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Queue a file or folder for MLflow; the file must still be there when it is sent."""
        if self._outbox:
            self._outbox.add("artifact", path=str(Path(path).absolute()), folder=folder)

    def tag(self, name: str, text: str) -> None:
        """Set a tag of the run in MLflow; the last text of a name counts."""
        if self._outbox:
            self._outbox.add("tags", tags={name: text})

    def rewound(self, text: str) -> None:
        """The steps that follow were logged before.

        The journal keeps both and counts the rewinds. MLflow, which forgets nothing, keeps the first value of a step,
        and a tag says so.
        """
        self._journal.rewinds += 1
        self.tag(f"vitscale.rewind.{self._attempt}.{self._journal.rewinds}", text)

    def close(self, status: Status) -> None:
        """Say how the run ended and give MLflow a bounded time to take the rest; later calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self._console:
            self._console.close()
        if self._outbox:
            self._outbox.add("status", status=status)
        if self._shipper:
            self._shipper.close()
        self._journal.close()


def make_tracker(
    config: TrackingConfig,
    *,
    folder: str | Path,
    name: str,
    params: Mapping[str, Any],
    place: Place,
    attempt: int,
    total_steps: int | None = None,
) -> Tracker:
    """Build the tracker of this rank.

    Args:
        config: the `[tracking]` table.
        folder: the run folder; its parent is the home that holds the MLflow store.
        name: the run's name in MLflow.
        params: the resolved config, nested or flat, logged as parameters.
        place: this rank.
        attempt: number of this start of the run, from 1.
        total_steps: with it, progress lines go to stderr.
    """
    if not place.is_first:
        return SilentTracker()
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(total_steps) if total_steps else None
    target = _usable(target_of(config.mlflow, folder.parent))
    if target is None:
        return JournalTracker(folder, attempt=attempt, console=console, outbox=None, shipper=None)

    from vitscale.tracking.mlflow_shipper import MlflowShipper

    outbox = Outbox(folder)
    tags = _tags(folder, place, attempt)
    if config.group is not None:
        tags["vitscale.group"] = config.group
    outbox.add("start", params=dict(_flat(params)), tags=tags)
    shipper = MlflowShipper(folder, target, _state(folder, name, config, target))
    return JournalTracker(folder, attempt=attempt, console=console, outbox=outbox, shipper=shipper)


def _usable(target: Target | None) -> Target | None:
    if target is not None and util.find_spec("mlflow") is None:
        _log.warning(
            "mlflow is not installed, so metrics go to metrics.jsonl only. "
            'Install "vitscale[mlflow]", or set tracking.mlflow = "off".'
        )
        return None
    return target


def _state(folder: Path, name: str, config: TrackingConfig, target: Target) -> ShipState:
    """The saved state; its offsets count only if the same MLflow is meant."""
    experiment = config.experiment
    fresh = ShipState(uuid.uuid4().hex, name, experiment, target.uri, target.artifact_root)
    saved = ShipState.load(folder)
    if saved is None:
        state = fresh
    elif (saved.tracking_uri, saved.experiment) == (redact_text(target.uri), experiment):
        state = saved
    else:
        fresh.key = saved.key
        state = fresh
    if state.group != config.group:
        state.group, state.parent_id = config.group, None
    state.save(folder)
    return state


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _tags(folder: Path, place: Place, attempt: int) -> dict[str, str]:
    tags = {
        "vitscale.version": _version(),
        "vitscale.host": platform.node(),
        "vitscale.world": str(place.world),
        "vitscale.attempt": str(attempt),
        "vitscale.folder": str(folder),
    }
    commit = _git_commit()
    return tags | {"mlflow.source.git.commit": commit} if commit else tags


def _version() -> str:
    try:
        return metadata.version("vitscale")
    except metadata.PackageNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=2, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
