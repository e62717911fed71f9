"""`metrics.jsonl`: every metric ever logged, one line a call; MLflow and the plots are made from it.

A line is `{"step", "time", "attempt", "values"}`, and `"rewinds"` where the attempt rewound before: with attempt and
step it tells apart what was logged twice. Values that JSON has no number for are written as the texts "nan", "inf" and
"-inf".
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "metrics.jsonl"
_CHUNK_BYTES = 1 << 18
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What one call of `metrics` logged; `time` in seconds since 1970."""

    step: int
    time: float
    attempt: int
    values: dict[str, float]


class Point(NamedTuple):
    """One value of one metric."""

    step: int
    value: float
    time: float


class Journal:
    """Appends records; a line that a kill or a full disk tore stays behind and readers skip it."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.path = folder / FILE_NAME
        self._attempt = attempt
        self.rewinds = 0
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._torn = not _ends_a_line(self._file)
        self._warned = False

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Write one line with one `write`; a disk that refuses it is reported once and does not raise."""
        line = json.dumps(
            {
                "step": int(step),
                "time": round(time.time(), 3),
                "attempt": self._attempt,
                **({"rewinds": self.rewinds} if self.rewinds else {}),
                "values": {key: _to_json(value) for key, value in values.items()},
            }
        )
        data = (("\n" if self._torn else "") + line + "\n").encode()
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self._warn(f"{error.strerror}")
            return
        self._torn = written < len(data)
        if self._torn:
            self._warn("only a part of the line fitted")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _warn(self, reason: str) -> None:
        if not self._warned:
            _log.warning("%s: metrics cannot be written (%s). Free some space.", self.path, reason)
        self._warned = True


def read_metrics(folder: str | Path) -> dict[str, list[Point]]:
    """All metrics of a run by key, ordered by step; where a step was run twice the last time counts."""
    series: dict[str, dict[int, Point]] = {}
    for record, _ in read_records(Path(folder) / FILE_NAME):
        for key, value in record.values.items():
            series.setdefault(key, {})[record.step] = Point(record.step, value, record.time)
    return {key: [points[step] for step in sorted(points)] for key, points in series.items()}


def read_records(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Complete records from byte `offset` on, each with the offset behind it; no file means none."""
    for line, end in complete_lines(path, offset):
        record = _parse(line)
        if record is not None:
            yield record, end


def complete_lines(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Lines that end in a newline, each with the offset behind it; reads a bounded chunk at a time."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                yield line, offset


def _parse(line: bytes) -> Record | None:
    try:
        row = json.loads(line)
        values = {str(key): float(value) for key, value in row["values"].items()}
        return Record(int(row["step"]), float(row["time"]), int(row["attempt"]), values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _to_json(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _ends_a_line(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"
