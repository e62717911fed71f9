"""Real ranks under Ray that die, fail or hang: what is tried again, what is not, and what is said of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

from tests.ranks import ROOT
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.attempts import attempts_of, committed_step
from vitscale.checkpoint.layout import step_folders
from vitscale.config.cluster import ClusterProfile
from vitscale.train.restart import how_it_ended

pytestmark = [
    pytest.mark.ray,
    pytest.mark.dist,
    pytest.mark.faults,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUICK = ("engine.kind=local",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def submit(recipe, fault="", **profile):
    from vitscale_launch.submit import submit

    environment = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": fault} if fault else {}
    return submit(recipe, ClusterProfile(environment=environment, **profile))


def test_a_hung_rank_is_named_with_the_stacks_of_all_and_started_again(tmp_path, data):
    recipe = make_recipe(tmp_path, data, *QUICK, "health.hang_s=6")
    reply = submit(recipe, "train.step@1:7:hang", max_failures=1)
    assert (reply["status"], reply["step"], reply["restarts"]) == ("finished", 10, 1)
    first, second = attempts_of(recipe.config.folder)
    assert set(first.stacks) == {0, 1} and second.stacks == {}
    assert "faults.py" in first.stacks[1].read_text()
    assert "rank 1 was furthest behind, in step 6, phase step" in how_it_ended(first)
    assert first.end == {} and second.end["status"] == "finished"


@pytest.mark.slow
def test_the_same_error_at_the_same_step_ends_the_job_at_its_second_time(tmp_path, data):
    recipe = make_recipe(tmp_path, data, *QUICK, "checkpoint.every=10 steps")
    reply = submit(recipe, "train.step@1:3:eio", max_failures=5)
    assert (reply["status"], reply["exit_code"], reply["restarts"]) == ("failed", 1, 1)
    assert "attempts 1 and 2 both failed at step 2 with OSError" in reply["message"]
    assert attempts_of(recipe.config.folder)[-1].end["status"] == "failed"


@pytest.mark.slow
def test_three_deaths_without_a_commit_end_the_job(tmp_path, data):
    recipe = make_recipe(tmp_path, data, *QUICK, "checkpoint.every=10 steps")
    reply = submit(recipe, "train.step@1:3:kill", max_failures=9)
    assert (reply["status"], reply["exit_code"], reply["restarts"]) == ("failed", 1, 2)
    assert "3 attempts in a row died without a new commit since step 0" in reply["message"]


@pytest.mark.slow
def test_a_stopped_rank_is_found_out_by_the_others_and_replaced(tmp_path, data, record_property):
    recipe = make_recipe(tmp_path, data, *QUICK, "health.hang_s=8", "train.duration=100k steps")
    folder, replies = recipe.config.folder, []
    thread = threading.Thread(target=lambda: replies.append(submit(recipe, max_failures=1)))
    thread.start()
    wait_until(lambda: (folder / "committed.json").exists())
    stopped = ranks_of(attempts_of(folder)[0])[1]
    os.kill(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    wait_until(lambda: len(attempts_of(folder)) == 2, within_s=240)
    record_property("restart_s", time.monotonic() - begun)
    wait_until(lambda: not psutil.pid_exists(stopped), within_s=60)
    committed = committed_step(folder)
    wait_until(lambda: committed_step(folder) > committed)
    (folder / "STOP").touch()
    thread.join(120)
    assert (replies[0]["status"], replies[0]["restarts"]) == ("stopped", 1)
    first = attempts_of(folder)[0]
    assert set(first.stacks) == {0}
    assert "rank 1 was furthest behind" in how_it_ended(first)


def start(recipe_folder, *overrides):
    command = [sys.executable, "-m", "vitscale", "submit", str(recipe_folder / "recipe.toml")]
    return subprocess.Popen(
        [*command, "--on", "local", *QUICK, *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(true, within_s=120):
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def ranks_of(attempt):
    records = [json.loads(path.read_text()) for path in attempt.folder.glob("rank-*.json")]
    return [record["pid"] for record in sorted(records, key=lambda record: record["rank"])]


@pytest.mark.slow
def test_a_submitter_that_is_killed_leaves_no_rank_behind_and_the_same_command_goes_on(
    tmp_path, data, record_property
):
    long = "train.duration=4000 steps"
    folder = make_recipe(tmp_path, data, *QUICK, long).config.folder
    first = start(tmp_path, long, "checkpoint.every=50 steps")
    wait_until(lambda: (folder / "committed.json").exists())
    (attempt,) = attempts_of(folder)
    ranks = ranks_of(attempt)
    assert len(ranks) == 2
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: not any(map(psutil.pid_exists, ranks)), within_s=60)
    record_property("ranks_gone_after_s", time.monotonic() - killed)
    committed, _ = step_folders(folder / "checkpoints")[0]
    first.communicate()

    total = f"train.duration={committed + 400} steps"
    second = start(tmp_path, total, "checkpoint.every=50 steps")
    told = second.communicate(timeout=180)[0]
    assert second.returncode == 0, told
    assert f"finished at step {committed + 400}" in told
    assert sorted(exact_losses(folder)) == list(range(1, committed + 401))
    by_attempt = Counter()
    for line in (folder / "metrics.jsonl").open():
        point = json.loads(line)
        if "train/loss" in point["values"]:
            by_attempt[point["attempt"], point["step"]] += 1
    assert set(by_attempt.values()) == {1}
    assert min(step for attempt, step in by_attempt if attempt == 2) == committed + 1
