"""What a run folder says about its run, without asking MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vitscale.errors import ConfigError
from vitscale.tracking.journal import FILE_NAME, read_metrics
from vitscale.tracking.outbox import ShipState

_STEP_FOLDER = re.compile(r"^step-(\d+)$")


def summarise(folder: str | Path) -> dict[str, Any]:
    """Last value of every metric, number of attempts, checkpoint folders, and the run in MLflow.

    Raises:
        ConfigError: the folder holds no run.
    """
    folder = Path(folder).absolute()
    series = read_metrics(folder)
    attempts = _names(folder / "attempts")
    if not series and not attempts:
        raise ConfigError(
            "is not a run folder",
            where=str(folder),
            do=f"Name a folder below run.home; it holds {FILE_NAME} once metrics were logged.",
        )
    state = ShipState.load(folder)
    return {
        "run": folder.name,
        "step": max((points[-1].step for points in series.values()), default=0),
        "attempts": len(attempts),
        "checkpoints": [n for n in _names(folder / "checkpoints") if _STEP_FOLDER.match(n)],
        "mlflow": {"uri": state.tracking_uri, "run_id": state.run_id} if state else None,
        "last": {key: series[key][-1].value for key in sorted(series)},
    }


def lines_of(summary: dict[str, Any]) -> list[str]:
    """The same for people, aligned."""
    mlflow = summary["mlflow"]
    rows = [
        ("run", summary["run"]),
        ("step", str(summary["step"])),
        ("attempts", str(summary["attempts"])),
        ("checkpoints", ", ".join(summary["checkpoints"]) or "none"),
        ("mlflow", f"{mlflow['run_id']} at {mlflow['uri']}" if mlflow else "off"),
        *((key, f"{value:.6g}") for key, value in summary["last"].items()),
    ]
    width = max(len(key) for key, _ in rows)
    return [f"{key:<{width}}  {value}" for key, value in rows]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
