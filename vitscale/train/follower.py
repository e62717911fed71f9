"""The follower of a job: scores every commit while the ranks train, in a process that the launcher starts.

It logs to stderr as the ranks do; Ray brings that into the log of the job.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitscale.config.suite import LoadedSuite
from vitscale.data.pieces import local_pieces
from vitscale.errors import LeaseError
from vitscale.evaluate.follow import follow, scorer
from vitscale.evaluate.subject import Machine, Subject
from vitscale.evaluate.suite import Setting
from vitscale.evaluate.tables import text_of
from vitscale.train import worker

log = logging.getLogger(__name__)
_TAKEN_S = 60.0
"""That the follower of an earlier start may take to be gone."""


def run(request: dict[str, Any], over: Callable[[], bool]) -> str:
    """Score the commits of a run until `over()` says that no more will come, and then the last of them.

    Args:
        request: `folder` of the run, `suite` (JSON of a `LoadedSuite`), `which` weights ("raw" or "ema"), `device`
            and `threads` of this process.
        over: asked about once a second.

    Returns:
        A sentence.

    Raises:
        LeaseError: somebody else follows the run for this suite.
        VitscaleError: a task failed. The commit is tried again at the next start.
    """
    worker.speak("follower", logging.INFO)
    suite = LoadedSuite.from_json(request["suite"])
    folder = Path(request["folder"])
    machine = Machine(device=request["device"], threads=request["threads"])

    def setting_of(subject: Subject) -> Setting:
        return Setting(machine, local_pieces(1), worker.run, subject.home, log.info)

    score = scorer(suite, setting_of, lambda record: log.info("%s", text_of(record)))
    until = time.monotonic() + _TAKEN_S
    while True:
        try:
            follow(
                [folder],
                suite.name,
                request["which"],
                score,
                patience_s=math.inf,
                say=log.info,
                over=over,
            )
        except LeaseError:
            if time.monotonic() > until:
                raise
            time.sleep(1)
        else:
            return f"every commit is scored by suite {suite.name}"
