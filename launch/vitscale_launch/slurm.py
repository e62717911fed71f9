"""A job as a batch script of Slurm: Ray on all nodes, or torchrun; a commit before the time limit, and once more."""

from __future__ import annotations

import shlex
from pathlib import Path

from vitscale.config.cluster import ClusterProfile, Slurm
from vitscale.errors import STOPPED_EXIT_CODE
from vitscale_launch.job import Job

HANDED = "job"
"""Folder in the run folder that holds the package, and the order of the newest submission."""

_SCRIPT = """\
#!/bin/bash
{directives}

# One script for all nodes: it starts the ranks, asks the run to commit before the time limit, and queues itself again.
{setup}
set -uo pipefail
run={run}
export PYTHONPATH="$run/job${{PYTHONPATH:+:$PYTHONPATH}}"
{environment}
mkdir -p "$run"
rm -f "$run/STOP" "$run/job/reply.json"

# The file STOP asks every rank to commit and end. Slurm sends USR1 to this shell {grace_s} s before the time limit;
# `scancel --batch --signal=TERM` ends the run without queueing it again.
again=no
trap 'again=yes; touch "$run/STOP"' USR1
trap 'touch "$run/STOP"' TERM

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first="${{hosts[0]}}"
{start}
ranks=$!

# A signal ends `wait` early, so wait until the ranks are really over.
while true; do
  wait "$ranks"
  code=$?
  kill -0 "$ranks" 2> /dev/null || break
done
# What srun says tells nothing of the run; the reply does.
if [ -f "$run/job/reply.json" ]; then
  code="$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["exit_code"])' "$run/job/reply.json")"
fi
if [ "$code" -eq {stopped} ] && [ "$again" = yes ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

_RAY = """\
first="$(getent ahostsv4 "$first" | awk 'NR == 1 {{ print $1 }}')"

# Ray's nodes take work from whoever shows this token, and from nobody else.
RAY_AUTH_TOKEN="$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n')"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# On the first node this starts Ray's head and runs the job; on the others it adds the node, until the head ends.
srun --nodes={nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 \\
  ray symmetric-run --address "$first:{port}" --min-nodes {nodes} \\
  --num-cpus={cpus}{gpus} --disable-usage-stats -- \\
  python -m vitscale_launch.inside "$run/job/order.json" "$run/job/reply.json" &"""

_TORCHRUN = """\
srun --nodes={nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 \\
  torchrun --nnodes={nodes} --nproc-per-node={ranks} --max-restarts={max_failures} \\
  --rdzv-backend=c10d --rdzv-endpoint="$first:{port}" --rdzv-id="$SLURM_JOB_ID" \\
  -m vitscale_launch.rank "$run/job/order.json" "$run/job/reply.json" &"""


def batch_script(job: Job) -> str:
    """The script for `sbatch`. The run folder must be on storage that all nodes share."""
    profile, slurm = job.profile, settings(job.profile)
    nodes, ranks = profile.nodes(profile.workers), profile.ranks_per_node
    start = _TORCHRUN if profile.uses_torchrun else _RAY
    environment = profile.environment | {"OMP_NUM_THREADS": str(profile.threads)}
    return _SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in _directives(job, slurm)),
        run=shlex.quote(str(job.folder)),
        setup="\n".join(slurm.setup),
        environment="\n".join(
            f"export {name}={shlex.quote(value)}" for name, value in environment.items()
        ),
        grace_s=profile.grace_s,
        stopped=STOPPED_EXIT_CODE,
        start=start.format(
            nodes=nodes,
            ranks=ranks,
            port=slurm.port,
            cpus=_cpus(profile),
            gpus=f" --num-gpus={ranks}" if profile.gpus_per_worker else "",
            max_failures=profile.max_failures,
        ),
    )


def settings(profile: ClusterProfile) -> Slurm:
    """The profile's table for Slurm, or its defaults."""
    return profile.slurm or Slurm()


def _cpus(profile: ClusterProfile) -> int:
    return max(1, int(profile.cpus_per_worker * profile.ranks_per_node))


def _directives(job: Job, slurm: Slurm) -> list[str]:
    profile, name = job.profile, job.recipe.config.run.name
    ranks = profile.ranks_per_node
    kind = f"{profile.accelerator.lower()}:" if profile.accelerator else ""
    given = {
        "job-name": name,
        "nodes": profile.nodes(profile.workers),
        "ntasks-per-node": 1,
        "cpus-per-task": _cpus(profile),
        "gpus-per-node": f"{kind}{ranks}" if profile.gpus_per_worker else None,
        "mem": f"{slurm.memory_gb * ranks}G" if slurm.memory_gb else None,
        "partition": profile.queue,
        "account": slurm.account,
        "time": _time(profile.time_limit.seconds) if profile.time_limit else None,
        # Only the shell gets it; a signal to the ranks themselves would end them.
        "signal": f"B:USR1@{profile.grace_s}",
        "output": job.folder / HANDED / "slurm-%j.log",
    }
    lines = [f"--{key}={value}" for key, value in given.items() if value is not None]
    # `ray stop`, with which a node ends, ends every Ray of the user there.
    return [*lines, "--open-mode=append", "--requeue", "--exclusive"]


def _time(seconds: float) -> str:
    """`3-00:00:00`, as Slurm reads it."""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}-{h:02}:{m:02}:{s:02}"


def handed_folder(job: Job) -> Path:
    """Where package and order are put for the nodes to read."""
    return job.folder / HANDED
