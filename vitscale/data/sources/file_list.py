"""A list of images: CSV, TSV or JSONL with a path and any number of labels a line.

Paths are relative to the folder of the list. The kind of a file follows from its content.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vitscale.data.samples import Sample, Split
from vitscale.data.sources.files import Keys, look, refuse
from vitscale.data.sources.label_cells import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Columns,
    column_of,
    labels_of_cells,
)
from vitscale.errors import DataError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


class _Line(NamedTuple):
    number: int
    path: str
    labels: tuple[int | str, ...]


def list_split(path: Path, columns: Columns) -> Split:
    """The images of the list in its order.

    Raises:
        DataError: the list cannot be read, or names files that cannot be used; all are listed.
    """
    try:
        lines = list(_lines(path, columns))
    except OSError as error:
        what = f"the list cannot be read: {error.strerror}"
        raise DataError(what, where=str(path), do="Check the path.") from error
    except (ValueError, csv.Error, RecursionError) as error:
        do = "Name the columns with --image-column and --label-column, or mend the list."
        raise DataError(f"the list cannot be read: {error}", where=str(path), do=do) from error
    labels = labels_of_cells((line.labels for line in lines), path)
    problems: list[str] = []
    samples = list(_samples(lines, labels.rows, path.parent, problems))
    refuse(problems, "the list", path)
    return Split(labels.classes, samples, named=labels.named)


def _samples(
    lines: list[_Line], labels: list[tuple[int, ...]], folder: Path, problems: list[str]
) -> Iterator[Sample]:
    keys = Keys()
    for line, of_line in zip(lines, labels, strict=True):
        extension, problem = look(folder / line.path)
        if problem:
            problems.append(f"line {line.number}, {line.path}: {problem}")
            continue
        yield Sample(keys.of(Path(line.path)), extension, folder / line.path, of_line)


def _lines(path: Path, columns: Columns) -> Iterator[_Line]:
    suffix = path.suffix.lower()
    if suffix in _JSON_LINES:
        return _of_json_lines(path, columns)
    if suffix in _SEPARATORS:
        return _of_table(path, columns, _SEPARATORS[suffix])
    known = ", ".join((*_SEPARATORS, *_JSON_LINES))
    raise ValueError(f"its name ends in {suffix or 'nothing'}; known are {known}")


def _of_table(path: Path, columns: Columns, separator: str) -> Iterator[_Line]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=separator, strict=True)
        there = table.fieldnames or []
        image = column_of(columns.image, IMAGE_COLUMNS, there, "paths")
        label = column_of(columns.label, LABEL_COLUMNS, there, "labels")
        for row in table:
            number = table.line_num
            if not row[image] or row[label] is None or None in row:
                raise ValueError(f"line {number} does not have the columns of the first line")
            cells = [cell.strip() for cell in row[label].split(columns.separator)]
            yield _Line(number, row[image], tuple(cell for cell in cells if cell))


def _of_json_lines(path: Path, columns: Columns) -> Iterator[_Line]:
    with open(path, encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError(f"line {number} is no JSON object")
            try:
                image = column_of(columns.image, IMAGE_COLUMNS, list(record), "paths")
                label = column_of(columns.label, LABEL_COLUMNS, list(record), "labels")
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(record[image], str):
                raise ValueError(f"line {number}: {image!r} is no text")
            yield _Line(number, record[image], cells_of(record[label], f"line {number}"))


def cells_of(value: Any, where: str) -> tuple[int | str, ...]:
    """The labels in a value: nothing, a number, a name, or a list of these.

    Raises:
        ValueError: anything else.
    """
    values = value if isinstance(value, list) else [] if value is None else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise ValueError(f"{where}: label {str(one)[:40]!r} is no whole number and no name")
    return tuple(values)
