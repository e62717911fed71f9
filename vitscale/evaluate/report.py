"""What a run leaves for people: curves as a picture, a summary as JSON, scores as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitscale.durable import write_text_atomically
from vitscale.errors import DataError
from vitscale.tracking.journal import FILE_NAME, read_metrics, read_records

Series = Mapping[str, Sequence[tuple[int, float]]]

_A_RUN = "Give a run folder, such as runs/NAME."
PANELS = (
    ("train/loss", "training loss"),
    ("train/lr", "learning rate"),
    ("speed/images_per_s", "images per second"),
    ("held_out/top1", "held-out top-1 accuracy"),
)


def write_report(run_folder: Path) -> dict[str, Any]:
    """Draw `report/curves.png` and write `report/summary.json` from the run's metrics; returns the summary.

    Raises:
        DataError: there is no such run, or it has no metrics yet.
    """
    series = series_of(run_folder)
    restarts = restarts_of(run_folder)
    report = run_folder / "report"
    draw_curves(series, report / "curves.png", restarts=restarts, title=run_folder.name)
    summary = {
        "run": run_folder.name,
        "step": max(points[-1][0] for points in series.values()),
        "restarts_at_step": restarts,
        "last": {name: points[-1][1] for name, points in sorted(series.items())},
    }
    write_summary(report / "summary.json", summary)
    return summary


def series_of(run_folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric that the run has logged.

    Raises:
        DataError: there is no such run, or it has no metrics yet.
    """
    if not run_folder.is_dir():
        what = "is a file and no run" if run_folder.exists() else "there is no such run"
        raise DataError(what, where=str(run_folder), do=_A_RUN)
    series = {
        name: [(point.step, point.value) for point in points]
        for name, points in read_metrics(run_folder).items()
    }
    if not series:
        where = str(run_folder / FILE_NAME)
        raise DataError("the run has logged nothing", where=where, do=_A_RUN)
    return series


def restarts_of(run_folder: Path) -> list[int]:
    """The first step that each attempt after the first logged, besides scores, which may be of earlier commits."""
    first: dict[int, int] = {}
    for record, _ in read_records(run_folder / FILE_NAME):
        if not all(name.startswith("transfer") for name in record.values):
            first.setdefault(record.attempt, record.step)
    return [first[attempt] for attempt in sorted(first)[1:]]


def draw_curves(
    series: Series, path: Path, *, restarts: Sequence[int] = (), title: str = ""
) -> Path:
    """Draw loss, learning rate, speed and accuracy over steps as a PNG; returns its path.

    Args:
        series: (step, value) pairs by metric name; metrics that are absent leave an empty panel saying so.
        path: file to write; its folder is made.
        restarts: steps at which an attempt after the first began, marked by a dashed line.
        title: printed above all panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _draw_panel(axes, series.get(name, ()), label, restarts)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
    return path


def _draw_panel(
    axes: Any, points: Sequence[tuple[int, float]], label: str, restarts: Sequence[int]
) -> None:
    axes.set_title(label, fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if not points:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color="0.5")
        return
    ordered = sorted(points)
    marker = "o" if len(ordered) < 30 else None
    axes.plot(*zip(*ordered, strict=True), marker=marker, markersize=3, linewidth=1.2)
    for step in restarts:
        axes.axvline(step, linestyle="--", linewidth=0.8, color="tab:red")


def write_summary(path: Path, values: Mapping[str, Any]) -> Path:
    """Write `values` as indented JSON, whole or not at all; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(values, indent=2) + "\n")
    return path


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain text in columns: text to the left, numbers to the right."""
    cells = [list(map(str, headers)), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(headers))
    ]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def score_table(result: Mapping[str, Any]) -> str:
    """The result of `vitscale.evaluate.from_checkpoint.evaluate` as text."""
    head = f"{result['checkpoint']} (step {result['step']}), {result['on']} on {result['data']}"
    scores = result["scores"]
    if result["on"] == "held-out":
        return f"{head}\n{table(('score', 'value'), list(scores.items()))}"
    rows = [
        (name, one["mean"], one["std"], one["images"], one["short_classes"])
        for name, one in scores.items()
    ]
    return f"{head}\n{table(('shots', 'mean', 'std', 'images', 'short classes'), rows)}"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"
