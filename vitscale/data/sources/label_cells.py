"""Labels as tables hold them, numbers or names, become class names and lists of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitscale.data.index import LONGEST
from vitscale.data.sources.folder import natural
from vitscale.errors import DataError

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "img")
LABEL_COLUMNS = ("label", "labels", "class", "classes", "target", "category")


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table; None takes the first usual name that is there."""

    image: str | None = None
    label: str | None = None
    separator: str = "|"
    """Between several labels in one cell of a text table."""


@dataclass(frozen=True)
class Labels:
    """The labels of all rows. `named` is False where the table only numbers its classes."""

    classes: tuple[str, ...]
    rows: list[tuple[int, ...]]
    named: bool


def column_of(wanted: str | None, usual: Sequence[str], there: Sequence[str], what: str) -> str:
    """The column to read.

    Raises:
        ValueError: it is not there, or none of the usual names is; the message lists what is.
    """
    if wanted is not None:
        if wanted in there:
            return wanted
        raise ValueError(f"no column {wanted!r} for the {what}; there are: {', '.join(there)}")
    for name in usual:
        if name in there:
            return name
    raise ValueError(
        f"no column for the {what}: none of {', '.join(usual)}; there are: {', '.join(there)}"
    )


def labels_of_cells(cells: Iterable[Sequence[int | str]], where: Path) -> Labels:
    """Labels by row. If all cells are whole numbers these are the labels, otherwise names in natural order.

    Raises:
        DataError: numbers and names are mixed, or a number is out of range.
    """
    rows = [tuple(_plain(cell) for cell in row) for row in cells]
    numbers = next((cell for row in rows for cell in row if isinstance(cell, int)), None)
    name = next((cell for row in rows for cell in row if isinstance(cell, str)), None)
    if numbers is not None and name is not None:
        what = (
            f"some labels are whole numbers, such as {numbers}, and some are not, such as {name!r}"
        )
        raise DataError(what, where=str(where), do="Write all as numbers or all as names.")
    if name is None:
        return _numbered(rows, where)
    classes = sorted({str(cell) for row in rows for cell in row}, key=natural)
    label_of = {text: label for label, text in enumerate(classes)}
    return Labels(tuple(classes), [_merged(label_of[str(c)] for c in row) for row in rows], True)


def _plain(cell: int | str) -> int | str:
    """Numbers as numbers, also where a text table wrote them."""
    if isinstance(cell, int):
        return cell
    text = cell.strip()
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(text) < 20 else text


def _numbered(rows: list[tuple[int | str, ...]], where: Path) -> Labels:
    top = -1
    numbers: list[tuple[int, ...]] = []
    for row in rows:
        of_row = _merged(int(cell) for cell in row)
        if of_row and not (of_row[0] >= 0 and of_row[-1] < LONGEST):
            what = f"label {of_row[0] if of_row[0] < 0 else of_row[-1]}"
            raise DataError(
                f"{what}; labels run from 0", where=str(where), do="Number them from 0."
            )
        top = max(top, *of_row) if of_row else top
        numbers.append(of_row)
    if top > _MOST_NUMBERED:
        what = f"label {top}: classes would be numbered up to it"
        raise DataError(what, where=str(where), do="Number the classes without gaps, or name them.")
    return Labels(tuple(map(str, range(top + 1))), numbers, False)


_MOST_NUMBERED = 10_000_000


def _merged(labels: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(labels)))
