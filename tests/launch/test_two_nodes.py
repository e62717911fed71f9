"""docs/operations.md, command by command: a cluster of two nodes, a job, a lost node, a stop, and on to the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.house.tree import files
from tests.launch.two_nodes import end_all
from tests.ranks import ROOT, free_port
from vitscale.attempts import attempts_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
START, SUBMIT, FOLLOW, LOSE, STOP, RESUBMIT = BLOCKS
BIN = str(Path(sys.executable).parent)


class Terminal:
    """One shell in a clean clone, in which the page's commands are typed."""

    def __init__(self, clone: Path, ports: dict[str, str], environment: dict[str, str]) -> None:
        self._clone, self._ports, self._environment = clone, ports, environment
        self._shell = self._open(["bash"], stdin=subprocess.PIPE)

    def _open(self, command, **streams):
        return subprocess.Popen(
            command,
            cwd=self._clone,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **streams,
        )

    def here(self, text: str) -> str:
        """The text with the ports of this test's own cluster."""
        for port, own in self._ports.items():
            text = text.replace(port, own)
        return text

    def type(self, commands: str) -> tuple[int, str]:
        """Exit code and output of some lines; the first one that fails ends them."""
        # A subshell would lose what is exported, so each line is followed by what `set -e` would do.
        lines = " && \\\n".join(self.here(commands).strip().splitlines())
        self._shell.stdin.write(f'{lines}\necho "=== $?"\n')
        self._shell.stdin.flush()
        output = ""
        for line in self._shell.stdout:
            if found := re.fullmatch(r"=== (\d+)\n", line):
                return int(found[1]), output
            output += line
        raise AssertionError(f"the shell has ended:\n{output}")

    def succeed(self, commands: str) -> str:
        code, output = self.type(commands)
        assert code == 0, f"{commands}\nended with {code}:\n{output}"
        return output

    def status(self, job: str = "tiny") -> dict:
        return json.loads(self.succeed(f"vitscale jobs status {job} --json"))

    def wait_for(self, what, within_s=240):
        """The first status for which `what` holds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            status = self.status()
            if what(status):
                return status
            assert status["state"] in ("pending", "running"), self.type("vitscale jobs logs tiny")
            time.sleep(0.5)
        pytest.fail(f"never came: {status}\n{self.type('vitscale jobs logs tiny')}")

    def token(self) -> str:
        return self.succeed('echo "$RAY_AUTH_TOKEN"').strip()

    def beside(self, commands: str):
        """A second terminal with the same token."""
        lines = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN={self.token()}\n{self.here(commands)}"
        return self._open(["bash", "-c", lines])

    def close(self):
        self._shell.stdin.close()
        self._shell.wait(timeout=30)
        self._shell.stdout.close()


def clean_clone(folder: Path, ports: dict[str, str]) -> Path:
    """The project's files under a commit of their own, as a fresh clone has them."""
    clone = folder / "vitscale"
    for name in files():
        target = clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    profile = clone / "configs/cluster/ray.toml"
    profile.write_text(profile.read_text().replace("8265", ports["8265"]))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "a clone"]):
        subprocess.run(["git", *words], cwd=clone, check=True)
    return clone


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    ports = {"6379": str(free_port()), "8265": str(free_port())}
    clone = clean_clone(tmp_path_factory.mktemp("clone"), ports)
    ray_folder = tempfile.mkdtemp(dir="/tmp", prefix="ray-")  # its sockets need a short path
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{clone}:{clone / 'launch'}",
        "RAY_TMPDIR": ray_folder,
        "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_period_ms": "1000",
        "OMP_NUM_THREADS": "1",
    }
    terminal = Terminal(clone, ports, environment)
    try:
        terminal.succeed(START)
        yield terminal
    finally:
        terminal.close()
        end_all(ray_folder)
        shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.mark.faults
def test_a_job_survives_a_lost_node_and_a_stop_by_the_documented_commands(terminal):
    assert "tiny-1 runs; it begins at step 0" in terminal.succeed(SUBMIT)
    following = terminal.beside(FOLLOW)
    terminal.wait_for(lambda status: status["committed_step"] and status["workers"] == 2)
    terminal.succeed(LOSE)
    lost_at = terminal.status()["committed_step"]
    after = terminal.wait_for(lambda status: status["restarts"] == 1)
    assert after["workers"] == 1
    went_on = terminal.wait_for(lambda status: status["committed_step"] > lost_at)
    assert went_on["restarts"] == 1

    code, output = terminal.type("vitscale submit configs/debug/tiny.toml --on ray")
    assert (code, "the run is taken: tiny-1 is running" in output) == (2, True), output

    stopped = terminal.succeed(STOP)
    step = int(re.search(r"stopped at step (\d+), exit code 75", stopped)[1])
    assert step > lost_at
    assert terminal.status()["state"] == "stopped"
    run = Path(terminal.status()["folder"])
    assert len(attempts_of(run)) == 2
    log, _ = following.communicate(timeout=60)
    assert following.returncode == 75, log
    assert f"vitscale: stopped at step {step}" in log

    output = terminal.succeed(RESUBMIT)
    assert f"tiny-2 runs; it goes on from step {step}" in output
    status = terminal.status()
    assert (status["job"], status["state"], status["exit_code"]) == ("tiny-2", "finished", 0)
    rows = json.loads(terminal.succeed("vitscale jobs list --json"))
    assert [row["job"] for row in rows] == ["tiny-1", "tiny-2"]
    first, second, third, *_ = [record.start["step"] for record in attempts_of(run)]
    assert (first, third) == (0, step)
    assert lost_at <= second <= step


SUBMIT_OTHER = "vitscale submit configs/debug/tiny.toml --on ray run.name=other "


@pytest.mark.parametrize(
    ("prefix", "more", "complaint"),
    [
        ("RAY_AUTH_TOKEN=" + "f" * 64, "", "the cluster refuses the token"),
        ("RAY_AUTH_TOKEN= HOME=/nonexistent", "", "there is no token to show"),
        ("", "cluster.address=http://127.0.0.1:1", "no Ray cluster answers"),
        ("", "engine.device=auto cluster.gpus_per_worker=1", "has 0 GPUs and the job needs 1"),
        ("", "cluster.storage=/dev/null/runs", "the folder of all runs cannot be written"),
        (
            "",
            "train.micro_batch=16 cluster.workers=4 cluster.workers_min=4",
            "CPUs and the job needs 4",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_words_and_nothing_is_started(
    terminal, prefix, more, complaint
):
    terminal.succeed("test -d data/digits || vitscale shards pack --from digits --to data/digits")
    before = json.loads(terminal.succeed("vitscale jobs list --json"))
    code, output = terminal.type(f"{prefix} {SUBMIT_OTHER} {more}")
    assert code == 2, output
    assert complaint in output
    after = json.loads(terminal.succeed("vitscale jobs list --json"))
    refused = [row for row in after if row not in before]
    assert {(row["run"], row["state"], row["exit_code"]) for row in refused} <= {
        ("other", "failed", 2)
    }
    assert terminal.type("test -e runs/other")[0] == 1


def test_code_that_differs_from_its_commit_is_refused(terminal):
    terminal.succeed("test -d data/digits || vitscale shards pack --from digits --to data/digits")
    terminal.succeed("touch vitscale/new.py")
    code, output = terminal.type(SUBMIT_OTHER)
    terminal.succeed("rm vitscale/new.py")
    assert code == 2
    assert "the code differs from its commit" in output
    assert "vitscale/new.py" in output


KNN = """
[data.digits]
train = "data/digits/train"
test = "data/digits/held-out"
[[task]]
method = "knn"
k = [10]
"""


def test_what_the_follower_of_a_job_says_is_in_the_log_of_the_job(terminal, tmp_path):
    terminal.succeed("test -d data/digits || vitscale shards pack --from digits --to data/digits")
    (tmp_path / "knn.toml").write_text(KNN)
    follow = f"run.name=watched cluster.follow.suite={tmp_path / 'knn.toml'}"
    terminal.succeed(f"vitscale submit configs/debug/tiny.toml --on ray {follow}")
    code, output = terminal.type("vitscale jobs logs watched -f")
    assert code == 0, output
    said = [line for line in output.splitlines() if "[follower] " in line]
    assert [line for line in said if "suite knn" in line], output
    # Nodes of one machine share the folder of their logs, so each line comes once for every node.
    scored = {line.partition("] ")[2] for line in said if line.endswith(" is scored")}
    assert scored == {"watched step 25 is scored", "watched step 50 is scored"}, output


def test_the_jobs_of_a_sweep_wait_for_room_and_run_one_after_another(terminal):
    terminal.succeed("test -d data/digits || vitscale shards pack --from digits --to data/digits")
    sweep = "vitscale submit configs/debug/tiny.toml --on ray run.name=grid cluster.workers_min=2 "
    sweep += 'train.duration="2000 epochs" --sweep seed=0,1,2 --json 2> /dev/null'
    for state in ("submitted", "running"):  # the second time all are at work
        rows = json.loads(terminal.succeed(sweep))
        assert [row["state"] for row in rows] == [state] * 3
    left = [row["run"] for row in rows]
    while left:
        now = the_one_at_work(terminal, left)
        terminal.succeed(f"vitscale jobs stop {now}")
        left.remove(now)
    listed = json.loads(terminal.succeed("vitscale jobs list --group grid --json"))
    assert {(row["run"], row["state"]) for row in listed} == {(r["run"], "stopped") for r in rows}


def the_one_at_work(terminal, runs):
    """The run that has ranks, as soon as there is one; all others must be waiting."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        told = {run: terminal.status(run) for run in runs}
        found = [run for run in runs if told[run]["workers"]]
        if found:
            waiting = {told[run]["message"] for run in runs if run not in found}
            assert waiting <= {"waits for room on the cluster"}
            (now,) = found
            return now
        time.sleep(1)
    pytest.fail(f"no job of the sweep has begun: {told}")
