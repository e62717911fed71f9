"""Figures of benches: contestants timed in turn, medians and spreads, one JSON a bench and one table of all.

    python -m bench.figures        # bench/results/*.json as a table in Markdown, printed and in table.md

A figure is {"ours": median, peer: median, ..., "ratio": {peer: peer over ours}, "spread": {name: middle half},
"unit": "ms"}; where a step was timed also "mfu": {name: share of the FLOP/s that a matrix product reached}.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Work = Callable[[], object]
Timed = Callable[[Work], float]
"""Does a work and says how many seconds it took."""


def by_clock(clock: Callable[[], float]) -> Timed:
    """From the work's first line to its last."""

    def timed(work: Work) -> float:
        before = clock()
        work()
        return clock() - before

    return timed


CPU_TIME, WALL_TIME = by_clock(time.process_time), by_clock(time.perf_counter)


def times_in_turn(works: Mapping[str, Work], rounds: int, timed: Timed) -> dict[str, list[float]]:
    """Milliseconds of each contestant and round; each warms up once, then all go in turn, there and back.

    So a machine that grows slower or faster within a round favours nobody.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        order = list(works.items())
        for name, work in order if turn % 2 else reversed(order):
            seconds = timed(work)
            if turn:
                times[name].append(1e3 * seconds)
    return times


def figure(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Milliseconds of each contestant and round, ours first, as a figure.

    Machines slow down and speed up, so only times of one round are comparable: a ratio is the median over rounds.
    """
    ours, *peers = times
    ratios = {
        peer: statistics.median(p / o for p, o in zip(times[peer], times[ours], strict=True))
        for peer in peers
    }
    quarters = {name: statistics.quantiles(each, n=4) for name, each in times.items()}
    return {
        **{name: round(statistics.median(each), 3) for name, each in times.items()},
        "ratio": {peer: round(ratio, 3) for peer, ratio in ratios.items()},
        "spread": {name: round(q[2] - q[0], 3) for name, q in quarters.items()},
        "unit": "ms",
    }


def write(name: str, figures: Mapping[str, Any], **facts: object) -> None:
    """Write `bench/results/NAME.json`: the figures, with machine, commit, versions and `facts`, and print them."""
    record = {"machine": machine(), "commit": _commit(), "torch": version("torch"), **facts}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record | {"figures": figures}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print("\n".join(rows(name, figures)), flush=True)


def machine() -> str:
    """The processor by name, and how many cores of it there are."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def rows(bench: str, figures: Mapping[str, Any]) -> list[str]:
    """A line of the table for each peer of each figure."""
    lines = []
    for name, found in figures.items():
        for peer, ratio in found["ratio"].items():
            values = " | ".join(_cell(found, who) for who in ("ours", peer))
            lines.append(f"| {bench} | {name} | {values} | {peer} | {ratio:.2f} |")
    return lines


def _cell(found: Mapping[str, Any], who: str) -> str:
    share = f" (MFU {found['mfu'][who]:.1%})" if "mfu" in found else ""
    return f"{found[who]:g} ± {found['spread'][who] / 2:.2g}{share}"


def main() -> None:
    lines = ["| bench | figure | ours, ms | peer, ms | peer | ratio |", "|---|---|---|---|---|---|"]
    origins = []
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and "commit" in record:
            lines += rows(path.stem, record["figures"])
            origins.append(f"{path.stem}: {record['machine']}, commit {record['commit']}")
    text = "\n".join([*lines, "", *origins]) + "\n"
    (RESULTS / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
