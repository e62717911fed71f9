"""A folder as a store, so that tools need not care where a data set lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vitscale.data.stores.backend import Gone, Permanent, Transient

_CHUNK = 4 << 20


class Folder:
    """Files directly in a folder."""

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self.ranged = True
        self._folder = folder

    def size(self, name: str) -> int | None:
        try:
            return (self._folder / name).stat().st_size
        except OSError as error:
            raise _fault_of(error) from error

    def chunks(self, name: str, begin: int, end: int | None) -> Iterator[bytes]:
        """As `Backend.chunks`."""
        at = begin
        try:
            with open(self._folder / name, "rb") as file:
                file.seek(begin)
                while piece := file.read(_CHUNK if end is None else min(_CHUNK, end - at)):
                    at += len(piece)
                    yield piece
        except OSError as error:
            raise _fault_of(error) from error
        if end is not None and at < end:
            raise Permanent(f"the file ends at byte {at}, byte {end - 1} was asked for")

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except OSError as error:
            raise _fault_of(error) from error


def _fault_of(error: OSError) -> Gone | Permanent | Transient:
    cause = error.strerror or str(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Gone(cause)
    if isinstance(error, PermissionError | IsADirectoryError):
        return Permanent(cause)
    return Transient(cause)
