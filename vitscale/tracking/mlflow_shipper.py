"""Sends the journal and the outbox of a run to MLflow from a thread that training never waits for."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vitscale.config.redaction import redact_text
from vitscale.tracking.journal import FILE_NAME, Point, read_records
from vitscale.tracking.mlflow_run import MlflowRun
from vitscale.tracking.outbox import ShipState, read_outbox
from vitscale.tracking.target import Target

_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
_CLOSE_PAUSE_S = 1.0
_LOOK_S = 0.1
_CLOSE_S = 20.0
_CLOSE_LOCAL_S = 60.0
_CLOSE_SILENT_S = 5.0
_BATCH_POINTS = 1000
_TURN = ".mlflow-group.lock"
_log = logging.getLogger(__name__)


class Shipment:
    """What is still to be sent. `advance` sends it, from where the last successful call came to."""

    def __init__(self, folder: Path, target: Target, state: ShipState) -> None:
        self._folder, self._target, self._state = folder, target, state
        self._run: MlflowRun | None = None
        self.points_sent = 0

    def advance(self) -> None:
        """Send everything that is there now; raises whatever MLflow raises."""
        try:
            if self._run is None:
                self._run = MlflowRun(self._target, self._state)
                self._state.save(self._folder)
            self._join_group(self._run)
            self._send_journal(self._run)
            self._send_outbox(self._run)
        except Exception:
            if self._run is not None:
                self._run.forget()
            raise

    def _join_group(self, run: MlflowRun) -> None:
        """Put the run below that of its group, once; of the runs of one home one at a time."""
        state = self._state
        if state.group is None or state.parent_id is not None:
            return
        with (self._folder.parent / _TURN).open("a") as turn:
            with suppress(OSError):  # storage without locks: at worst the group has two runs
                fcntl.flock(turn, fcntl.LOCK_EX)
            state.parent_id = run.put_below(state.group)
        state.save(self._folder)

    def _send_journal(self, run: MlflowRun) -> None:
        batch: list[tuple[str, Point]] = []
        end = self._state.offset
        for record, end in read_records(self._folder / FILE_NAME, end):  # noqa: B020
            for key, value in record.values.items():
                batch.append((key, Point(record.step, value, record.time)))
            if len(batch) >= _BATCH_POINTS:
                self._send_batch(run, batch, end)
                batch = []
        if batch:
            self._send_batch(run, batch, end)

    def _send_batch(self, run: MlflowRun, batch: list[tuple[str, Point]], end: int) -> None:
        run.send_points(batch)
        self.points_sent += len(batch)
        self._state.offset = end
        self._state.save(self._folder)

    def _send_outbox(self, run: MlflowRun) -> None:
        for message, end in read_outbox(self._folder, self._state.outbox_offset):
            if message["kind"] == "start":
                run.set_status("RUNNING")
                run.send_texts(message["params"], message["tags"])
            elif message["kind"] == "tags":
                run.send_texts({}, message["tags"])
            elif message["kind"] == "artifact":
                run.send_artifact(Path(message["path"]), message["folder"])
            elif message["kind"] == "status":
                run.set_status(message["status"])
            self._state.outbox_offset = end
            self._state.save(self._folder)


class MlflowShipper:
    """The thread: a round every two seconds, rarer while MLflow does not answer, a last one at the end."""

    def __init__(self, folder: Path, target: Target, state: ShipState) -> None:
        self._folder, self._target = folder, target
        self._shipment = Shipment(folder, target, state)
        self._closing = threading.Event()
        self._closed_at = float("inf")
        self._failures = 0
        self._answered = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow-shipper", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Try to send the rest, for a bounded time; False if something had to stay behind."""
        self._closed_at = time.monotonic()
        self._closing.set()
        while self._thread.is_alive() and not self._out_of_patience():
            self._thread.join(_LOOK_S)
        if not self._complete:
            _log.warning(
                "MLflow at %s has not received everything within %.0f s. Nothing is lost: run "
                "`vitscale report sync %s` when it answers.",
                redact_text(self._target.uri),
                time.monotonic() - self._closed_at,
                self._folder,
            )
        return self._complete

    def _out_of_patience(self) -> bool:
        if self._failures and not self._answered:
            patience_s = _CLOSE_SILENT_S
        else:
            patience_s = _CLOSE_LOCAL_S if self._target.is_local else _CLOSE_S
        return time.monotonic() - self._closed_at > patience_s

    def _work(self) -> None:
        while not self._closing.is_set():
            self._round()
            self._closing.wait(min(_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S))
        while not self._complete and not self._out_of_patience():
            # A round that began before the last message was written would not do.
            self._complete = self._round()
            if not self._complete:
                time.sleep(_CLOSE_PAUSE_S)

    def _round(self) -> bool:
        try:
            self._shipment.advance()
        except Exception as error:  # whatever it is, training goes on
            self._failed(error)
            return False
        if self._failures:
            _log.info("MLflow answers again; everything up to now has been sent.")
        self._failures = 0
        self._answered = True
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            reason = redact_text(
                str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            )
            _log.warning(
                "MLflow at %s does not take metrics (%s: %.200s). Training goes on; %s keeps them and they "
                "are sent when it answers.",
                redact_text(self._target.uri),
                type(error).__name__,
                reason,
                self._folder / FILE_NAME,
            )


def run_to_the_end(
    shipment: Shipment, *, attempts: int, pause_s: float, report: Callable[[str], None]
) -> bool:
    """Call `advance` until it succeeds, `attempts` times at most."""
    for left in range(attempts - 1, -1, -1):
        try:
            shipment.advance()
            return True
        except Exception as error:
            report(f"{type(error).__name__}: {redact_text(str(error))[:300]}")
            if left:
                time.sleep(pause_s)
    return False
