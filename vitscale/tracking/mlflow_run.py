"""One run in MLflow: found or created, then filled; every call may raise, nothing is retried here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscale.tracking.journal import Point
from vitscale.tracking.outbox import PARENT_TAG, ShipState
from vitscale.tracking.target import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient

_KEY_TAG = "vitscale.key"
_POINTS_PER_CALL = 1000
_ROWS_PER_CALL = 100
_LONGEST_VALUE = 6000
_LONGEST_KEY = 250
# MLflow itself waits four minutes per call by default; here the next round is the retry.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowRun:
    """Metrics, parameters, tags, artifacts and status of the run that `state` names."""

    def __init__(self, target: Target, state: ShipState) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._client: MlflowClient = MlflowClient(tracking_uri=target.uri)
        self._target = target
        self._last_steps: dict[str, int] = {}
        self._experiment_id = state.experiment_id = self._experiment(state.experiment)
        self.id = state.run_id = self._find(state.key) or self._create_own(state)

    def send_points(self, points: Sequence[tuple[str, Point]]) -> None:
        """Log the points whose step is beyond what the server has of their key, in order."""
        from mlflow.entities import Metric

        fresh = []
        for key, point in points:
            if point.step > self._last_step(key):
                self._last_steps[key] = point.step
                fresh.append(Metric(key, point.value, round(point.time * 1000), point.step))
        for start in range(0, len(fresh), _POINTS_PER_CALL):
            self._client.log_batch(self.id, metrics=fresh[start : start + _POINTS_PER_CALL])

    def forget(self) -> None:
        """After an error nobody knows what arrived: ask the server again for the last steps."""
        self._last_steps.clear()

    def send_texts(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set tags, and those parameters that the run lacks; MLflow never lets a parameter change."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self.id).data.params
        new_params = [
            Param(key[:_LONGEST_KEY], value[:_LONGEST_VALUE])
            for key, value in params.items()
            if key[:_LONGEST_KEY] not in known
        ]
        new_tags = [
            RunTag(key[:_LONGEST_KEY], value[:_LONGEST_VALUE]) for key, value in tags.items()
        ]
        for start in range(0, len(new_params), _ROWS_PER_CALL):
            self._client.log_batch(self.id, params=new_params[start : start + _ROWS_PER_CALL])
        self._client.log_batch(self.id, tags=new_tags[:_ROWS_PER_CALL])

    def send_artifact(self, path: Path, folder: str) -> None:
        """Upload a file or a folder; one that is gone by now (a deleted checkpoint) is passed over."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or None)
        elif path.exists():
            self._client.log_artifact(self.id, str(path), folder or None)

    def set_status(self, status: str) -> None:
        """RUNNING, or an end: FINISHED, FAILED, KILLED."""
        if status == "RUNNING":
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status)

    def put_below(self, group: str) -> str:
        """Make this run a child of the group's run, which is created where it is missing; the id of that.

        Two processes that create it at once would make two: callers take turns.
        """
        key = f"group:{group}"
        parent = self._find(key)
        if parent is None:
            parent = self._create(key, group, {"vitscale.group": group})
            self._client.set_terminated(parent, "FINISHED")  # it holds nothing but its children
        self._client.set_tag(self.id, PARENT_TAG, parent)
        return parent

    def _last_step(self, key: str) -> int:
        if key not in self._last_steps:
            history = self._client.get_metric_history(self.id, key)
            self._last_steps[key] = max((point.step for point in history), default=-1)
        return self._last_steps[key]

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(
                    name, artifact_location=self._target.artifact_root
                )
            except Exception:
                # Another run may have created it a moment ago.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _find(self, key: str) -> str | None:
        from mlflow.entities import ViewType

        wanted = f"tags.`{_KEY_TAG}` = '{key}'"
        found: Any = self._client.search_runs(
            [self._experiment_id], wanted, run_view_type=ViewType.ACTIVE_ONLY, max_results=1
        )
        return found[0].info.run_id if found else None

    def _create_own(self, state: ShipState) -> str:
        """A new run; whatever an earlier run of this key was sent (its store may be gone) is sent anew."""
        state.offset = state.outbox_offset = 0
        state.parent_id = None
        return self._create(state.key, state.name, {})

    def _create(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(
            self._experiment_id,
            run_name=name,
            tags={_KEY_TAG: key, "mlflow.source.name": "vitscale", **tags},
        )
        return run.info.run_id
