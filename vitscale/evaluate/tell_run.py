"""Tell the training run what its weights scored: in its journal, and with it in MLflow, where it has one."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from vitscale.attempts import newest_attempt
from vitscale.checkpoint.lease import is_running
from vitscale.errors import VitscaleError
from vitscale.evaluate.results import Results
from vitscale.evaluate.suite import Scored
from vitscale.evaluate.tables import Line, lines_of, publish
from vitscale.tracking.journal import FILE_NAME, Journal, read_metrics
from vitscale.tracking.outbox import Outbox, ShipState
from vitscale.tracking.sync import sync

log = logging.getLogger(__name__)


def publish_in_run(scored: Scored, results: Results) -> tuple[dict[str, Any], list[Path]]:
    """Write the table as `publish` does, and tell the run whose weights they are; says nothing twice."""
    record, files = publish(scored, results)
    run = scored.subject.run
    if run is not None and (run / FILE_NAME).is_file():
        fresh = _fresh(run, scored.subject.step, lines_of(scored, results), scored)
        if fresh:
            _tell(run, scored.subject.step, fresh, files)
    return record, files


def metric_name(line: Line, which: str) -> str:
    """Such as `transfer/digits/ridge/5-shot`; the average's begin with `transfer_ema`."""
    room = "transfer" if which == "raw" else f"transfer_{which}"
    place = f"{line.dataset}-{line.group}" if line.metric == "mean" and line.group else line.dataset
    words = (place, line.method, line.setting)
    return "/".join([room, *(word.replace(" ", "_") for word in words)])


def _fresh(run: Path, step: int, lines: list[Line], scored: Scored) -> dict[str, float]:
    """What the journal does not say of this step yet."""
    known = read_metrics(run)
    values = {metric_name(line, scored.subject.which): line.value for line in lines}
    return {
        name: value
        for name, value in values.items()
        if not any(
            point.step == step and math.isclose(point.value, value) for point in known.get(name, [])
        )
    }


def _tell(run: Path, step: int, values: dict[str, float], files: list[Path]) -> None:
    journal = Journal(run, newest_attempt(run))
    journal.append(values, step)
    journal.close()
    _send(run, files, "transfer")


def send_report(run: Path, files: list[Path]) -> None:
    """Make a page and its pictures artifacts of the run in MLflow, where it has one."""
    _send(run, files, "report")


def _send(run: Path, files: list[Path], folder: str) -> None:
    """Hand files to MLflow."""
    if ShipState.load(run) is None:
        return
    outbox = Outbox(run)
    for file in files:
        outbox.add("artifact", path=str(file.absolute()), folder=folder)
    if is_running(run):
        return  # its own shipper brings them
    try:
        sync(run)
    except (VitscaleError, ImportError) as error:
        log.warning("MLflow was not told (%s); `vitscale report sync %s` does it", error, run)
