"""The default: a SQLite store below the home of all runs."""

import json
import math
import subprocess
import sys

import pytest

from vitscale.errors import ConfigError
from vitscale.tracking.build import SilentTracker
from vitscale.tracking.journal import read_metrics
from vitscale.tracking.sync import sync

# mlflow uses what sqlalchemy is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
SECRET = "correct-horse-battery"


def client_of(folder):
    from mlflow import MlflowClient

    state = json.loads((folder / "mlflow.json").read_text())
    return MlflowClient(tracking_uri=state["tracking_uri"]), state["run_id"]


def points_of(folder, key):
    client, run_id = client_of(folder)
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_metrics_parameters_tags_and_artifacts_arrive(home, tracker_of):
    folder = home / "first"
    params = {"model": {"variant": "B/16", "words": "x" * 9000}}
    tracker = tracker_of(folder, params=params)
    for step in range(1, 6):
        tracker.metrics({"train/loss": 1 / step, "train/odd": math.nan}, step)
    recipe = folder / "config.json"
    recipe.write_text("{}")
    tracker.artifact(recipe, "recipe")
    tracker.artifact(folder / "gone.txt")
    tracker.close("FINISHED")

    client, run_id = client_of(folder)
    run = client.get_run(run_id)
    assert points_of(folder, "train/loss") == [(step, 1 / step) for step in range(1, 6)]
    assert all(math.isnan(value) for _, value in points_of(folder, "train/odd"))
    assert points_of(folder, "system/disk_free_gib")
    assert run.data.params["model.variant"] == "B/16"
    assert len(run.data.params["model.words"]) == 6000
    assert run.data.tags["vitscale.world"] == "2"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert [f.path for f in client.list_artifacts(run_id, "recipe")] == ["recipe/config.json"]
    assert (home / "mlflow.db").exists()
    assert run.info.artifact_uri.startswith(str(home / "mlartifacts"))


def test_a_resumed_run_keeps_its_id_and_has_every_step_once(home, tracker_of):
    folder = home / "resumed"
    for attempt, steps in ((1, range(1, 8)), (2, range(5, 11))):
        tracker = tracker_of(folder, attempt=attempt, params={"train": {"length": attempt}})
        for step in steps:
            tracker.metrics({"train/loss": float(step)}, step)
        tracker.close("KILLED" if attempt == 1 else "FINISHED")
    assert points_of(folder, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    client, run_id = client_of(folder)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.length": "1"}
    assert run.data.tags["vitscale.attempt"] == "2"


def test_a_rewound_run_has_every_step_once_and_a_tag_that_tells_of_it(home, tracker_of):
    """Logged to step 7, back to 4, on to 10; the journal has both passes."""
    folder = home / "back"
    tracker = tracker_of(folder)
    for step in range(1, 8):
        tracker.metrics({"train/loss": float(step)}, step)
    tracker.rewound("rewind 1: from step 7 back to the commit of step 4")
    for step in range(5, 11):
        tracker.metrics({"train/loss": float(-step), "train/rewinds": 1.0}, step)
    tracker.close("FINISHED")
    sync(folder)

    first = [(step, float(step)) for step in range(1, 8)]
    assert points_of(folder, "train/loss") == first + [(step, float(-step)) for step in (8, 9, 10)]
    assert points_of(folder, "train/rewinds") == [(step, 1.0) for step in range(5, 11)]
    client, run_id = client_of(folder)
    assert client.get_run(run_id).data.tags["vitscale.rewind.1.1"].startswith("rewind 1: from step")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = [(row["attempt"], row.get("rewinds", 0), row["step"]) for row in rows]
    assert len(set(keys)) == len(keys) == 13
    later = {point.step: point.value for point in read_metrics(folder)["train/loss"]}
    assert (later[4], later[5], later[7]) == (4.0, -5.0, -7.0)


def test_a_lost_state_file_does_not_duplicate_points_in_the_run_it_names_again(home, tracker_of):
    folder = home / "rewound"
    tracker = tracker_of(folder)
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.close("FINISHED")
    state = json.loads((folder / "mlflow.json").read_text())
    state.update(offset=0, outbox_offset=0, run_id=None)
    (folder / "mlflow.json").write_text(json.dumps(state))
    sync(folder)
    assert client_of(folder)[1] is not None
    assert points_of(folder, "train/loss") == [(1, 1.0)]


def test_secrets_reach_neither_the_run_folder_nor_the_store(home, tracker_of, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    folder = home / "secret"
    params = {"data": {"train": f"https://me:{SECRET}@host/set", "note": f"uses {SECRET}"}}
    tracker = tracker_of(folder, params=params)
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.close("FINISHED")
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_off_writes_the_journal_only(tmp_path, tracker_of):
    tracker = tracker_of(tmp_path / "quiet", mlflow="off")
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.metrics({}, 2)
    tracker.artifact(tmp_path)
    tracker.close("FINISHED")
    tracker.close("FINISHED")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["metrics.jsonl"]
    with pytest.raises(ConfigError, match="off"):
        sync(tmp_path / "quiet")


def test_other_ranks_are_silent(tmp_path, tracker_of):
    tracker = tracker_of(tmp_path / "second", rank=1)
    assert isinstance(tracker, SilentTracker)
    tracker.metrics({"train/loss": 1.0}, 1)
    tracker.close("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_sync_of_something_else_says_so(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        sync(tmp_path)


def test_building_a_tracker_does_not_wait_for_mlflow_to_load(tmp_path):
    code = """
import sys
from vitscale.tracking import build, sync
assert not {"mlflow", "torch"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
