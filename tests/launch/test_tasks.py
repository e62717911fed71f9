"""A suite whose tasks run on Ray gives the table of local processes."""

from __future__ import annotations

import pytest

from tests.evaluate.made_runs import make_downstream, make_run, train
from vitscale.config.cluster import ClusterProfile
from vitscale.config.suite import load_suite
from vitscale.data.pieces import in_this_process
from vitscale.errors import ConfigError, ResourceError
from vitscale.evaluate.results import Results
from vitscale.evaluate.subject import Machine, subject_of
from vitscale.evaluate.suite import Setting, score_suite
from vitscale.evaluate.tables import publish
from vitscale.train import worker
from vitscale_launch.tasks import RayTasks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_tasks_on_half_a_core_each_give_the_same_table(tmp_path):
    run, suite = train(make_run(tmp_path)), load_suite(str(make_downstream(tmp_path / "down")))
    rows = []
    for name, pieces in (
        ("here", in_this_process),
        ("ray", RayTasks(ClusterProfile(workers=2, cpus_per_worker=0.5))),
    ):
        folder = tmp_path / name
        machine = Machine(batch=32, device="cpu", threads=1)
        setting = Setting(machine, pieces, worker.run, folder)
        scored = score_suite(subject_of(run, "raw", folder), suite, setting)
        assert not scored.failed
        rows.append(publish(scored, Results(folder))[0]["rows"])
    assert rows[0] == rows[1]


def test_shares_above_one_are_whole():
    with pytest.raises(ConfigError, match="--task-gpus"):
        RayTasks(ClusterProfile(), gpus=1.5)


@pytest.mark.parametrize(("share", "name"), [({"cpus": 3}, "cpus"), ({"gpus": 0.5}, "gpus")])
def test_a_task_that_no_machine_can_hold_is_refused_and_not_waited_for(share, name):
    tasks = RayTasks(ClusterProfile(workers=2), **share)
    with pytest.raises(
        ResourceError, match=f"--task-{name}: the Ray cluster has .* too few for one task"
    ):
        list(tasks(len, ["piece"]))


@pytest.mark.parametrize("kind", ["jobs", "slurm"])
def test_a_cluster_that_cannot_be_joined_from_here_is_refused(kind):
    profiles = {
        "jobs": ClusterProfile(kind="ray", address="http://127.0.0.1:8265"),
        "slurm": ClusterProfile(kind="slurm"),
    }
    with pytest.raises(ConfigError, match="--on"):
        RayTasks(profiles[kind])
