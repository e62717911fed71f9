"""Results as one table: JSON, CSV, Markdown and a picture; and two columns of them side by side."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitscale.durable import write_text_atomically
from vitscale.evaluate.grade import compare
from vitscale.evaluate.report import table
from vitscale.evaluate.results import Results
from vitscale.evaluate.suite import Scored

log = logging.getLogger(__name__)
_COLUMNS = ("dataset", "group", "method", "setting", "metric", "value", "low", "high", "std")


@dataclass(frozen=True)
class Line:
    """A score in 0..1 with its 95 % interval and the spread over repeats, or a mean over data sets."""

    dataset: str
    group: str
    method: str
    setting: str
    metric: str
    value: float
    low: float
    high: float
    std: float
    images: int


def lines_of(scored: Scored, results: Results) -> list[Line]:
    """Every score in the order of the suite, then the means over data sets and groups."""
    lines = []
    for job in scored.jobs:
        record = results.read(job.key)
        for score in record["scores"] if record else []:
            names = {name: score[name] for name in ("setting", "value", "low", "high", "std")}
            lines.append(
                Line(
                    dataset=job.row.name,
                    group=job.row.data.group,
                    method=job.row.task.method,
                    metric=job.row.data.metric,
                    images=score["images"],
                    **names,
                )
            )
    return lines + (_means(lines) if not scored.failed else [])


def _means(lines: Sequence[Line]) -> list[Line]:
    """Of each method and setting over the data sets of a group and over all, where there are two and more."""
    found = []
    for method, setting in dict.fromkeys((line.method, line.setting) for line in lines):
        alike = [one for one in lines if (one.method, one.setting) == (method, setting)]
        groups = dict.fromkeys(one.group for one in alike if one.group)
        for group in [*groups, ""]:
            own = [one for one in alike if group in ("", one.group)]
            if len(own) > 1:
                found.append(_mean(own, group))
    return found


def _mean(lines: Sequence[Line], group: str) -> Line:
    """The mean of scores of different images, with the interval that follows from theirs by the normal rule."""
    n = len(lines)
    value = sum(line.value for line in lines) / n
    half = math.sqrt(sum(((line.high - line.low) / 2) ** 2 for line in lines)) / n
    return Line(
        dataset=f"mean of {n}",
        group=group,
        method=lines[0].method,
        setting=lines[0].setting,
        metric="mean",
        value=value,
        low=value - half,
        high=value + half,
        std=math.sqrt(sum(line.std**2 for line in lines)) / n,
        images=sum(line.images for line in lines),
    )


def publish(scored: Scored, results: Results) -> tuple[dict[str, Any], list[Path]]:
    """Write the table below `tables/`; what the JSON holds, and the files."""
    lines = lines_of(scored, results)
    failed = [
        {"dataset": job.row.name, "method": job.row.task.method, "error": str(error)}
        for job in scored.jobs
        if (error := scored.failed.get(job.key))
    ]
    record = {
        "suite": scored.suite,
        "weights": scored.subject.name,
        "step": scored.subject.step,
        "identity": scored.subject.identity,
        "rows": [vars(line) for line in lines],
        "failed": failed,
    }
    stem = results.folder / "tables" / f"{scored.suite}-{scored.subject.identity}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    title = f"{scored.suite}: {scored.subject.name}"
    texts = {
        ".json": json.dumps(record, indent=2) + "\n",
        ".csv": _csv(lines),
        ".md": f"# {title}\n\n{markdown(lines)}",
    }
    return record, _written(stem, texts, lines, title)


def _written(stem: Path, texts: dict[str, str], lines: Sequence[Line], title: str) -> list[Path]:
    files = []
    for ending, text in texts.items():
        files.append(stem.with_name(stem.name + ending))
        write_text_atomically(files[-1], text)
    try:
        files.append(draw(lines, stem.with_name(f"{stem.name}.png"), title))
    except ImportError as error:
        log.warning("no picture of the table: %s is not installed", error.name)
    return files


def text_of(record: dict[str, Any]) -> str:
    """The table for a terminal."""
    rows = [
        (
            _place(row["dataset"], row["group"]),
            row["method"],
            row["setting"],
            f"{100 * row['value']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            f"{100 * row['std']:.1f}",
            row["images"],
        )
        for row in record["rows"]
    ]
    headers = ("data set", "method", "setting", "%", "95 % interval", "std", "images")
    head = f"{record['weights']}, suite {record['suite']}"
    alike: dict[str, list[str]] = {}  # one bad set fails all tasks on it, and its error may be long
    for one in record["failed"]:
        alike.setdefault(one["error"], []).append(f"{one['dataset']} {one['method']}")
    failed = [f"{', '.join(names)}: {error}" for error, names in alike.items()]
    return "\n".join([head, table(headers, rows), *failed])


def markdown(lines: Sequence[Line]) -> str:
    """As a Markdown table."""
    head = "| data set | method | setting | % | 95 % interval | std | images |\n"
    head += "|---|---|---|--:|---|--:|--:|\n"
    return head + "".join(
        f"| {_place(one.dataset, one.group)} | {one.method} | {one.setting} | "
        f"{100 * one.value:.1f} | {100 * one.low:.1f} to {100 * one.high:.1f} | "
        f"{100 * one.std:.1f} | {one.images:,} |\n"
        for one in lines
    )


def draw(lines: Sequence[Line], path: Path, title: str) -> Path:
    """Every score as a point with its interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.24 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, line in enumerate(lines):
        colour = "tab:orange" if line.metric == "mean" else "tab:blue"
        axes.plot([100 * line.low, 100 * line.high], [row, row], color=colour, linewidth=2)
        axes.plot(100 * line.value, row, "o", color=colour, markersize=4)
    names = [f"{_place(one.dataset, one.group)}  {one.method}  {one.setting}" for one in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("% (95 % interval)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, format="png")
    return path


def contrast(a: Scored, b: Scored, of_a: Results, of_b: Results) -> list[dict[str, Any]]:
    """A against B on the same test images, a row for each score that both have."""
    rows = []
    for job_a, job_b in zip(a.jobs, b.jobs, strict=True):
        first, second = of_a.read(job_a.key), of_b.read(job_b.key)
        if first is None or second is None:
            continue
        pairs = zip(
            zip(first["scores"], of_a.evidence(job_a.key), strict=True),
            zip(second["scores"], of_b.evidence(job_b.key), strict=True),
            strict=True,
        )
        for (score_a, evidence_a), (score_b, evidence_b) in pairs:
            found = compare(evidence_a, evidence_b, job_a.row.data.metric)
            rows.append(
                {
                    "dataset": job_a.row.name,
                    "method": job_a.row.task.method,
                    "setting": score_a["setting"],
                    "a": score_a["value"],
                    "b": score_b["value"],
                    **vars(found),
                    "clear": found.is_clear,
                }
            )
    return rows


def contrast_text(rows: Sequence[dict[str, Any]], a: str, b: str) -> str:
    """The comparison for a terminal."""
    shown = [
        (
            row["dataset"],
            row["method"],
            row["setting"],
            f"{100 * row['a']:.1f}",
            f"{100 * row['b']:.1f}",
            f"{100 * row['value']:+.1f}",
            f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
            "yes" if row["clear"] else "no",
        )
        for row in rows
    ]
    headers = ("data set", "method", "setting", "A", "B", "A - B", "95 % interval", "clear")
    return f"A: {a}\nB: {b}\n{table(headers, shown)}"


def _csv(lines: Sequence[Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, "images"))
    writer.writerows([[getattr(one, name) for name in (*_COLUMNS, "images")] for one in lines])
    return text.getvalue()


def _place(dataset: str, group: str) -> str:
    return f"{dataset} ({group})" if group else dataset
