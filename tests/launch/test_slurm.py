"""Batch scripts for Slurm: run against stand-ins for its commands, and read by shellcheck."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.recipes import make_data, make_recipe
from vitscale.attempts import attempts_of
from vitscale.config.cluster import load_profile
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError, LeaseError, ResourceError
from vitscale_launch.job import make_job
from vitscale_launch.package import package_here
from vitscale_launch.slurm import batch_script
from vitscale_launch.submit import submit

CLUSTER = Path(__file__).parents[2] / "configs/cluster"
BIN = Path(sys.executable).parent
# `srun` does on this node what it is given; the nodes' names are this one's.
STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then hostname; else echo "$@" >> "$SEEN"; fi',
    "srun": 'echo "srun $*" >> "$SEEN"; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "sbatch": 'cat > "$SCRIPT"; echo "sbatch $*" >> "$SEEN"; echo "4711;cluster"',
}
# A Ray that starts no job but behaves as one: it waits for STOP, and leaves the reply it is told to.
RAY = """
echo "ray $*" >> "$SEEN"
echo "mode $RAY_AUTH_MODE, token of ${#RAY_AUTH_TOKEN}" >> "$SEEN"
echo started > "$RUN/started"
while [ "$WAITS" = yes ] && [ ! -e "$RUN/STOP" ]; do sleep 0.1; done
echo "{\\"exit_code\\": $CODE}" > "$RUN/job/reply.json"
exit 1
"""


class Cluster:
    """Stand-ins on the path, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self._bin, self._seen, self.script = folder / "bin", folder / "seen", folder / "script.sh"
        self._bin.mkdir()
        for name, text in {**STAND_INS, "ray": RAY}.items():
            tool = self._bin / name
            tool.write_text(f"#!/bin/bash\n{text}\n")
            tool.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{self._bin}:{BIN}:{os.environ['PATH']}",
            "SEEN": str(self._seen),
            "SCRIPT": str(self.script),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "node[1-1]",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def seen(self) -> str:
        return self._seen.read_text() if self._seen.exists() else ""

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.script)],
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def profile(name, *overrides):
    words = ["cluster.workers=2", "cluster.workers_per_node=2", "cluster.cpus_per_worker=1"]
    words += ["cluster.gpus_per_worker=0"]
    return load_profile(str(CLUSTER / f"{name}.toml"), [*words, *overrides])


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def job(recipe, cluster):
    job = make_job(recipe, profile("slurm"))
    (job.folder / "job").mkdir(parents=True)
    cluster.script.write_text(batch_script(job))
    cluster.environment["RUN"] = str(job.folder)
    return job


def test_the_end_of_the_time_limit_stops_the_run_and_queues_it_again(cluster, job):
    script = cluster.start(WAITS="yes", CODE="75")
    wait_for((job.folder / "started").exists, script)
    script.send_signal(signal.SIGUSR1)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 75, output
    assert "requeue 4711" in cluster.seen
    assert "mode token, token of 64" in cluster.seen


def test_a_cancelled_job_stops_and_is_not_queued_again(cluster, job):
    script = cluster.start(WAITS="yes", CODE="75")
    wait_for((job.folder / "started").exists, script)
    script.send_signal(signal.SIGTERM)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 75, output
    assert (job.folder / "STOP").exists()
    assert "requeue" not in cluster.seen


@pytest.mark.parametrize("code", ["0", "3"])
def test_the_code_of_the_run_counts_and_not_that_of_srun(cluster, job, code):
    (job.folder / "STOP").touch()  # left over by an earlier stop
    script = cluster.start(WAITS="no", CODE=code)
    output, _ = script.communicate(timeout=60)
    assert script.returncode == int(code), output
    assert not (job.folder / "STOP").exists()
    assert "requeue" not in cluster.seen


def test_ray_is_started_alike_on_all_nodes_and_given_the_order(cluster, job):
    cluster.start(WAITS="no", CODE="0").communicate(timeout=60)
    (line,) = [line for line in cluster.seen.splitlines() if line.startswith("ray ")]
    options, _, command = line.partition(" -- ")
    assert "symmetric-run --address" in options
    assert "--min-nodes 1 --num-cpus=2" in options
    order, reply = job.folder / "job/order.json", job.folder / "job/reply.json"
    assert command == f"python -m vitscale_launch.inside {order} {reply}"


def test_an_order_that_cannot_run_ends_the_script_with_its_code(cluster, job):
    cluster.environment["PATH"] = cluster.environment["PATH"].replace(f"{BIN}:", "")
    ray = cluster._bin / "ray"
    ray.write_text(
        f'#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done; shift 2; exec {sys.executable} "$@"\n'
    )
    package_here().copy_to(job.folder / "job")
    order = job.order | {"python": "2.7"}
    (job.folder / "job/order.json").write_text(json.dumps(order))
    script = cluster.start()
    output, _ = script.communicate(timeout=60)
    assert "submitted with python 2.7 and the cluster has" in output
    assert script.returncode == 2


@pytest.mark.slow
@pytest.mark.dist
def test_under_torchrun_a_run_is_stopped_queued_again_and_finished(tmp_path, cluster, monkeypatch):
    recipe = make_recipe(tmp_path, make_data(tmp_path / "data"), "train.duration=4000 steps")
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    where = profile("slurm_torchrun", "cluster.grace_s=60")
    reply = submit(recipe, where, allow_dirty=True)
    assert (reply["status"], reply["job"]) == ("submitted", "4711")
    run = Path(reply["folder"])

    script = cluster.start()
    wait_for((run / "committed.json").exists, script)
    script.send_signal(signal.SIGUSR1)
    output, _ = script.communicate(timeout=120)
    assert script.returncode == 75, output
    assert "requeue 4711" in cluster.seen
    stopped = json.loads((run / "job/reply.json").read_text())["step"]
    assert json.loads((run / "committed.json").read_text())["step"] == stopped

    shorten(run / "job/order.json", stopped + 4)
    script = cluster.start()
    output, _ = script.communicate(timeout=120)
    assert script.returncode == 0, output
    assert f"finished at step {stopped + 4}" in output
    first, second = attempts_of(run)
    assert (first.start["world"], second.start["world"]) == (2, 2)
    assert (first.start["step"], second.start["step"]) == (0, stopped)


def shorten(order: Path, steps: int) -> None:
    """Let the run end soon; how far it came before it was stopped depends on the machine."""
    table = json.loads(order.read_text())
    table["recipe"]["config"]["train"]["duration"] = f"{steps} steps"
    order.write_text(json.dumps(table))


@pytest.mark.parametrize("name", ["slurm", "slurm_torchrun"])
@pytest.mark.parametrize("workers", [1, 512])
def test_shellcheck_finds_nothing(recipe_file, tmp_path, name, workers):
    recipe = load_recipe(recipe_file, ["train.batch=4096", "run.home=/tmp/it is a home"])
    given = ["cluster.gpus_per_worker=0", f"cluster.workers={workers}"]
    given += ["cluster.environment.MESSAGE='a b'", "cluster.slurm.setup=['source /dev/null']"]
    job = make_job(recipe, load_profile(str(CLUSTER / f"{name}.toml"), given))
    script = tmp_path / "script.sh"
    script.write_text(batch_script(job))
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_gpus_memory_and_account_are_asked_for(recipe_file):
    recipe = load_recipe(recipe_file, ["train.batch=4096", "engine.device=auto"])
    given = [
        "cluster.accelerator=H100",
        "cluster.slurm.memory_gb=64",
        "cluster.slurm.account=vision",
    ]
    job = make_job(recipe, load_profile(str(CLUSTER / "slurm.toml"), given))
    asked = {line[8:] for line in batch_script(job).splitlines() if line.startswith("#SBATCH")}
    assert {"--nodes=8", "--gpus-per-node=h100:8", "--mem=512G", "--account=vision"} <= asked
    assert {"--cpus-per-task=96", "--time=1-00:00:00", "--signal=B:USR1@600"} <= asked


def test_without_sbatch_nothing_is_written(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ResourceError, match=r"sbatch is not installed here"):
        submit(recipe, profile("slurm"), allow_dirty=True)
    assert not recipe.config.folder.exists()


def test_a_run_at_work_is_not_queued_a_second_time(recipe, cluster, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    attempt = recipe.config.folder / "attempts" / "0001"
    beat = attempt / "beats" / "rank-00000"
    beat.parent.mkdir(parents=True)
    (attempt / "start.json").write_text('{"submission": "other", "host": "elsewhere", "pid": 1}')
    beat.touch()
    with Beating(beat), pytest.raises(LeaseError, match="another launch writes this run") as caught:
        submit(recipe, profile("slurm"), allow_dirty=True)
    assert caught.value.exit_code == 2
    assert "sbatch" not in cluster.seen


class Beating:
    """Touches a beat, as a rank elsewhere does."""

    def __init__(self, beat: Path) -> None:
        touch = f"while sleep 0.2; do touch {beat}; done"
        self._command = ["bash", "-c", touch]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command)

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()


def test_a_package_above_the_limit_is_not_handed_over(recipe, monkeypatch):
    monkeypatch.setattr("vitscale_launch.package.Package.bytes", 3_000_000)
    with pytest.raises(ConfigError, match=r"cluster\.package_mb"):
        submit(recipe, profile("slurm", "cluster.package_mb=2"), allow_dirty=True)
