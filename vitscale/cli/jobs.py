"""`vitscale jobs list|status|logs|stop|resubmit|resources`: jobs on a running Ray cluster."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitscale.cli.arguments import add_json, print_json
from vitscale.config.cluster import ClusterProfile, load_profile

if TYPE_CHECKING:
    from vitscale_launch.jobs import Jobs

_ACTIONS = {
    "list": "all jobs the cluster knows, oldest first",
    "status": "state, attempts, last commit and where a job is to be seen",
    "logs": "what a job wrote",
    "stop": "have a job commit and end, and wait for that",
    "resubmit": "submit a job again with the same code; the run goes on from its last commit",
    "resources": "the nodes of the cluster, and what is free on them",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command an action; all but `list` and `resources` take the name of a job or run."""
    actions = parser.add_subparsers(dest="action", metavar="|".join(_ACTIONS), required=True)
    for name, text in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        if name not in ("list", "resources"):
            action.add_argument(
                "job", metavar="JOB", help="a job, or a run: its newest job is meant then"
            )
        if name == "list":
            action.add_argument(
                "--group", metavar="NAME", help="only the jobs of this group, such as a sweep"
            )
        if name == "logs":
            action.add_argument(
                "-f",
                "--follow",
                action="store_true",
                help="go on until the job is over, and end with its exit code",
            )
        action.add_argument(
            "--on",
            metavar="PROFILE",
            default="ray",
            help="the profile of the cluster (default: ray)",
        )
        add_json(action)
        action.add_argument(
            "overrides",
            metavar="cluster.key=value",
            nargs="*",
            help="replaces one value of the profile",
        )


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    profile = load_profile(arguments.on, arguments.overrides)
    from vitscale_launch.jobs import Jobs

    return _RUN[arguments.action](Jobs(profile), arguments)


def _list(jobs: Jobs, arguments: argparse.Namespace) -> int:
    rows = jobs.list(arguments.group)
    if arguments.json:
        print_json(rows)
        return 0
    head = ("JOB", "STATE", "EXIT", "STARTED")
    columns([head, *((r["job"], *_state(r)) for r in rows)])
    return 0


def _state(row: Mapping[str, Any]) -> tuple[str, str, str]:
    code = "" if row["exit_code"] is None else str(row["exit_code"])
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"]))
    return row["state"], code, began if row["started"] else ""


def _status(jobs: Jobs, arguments: argparse.Namespace) -> int:
    show_table(jobs.status(arguments.job), arguments.json)
    return 0


def _logs(jobs: Jobs, arguments: argparse.Namespace) -> int:
    if arguments.follow:
        return _follow(jobs, arguments.job, as_json=arguments.json)
    log = jobs.log(arguments.job)
    print_json({"log": log}) if arguments.json else print(log, end="")
    return 0


def follow(profile: ClusterProfile, job: str, *, as_json: bool) -> int:
    """Show the log of a job until it is over; its exit code."""
    from vitscale_launch.jobs import Jobs

    return _follow(Jobs(profile), job, as_json=as_json)


def _follow(jobs: Jobs, job: str, *, as_json: bool) -> int:
    def show(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    status = jobs.follow(job, show)
    if as_json:
        print_json(status)
    return 1 if status["exit_code"] is None else int(status["exit_code"])


def _stop(jobs: Jobs, arguments: argparse.Namespace) -> int:
    status = jobs.stop(arguments.job)
    if arguments.json:
        print_json(status)
    else:
        print(f"{status['job']}: {status['message']}, exit code {status['exit_code']}")
    return 0


def _resubmit(jobs: Jobs, arguments: argparse.Namespace) -> int:
    from vitscale_launch.package import package_here

    show_table(jobs.resubmit(arguments.job, package_here()), arguments.json)
    return 0


def _resources(jobs: Jobs, arguments: argparse.Namespace) -> int:
    nodes = jobs.resources()
    if arguments.json:
        print_json(nodes)
        return 0
    head = ("NODE", "HOST", "CPU free", "of", "GPU free", "of")
    rows = [
        (
            node["node"][:12],
            node["host"] + (" (head)" if node["head"] else ""),
            *(f"{n:g}" for kind in ("CPU", "GPU") for n in _free(*node[kind])),
        )
        for node in nodes
    ]
    columns([head, *rows])
    return 0


def _free(used: float, total: float) -> tuple[float, float]:
    return total - used, total


_RUN = {
    "list": _list,
    "status": _status,
    "logs": _logs,
    "stop": _stop,
    "resubmit": _resubmit,
    "resources": _resources,
}


def show_table(table: Mapping[str, Any], as_json: bool) -> None:
    """Print a table of names and values; values that are not known are left out."""
    if as_json:
        print_json(table)
        return
    columns([(key, _text(value)) for key, value in table.items() if value is not None])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each)
    return str(value)


def columns(rows: list[tuple[str, ...]]) -> None:
    """Print rows of words under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
