"""Sends what MLflow missed: `vitscale report sync RUN`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitscale.config.redaction import HIDDEN, redact_text
from vitscale.errors import ConfigError, ResourceError
from vitscale.tracking.journal import FILE_NAME
from vitscale.tracking.outbox import ShipState
from vitscale.tracking.target import Target

_ATTEMPTS = 3
_PAUSE_S = 2.0


@dataclass(frozen=True)
class Synced:
    """`points` were read from the journal and are now in the run `run_id` of the MLflow at `uri`."""

    run_id: str
    uri: str
    points: int


def sync(
    folder: str | Path, *, uri: str | None = None, report: Callable[[str], None] = lambda line: None
) -> Synced:
    """Bring MLflow up to date with a run folder; safe to repeat, and to run for a finished run.

    Raises:
        ConfigError: the folder holds no run that reports to MLflow.
        ResourceError: MLflow does not answer.
    """
    folder = Path(folder).absolute()
    state = _state(folder)
    target = Target(uri or state.tracking_uri, state.artifact_root)
    if HIDDEN in target.uri:
        raise ConfigError(
            "the saved URI had a password, which is not kept",
            where=str(folder / "mlflow.json"),
            given=target.uri,
            do="Give it with --uri, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        )

    from vitscale.tracking.mlflow_shipper import Shipment, run_to_the_end

    shipment = Shipment(folder, target, state)
    if not run_to_the_end(shipment, attempts=_ATTEMPTS, pause_s=_PAUSE_S, report=report):
        raise ResourceError(
            "MLflow does not answer",
            given=redact_text(target.uri),
            do="Start it, or give another one with --uri, and repeat; nothing is lost.",
        )
    return Synced(state.run_id or "", redact_text(target.uri), shipment.points_sent)


def _state(folder: Path) -> ShipState:
    state = ShipState.load(folder) if (folder / FILE_NAME).exists() else None
    if state is None:
        has_journal = (folder / FILE_NAME).exists()
        raise ConfigError(
            'was run with tracking.mlflow = "off"' if has_journal else "is not a run folder",
            where=str(folder),
            do="Name a folder below run.home that holds metrics.jsonl and mlflow.json.",
        )
    return state
