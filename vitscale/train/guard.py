"""Whether a step may change the weights, and when a run goes back; never imports torch. The rules of docs/guard.md.

A step is skipped, on all ranks alike and before its update, if the loss of any rank is not finite, or if the mean loss
over all ranks is a spike: above `median + loss_spike * 1.4826 * MAD` of the last `window` losses of applied steps, once
half of the window is filled. (1.4826 * MAD estimates the standard deviation of a normal distribution; it is taken as at
least 1 % of the median, so that a loss that hardly moves makes no spike of its noise.) A gradient norm that is not
finite, which the engines do not apply, counts as a skipped step too, unless it made the loss scale of fp16 smaller:
then the next step may do better, and this one neither lengthens nor ends a row. Losses of updates that were not applied
never enter the window.

After `skips` skipped steps in a row the run rewinds: it takes up the last good commit and passes over all samples from
there to the end of the bad stretch, at most `rewinds` times.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vitscale.config.train import GuardConfig
from vitscale.engine.loss_scale import LossScale
from vitscale.errors import NotFiniteError
from vitscale.train.progress import Progress

_SIGMA_PER_MAD = 1.4826
_LEAST_SHARE = 0.01


class Guard:
    """Judges every step from numbers that are the same on all ranks, so the verdicts are.

    Args:
        config: the `[guard]` table.
        batch: samples a step consumes.
    """

    def __init__(self, config: GuardConfig, batch: int) -> None:
        self.config, self.batch = config, batch
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self._recent: deque[float] = deque(maxlen=config.window)
        self._in_a_row = self._skipped = self._rewinds = 0
        self._last = ""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            "recent": list(self._recent),
            "in_a_row": self._in_a_row,
            "skipped": self._skipped,
            "rewinds": self._rewinds,
        }

    def resume(self, state: dict[str, Any] | None) -> None:
        """Take back what `state` gave; commits from before there was a guard have None."""
        state = state or {"recent": (), "in_a_row": 0, "skipped": 0, "rewinds": 0}
        self._recent = deque(state["recent"], maxlen=self.config.window)
        self._in_a_row, self._skipped = state["in_a_row"], state["skipped"]
        self._rewinds = state["rewinds"]

    def limit(self) -> float:
        """The largest loss that is no spike; infinite where nothing is judged."""
        k = self.config.loss_spike
        if k == "off" or 2 * len(self._recent) < self.config.window:
            return math.inf
        median = statistics.median(self._recent)
        mad = statistics.median(abs(loss - median) for loss in self._recent)
        return median + k * max(_SIGMA_PER_MAD * mad, _LEAST_SHARE * abs(median))

    def passes(self, losses: Sequence[float]) -> bool:
        """Whether a step with these losses, one a rank, may be applied."""
        mean = mean_of(losses)
        return math.isfinite(mean) and mean <= self.limit()

    def record(
        self, at: Progress, losses: Sequence[float], norm: float | None, scale: LossScale
    ) -> bool:
        """Note the step that followed `at` finished ones, and say whether it was applied.

        Args:
            at: before the step.
            losses: of every rank.
            norm: of the gradients; None where `passes` forbade the update.
            scale: of the loss, after the step.
        """
        if norm is not None and math.isfinite(norm):
            self._recent.append(mean_of(losses))
            self._in_a_row = 0
            return True
        if norm is not None and scale.lowered:
            self.on_event({"event": "overflow", "step": at.step + 1, "scale": scale.value})
            return False
        self._in_a_row += 1
        self._skipped += 1
        event = self._skip(at, losses, norm, scale.blame)
        self._last = f"loss {event['loss']}, gradient norm {event['norm']}: {event['why']}"
        self.on_event(event)
        return False

    def _skip(
        self, at: Progress, losses: Sequence[float], norm: float | None, blame: str
    ) -> dict[str, Any]:
        limit = self.limit()
        culprits = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        why = "the loss is not finite" if culprits else f"the gradient norm is not finite{blame}"
        if norm is None and not culprits:
            culprits = [rank for rank, loss in enumerate(losses) if loss > limit]
            why = "the loss is a spike"
        return {
            "event": "skip",
            "step": at.step + 1,
            "from": at.images,
            "to": at.images + self.batch,
            "why": why,
            "loss": _written(mean_of(losses)),
            "limit": _written(limit),
            "norm": None if norm is None else _written(norm),
            "ranks": culprits,
        }

    @property
    def wants_rewind(self) -> bool:
        """Whether so many steps in a row were skipped that the run should go back."""
        return self._in_a_row >= self.config.skips

    def insist_on_rewinds_left(self, past: Progress) -> None:
        """Let the run go back once more.

        Raises:
            NotFiniteError: all rewinds are used up.
        """
        if self._rewinds >= self.config.rewinds:
            allowed = (
                f"all {self._rewinds} rewinds are used up" if self._rewinds else "rewinds are off"
            )
            raise self.given_up(past, allowed)

    def given_up(self, past: Progress, why_no_rewind: str) -> NotFiniteError:
        """The error that ends the run at `past`, after an event that says so."""
        first = past.step - self._in_a_row + 1
        self.on_event({"event": "end", "step": past.step, "why": why_no_rewind})
        return NotFiniteError(
            f"{self._in_a_row} steps in a row were skipped, and {why_no_rewind}",
            where=f"steps {first} to {past.step}",
            given=self._last,
            do="Nothing of it was committed; RUN/ledger/ names the samples of each. Lower optim.lr, lengthen "
            "optim.warmup, set optim.clip_norm or raise guard.rewinds, then run the same command again.",
        )

    def rewound(self, state: dict[str, Any] | None, back: Progress, past: Progress) -> None:
        """Go on with the statistics of the commit `back`; what was counted up to `past` stays counted."""
        skipped, rewinds = self._skipped, self._rewinds
        self.resume(state)
        self._in_a_row, self._skipped, self._rewinds = 0, skipped, rewinds + 1
        self.on_event(
            {
                "event": "rewind",
                "step": back.step,
                "from": back.images,
                "to": past.images,
                "at_step": past.step,
                "number": self._rewinds,
            }
        )

    def counts(self) -> dict[str, float]:
        """Metrics: skipped steps and rewinds of the whole run."""
        return {
            "train/skipped_steps": float(self._skipped),
            "train/rewinds": float(self._rewinds),
        }


def mean_of(losses: Sequence[float]) -> float:
    """The mean over ranks, which have equal weight; not finite if any loss is not."""
    return sum(losses) / len(losses)


def _written(number: float) -> float | str:
    """JSON has no word for what is not finite."""
    return number if math.isfinite(number) else str(number)
