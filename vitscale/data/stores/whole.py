"""Fetches a whole object into an open file: pieces side by side where the store has ranges, else in one go."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import xxhash

from vitscale.data.stores.store import Store

PIECE_BYTES = 8 << 20
PIECES_AT_ONCE = 4
_CHUNK = 4 << 20


def fetch(
    store: Store,
    name: str,
    size: int,
    handle: int,
    *,
    piece_bytes: int = PIECE_BYTES,
    at_once: int = PIECES_AT_ONCE,
) -> None:
    """Write the first `size` bytes of an object at the beginning of the file `handle`.

    Raises:
        DataError, Stopped: as `Store.read_to` does; OSError: the file cannot be written.
    """

    def put(offset: int, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written

    first = min(size, piece_bytes) if store.ranged else 0
    store.read_to(name, 0, first, put)
    if not store.ranged:
        store.read_to(name, 0, size, put)
        return
    pieces = iter([(at, min(at + piece_bytes, size)) for at in range(first, size, piece_bytes)])
    _side_by_side(pieces, min(at_once, -(-size // piece_bytes)), store, name, put)


def _side_by_side(pieces: Iterator[tuple[int, int]], threads: int, store: Store, name, put) -> None:
    """Fetch all pieces; the first failure ends the others and is raised."""
    lock, failures = threading.Lock(), []

    def work() -> None:
        while not failures:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            try:
                store.read_to(name, *piece, put, lambda: bool(failures))
            except BaseException as error:  # handed to the thread that waits
                failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    work()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def hash_of_file(handle: int, size: int) -> str:
    """XXH3-128 of the first `size` bytes, as a manifest writes it."""
    hasher = xxhash.xxh3_128()
    at = 0
    while at < size:
        chunk = os.pread(handle, min(_CHUNK, size - at), at)
        if not chunk:
            break
        hasher.update(chunk)
        at += len(chunk)
    return hasher.hexdigest()
