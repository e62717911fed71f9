"""Lists of samples as text files: one key or number a line."""

from __future__ import annotations

from pathlib import Path

from vitscale.errors import DataError


def read_list(path: Path) -> list[str]:
    """The lines of a list, without empty ones and those that begin with `#`.

    Raises:
        DataError: it cannot be read or is empty.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        what = f"the list cannot be read: {error}"
        raise DataError(
            what, where=str(path), do="Name a text file with one key a line."
        ) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError("the list is empty", where=str(path), do="Write one key a line.")
    return lines
