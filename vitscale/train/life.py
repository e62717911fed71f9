"""One rank's part in an attempt, from claiming its folder to its last word; never imports torch."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitscale.attempts import (
    AttemptRecord,
    attempt_folder,
    attempts_of,
    committed_step,
    note_end,
    note_failure,
    restarts_of,
    this_process,
)
from vitscale.checkpoint.lease import Lease
from vitscale.config.load import Recipe
from vitscale.config.redaction import redact_text
from vitscale.config.run import RunConfig
from vitscale.durable import write_text_atomically
from vitscale.errors import ConfigError, HopelessError, VitscaleError
from vitscale.outcome import last_word, leave_word, reply
from vitscale.place import Place
from vitscale.train.heartbeat import Heartbeat
from vitscale.train.restart import (
    WELL_ENDED,
    begin_attempt,
    failure_of,
    how_it_ended,
    twin_failure,
)

log = logging.getLogger(__name__)

_PEER_WAIT_S = 3.0
_START_SPREAD_S = 5.0  # ranks of one attempt start within this


class Life:
    """What a rank knows of its attempt, and what it leaves in `attempts/NNNN/`."""

    def __init__(self, recipe: Recipe, place: Place, request: dict[str, Any]) -> None:
        self.recipe, self.place, self.folder = recipe, place, recipe.config.folder
        self.resume: str = request.get("resume", "auto")
        # Torchrun too starts ranks again under one name, if it was given one.
        torchrun = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        self._launch = request.get("submission") or ("" if torchrun == "none" else torchrun)
        self._submission = self._launch or uuid.uuid4().hex
        self._job: str = request.get("job", "")
        self._max_failures: int | None = request.get("max_failures")
        self._started = time.time()
        self._lease: Lease | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def number(self) -> int:
        """Of the attempt; 0 before it has begun."""
        return self._lease.number if self._lease else 0

    def claim(self) -> tuple[int, str]:
        """Rank 0's part: make `attempts/NNNN` with the recipe, secrets hidden; its number and the submission.

        Raises:
            LeaseError, HopelessError: see `begin_attempt`.
        """
        texts = {Path(n).name: redact_text(text) for n, text in self.recipe.files.items()}
        texts["config.json"] = redact_text(self.recipe.to_json())
        before = attempts_of(self.folder)
        lease = begin_attempt(
            self.folder, self._submission, world=self.place.world, job=self._job, files=texts
        )
        write_text_atomically(self.folder / "config.json", texts["config.json"])
        self._say_what_came_before(lease, before)
        return lease.number, self._submission

    def _say_what_came_before(self, lease: Lease, before: list[AttemptRecord]) -> None:
        if before and before[-1].end.get("status") not in WELL_ENDED:
            log.warning("%s", how_it_ended(before[-1]))
        own = [record for record in before if record.start.get("submission") == self._submission]
        if own:
            failed = [r for r in own if r.end.get("status") not in WELL_ENDED]
            most = "" if self._max_failures is None else f" of {self._max_failures}"
            log.info(
                "attempt %d: restart %d of this submission, %d%s after failures; from step %d, ranks: %d",
                *(lease.number, len(own), len(failed), most, committed_step(self.folder)),
                self.place.world,
            )

    def begin(
        self, claimed: tuple[int, str], device: str
    ) -> tuple[Lease, Callable[[int, str], None]]:
        """Every rank's part: say where it runs and start the heartbeat; the lease, and `beat(step, phase)`."""
        number, self._submission = claimed
        self._lease = Lease(self.folder, number)
        record = {"rank": self.place.rank, "device": device, **this_process()}
        path = attempt_folder(self.folder, number) / f"rank-{self.place.rank:05d}.json"
        path.write_text(json.dumps(record))
        limit = self.recipe.config.health.limit_s
        self._heartbeat = Heartbeat(self._lease, self.place.rank, limit)
        return self._lease, self._heartbeat.beat

    def note(self, error: Exception) -> HopelessError | None:
        """Write down what this rank raised; the error to end with if the attempt before failed the same way."""
        if self._lease is None or self._heartbeat is None:
            return None
        now = self._heartbeat.now
        failure = failure_of(error, rank=self.place.rank, step=now.step, phase=now.phase)
        note_failure(self.folder, self.number, failure)
        before = [r for r in attempts_of(self.folder, self._submission) if r.number < self.number]
        return twin_failure(before, [failure], self.number)

    def last_word(self, error: VitscaleError) -> dict[str, Any]:
        """End for good: tell the other ranks and whoever started them, unless the run is somebody else's by now."""
        if self.folder.is_dir() and not (self._lease and self._lease.is_lost):
            leave_word(self.folder, self.place.rank, error, self._launch)
        self.end("failed", str(error))
        return self.failed(error)

    def word_of_peers(self, error: str) -> dict[str, Any] | None:
        """The reply if another rank has ended for good; waits a moment for its word."""
        deadline = time.monotonic() + _PEER_WAIT_S
        while self.place.world > 1 and time.monotonic() < deadline:
            if word := last_word(self.folder, self._started - _START_SPREAD_S, self._launch):
                log.warning("%s ended as another rank did (%s)", self.place, error)
                self.end("failed", word["message"])
                return self.reply("failed", word["exit_code"], word["message"])
            time.sleep(0.1)
        return None

    def end(self, status: str, message: str = "") -> None:
        """Say how the attempt ended; rank 0 speaks for all."""
        if self._lease and self.place.is_first:
            note_end(self.folder, self.number, status, message)

    def failed(self, error: VitscaleError) -> dict[str, Any]:
        """The reply to an error that another try cannot heal."""
        return self.reply("failed", error.exit_code, str(error))

    def reply(
        self, status: str, exit_code: int, message: str, step: int | None = None
    ) -> dict[str, Any]:
        """What the worker answers."""
        answer = reply(self.folder, status, exit_code, message, step)
        return answer | {"restarts": restarts_of(self.folder, self._submission)}

    def close(self) -> None:
        """End the heartbeat."""
        if self._heartbeat:
            self._heartbeat.close()


def run_folder(config: RunConfig) -> Path:
    """Make the run's folder.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run folder cannot be made: {error.strerror}",
            where="run.home",
            given=config.folder,
            do="Choose a folder you may write to.",
        ) from error
    return config.folder
