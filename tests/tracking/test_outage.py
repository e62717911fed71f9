"""An MLflow server that is down, dies or comes back costs training nothing and loses nothing."""

import json
import statistics
import time

import pytest

from vitscale.errors import ResourceError
from vitscale.tracking.sync import sync

# mlflow uses what sqlalchemy is about to remove, and its client leaves sockets to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
KEYS = ("train/loss", "speed/images_per_s")


def log(tracker, steps):
    """Log the steps as a bit-exact training would; returns the milliseconds of each call."""
    durations = []
    for step in steps:
        before = time.perf_counter()
        tracker.metrics({"train/loss": 1 / step, "speed/images_per_s": 100.0 + step}, step)
        durations.append((time.perf_counter() - before) * 1e3)
        time.sleep(0.002)
    return durations


def run_of(folder, server):
    from mlflow import MlflowClient

    run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
    return MlflowClient(tracking_uri=server.uri), run_id


def assert_every_step_once(folder, server, last):
    client, run_id = run_of(folder, server)
    for key in KEYS:
        steps = [point.step for point in client.get_metric_history(run_id, key)]
        assert steps == list(range(1, last + 1)), key


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_server_that_never_answers_costs_no_time_and_sync_brings_everything_later(
    server, tmp_path, tracker_of, record_property, caplog
):
    folder = tmp_path / "alone"
    tracker = tracker_of(folder, mlflow=server.uri)
    durations = log(tracker, range(1, 501))
    wait_for(lambda: "does not take metrics" in caplog.text)
    durations += log(tracker, range(501, 601))
    before = time.monotonic()
    tracker.close("FINISHED")
    assert time.monotonic() - before < 8
    record_property("metrics_ms_median", statistics.median(durations))
    assert statistics.median(durations) < 2
    assert caplog.text.count("does not take metrics") == 1
    assert f"vitscale report sync {folder}" in caplog.text

    with pytest.raises(ResourceError, match="does not answer"):
        sync(folder)
    server.start()
    assert sync(folder).points > 1000
    assert sync(folder).points == 0
    assert_every_step_once(folder, server, 600)
    client, run_id = run_of(folder, server)
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_server_killed_in_mid_run_has_every_step_once_afterwards(server, tmp_path, tracker_of):
    server.start()
    folder = tmp_path / "outage"
    tracker = tracker_of(folder, mlflow=server.uri)
    log(tracker, range(1, 101))

    def offset():
        return json.loads((folder / "mlflow.json").read_text())["offset"]

    wait_for(lambda: offset() > 0)
    _, run_id = run_of(folder, server)
    server.kill()
    log(tracker, range(101, 201))
    tracker.close("KILLED")

    # Restarted from a commit at step 150, while the server is still down.
    tracker = tracker_of(folder, attempt=2, mlflow=server.uri)
    log(tracker, range(151, 251))
    server.start()
    log(tracker, range(251, 301))
    tracker.close("FINISHED")
    sync(folder)
    assert_every_step_once(folder, server, 300)
    client, same_id = run_of(folder, server)
    assert same_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
