"""What happens to images that cannot be used: each is named and masked, and too many of them stop the run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from vitscale.errors import DataError

_log = logging.getLogger(__name__)
_NAMED = 20


class BadImage(DataError):
    """One image whose bytes are damaged or cannot be decoded."""


def tolerated(limit: float, seen: int) -> int:
    """Bad images that do not yet show a share above `limit` among `seen`.

    One, plus what `limit` expects, plus three standard deviations of such a count, so that chance
    stops a healthy run about never and a rotten shard stops it at once. A limit of 0 tolerates
    none.
    """
    if limit == 0:
        return 0
    expected = limit * seen
    return 1 + math.floor(expected + 3 * math.sqrt(expected))


class BadImages:
    """Counts the distinct bad images that one rank has met. An image met again is masked again, not counted."""

    def __init__(self, limit: float, samples: int, name_of: Callable[[int], str]) -> None:
        self._limit, self._samples, self._name_of = limit, samples, name_of
        self._seen = 0
        self._names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    def note(self, seen: int, bad: list[tuple[int, str]]) -> None:
        """Count `seen` images of which `bad`, pairs of sample id and reason, had to be masked.

        Raises:
            DataError: there are more than the limit allows.
        """
        self._seen = min(self._seen + seen, self._samples)
        for sample, why in bad:
            if sample not in self._names:
                self._names[sample] = f"{self._name_of(sample)}: {why}"
                _log.warning("masked a bad image: %s", self._names[sample])
        if bad and len(self) > tolerated(self._limit, self._seen):
            raise self._too_many()

    def _too_many(self) -> DataError:
        names = list(self._names.values())
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        return DataError(
            f"{len(names)} of {self._seen} images seen are bad:\n  "
            + "\n  ".join(names[:_NAMED] + more)
            + "\n",
            given=f"bad_image_limit {self._limit:g}",
            do="Run `vitscale shards verify` on the folder and mend it, or raise data.bad_image_limit.",
        )
