"""The manifest of a data set wherever it lies; loads neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path

from vitscale.config.dataset import (
    MANIFEST,
    DatasetFacts,
    Manifest,
    manifest_of_text,
    read_manifest,
)
from vitscale.data.stores.choose import local_folder, open_store
from vitscale.data.stores.store import NotThere, Store
from vitscale.errors import DataError


def facts_at(source: str | Path, *, allow_pipe: bool = False) -> DatasetFacts:
    """The facts of the data set at a path or URL. Raises as `manifest_at` does."""
    return manifest_at(source, allow_pipe=allow_pipe).facts


def manifest_at(
    source: str | Path, store: Store | None = None, *, allow_pipe: bool = False
) -> Manifest:
    """Read and check the manifest at a path or URL.

    Raises:
        DataError: no manifest, one that is damaged or of another version, or a store that refuses
            or cannot be reached.
        ConfigError: an unknown scheme, or a command that is not allowed.
        ResourceError: the package for this kind of store is missing.
    """
    folder = local_folder(source) if store is None else None
    if folder is not None:
        return read_manifest(folder)
    store = store or open_store(source, allow_pipe=allow_pipe)
    try:
        data = store.read(MANIFEST)
    except NotThere as error:
        raise DataError(
            f"there is no data set here: it has no {MANIFEST}",
            where=store.place,
            given=error.given,
            do="Check the address. A data set is copied with its manifest and sidecars.",
        ) from error
    where = f"{store.place}/{MANIFEST}"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the manifest is damaged: {error}", where=where, do="Copy the data set again."
        ) from error
    return manifest_of_text(text, where)
