"""One HTML page about a run that needs no network: everything is inside, readable in the light and in the dark."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitscale.checkpoint.inspection import last_commit
from vitscale.config.run import RunConfig
from vitscale.config.saved import saved_recipe
from vitscale.data.audit import Audit, EpochProof, audit
from vitscale.durable import write_text_atomically
from vitscale.errors import VitscaleError
from vitscale.evaluate.chart import Marks, Points, intervals, line_chart
from vitscale.evaluate.efficiency import Efficiency, efficiency_of
from vitscale.evaluate.page_model import MODEL_SECTIONS, Subject, subject_at
from vitscale.evaluate.page_style import STYLE
from vitscale.evaluate.report import restarts_of, series_of
from vitscale.units import human_count

CURVES = (
    ("train/loss", "training loss", 1),
    ("train/lr", "learning rate", 1),
    ("train/grad_norm", "gradient norm", 1),
    ("speed/images_per_s", "images per second", 1),
    ("speed/data_wait_percent", "waiting for data, %", 1),
    ("held_out/top1", "held-out top-1, %", 100),
    ("held_out/loss", "held-out loss", 1),
)
_FACTS = (
    ("train/images", "images seen", 1, "{:,.0f}"),
    ("train/epoch", "epochs", 1, "{:.2f}"),
    ("train/loss", "training loss", 1, "{:.4g}"),
    ("held_out/top1", "held-out top-1", 100, "{:.1f} %"),
    ("held_out/top5", "held-out top-5", 100, "{:.1f} %"),
)

Series = Mapping[str, Points]


def write_page(run: Path, *, to: Path | None = None) -> Path:
    """Write `report/report.html` of the run, or the file `to`; returns its path.

    Sections that have nothing to show say so, and why.

    Raises:
        DataError: there is no such run, or it has logged nothing.
    """
    series = series_of(run)
    saved = run / "config.json"
    config = saved_recipe(saved).config if saved.is_file() else None
    marks = Marks(restarts_of(run), _rewinds(series))
    subject, why = subject_at(run, config)
    sections = [
        ("summary", "Summary", _summary(run, config, series, marks, subject)),
        (
            "curves",
            "Curves",
            _curves(series, marks, efficiency_of(run, config.engine.precision if config else None)),
        ),
        ("samples", "Samples seen", _told(lambda: _samples(run))),
        ("few-shot", "Few-shot over steps", _few_shot(series, marks)),
        ("transfer", "Transfer", _transfer(run)),
        *((key, title, _of_model(draw, subject, why)) for key, title, draw in MODEL_SECTIONS),
    ]
    path = to or run / "report" / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, _document(run.name, sections))
    return path


def _document(name: str, sections: Sequence[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{content}</section>'
        for key, title, content in sections
    )
    title = html.escape(name)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{title}</h1><nav>{links}</nav></header><main>{body}</main></body></html>\n"
    )


def _summary(
    run: Path, config: RunConfig | None, series: Series, marks: Marks, subject: Subject | None
) -> str:
    trained = {name: points for name, points in series.items() if name.startswith("train/")}
    _, step = _steps(trained or series)
    rows = [("run folder", str(run)), ("step", f"{step:,}")]
    if config is not None:
        rows += [
            ("model", f"{config.model.variant}, {config.model.image_px} px"),
            ("trained on", ", ".join(source.shards for source in config.data.train)),
            ("length", f"{config.train.duration}, batch {config.train.batch:,}"),
        ]
    if subject is not None:
        count = sum(parameter.numel() for parameter in subject.model.parameters())
        rows.append(("parameters", human_count(count)))
    rows += [
        (label, text.format(factor * series[name][-1][1]))
        for name, label, factor, text in _FACTS
        if name in series
    ]
    rows.append(("restarts at step", ", ".join(f"{s:,}" for s in marks.restarts) or "none"))
    rows.append(("rewinds at step", ", ".join(f"{s:,}" for s in marks.rewinds) or "none"))
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    return f'<table class="facts">{cells}</table>'


def _curves(series: Series, marks: Marks, efficiency: Efficiency) -> str:
    shown = {
        label: [(step, factor * value) for step, value in series.get(name, ())]
        for name, label, factor in CURVES
    }
    figures = "".join(
        f"<figure><figcaption>{label}</figcaption>"
        f"{line_chart({label: points}, marks, _steps(series))}</figure>"
        for label, points in shown.items()
    )
    figures += _efficiency(efficiency, marks, _steps(series))
    note = '<p class="note">Over steps. Dashed: restarts. Dotted: rewinds to a commit.</p>'
    return f'<div class="figures">{figures}</div>{note}'


def _steps(series: Series) -> tuple[int, int]:
    """The first and the last that were logged, so that all charts have one scale."""
    steps = [step for points in series.values() for step, _ in points]
    return min(steps), max(steps)


def _efficiency(found: Efficiency, marks: Marks, steps: tuple[int, int]) -> str:
    note = f'<p class="note">{html.escape(found.note)}</p>' if found.note else ""
    chart = line_chart({found.label: found.points}, marks, steps)
    return f"<figure><figcaption>{found.label}</figcaption>{chart}{note}</figure>"


def _few_shot(series: Series, marks: Marks) -> str:
    """Every data set that was scored by ridge, its counts of shots as lines."""
    by_set: dict[str, dict[str, Points]] = {}
    for name, points in series.items():
        room, _, rest = name.partition("/")
        dataset, _, setting = rest.partition("/ridge/")
        if room == "transfer" and setting:
            shown: Points = [(step, 100 * value) for step, value in points]
            called = dataset.replace("_", " ") if dataset.startswith("mean_of_") else dataset
            by_set.setdefault(called, {})[setting] = shown
    if not by_set:
        return _absent("Score the run with `vitscale evaluate --follow RUN --suite NAME`.")
    figures = "".join(
        f"<figure><figcaption>{html.escape(name)}, %</figcaption>"
        f"{line_chart(lines, marks, _steps(series))}</figure>"
        for name, lines in sorted(by_set.items())
    )
    return f'<div class="figures">{figures}</div>'


def _transfer(run: Path) -> str:
    """The newest table of each suite, of the weights and of their average, with its intervals."""
    newest: dict[tuple[str, bool], dict[str, Any]] = {}
    for path in sorted((run / "transfer" / "tables").glob("*.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        key = table["suite"], table["weights"].endswith("(ema)")
        known = newest.get(key)
        if known is None or table["step"] >= known["step"]:
            newest[key] = table
    if not newest:
        return _absent("Score the run with `vitscale evaluate RUN --suite NAME`.")
    parts = []
    for (suite, is_average), table in sorted(newest.items()):
        rows = [
            (
                f"{row['dataset']} {row['method']} {row['setting']}",
                *(row["value"], row["low"], row["high"]),
            )
            for row in table["rows"]
        ]
        which = ", average of the weights" if is_average else ""
        title = f"suite {suite}, step {table['step']:,}{which}: value and 95 % interval"
        parts.append(
            f'<figure class="wide"><figcaption>{html.escape(title)}</figcaption>{intervals(rows)}'
            f"{_table(table['rows'])}</figure>"
        )
    return "".join(parts)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    heads = ("data set", "method", "setting", "%", "95 % interval", "std", "images")
    lines = [
        (
            f"{row['dataset']} {row['group']}".strip(),
            row["method"],
            row["setting"],
            f"{100 * row['value']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            f"{100 * row['std']:.1f}",
            f"{row['images']:,}",
        )
        for row in rows
    ]
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _samples(run: Path) -> str:
    """The replay of the order against the ledger."""
    step, data = last_commit(run)
    found = audit(run, step, data)
    verdict = (
        "every step saw exactly the samples of its order"
        if not found.problems
        else "; ".join(found.problems)
    )
    rows = _audit_rows(found)
    cells = "".join(f"<tr><th>{k}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    kind = "good" if not found.problems else "bad"
    return f'<p class="{kind}">{html.escape(verdict)}</p><table class="facts">{cells}</table>'


def _audit_rows(found: Audit) -> list[tuple[str, str]]:
    rows = [
        ("committed steps replayed", f"{found.steps:,}"),
        ("images", f"{found.images:,}"),
        ("masked slots", f"{found.masked:,}"),
        ("skipped steps", ", ".join(map(str, found.skipped)) or "none"),
    ]
    rows += [
        (f"source {source}, {_epochs([proof.epoch for proof in alike])}", what)
        for (source, what), alike in itertools.groupby(
            found.epochs, lambda proof: (proof.source, _seen(proof))
        )
    ]
    return rows


def _seen(proof: EpochProof) -> str:
    state = "complete, each once" if proof.complete else "so far, none twice"
    if proof.repeated:
        state = f"{proof.repeated:,} repeated"
    return f"{proof.seen:,} of {proof.samples:,} samples, {state}"


def _epochs(numbers: Iterable[int]) -> str:
    """The first and the last; a run of many epochs has one line for all that are alike."""
    first, *more = numbers
    return f"epochs {first} to {more[-1]}" if more else f"epoch {first}"


def _rewinds(series: Series) -> list[int]:
    """Steps at which the count of rewinds had grown."""
    points = series.get("train/rewinds", ())
    pairs = itertools.pairwise(points)
    return [after[0] for before, after in pairs if after[1] > before[1]]


def _told(section: Callable[[], str]) -> str:
    """A section, or why it cannot be drawn."""
    try:
        return section()
    except VitscaleError as error:
        return _absent(str(error))


def _of_model(draw: Callable[[Subject], str], subject: Subject | None, why: str) -> str:
    if subject is None:
        return _absent(why)
    return _told(lambda: draw(subject))


def _absent(text: str) -> str:
    return f'<p class="absent">{html.escape(text)}</p>'
