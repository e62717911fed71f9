"""Where the events of guard and ranks are written: the run's ledger, the log and the tracker; never imports torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Events:
    """Takes events on rank 0, at once, and says them in every place where they are looked for.

    Args:
        write: adds a record to the ledger.
        samples: ids of the global batch at a position, in the order of ranks.
        rewound: tells the tracker of a rewind, in words.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        samples: Callable[[int], list[int]],
        rewound: Callable[[str], None],
    ) -> None:
        self._write, self._samples, self._rewound = write, samples, rewound

    def __call__(self, event: dict[str, Any]) -> None:
        """Write down one event."""
        if event["event"] == "skip":
            self._write({**event, "ids": self._samples(event["from"])})
        else:
            self._write(event)
        level = logging.INFO if event["event"] == "overflow" else logging.WARNING
        log.log(level, "%s", sentence_of(event))
        if event["event"] == "rewind":
            self._rewound(sentence_of(event))


def sentence_of(event: dict[str, Any]) -> str:
    """An event in words."""
    if event["event"] == "skip":
        ranks = f" on rank {', '.join(map(str, event['ranks']))}" if event["ranks"] else ""
        return (
            f"step {event['step']} was skipped: {event['why']}{ranks} (loss {event['loss']}, limit "
            f"{event['limit']}, gradient norm {event['norm']}); samples {event['from']} to {event['to'] - 1}"
        )
    if event["event"] == "rewind":
        return (
            f"rewind {event['number']}: from step {event['at_step']} back to the commit of step "
            f"{event['step']}, passing over samples {event['from']} to {event['to'] - 1}"
        )
    if event["event"] == "overflow":
        return (
            f"step {event['step']} changed nothing: its gradients overflowed in fp16; the loss scale is now "
            f"{event['scale']:g}"
        )
    if event["event"] == "straggler":
        return (
            f"rank {event['rank']} on {event['host']} is a straggler since step {event['since']}: at step "
            f"{event['step']} its own time of a step is {event['own_ms']:.0f} ms, the median of all ranks "
            f"{event['median_ms']:.0f} ms"
        )
    return f"the run ends at step {event['step']}: {event['why']}"
