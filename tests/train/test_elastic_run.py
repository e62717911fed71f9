"""A real run on two nodes loses one, goes on alone, and takes a new one: every sample is seen exactly once."""

from __future__ import annotations

import json
import threading
import time

import pytest

from tests.launch.two_nodes import nodes_of_one_cpu
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.attempts import attempts_of, committed_step
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.config.cluster import ClusterProfile
from vitscale.data.audit import audit

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.faults,
    # ray.data, which ray.train imports, warns of its own defaults and leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
LONG = ("train.duration=100000 steps", "checkpoint.every=47 steps", "train.log_every=1 steps")


class Submitted:
    """A submission in a thread, watched through the records of its attempts."""

    def __init__(self, recipe, profile):
        from vitscale_launch.submit import submit

        self.folder, self.reply = recipe.config.folder, {}
        self.thread = threading.Thread(target=lambda: self.reply.update(submit(recipe, profile)))
        self.thread.start()

    def wait_until(self, true, within_s=300):
        begun = time.monotonic()
        while not true():
            assert self.thread.is_alive(), self.reply
            assert time.monotonic() - begun < within_s, self.worlds()
            time.sleep(0.2)

    def worlds(self):
        return [record.start["world"] for record in attempts_of(self.folder)]

    def wait_for_commit(self):
        before = committed_step(self.folder)
        self.wait_until(lambda: committed_step(self.folder) > before)


def newest_commit(folder):
    return read_manifest(step_folders(folder / "checkpoints")[0][1])


@pytest.mark.parametrize("engine", ["engine.kind=local", "engine.zero_stage=1"])
def test_a_run_goes_on_with_one_node_and_then_with_two_again(tmp_path, monkeypatch, engine):
    recipe = make_recipe(tmp_path, make_data(tmp_path / "data"), engine, *LONG)
    with nodes_of_one_cpu(2, monkeypatch) as nodes:
        run = Submitted(
            recipe, ClusterProfile(kind="ray", address=nodes.address, workers=2, workers_min=1)
        )
        run.wait_for_commit()
        rank_1 = run.folder / "attempts" / "0001" / "rank-00001.json"
        nodes.lose(nodes.node_of(json.loads(rank_1.read_text())["pid"]))
        run.wait_until(lambda: run.worlds() == [2, 1])
        run.wait_for_commit()
        nodes.add()
        run.wait_until(lambda: run.worlds() == [2, 1, 2])
        run.wait_for_commit()
        (run.folder / "STOP").touch()
        run.thread.join(180)
    assert (run.reply["status"], run.reply["exit_code"]) == ("stopped", 75)
    assert run.reply["restarts"] == 2
    assert [record.end.get("status") for record in attempts_of(run.folder)][1:] == [
        "resized",
        "stopped",
    ]
    assert sorted(exact_losses(run.folder)) == list(range(1, run.reply["step"] + 1))
    newest = newest_commit(run.folder)
    assert newest.step == run.reply["step"]
    assert audit(run.folder, newest.step, newest.facts["data"]).problems == []


@pytest.mark.parametrize("fewest", [2, 1])
def test_a_drained_node_costs_a_commit_and_the_run_goes_on_where_it_can(
    tmp_path, monkeypatch, fewest
):
    recipe = make_recipe(tmp_path, make_data(tmp_path / "data"), "engine.kind=local", *LONG)
    with nodes_of_one_cpu(2, monkeypatch) as nodes:
        profile = ClusterProfile(
            kind="ray", address=nodes.address, workers=2, workers_min=fewest, max_failures=0
        )
        run = Submitted(recipe, profile)
        run.wait_for_commit()
        rank_1 = run.folder / "attempts" / "0001" / "rank-00001.json"
        nodes.drain(nodes.node_of(json.loads(rank_1.read_text())["pid"]), deadline_s=600)
        if fewest == 1:
            run.wait_until(lambda: run.worlds() == [2, 1])
            second = attempts_of(run.folder)[1]
            assert (
                second.start["step"] % 47
            )  # committed because of the notice, not because it was due
            run.wait_for_commit()
            (run.folder / "STOP").touch()
        run.thread.join(180)
    assert (run.reply["status"], run.reply["exit_code"]) == ("stopped", 75)
    assert attempts_of(run.folder)[0].end["status"] == "preempted"
    assert newest_commit(run.folder).step == run.reply["step"]
    assert sorted(exact_losses(run.folder)) == list(range(1, run.reply["step"] + 1))
