"""What a scaling study found, in files: `study.json`, `points.csv`, `scaling.png`; and as text."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.durable import write_text_atomically
from vitscale.errors import DataError, VitscaleError
from vitscale.evaluate.report import table, write_summary
from vitscale.evaluate.scaling_fit import Fit, fit, frontier
from vitscale.evaluate.scaling_study import Climbed, Point

log = logging.getLogger(__name__)
_FURTHER = (2, 10)
"""Times the largest compute on the frontier, for which the law is read off."""
_PARAMETERS = ("a", "b", "c", "d")


def write_study(
    folder: Path, climbed: Climbed, named: Mapping[str, str]
) -> tuple[dict[str, Any], VitscaleError | None]:
    """Fit, and write everything into the folder of the study.

    Args:
        folder: exists.
        climbed: the rungs.
        named: recipe and ladder, as they were called.

    Returns:
        The record that is in `study.json`; and why there is no law, where there is none.
    """
    points = climbed.points
    best = frontier([p.compute for p in points], [p.loss for p in points])
    found, why = _law([points[i] for i in best])
    record: dict[str, Any] = {
        **named,
        "points": [asdict(p) | {"frontier": i in best} for i, p in enumerate(points)],
        "failed": {name: str(error) for name, error in climbed.failed.items()},
        "law": _law_record(found, points[best[-1]].compute) if found else None,
        "no_law": str(why) if why else None,
    }
    write_summary(folder / "study.json", record)
    write_text_atomically(folder / "points.csv", _csv(record["points"]))
    try:
        _draw(points, best, found, folder / "scaling.png", folder.name)
    except ImportError as error:
        log.warning("no scaling.png: %s is not installed", error.name)
    return record, why


def text_of(record: Mapping[str, Any]) -> str:
    """The points and the law for a terminal."""
    rows = [
        (
            p["name"],
            p["parameters"],
            p["images"],
            f"{p['compute']:.3g}",
            f"{p['loss']:.4f}",
            f"{100 * p['top1']:.1f}",
            "yes" if p["frontier"] else "",
        )
        for p in record["points"]
    ]
    heads = ("rung", "parameters", "images", "operations", "loss", "top-1 %", "frontier")
    law = record["law"]
    if law is None:
        return table(heads, rows)
    lines = [
        f"{name:<8} {law[name]['value']:.4g} ({law[name]['low']:.4g} to {law[name]['high']:.4g})"
        for name in _PARAMETERS
    ]
    lines += [
        f"at {one['times']} times the most compute the law says {one['loss']:.4f} "
        f"({one['low']:.4f} to {one['high']:.4f})"
        for one in law["further"]
    ]
    head = (
        f"\nloss = a (C + d)^-b + c, {law['points']} points, noise {100 * law['noise']:.2f} %; "
        "95 % intervals"
    )
    return "\n".join([table(heads, rows), head, *lines])


def _law(points: Sequence[Point]) -> tuple[Fit | None, DataError | None]:
    try:
        return fit([p.compute for p in points], [p.loss for p in points]), None
    except DataError as error:
        return None, error


def _law_record(found: Fit, most: float) -> dict[str, Any]:
    record: dict[str, Any] = {"points": found.points, "noise": found.noise}
    for name in _PARAMETERS:
        low, high = found.interval(name)
        record[name] = {"value": getattr(found.law, name), "low": low, "high": high}
    record["further"] = []
    for times in _FURTHER:
        loss, low, high = found.predict(times * most)
        ends = {"loss": loss, "low": low, "high": high}
        record["further"].append({"times": times, "compute": times * most, **ends})
    return record


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = [*(f.name for f in fields(Point)), "frontier"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _draw(
    points: Sequence[Point], best: Sequence[int], found: Fit | None, path: Path, title: str
) -> None:
    """Losses over compute, a line a size, the frontier ringed, the law with its band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for size in dict.fromkeys(p.size for p in points):
        own = [p for p in points if p.size == size]
        axes.plot([p.compute for p in own], [p.loss for p in own], "o-", linewidth=1, label=size)
    ringed = [points[i] for i in best]
    ring = {"marker": "o", "s": 110, "facecolors": "none", "edgecolors": "0.3"}
    axes.scatter([p.compute for p in ringed], [p.loss for p in ringed], label="frontier", **ring)
    if found is not None:
        _draw_law(axes, found, ringed)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations of training")
    axes.set_ylabel("held-out loss")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")


def _draw_law(axes: Any, found: Fit, ringed: Sequence[Point]) -> None:
    """Whole where there are points, dashed up to ten times the last; the band holds 95 % of the laws that fit."""
    first, last = ringed[0].compute, ringed[-1].compute
    at = np.geomspace(first, _FURTHER[-1] * last, 200)
    band = np.array([found.predict(compute) for compute in at])
    inside = at <= last
    axes.fill_between(at, band[:, 1], band[:, 2], color="0.5", alpha=0.2, linewidth=0)
    axes.plot(at[inside], band[inside, 0], color="black", linewidth=1.2, label="law")
    axes.plot(at[~inside], band[~inside, 0], "--", color="black", linewidth=1.2)
