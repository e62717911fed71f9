"""The jobs of a sweep: in order, each looked at before the first starts, and what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ranks import ROOT
from tests.train.recipes import make_data, make_recipe
from vitscale.attempts import new_attempt, note_end
from vitscale.cli.main import main
from vitscale.config.cluster import ClusterProfile
from vitscale.config.sweep import sweep_points
from vitscale.data import facts
from vitscale.errors import ConfigError, DataError, LeaseError, ResourceError
from vitscale_launch import jobs as jobs_module
from vitscale_launch import sweep as sweep_module
from vitscale_launch.jobs import Jobs
from vitscale_launch.submit import Way, standing_of_folder
from vitscale_launch.sweep import submit_jobs, sweep_jobs

CLUSTER = Path(__file__).parents[2] / "configs/cluster"
SWEEP = ["optim.lr=1e-3,3e-3", "seed=0,1"]
NAMES = [f"tiny-lr-{lr}-seed-{seed}" for lr in ("1e-3", "3e-3") for seed in (0, 1)]


@pytest.fixture
def jobs(recipe_file):
    points = sweep_points(recipe_file, [], SWEEP)
    return sweep_jobs([point.recipe for point in points], ClusterProfile(), "auto")


@pytest.fixture
def cluster(monkeypatch):
    """Takes the place of what starts jobs: answers by run, and keeps what was started."""
    stand_in = SimpleNamespace(started=[], replies={}, standings={})

    def start(job):
        name = job.recipe.config.run.name
        stand_in.started.append(name)
        reply = stand_in.replies.get(name, ("finished", 0, "finished at step 20"))
        if isinstance(reply, Exception):
            raise reply
        return dict(zip(("status", "exit_code", "message"), reply, strict=True))

    def standing(job):
        return stand_in.standings.get(job.recipe.config.run.name)

    monkeypatch.setattr(sweep_module, "way_to", lambda profile, allow_dirty: Way(start, standing))
    return stand_in


def rows_of(jobs):
    rows = submit_jobs(jobs, ClusterProfile(), allow_dirty=False)
    return [(row["run"], row["state"], row["exit_code"]) for row in rows]


def test_points_run_one_after_another_and_a_failure_keeps_none_of_the_others_from_running(
    jobs, cluster
):
    cluster.replies[NAMES[1]] = ("failed", 4, "not finite")
    cluster.replies[NAMES[2]] = ResourceError("no room")
    states = ["finished", "failed", "refused", "finished"]
    assert rows_of(jobs) == list(zip(NAMES, states, (0, 4, 2, 0), strict=True))
    assert cluster.started == NAMES


def test_a_stop_ends_the_sweep_and_what_was_not_begun_says_so(jobs, cluster):
    cluster.replies[NAMES[1]] = ("stopped", 75, "stopped at step 3")
    states = ["finished", "stopped", "not started", "not started"]
    assert rows_of(jobs) == list(zip(NAMES, states, (0, 75, 75, 75), strict=True))
    assert cluster.started == NAMES[:2]


def test_what_is_finished_or_at_work_is_not_started_again(jobs, cluster):
    cluster.standings |= {NAMES[0]: "finished", NAMES[3]: "running"}
    states = ["finished", "finished", "finished", "running"]
    assert [state for _, state, _ in rows_of(jobs)] == states
    assert cluster.started == NAMES[1:3]


def test_a_run_folder_says_whether_its_run_is_finished_at_the_length_that_is_asked_for(jobs):
    job = jobs[0]
    assert standing_of_folder(job) is None
    job.folder.mkdir(parents=True)
    (job.folder / "attempts").mkdir()
    new_attempt(job.folder, 1, {"start.json": '{"submission": "x", "host": "elsewhere"}'})
    note_end(job.folder, 1, "finished")
    for step, standing in ((job.plan.total_steps - 1, None), (job.plan.total_steps, "finished")):
        (job.folder / "committed.json").write_text(json.dumps({"step": step}))
        assert standing_of_folder(job) == standing


def test_a_run_that_is_at_work_is_said_to_be(jobs):
    folder = jobs[0].folder
    (folder / "attempts").mkdir(parents=True)
    new_attempt(folder, 1, {"start.json": '{"submission": "x", "host": "elsewhere"}'})
    beat = folder / "attempts/0001/beats/rank-00000"
    beat.parent.mkdir()
    beat.touch()
    assert standing_of_folder(jobs[0]) == "running"


def test_a_point_that_could_not_be_submitted_is_named_before_any_is_started(recipe_file):
    points = sweep_points(recipe_file, [], ["train.micro_batch=2,8"])
    with pytest.raises(ConfigError, match=r"tiny-micro-batch-8: batch 8 cannot be cut"):
        sweep_jobs([p.recipe for p in points], ClusterProfile(), "auto")
    points = sweep_points(recipe_file, ["data.train=nowhere"], ["seed=0,1"])
    with pytest.raises(DataError, match="tiny-seed-0: "):
        sweep_jobs([p.recipe for p in points], ClusterProfile(), "auto")


def test_data_that_points_share_are_looked_at_once(recipe_file, monkeypatch):
    """A filter or a part is another look; what happens to images is not."""
    looks = []
    real = facts.facts_at
    monkeypatch.setattr(facts, "facts_at", lambda *at, **how: looks.append(at) or real(*at, **how))
    sweep = ["seed=0,1,2", "data.flip=true,false"]
    points = sweep_points(recipe_file, [], sweep)
    jobs = sweep_jobs([point.recipe for point in points], ClusterProfile(), "auto")
    assert len(looks) == 1
    assert [job.data.samples for job in jobs] == [40] * 6
    data = recipe_file.parent / "data"
    sweep = [f"data.train={data},{data}[:16]", "seed=0,1"]
    points = sweep_points(recipe_file, [], sweep)
    jobs = sweep_jobs([point.recipe for point in points], ClusterProfile(), "auto")
    assert len(looks) == 3
    assert [job.data.samples for job in jobs] == [40, 40, 16, 16]


def sweep_command(recipe_file, *words):
    return main(["submit", str(recipe_file), "--sweep", *SWEEP, *words])


def test_a_dry_run_lists_the_points_with_their_folders_and_writes_nothing(recipe_file, capsys):
    before = sorted(recipe_file.parent.rglob("*"))
    assert sweep_command(recipe_file, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    home = recipe_file.parent / "runs"
    assert lines[0].split() == ["RUN", "POINT", "FOLDER"]
    assert lines[1].split() == [NAMES[0], "optim.lr=1e-3", "run.seed=0", str(home / NAMES[0])]
    assert sweep_command(recipe_file, "--dry-run", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["folder"] for row in rows] == [str(home / name) for name in NAMES]
    assert sorted(recipe_file.parent.rglob("*")) == before


def test_the_command_ends_with_the_first_code_that_is_not_0_and_a_summary(
    recipe_file, cluster, capsys
):
    cluster.replies[NAMES[1]] = ("failed", 4, "not finite")
    cluster.replies[NAMES[2]] = ("failed", 3, "the shards are gone")
    assert sweep_command(recipe_file) == 4
    printed = capsys.readouterr()
    assert [line.split()[:3] for line in printed.out.splitlines()][1:3] == [
        [NAMES[0], "finished", "0"],
        [NAMES[1], "failed", "4"],
    ]
    assert f"--- 4 of 4: {NAMES[3]}: finished" in printed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--follow", "--on", str(CLUSTER / "ray.toml")], "--follow has no effect with --sweep"),
        (["--dry-run", "optim.lr=1"], "also gives this key one value"),
    ],
)
def test_what_contradicts_a_sweep_is_refused(recipe_file, capsys, words, said):
    assert sweep_command(recipe_file, *words) == 2
    assert said in capsys.readouterr().err


class Api:
    """Stands in for the Jobs API of a cluster, and knows some jobs."""

    def __init__(self, profile):
        self.known, self.url = [], "http://head"

    def jobs(self):
        return self.known


@pytest.fixture
def on_ray(monkeypatch):
    monkeypatch.setattr(jobs_module, "JobsApi", Api)
    return Jobs(ClusterProfile(kind="ray", address="http://127.0.0.1:1"))


def known(job, status, number=1):
    """Ray's details of a job that was submitted."""
    record = SimpleNamespace(record={"digest": ""})
    return SimpleNamespace(
        submission_id=f"{job.recipe.config.run.name}-{number}",
        status=status,
        metadata=jobs_module.metadata_of(job, record),
        driver_exit_code=None,
        start_time=1,
        end_time=None,
    )


def test_the_jobs_of_a_cluster_say_what_is_finished_and_at_work(jobs, on_ray, recipe_file):
    on_ray._api.known = [
        known(jobs[0], "FAILED"),
        known(jobs[0], "SUCCEEDED", 2),
        known(jobs[1], "RUNNING"),
        known(jobs[2], "FAILED"),
    ]
    assert [on_ray.standing(job) for job in jobs] == ["finished", "running", None, None]
    points = sweep_points(recipe_file, ["train.duration=9 epochs"], SWEEP)
    longer = sweep_jobs([p.recipe for p in points], ClusterProfile(), "auto")
    assert on_ray.standing(longer[0]) is None  # it goes on


def test_jobs_are_listed_by_group(jobs, on_ray, recipe_file):
    (other,) = sweep_jobs(
        [p.recipe for p in sweep_points(recipe_file, ["run.name=more"], ["seed=7"])],
        ClusterProfile(),
        "auto",
    )
    on_ray._api.known = [known(job, "PENDING") for job in (*jobs, other)]
    assert [row["run"] for row in on_ray.list("tiny")] == NAMES
    assert [row["run"] for row in on_ray.list("more")] == ["more-seed-7"]
    assert len(on_ray.list()) == 5
    with pytest.raises(ConfigError, match=r"knows no such group.*Did you mean 'tiny'"):
        on_ray.list("tinny")


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Stands in for kubectl: the RayJob of the first point is over, that of the second runs, others are not there."""
    done, runs = NAMES[0].replace(".", "-"), NAMES[1]
    tool = tmp_path / "bin" / "kubectl"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/bash\n"
        f'echo "$1 $3" >> {tmp_path}/words\n'
        'if [ "$1" = create ]; then cat > /dev/null; exit; fi\n'
        f'case "$3" in {done}) s=SUCCEEDED;; {runs}) s=RUNNING;; *) exit;; esac\n'
        'echo "{\\"status\\": {\\"jobStatus\\": \\"$s\\"}}"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


def test_on_kubernetes_each_point_is_a_rayjob_unless_it_is_there(
    recipe_file, kubectl, tmp_path, capsys
):
    words = ["--on", str(CLUSTER / "kuberay.toml"), "--json", "train.batch=4096"]
    assert sweep_command(recipe_file, *words, "engine.device=auto") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["finished", "running", "submitted", "submitted"]
    asked = (tmp_path / "words").read_text().split("\n")
    assert [line for line in asked if line.startswith("create")] == ["create -"] * 2


def test_on_slurm_each_point_is_a_script(recipe_file, tmp_path, monkeypatch, capsys):
    tool = tmp_path / "bin" / "sbatch"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/bash\ncat >> {tmp_path}/scripts\necho 4711\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    words = ["--on", str(CLUSTER / "slurm.toml"), "--json", "--allow-dirty", "train.batch=4096"]
    assert sweep_command(recipe_file, *words, "engine.device=auto") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["job"]) for row in rows] == [(name, "4711") for name in NAMES]
    scripts = (tmp_path / "scripts").read_text()
    assert [f"--job-name={name}\n" in scripts for name in NAMES] == [True] * 4


@pytest.mark.ray
@pytest.mark.slow
# MLflow uses what sqlalchemy is about to remove, and warns of its own defaults.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_sweep_on_this_machine_is_stopped_goes_on_and_stands_below_one_run_in_mlflow(tmp_path):
    data = make_data(tmp_path / "data")
    make_recipe(tmp_path / "runs", data)
    command = [sys.executable, "-m", "vitscale", "submit", str(tmp_path / "runs/recipe.toml")]
    command += ["engine.kind=local", "train.duration=400 steps", "tracking.mlflow=auto", "--json"]
    command += ["train.log_every=50 steps", "checkpoint.every=20 steps"]
    command += ["--sweep", "seed=0,1,2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    second_run = tmp_path / "runs/run-seed-1"
    deadline = time.monotonic() + 600
    while not (second_run / "committed.json").exists():
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    output, said = first.communicate(timeout=120)
    states = [row["state"] for row in json.loads(output)]
    assert (first.returncode, states) == (75, ["finished", "stopped", "not started"]), said
    again = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=600, check=True
    )
    rows = json.loads(again.stdout)
    assert [row["state"] for row in rows] == ["finished"] * 3
    ends = ["was finished before", "finished at step 400", "finished at step 400"]
    assert [row["message"] for row in rows] == ends
    insist_on_one_parent(tmp_path / "runs", [row["run"] for row in rows])


def insist_on_one_parent(home, runs):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "vitscale"]
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.info.run_name == "run"]
    parents = {run.info.run_name: run.data.tags.get("mlflow.parentRunId") for run in found}
    assert parents == {"run": None, **dict.fromkeys(runs, parent.info.run_id)}


def test_a_lease_that_another_holds_is_no_end_of_the_sweep(jobs, cluster):
    cluster.replies[NAMES[0]] = LeaseError("another launch writes this run")
    assert [code for _, _, code in rows_of(jobs)] == [2, 0, 0, 0]
