"""Jobs on a real local Ray with a worker that learns nothing."""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from vitscale.config.cluster import ClusterProfile
from vitscale_launch.cluster import connected
from vitscale_launch.job import make_job
from vitscale_launch.ray_train import run_on_ray
from vitscale_launch.stopping import stop_signals

pytestmark = [
    pytest.mark.ray,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WORKER = "tiny_worker:run"


@pytest.fixture(scope="module", autouse=True)
def ray():
    """One cluster for all tests of this file."""
    with connected(ClusterProfile()):
        yield


def starts_of(job, rank):
    """What each start of a rank wrote down, in order."""
    return [json.loads(path.read_text()) for path in sorted(job.folder.glob(f"start-{rank}-*"))]


def run(job):
    """Run the job as `submit` does, on the cluster that is there already."""
    with stop_signals(job.folder) as signals:
        return run_on_ray(job, signals, WORKER)


@contextmanager
def once_started(job, act):
    """Call `act(notes)` from another thread as soon as both ranks have started."""

    over = threading.Event()

    def watch():
        while not (starts_of(job, 0) and starts_of(job, 1)):
            if over.wait(0.05):
                return
        act([starts_of(job, 0)[0], starts_of(job, 1)[0]])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_reply_of_a_finished_job_comes_back_from_ranks_with_their_places(recipe, profile):
    job = make_job(recipe, profile("finish"), resume="must")
    job.folder.mkdir(parents=True)
    (job.folder / "STOP").touch()  # left over by an earlier stop
    assert run(job) == {"status": "finished", "exit_code": 0, "message": "must", "step": 7}
    first, second = starts_of(job, 0)[0], starts_of(job, 1)[0]
    assert (first["RANK"], second["RANK"], second["WORLD_SIZE"]) == ("0", "1", "2")
    assert (second["LOCAL_RANK"], second["GROUP_RANK"]) == ("1", "0")
    assert first["threads"] == 1
    assert not (job.folder / "STOP").exists()


def test_a_failure_that_a_retry_cannot_heal_is_not_retried(recipe, profile):
    job = make_job(recipe, profile("fail", max_failures=3))
    reply = run(job)
    assert (reply["status"], reply["exit_code"]) == ("failed", 3)
    assert len(starts_of(job, 0)) == len(starts_of(job, 1)) == 1


def test_a_killed_worker_is_started_again_and_the_job_goes_on(recipe, profile, record_property):
    job = make_job(recipe, profile("wait once", max_failures=1))
    killed = []

    def kill(notes):
        killed.append(time.time())
        os.kill(notes[1]["pid"], signal.SIGKILL)

    with once_started(job, kill):
        reply = run(job)
    assert reply["status"] == "finished"
    assert len(starts_of(job, 0)) == len(starts_of(job, 1)) == 2
    restart_s = starts_of(job, 1)[1]["time"] - killed[0]
    record_property("restart_s", restart_s)
    assert restart_s < 40


def test_sigterm_asks_the_workers_to_stop_and_leaves_with_75(recipe, profile):
    job = make_job(recipe, profile("wait"))
    with once_started(job, lambda notes: os.kill(os.getpid(), signal.SIGTERM)):
        reply = run(job)
    assert (reply["status"], reply["exit_code"]) == ("stopped", 75)
    assert (job.folder / "STOP").exists()


def test_restarts_that_are_used_up_end_the_job_as_failed(recipe, profile):
    job = make_job(recipe, profile("wait", max_failures=0))
    with once_started(job, lambda notes: os.kill(notes[0]["pid"], signal.SIGKILL)):
        reply = run(job)
    assert (reply["status"], reply["exit_code"]) == ("failed", 1)
    assert "all 1 attempts failed" in reply["message"]


def test_a_second_sigterm_leaves_at_once_with_no_rank_and_no_wait_left_behind(recipe, profile):
    job = make_job(recipe, profile("deaf"))
    ranks = []

    def leave(notes):
        ranks.extend(note["pid"] for note in notes)
        os.kill(os.getpid(), signal.SIGTERM)
        while not (job.folder / "STOP").exists():  # two signals at once are one
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with once_started(job, leave):
        reply = run(job)
    assert (reply["status"], reply["exit_code"]) == ("stopped", 75)
    assert "second signal" in reply["message"]
    # A thread that waits for Ray while it is shut down could take this process with it.
    assert "ray-train" not in {thread.name for thread in threading.enumerate()}
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, ranks)):
        assert time.monotonic() < deadline, "ranks were left behind"
        time.sleep(0.1)
