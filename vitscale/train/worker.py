"""What every rank runs, whoever started it: torchrun, Ray, Slurm or a test."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscale.attempts import attempt_folder
from vitscale.config.load import Recipe
from vitscale.errors import STOPPED_EXIT_CODE, LeaseError, VitscaleError
from vitscale.place import place_of
from vitscale.train.life import Life, run_folder

if TYPE_CHECKING:
    from vitscale.train.protocols import Export, Tracker

log = logging.getLogger(__name__)


def run(
    request: dict[str, Any],
    leaving: Callable[[], list[int]] | None = None,
    export: Export | None = None,
) -> dict[str, Any]:
    """Train as the request says; all ranks call this.

    Args:
        request: `recipe` (JSON text of a `Recipe`), `resume` ("auto", "must" or "never"); from a launcher that
            starts ranks again also `submission` (the same text each time), `max_failures` and `job`. With `profile`
            rank 0 traces a few steps (`vitscale.train.profile`).
        leaving: the ranks whose machine is about to be taken away; all ranks call it together.
        export: takes the numbers of this rank at each log line, for those who watch the cluster.

    Returns:
        `status` ("finished", "stopped" or "failed"), `exit_code`, `message`, `step`, `folder`, `restarts`; `leaving`
        where ranks are. "failed" means that another try would fail the same way.

    Raises:
        Exception: anything another try may heal, such as a lost peer.
    """
    life = Life(Recipe.from_json(request["recipe"]), place_of(), request)
    speak(str(life.place.rank), logging.INFO if life.place.is_first else logging.WARNING)
    try:
        return _attempt(life, leaving, export, profiled=bool(request.get("profile")))
    except LeaseError as error:  # the folder is somebody else's: not a word into it
        return life.failed(error)
    except VitscaleError as error:
        fatal = life.note(error) if error.retry else error
        if fatal is None:
            raise
        return life.last_word(fatal)
    except Exception as error:
        if fatal := life.note(error):
            return life.last_word(fatal)
        if told := life.word_of_peers(type(error).__name__):
            return told
        life.end("died", f"{type(error).__name__}: {error}")
        raise


def _attempt(
    life: Life,
    leaving: Callable[[], list[int]] | None,
    export: Export | None,
    *,
    profiled: bool,
) -> dict[str, Any]:
    from vitscale.engine.allocator import keep_freed_memory
    from vitscale.engine.choice import settle
    from vitscale.engine.collectives import Ranks
    from vitscale.evaluate.efficiency import device_name
    from vitscale.train.loop import train
    from vitscale.train.profile import Profile
    from vitscale.train.setup import Attempt, build_run, check_machine, survey

    recipe, place = life.recipe, life.place
    device = check_machine(recipe.config, place)
    keep_freed_memory(device)
    found = survey(recipe.config, place, device)
    run_folder(recipe.config)
    ranks = Ranks(place, device, recipe.config.engine.timeout_s)
    try:
        lease, beat = life.begin(ranks.first(life.claim), device_name(device))
        engine = settle(recipe.config, found.shape, found.plan, device=device, ranks=ranks)
        recipe = replace(recipe, config=recipe.config.model_copy(update={"engine": engine}))
        profile = Profile(life.folder, device) if profiled and place.is_first else None
        attempt = Attempt(
            recipe,
            place,
            device,
            ranks,
            lease.number,
            life.resume,
            beat,
            lease,
            leaving,
            profile,
            export,
        )
        run, close = build_run(attempt, found)
        status = "FAILED"
        try:
            outcome, progress = train(profile.around(run) if profile else run)
            beat(progress.step, "close")
            if place.is_first:
                _publish(life.folder, life.number, run.tracker)
            status = "FINISHED" if outcome == "finished" else "KILLED"
        finally:
            if profile:
                profile.close()
            close(status)
    finally:
        ranks.close()
        life.close()
    life.end("preempted" if run.stop.leaving else outcome)
    code = 0 if outcome == "finished" else STOPPED_EXIT_CODE
    answer = life.reply(outcome, code, f"{outcome} at step {progress.step}", progress.step)
    return answer | ({"leaving": run.stop.leaving} if run.stop.leaving else {})


def speak(name: str, level: int) -> None:
    """Log lines of vitscale go to stderr, from `level` on, behind the name that this process took first."""
    root = logging.getLogger("vitscale")
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"[{name}] %(message)s"))
        root.addHandler(handler)
    root.setLevel(level)


def _publish(folder: Path, number: int, tracker: Tracker) -> None:
    """Write the report and hand it, the recipe's files and the resolved config to the tracker."""
    from vitscale.evaluate.report import write_report

    try:
        write_report(folder)
    except ImportError as error:
        log.warning("no report/curves.png: %s is not installed", error.name)
    for path in sorted((folder / "report").glob("*")):
        tracker.artifact(path, "report")
    own = attempt_folder(folder, number)
    for path in (*sorted(own.glob("*.toml")), folder / "config.json"):
        tracker.artifact(path, "recipe")
