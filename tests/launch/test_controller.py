"""The process in which Ray steers a job dies; a cluster of its own, since it leaves its room in it taken."""

from __future__ import annotations

import contextlib
import os
import time

import psutil
import pytest

from tests.launch.test_ray import once_started, run
from vitscale.config.cluster import ClusterProfile
from vitscale_launch.cluster import connected
from vitscale_launch.job import make_job

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_controller_that_dies_ends_the_job_and_its_ranks_with_it(recipe, profile):
    job = make_job(recipe, profile("wait"))
    ranks = []

    def kill(notes):
        ranks.extend(note["pid"] for note in notes)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "TrainController" in " ".join(process.cmdline()):
                    process.kill()

    with connected(ClusterProfile()):
        with once_started(job, kill):
            reply = run(job)
        deadline = time.monotonic() + 60
        while any(map(psutil.pid_exists, ranks)):
            assert time.monotonic() < deadline, "ranks were left behind"
            time.sleep(0.1)
    assert (reply["status"], reply["exit_code"]) == ("failed", 1)
    assert "run the same command again" in reply["message"]


def test_what_a_local_cluster_is_told_does_not_reach_the_next_one(monkeypatch):
    """Nobody watches for drained machines on a local cluster; on another, in the same process, somebody must."""
    watches = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    monkeypatch.delenv(watches, raising=False)
    with connected(ClusterProfile()):
        assert os.environ[watches] == "0"
    assert watches not in os.environ
    monkeypatch.setenv(watches, "1")
    with connected(ClusterProfile()):
        assert os.environ[watches] == "1"
    assert os.environ[watches] == "1"
