"""What a trace of torch's profiler tells of a training step: where its time goes, and how much memory is in use when.

The trainer marks the parts of a step in the trace (train/profile.py); they follow each other without gaps.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "vitscale: "
"""What the names of marks begin with in a trace."""

DATA, COPY, FORWARD, BACKWARD = "data wait", "host to device", "forward", "backward"
COMMUNICATION, OPTIMIZER, OTHER = "communication", "optimizer", "other"
PARTS = (DATA, COPY, FORWARD, BACKWARD, COMMUNICATION, OPTIMIZER, OTHER)
_COLLECTIVES = ("gloo:", "nccl:", "ncclDevKernel")
_DEVICES = {0: "cpu", 1: "cuda"}
_COLOURS = {COPY: "tab:green", FORWARD: "tab:blue", BACKWARD: "tab:orange", OPTIMIZER: "tab:red"}

Span = tuple[float, float]
"""Begin and end, microseconds."""


@dataclass
class Trace:
    """Marks in the order of time; when a collective was at work; bytes in use of each kind of device, over time."""

    marks: list[tuple[str, Span]] = field(default_factory=list)
    collectives: list[Span] = field(default_factory=list)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def read_trace(path: Path) -> Trace:
    """Read a trace in Chrome's format, as `torch.profiler` exports it, compressed or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    trace = Trace()
    for event in events:
        name = str(event.get("name", ""))
        if name == "[memory]":
            at, facts = float(event["ts"]), event["args"]
            device = _DEVICES.get(facts["Device Type"], "other")
            trace.memory.setdefault(device, []).append((at, float(facts["Total Allocated"])))
        elif event.get("ph") == "X" and not str(event.get("cat", "")).startswith("gpu_user"):
            begin = float(event["ts"])
            span = (begin, begin + float(event["dur"]))
            if name.startswith(MARK):
                trace.marks.append((name.removeprefix(MARK), span))
            elif name.startswith(_COLLECTIVES):
                trace.collectives.append(span)
    trace.marks.sort(key=lambda mark: mark[1])
    for series in trace.memory.values():
        series.sort()
    return trace


def time_split(trace: Trace, steps: int) -> dict[str, Any]:
    """Milliseconds of a step by part; together they are the step.

    What a collective takes is taken out of the part in which it ran. On a GPU computation may have gone on beside it.

    Args:
        trace: of whole steps.
        steps: how many.

    Returns:
        `step_ms`, and for each of `parts` `ms` and `share`.
    """
    busy = _union(trace.collectives)
    spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for part, span in trace.marks:
        waited = sum(_shared(span, other) for other in busy)
        spent[part] += span[1] - span[0] - waited
        spent[COMMUNICATION] += waited
    whole = sum(spent.values())
    parts = {
        part: {"ms": micros / 1e3 / steps, "share": micros / whole if whole else 0.0}
        for part, micros in spent.items()
    }
    return {"step_ms": whole / 1e3 / steps, "parts": parts}


def draw_memory(trace: Trace, path: Path, title: str) -> Path:
    """Memory in use over the traced steps as a PNG, the parts of the steps in colour; returns its path.

    On a GPU that is all that torch has allotted there. On a CPU it is counted from the beginning of the trace on, so
    what was there before, such as the weights, is zero.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    device = "cuda" if "cuda" in trace.memory else "cpu"
    series = trace.memory.get(device, [])
    zero = trace.marks[0][1][0] if trace.marks else 0.0
    for part, colour in _COLOURS.items():
        spans = [((b - zero) / 1e3, (e - b) / 1e3) for name, (b, e) in trace.marks if name == part]
        axes.broken_barh(
            spans,
            (0, 1),
            transform=axes.get_xaxis_transform(),
            alpha=0.15,
            color=colour,
            label=part,
        )
    times = [(at - zero) / 1e3 for at, _ in series]
    axes.plot(
        times,
        [held / 2**20 for _, held in series],
        color="black",
        linewidth=0.8,
        drawstyle="steps-post",
    )
    axes.set_xlabel("ms")
    axes.set_ylabel(
        f"MiB in use ({device})" if device == "cuda" else "MiB since the trace began (cpu)"
    )
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
    return path


def _union(spans: Iterable[Span]) -> list[Span]:
    """The same times, none of them twice."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _shared(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def split_rows(split: dict[str, Any]) -> Sequence[tuple[str, str, str]]:
    """A row for each part: its name, milliseconds and percent."""
    rows = [
        (part, f"{one['ms']:.2f}", f"{100 * one['share']:.1f}")
        for part, one in split["parts"].items()
    ]
    return [*rows, ("step", f"{split['step_ms']:.2f}", "100.0")]
