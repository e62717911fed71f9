"""What happens to images that cannot be used: each is named and masked, and too many of them stop the run."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from vitscale.errors import DataError

_log = logging.getLogger(__name__)
_NAMED = 20
_WORST = 5
RAISE_LIMIT = (
    "Run `vitscale shards verify` on the folder and mend it, or raise data.bad_image_limit."
)


class BadImage(DataError):
    """One image whose bytes are damaged or cannot be decoded."""


@dataclass(frozen=True)
class Quarantined:
    """A line of the quarantine list; `offset` is the image's first byte in the shard."""

    sample: int
    shard: str
    key: str
    offset: int
    why: str

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key!r}, byte {self.offset}: {self.why}"


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
    """Counts the distinct bad images that one rank has met. An image met again is masked again, not counted.

    Args:
        limit: share of images that may be bad.
        samples: of the data set.
        whereabouts: shard, key and byte of a sample.
        file: gets a line of JSON for each; what stands in it from an earlier attempt is not written again.
        place: where the data set lies.
        do: what is to be done where there are too many.
    """

    def __init__(
        self,
        limit: float,
        samples: int,
        whereabouts: Callable[[int], tuple[str, str, int]],
        file: Path | None = None,
        *,
        place: str = "",
        do: str = RAISE_LIMIT,
    ) -> None:
        self._limit, self._samples, self._whereabouts = limit, samples, whereabouts
        self._place, self._do = place, do
        self._seen = 0
        self._found: dict[int, Quarantined] = {}
        self._file = file
        self._written = listed_samples(file) if file is not None else set()

    def __len__(self) -> int:
        return len(self._found)

    def note(self, seen: int, bad: list[tuple[int, str]]) -> None:
        """Count `seen` images of which `bad`, pairs of sample id and reason, had to be masked.

        Raises:
            DataError: there are more than the limit allows.
        """
        self._seen = min(self._seen + seen, self._samples)
        for sample, why in bad:
            if sample not in self._found:
                found = Quarantined(sample, *self._whereabouts(sample), why)
                self._found[sample] = found
                _log.warning("masked a bad image: %s", found)
                self._write(found)
        if bad and len(self) > tolerated(self._limit, self._seen):
            raise self._too_many()

    def _write(self, found: Quarantined) -> None:
        if self._file is None or found.sample in self._written:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with open(self._file, "a", encoding="utf-8") as file:
            # A line of its own, also behind one that a kill cut short.
            file.write("\n" * (file.tell() > 0) + json.dumps(asdict(found)))

    def _too_many(self) -> DataError:
        found = list(self._found.values())
        more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
        lines = [str(each) for each in found[:_NAMED]] + more
        worst = Counter(each.shard for each in found).most_common(_WORST)
        shards = ", ".join(f"{name} ({count})" for name, count in worst)
        return DataError(
            f"{len(found)} of {self._seen} images seen are bad:\n  " + "\n  ".join(lines) + "\n",
            where=", ".join(filter(None, (self._place, f"worst shards: {shards}"))),
            given=f"bad_image_limit {self._limit:g}",
            do=self._do,
        )


def listed_samples(file: Path) -> set[int]:
    """Samples that a quarantine file names; a line that a kill cut short names none."""
    if not file.is_file():
        return set()
    samples = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            samples.add(int(json.loads(line)["sample"]))
        except (ValueError, KeyError, TypeError):
            continue
    return samples
