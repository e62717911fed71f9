"""What sources that read image files share: kind by content, keys from paths, problems told all at once, shares."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from vitscale.data.image_headers import EXTENSION_OF, OTHER, kind_of
from vitscale.data.random_keys import generator
from vitscale.data.samples import Sample, Split, Splits
from vitscale.errors import DataError

_LISTED = 30
_HEAD = 16
NO_IMAGE = "no JPEG, PNG or WebP"


def look(path: Path) -> tuple[str, str]:
    """(extension by content, what is wrong with the file); one of the two is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return "", error.strerror or "cannot be read"
    except ValueError as error:  # a path with a zero byte
        return "", str(error)
    return extension_of(head)


def extension_of(head: bytes) -> tuple[str, str]:
    """As `look`, for the first bytes of an image."""
    kind = kind_of(head)
    if kind == OTHER:
        return "", NO_IMAGE if head else "the file is empty"
    return EXTENSION_OF[kind], ""


class Keys:
    """Keys from relative paths: the suffix is cut off, dots become `_`, and a key met again gets a number."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()

    def of(self, path: Path) -> str:
        parts = [part for part in path.with_suffix("").parts if part not in ("/", "..", ".")]
        key = "/".join(parts).replace(".", "_")
        self._times[key] += 1
        return key if self._times[key] == 1 else f"{key}~{self._times[key]}"


def refuse(problems: list[str], what: str, where: Path) -> None:
    """Raise if there are problems: `what` has so many, and a list of the first.

    Raises:
        DataError: there are.
    """
    if not problems:
        return
    more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError(
        f"{what} has {count}:\n  " + "\n  ".join(problems[:_LISTED] + more) + "\n",
        where=str(where),
        do="Mend, convert or remove these files.",
    )


def hold_out(split: Split, share: float, seed: int) -> Splits:
    """ "train" and, for a share above 0, "held-out": of every first label the share, drawn by `seed`."""
    if share <= 0:
        return {"train": split}
    samples = list(split.samples)
    by_label: defaultdict[int, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        by_label[sample.labels[0] if sample.labels else -1].append(row)
    held_out: set[int] = set()
    for label, rows in by_label.items():
        held_out.update(_drawn(rows, label, share, seed))
    parts = {"train": False, "held-out": True}
    return {
        name: Split(split.classes, list(_part(samples, held_out, inside)), split.notes, split.named)
        for name, inside in parts.items()
        if held_out or not inside
    }


def _drawn(rows: list[int], label: int, share: float, seed: int) -> Iterator[int]:
    """At least one and never all of the rows of a label."""
    count = round(share * len(rows))
    if len(rows) > 1:
        count = min(max(count, 1), len(rows) - 1)
    stream = generator("held-out", seed, label) if label >= 0 else generator("held-out-none", seed)
    for number in stream.permutation(len(rows))[:count].tolist():
        yield rows[number]


def _part(samples: list[Sample], rows: set[int], inside: bool) -> Iterator[Sample]:
    return (sample for row, sample in enumerate(samples) if (row in rows) == inside)
