"""What every rank runs, whoever started it: torchrun, Ray, Slurm or a test."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscale.config.load import Recipe
from vitscale.config.redaction import redact_text
from vitscale.durable import write_text_atomically
from vitscale.errors import STOPPED_EXIT_CODE, VitscaleError
from vitscale.outcome import last_word, leave_word, reply
from vitscale.place import Place, place_of

if TYPE_CHECKING:
    from vitscale.train.protocols import Tracker

log = logging.getLogger(__name__)

_PEER_WAIT_S = 3.0
_START_SPREAD_S = 5.0  # ranks of one attempt start within this


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Train as the request says; all ranks call this.

    Args:
        request: `recipe` (JSON text of a `Recipe`), `resume` ("auto", "must" or "never").

    Returns:
        `status` ("finished", "stopped" or "failed"), `exit_code`, `message`, `step`, `folder`. "failed" means that
        another try would fail the same way.

    Raises:
        Exception: anything another try may heal, such as a lost peer.
    """
    recipe = Recipe.from_json(request["recipe"])
    folder, place = recipe.config.folder, place_of()
    _speak(place)
    started = time.time()
    try:
        return _attempt(recipe, place, request.get("resume", "auto"))
    except VitscaleError as error:
        if error.retry:
            raise
        if folder.is_dir():
            leave_word(folder, place.rank, error)
        return reply(folder, "failed", error.exit_code, str(error))
    except Exception as error:
        word = _word_of_peers(folder, started) if place.world > 1 else None
        if word is None:
            raise
        log.warning("%s ended as another rank did (%s)", place, type(error).__name__)
        return reply(folder, "failed", word["exit_code"], word["message"])


def _attempt(recipe: Recipe, place: Place, resume: str) -> dict[str, Any]:
    from vitscale.engine.collectives import Ranks
    from vitscale.train.loop import train
    from vitscale.train.setup import Attempt, build_run, check_machine, run_folder, survey

    device = check_machine(recipe.config, place)
    found = survey(recipe.config, place, device)
    folder = run_folder(recipe.config)
    ranks = Ranks(place, device, recipe.config.engine.timeout_s)
    try:
        number = ranks.first(lambda: _new_attempt(folder, recipe))
        _announce(folder, number, place)
        run, close = build_run(Attempt(recipe, place, device, ranks, number, resume), found)
        status = "FAILED"
        try:
            outcome, progress = train(run)
            if place.is_first:
                _publish(folder, number, run.tracker)
            status = "FINISHED" if outcome == "finished" else "KILLED"
        finally:
            close(status)
    finally:
        ranks.close()
    code = 0 if outcome == "finished" else STOPPED_EXIT_CODE
    return reply(folder, outcome, code, f"{outcome} at step {progress.step}", progress.step)


def _speak(place: Place) -> None:
    """Log lines of vitscale go to stderr: all of rank 0's, only warnings of the others."""
    root = logging.getLogger("vitscale")
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"[{place.rank}] %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.INFO if place.is_first else logging.WARNING)


def _new_attempt(folder: Path, recipe: Recipe) -> int:
    """Make `attempts/NNNN` and save the resolved recipe, secrets hidden, there and in the run folder."""
    attempts = folder / "attempts"
    attempts.mkdir(exist_ok=True)
    number = 1 + max((int(p.name) for p in attempts.iterdir() if p.name.isdigit()), default=0)
    own = _attempt_folder(folder, number)
    own.mkdir()
    for name, text in recipe.files.items():
        (own / Path(name).name).write_text(redact_text(text), encoding="utf-8")
    for path in (own / "config.json", folder / "config.json"):
        write_text_atomically(path, redact_text(recipe.to_json()))
    return number


def _attempt_folder(folder: Path, number: int) -> Path:
    return folder / "attempts" / f"{number:04d}"


def _publish(folder: Path, number: int, tracker: Tracker) -> None:
    """Write the report and hand it, the recipe's files and the resolved config to the tracker."""
    from vitscale.evaluate.report import write_report

    try:
        write_report(folder)
    except ImportError as error:
        log.warning("no report/curves.png: %s is not installed", error.name)
    for path in sorted((folder / "report").glob("*")):
        tracker.artifact(path, "report")
    own = _attempt_folder(folder, number)
    for path in (*sorted(own.glob("*.toml")), folder / "config.json"):
        tracker.artifact(path, "recipe")


def _announce(folder: Path, number: int, place: Place) -> None:
    record = {"rank": place.rank, "pid": os.getpid(), "host": socket.gethostname()}
    path = _attempt_folder(folder, number) / f"rank-{place.rank:05d}.json"
    path.write_text(json.dumps(record))


def _word_of_peers(folder: Path, since: float) -> dict[str, Any] | None:
    """What another rank left as its last word since `since`; waits a moment for it."""
    deadline = time.monotonic() + _PEER_WAIT_S
    while time.monotonic() < deadline:
        if word := last_word(folder, since - _START_SPREAD_S):
            return word
        time.sleep(0.1)
    return None
