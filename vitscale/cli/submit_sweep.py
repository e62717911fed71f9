"""`vitscale submit RECIPE --sweep key=value,value ...`: one job for each combination of the values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vitscale.cli.arguments import print_json
from vitscale.cli.jobs import columns
from vitscale.config.cluster import ClusterProfile
from vitscale.config.sweep import Point, sweep_points


def run_sweep(
    arguments: argparse.Namespace, profile: ClusterProfile, overrides: Sequence[str]
) -> int:
    """Submit every point, or list them; the exit code is the first in the order of points that is not 0."""
    from vitscale_launch.sweep import submit_jobs, sweep_jobs

    points = sweep_points(arguments.recipe, overrides, arguments.sweep)
    jobs = sweep_jobs([point.recipe for point in points], profile, arguments.resume)
    if arguments.dry_run:
        _print_points(points, [str(job.folder) for job in jobs], as_json=arguments.json)
        return 0
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(submit_jobs(jobs, profile, allow_dirty=arguments.allow_dirty), 1):
        print(f"--- {number} of {len(jobs)}: {_sentence(row)} ---", file=sys.stderr, flush=True)
        rows.append(row)
    _print_rows(rows, as_json=arguments.json)
    return next((row["exit_code"] for row in rows if row["exit_code"]), 0)


def _print_points(points: Sequence[Point], folders: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        rows = zip(points, folders, strict=True)
        print_json([{"run": p.name, "overrides": list(p.overrides), "folder": f} for p, f in rows])
        return
    lines = [
        (point.name, " ".join(point.overrides), folder)
        for point, folder in zip(points, folders, strict=True)
    ]
    columns([("RUN", "POINT", "FOLDER"), *lines])


def _print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    head = ("RUN", "STATE", "EXIT", "MESSAGE")
    lines = [(r["run"], r["state"], str(r["exit_code"]), r["message"]) for r in rows]
    columns([head, *lines])


def _sentence(row: Mapping[str, Any]) -> str:
    return f"{row['run']}: {row['state']}, {row['message']}"
