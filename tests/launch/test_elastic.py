"""Nodes that are lost, taken away with notice, and come: an elastic job goes on with as many as there are."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.launch.two_nodes import nodes_of_one_cpu
from vitscale_launch.cluster import connected
from vitscale_launch.elastic import largest_fit
from vitscale_launch.job import make_job
from vitscale_launch.ray_train import run_on_ray
from vitscale_launch.stopping import stop_signals

pytestmark = [
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.mark.parametrize(("room", "size"), [(0, 0), (1, 0), (2, 2), (7, 4), (8, 8), (9, 8)])
def test_a_job_takes_the_largest_number_of_workers_that_fits(room, size):
    assert largest_fit((2, 4, 8), room) == size


@pytest.fixture
def nodes(monkeypatch):
    with nodes_of_one_cpu(2, monkeypatch) as nodes:
        yield nodes


class Running:
    """A job in a thread, and what its tiny workers wrote down."""

    def __init__(self, job):
        self.job, self.reply = job, None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        with stop_signals(self.job.folder) as signals:
            self.reply = run_on_ray(self.job, signals, "tiny_worker:run")

    def starts(self, rank=0):
        files = sorted(self.job.folder.glob(f"start-{rank}-*"))
        return [json.loads(file.read_text()) for file in files]

    def worlds(self):
        return [int(start["WORLD_SIZE"]) for start in self.starts()]

    def wait_for_worlds(self, *worlds, within_s=240):
        begun = time.monotonic()
        while self.worlds() != list(worlds):
            assert self.thread.is_alive(), self.reply
            assert time.monotonic() - begun < within_s, f"{self.worlds()} for {worlds}"
            time.sleep(0.2)
        return time.monotonic() - begun

    def stop(self):
        (self.job.folder / "STOP").touch()
        self.thread.join(120)
        return self.reply


@pytest.fixture
def begin(recipe, profile, nodes):
    with connected(profile("wait", kind="ray", address=nodes.address, workers_min=1)):
        running = []

        def start(**settings):
            running.append(
                Running(
                    make_job(recipe, profile("wait", kind="ray", address=nodes.address, **settings))
                )
            )
            return running[0]

        yield start
        if running and running[0].thread.is_alive():
            running[0].stop()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
def test_a_lost_node_costs_a_restart_and_a_new_one_is_taken_after_a_commit(
    nodes, begin, record_property
):
    job = begin(workers=2, workers_min=1, max_failures=2)
    job.wait_for_worlds(2)
    while len(job.starts(1)) < 1:
        time.sleep(0.1)
    nodes.lose(nodes.node_of(job.starts(1)[0]["pid"]))
    record_property("restart_without_the_node_s", job.wait_for_worlds(2, 1))
    nodes.add()
    time.sleep(8)
    assert job.worlds() == [2, 1]  # nothing was committed, so growing would throw work away
    begun = time.monotonic()
    for step in range(60):
        (job.job.folder / "committed.json").write_text(f'{{"step": {step}}}')
        time.sleep(2)
        if len(job.worlds()) > 2:
            break
    record_property("restart_with_the_new_node_s", time.monotonic() - begun)
    job.wait_for_worlds(2, 1, 2)
    reply = job.stop()
    assert (reply["status"], reply["exit_code"]) == ("stopped", 75)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
def test_a_drained_node_is_left_at_once_and_is_no_failure(nodes, begin, record_property):
    job = begin(workers=2, workers_min=1, max_failures=0)
    job.wait_for_worlds(2)
    while len(job.starts(1)) < 1:
        time.sleep(0.1)
    nodes.drain(nodes.node_of(job.starts(1)[0]["pid"]), deadline_s=600)
    record_property("restart_before_the_deadline_s", job.wait_for_worlds(2, 1))
    assert job.stop()["status"] == "stopped"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
def test_a_job_that_needs_the_drained_node_commits_and_ends_with_75(nodes, begin):
    job = begin(workers=2)
    job.wait_for_worlds(2)
    while len(job.starts(1)) < 1:
        time.sleep(0.1)
    nodes.drain(nodes.node_of(job.starts(1)[0]["pid"]), deadline_s=600)
    job.thread.join(60)
    assert (job.reply["status"], job.reply["exit_code"]) == ("stopped", 75)
    assert job.worlds() == [2]
