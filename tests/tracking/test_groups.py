"""Runs of one group are children of one run in MLflow, whoever of them comes first."""

from __future__ import annotations

import json

import pytest

# mlflow uses what sqlalchemy is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def run_of(folder):
    from mlflow import MlflowClient

    state = json.loads((folder / "mlflow.json").read_text())
    return MlflowClient(tracking_uri=state["tracking_uri"]).get_run(state["run_id"])


def track(tracker_of, folder, **settings):
    tracker = tracker_of(folder, **settings)
    tracker.metrics({"train/loss": 1.0}, 1)
    return tracker


def test_runs_that_start_at_once_share_one_parent(home, tracker_of):
    from mlflow import MlflowClient

    folders = [home / f"point-{n}" for n in range(4)]
    trackers = [track(tracker_of, folder, group="grid") for folder in folders]
    for tracker in trackers:
        tracker.close("FINISHED")
    tags = [run_of(folder).data.tags for folder in folders]
    (parent,) = {each["mlflow.parentRunId"] for each in tags}
    assert {each["vitscale.group"] for each in tags} == {"grid"}
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    run = client.get_run(parent)
    assert (run.info.run_name, run.info.status) == ("grid", "FINISHED")
    found = client.search_runs([run.info.experiment_id], "tags.`vitscale.group` = 'grid'")
    assert len(found) == 5


def test_a_run_without_a_group_has_no_parent(home, tracker_of):
    track(tracker_of, home / "alone").close("FINISHED")
    assert "mlflow.parentRunId" not in run_of(home / "alone").data.tags


def test_a_run_that_joins_a_group_later_keeps_its_id(home, tracker_of):
    folder = home / "late"
    track(tracker_of, folder).close("KILLED")
    before = run_of(folder).info.run_id
    track(tracker_of, folder, attempt=2, group="grid").close("FINISHED")
    assert run_of(folder).info.run_id == before
    assert run_of(folder).data.tags["mlflow.parentRunId"]
