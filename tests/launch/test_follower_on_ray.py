"""The actor that follows a job, on a real local Ray, with a follower that scores nothing."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from vitscale.checkpoint.following import is_awaited
from vitscale.config.cluster import ClusterProfile, Follow
from vitscale_launch.cluster import connected
from vitscale_launch.follower import followed
from vitscale_launch.job import make_job
from vitscale_launch.stopping import StopSignals

pytestmark = [
    pytest.mark.ray,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FOLLOW = "tiny_follower:run"
SUITE = '[data.one]\ntrain = "one"\ntest = "one-test"\n[[task]]\nmethod = "knn"\n'
FINISHED = {"status": "finished", "exit_code": 0, "message": "finished at step 7"}


@pytest.fixture
def asked(recipe, profile, tmp_path):
    """A job with a follower for a suite of this name."""

    def make(suite: str = "s"):
        path = tmp_path / f"{suite}.toml"
        path.write_text(SUITE)
        return make_job(recipe, profile("finish", follow=Follow(suite=str(path))))

    return make


@pytest.fixture(scope="module", autouse=True)
def ray():
    with connected(ClusterProfile()):
        yield


def followers(job, count: int) -> list[int]:
    """Process ids of the followers, once there are so many."""
    deadline = time.monotonic() + 60
    while len(found := sorted(job.folder.glob("follower-*"))) < count:
        assert time.monotonic() < deadline, "no follower was started"
        time.sleep(0.05)
    return [int(path.name.partition("-")[2]) for path in found]


def test_it_is_told_that_the_job_is_over_and_has_the_last_word(asked):
    job = asked()
    with followed(job, StopSignals(job.folder), FOLLOW) as told:
        # Before any rank could start, retention knows that somebody is to copy what they commit.
        assert is_awaited(job.folder / "checkpoints", "0" * 64)
        [pid] = followers(job, 1)
        reply = told(FINISHED)
    assert reply == FINISHED | {"message": "finished at step 7; all is scored"}
    request = json.loads((job.folder / f"follower-{pid}").read_text())
    assert (request["folder"], request["device"]) == (str(job.folder), "cpu")


def test_one_that_dies_is_started_again_and_hears_of_the_end(asked):
    job = asked()
    with followed(job, StopSignals(job.folder), FOLLOW) as told:
        [first] = followers(job, 1)
        os.kill(first, signal.SIGKILL)
        assert first in followers(job, 2)
        assert told(FINISHED)["message"].endswith("; all is scored")


def test_one_that_fails_costs_the_job_nothing_but_a_sentence(asked):
    job = asked("fails")
    with followed(job, StopSignals(job.folder), FOLLOW) as told:
        reply = told(FINISHED)
    assert reply["exit_code"] == 0
    assert "the follower failed: the images are gone" in reply["message"]
    assert f"--follow {job.folder} --suite {job.follow['called']}`" in reply["message"]


def test_after_a_stop_it_is_not_waited_for(asked):
    job, stopped = asked(), {"status": "stopped", "exit_code": 75, "message": "stopped"}
    signals = StopSignals(job.folder)
    with followed(job, signals, FOLLOW) as told:
        assert told(stopped) == stopped
        signals.count = 1  # a signal while the last commit is scored
        assert "was not waited for" in told(FINISHED)["message"]


def test_a_job_that_asks_for_none_has_none(recipe, profile):
    job = make_job(recipe, profile("finish"))
    with followed(job, StopSignals(job.folder), FOLLOW) as told:
        assert told(FINISHED) is FINISHED
