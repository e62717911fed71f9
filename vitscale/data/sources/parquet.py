"""Parquet files in the layout of Hugging Face data sets: a column of images in place and a column of labels.

Splits are told by the file names `NAME-00000-of-00012.parquet`; other files are "train". Class names come from the
features that the `datasets` library writes into the schema.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitscale.data.samples import Sample, Split, Splits
from vitscale.data.sources.file_list import cells_of
from vitscale.data.sources.files import extension_of, look
from vitscale.data.sources.label_cells import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Columns,
    Labels,
    column_of,
    labels_of_cells,
)
from vitscale.errors import DataError, ResourceError

_NUMBERED = re.compile(r"(.+)-\d+-of-\d+(-[0-9a-f]+)?")
_ROWS_AT_A_TIME = 64


def parquet_splits(path: Path, columns: Columns) -> Splits:
    """The splits of a file, or of all `*.parquet` below a folder.

    Raises:
        ResourceError: pyarrow is not installed.
        DataError: no files, or files whose columns cannot be used.
    """
    _check_reader()
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError("no *.parquet to read", where=str(path), do="Name a file or a folder.")
    by_split: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        numbered = _NUMBERED.fullmatch(file.stem)
        by_split[numbered[1] if numbered else "train"].append(file)
    try:
        return {name: _split(name, of_split, columns) for name, of_split in by_split.items()}
    except (OSError, ValueError) as error:  # pyarrow's errors are of these families
        raise DataError(f"the table cannot be read: {error}", where=str(path)) from error


def _check_reader() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "pyarrow is not installed", do='pip install "vitscale[parquet]"'
        ) from error


def _split(name: str, files: list[Path], columns: Columns) -> Split:
    import pyarrow.parquet as parquet

    there = parquet.read_schema(files[0]).names
    image = column_of(columns.image, IMAGE_COLUMNS, there, "images")
    label = column_of(columns.label, LABEL_COLUMNS, there, "labels")
    names = _class_names(parquet.read_schema(files[0]), label)
    cells = [cell for file in files for cell in _labels_in(file, label)]
    labels = labels_of_cells(cells, files[0].parent)
    if names is not None:
        labels = _named(labels, names, files[0].parent)
    samples = _samples(name, files, image, labels.rows)
    return Split(labels.classes, samples, named=labels.named)


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel, alone or in a sequence, from the metadata of the `datasets` library."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]
        while "names" not in feature and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]
        names = feature["names"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _labels_in(file: Path, label: str) -> Iterator[tuple[int | str, ...]]:
    """The labels of every row; -1 is how the `datasets` library writes that there is none."""
    import pyarrow.parquet as parquet

    values = parquet.ParquetFile(file).read(columns=[label])[label].to_pylist()
    for row, value in enumerate(values):
        yield cells_of(None if value == -1 else value, f"{file}, row {row}")


def _named(labels: Labels, names: tuple[str, ...], where: Path) -> Labels:
    if labels.named or len(labels.classes) > len(names):
        what = f"labels do not fit the {len(names)} class names in the schema"
        raise DataError(what, where=str(where), given=f"label {labels.classes[-1]}")
    return Labels(names, labels.rows, True)


def _samples(
    name: str, files: list[Path], column: str, labels: list[tuple[int, ...]]
) -> Iterator[Sample]:
    number = 0
    for file in files:
        for value in _images_in(file, column):
            where = f"{file}, image {number} of the split {name}"
            extension, data = _image(value, file.parent, where)
            yield Sample(f"{name}/{number:08d}", extension, data, labels[number])
            number += 1


def _images_in(file: Path, column: str) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=[column]):
            yield from batch.column(0).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(file), do="Fetch it again."
        ) from error


def _image(value: Any, folder: Path, where: str) -> tuple[str, bytes | Path]:
    """Bytes as they are, or a path relative to the folder of the table."""
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(data, bytes):
        extension, problem = extension_of(data[:16])
        found: bytes | Path = data
    elif data is None and isinstance(path, str):
        found = folder / path
        extension, problem = look(found)
    else:
        extension, problem = "", f"a {type(value).__name__}, neither bytes nor a path"
        found = b""
    if problem:
        raise DataError(problem, where=where, do="Mend the table, or name --image-column.")
    return extension, found
