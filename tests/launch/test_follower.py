"""A follower as an actor of the job: started, started again, waited for, and told of in the reply."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter

import pytest

from tests.evaluate.made_runs import make_downstream
from tests.train.recipes import make_data, make_recipe
from vitscale.config.cluster import ClusterProfile, Follow, Slurm, load_profile
from vitscale.errors import ConfigError
from vitscale_launch.cluster import connected
from vitscale_launch.follower import followed
from vitscale_launch.job import make_job, ordered_job
from vitscale_launch.stopping import StopSignals
from vitscale_launch.submit import dry_run, submit

FOLLOW = "tiny_follower:run"
KNN = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "knn"\nk = [5]\n'
FINISHED = {"status": "finished", "exit_code": 0, "message": "finished at step 7"}
RAY = [
    pytest.mark.ray,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def asked(recipe, profile, tmp_path):
    """A job with a follower for a suite of this name."""

    def make(suite: str = "s"):
        path = tmp_path / f"{suite}.toml"
        path.write_text(KNN.format(tmp_path))
        return make_job(recipe, profile("finish", follow=Follow(suite=str(path))))

    return make


def test_the_suite_goes_with_the_order_since_its_file_may_not_be_there(asked, tmp_path):
    job = asked()
    order = json.loads(json.dumps(job.order))
    (tmp_path / "s.toml").unlink()
    again = ordered_job(order)
    assert again.follow == job.follow is not None
    assert again.follow["suite"]["name"] == "s"
    assert "follow" not in order["profile"]
    assert dry_run(job.recipe, ClusterProfile())["cluster"].get("follow") is None


def test_a_follower_that_cannot_be_is_refused_before_anything_starts(recipe, tmp_path):
    with pytest.raises(ConfigError, match="there is no suite 'dmo'"):
        make_job(recipe, load_profile("local", ["cluster.follow.suite=dmo"]))
    with pytest.raises(ConfigError, match="suite: is required"):
        load_profile("local", ["cluster.follow.gpus=1"])
    with pytest.raises(ValueError, match=r"follow has no effect with slurm\.launcher"):
        ClusterProfile(kind="slurm", slurm=Slurm(launcher="torchrun"), follow=Follow(suite="demo"))


class TestAnActor:
    """On one cluster for all."""

    pytestmark = RAY

    @pytest.fixture(scope="class", autouse=True)
    def ray(self):
        with connected(ClusterProfile()):
            yield

    def followers(self, job, count: int) -> list[int]:
        """Process ids of the followers, once there are so many."""
        deadline = time.monotonic() + 60
        while len(found := sorted(job.folder.glob("follower-*"))) < count:
            assert time.monotonic() < deadline, "no follower was started"
            time.sleep(0.05)
        return [int(path.name.partition("-")[2]) for path in found]

    def test_it_is_told_that_the_job_is_over_and_has_the_last_word(self, asked):
        job = asked()
        with followed(job, StopSignals(job.folder), FOLLOW) as told:
            [pid] = self.followers(job, 1)
            reply = told(FINISHED)
        assert reply == FINISHED | {"message": "finished at step 7; all is scored"}
        request = json.loads((job.folder / f"follower-{pid}").read_text())
        assert (request["folder"], request["device"]) == (str(job.folder), "cpu")

    def test_one_that_dies_is_started_again_and_hears_of_the_end(self, asked):
        job = asked()
        with followed(job, StopSignals(job.folder), FOLLOW) as told:
            [first] = self.followers(job, 1)
            os.kill(first, signal.SIGKILL)
            assert first in self.followers(job, 2)
            assert told(FINISHED)["message"].endswith("; all is scored")

    def test_one_that_fails_costs_the_job_nothing_but_a_sentence(self, asked):
        job = asked("fails")
        with followed(job, StopSignals(job.folder), FOLLOW) as told:
            reply = told(FINISHED)
        assert reply["exit_code"] == 0
        assert "the follower failed: the images are gone" in reply["message"]
        assert f"--follow {job.folder} --suite {job.follow['called']}`" in reply["message"]

    def test_after_a_stop_it_is_not_waited_for(self, asked):
        job, stopped = asked(), {"status": "stopped", "exit_code": 75, "message": "stopped"}
        signals = StopSignals(job.folder)
        with followed(job, signals, FOLLOW) as told:
            assert told(stopped) == stopped
            signals.count = 1  # a signal while the last commit is scored
            assert "was not waited for" in told(FINISHED)["message"]

    def test_a_job_that_asks_for_none_has_none(self, recipe, profile):
        job = make_job(recipe, profile("finish"))
        with followed(job, StopSignals(job.folder), FOLLOW) as told:
            assert told(FINISHED) is FINISHED


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_job_on_ray_has_every_commit_scored_once_when_it_ends(tmp_path):
    """Real ranks, a real suite; the job is submitted a second time for more steps."""
    data = make_data(tmp_path / "data")
    make_downstream(tmp_path / "down")
    suite = tmp_path / "s.toml"
    suite.write_text(KNN.format(tmp_path / "down"))
    profile = ClusterProfile(follow=Follow(suite=str(suite)))
    own = ("engine.kind=local", "checkpoint.keep=1", "optim.schedule=constant")
    for steps in (6, 10):
        recipe = make_recipe(tmp_path, data, *own, f"train.duration={steps} steps")
        reply = submit(recipe, profile)
        assert reply["status"] == "finished"
        assert reply["message"].endswith("every commit is scored by suite s")
    folder = recipe.config.folder
    lines = (folder / "transfer" / "followed-s.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["step"] for line in lines) == Counter([2, 4, 6, 8, 10])
    told = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in told if "transfer/one/knn" in line]
    assert sorted(steps) == [2, 4, 6, 8, 10]
