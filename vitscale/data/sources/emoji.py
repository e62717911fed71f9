"""Emoji as a downstream set with a shift of domain: what eight vendors draw, and a ninth that is only tested on.

Of the npm package `@iconify/json`, as the icons; the class is the name, where at least eight of the vendors draw it.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Executor
from pathlib import Path

from vitscale.data.samples import Splits
from vitscale.data.sources.icons import (
    PACKAGE,
    SIDE_PX,
    VERSION,
    IconPlan,
    names_by_set,
    package,
    splits_of,
)
from vitscale.errors import DataError

VENDORS = (
    "emojione",
    "emojione-v1",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fxemoji",
    "noto",
    "noto-v1",
    "openmoji",
    "twemoji",
)
LEFT_OUT = "twemoji"
MIN_VENDORS = 8


def emoji_splits(
    *,
    cache: Path,
    side_px: int = SIDE_PX,
    executor: Executor | None = None,
    tarball: Path | None = None,
) -> Splits:
    """Fetch, choose and render; "held-out" has the left-out vendor's, "train" those of the others.

    Raises:
        DataError: the package lacks a vendor, or no name is drawn by enough of them.
        ResourceError: it cannot be fetched, or resvg-py is not installed.
    """
    path = package(cache, tarball)
    return splits_of(path, make_plan(path), side_px, executor)


def make_plan(tarball: Path) -> IconPlan:
    """Names that enough vendors draw, the left-out one among them; raises DataError as `emoji_splits`."""
    collections, names = names_by_set(tarball)
    lost = [vendor for vendor in VENDORS if vendor not in names]
    counts = Counter(name for vendor in VENDORS for name in names.get(vendor, []))
    drawn = set(names.get(LEFT_OUT, []))
    classes = sorted(name for name in drawn if counts[name] >= MIN_VENDORS)
    if lost or not classes:
        raise DataError(
            f"it has no emoji of {', '.join(lost)}"
            if lost
            else "no name is drawn by enough vendors",
            where=str(tarball),
            do=f"{PACKAGE} {VERSION} has them: remove this file, and it is fetched.",
        )
    labels = {name: number for number, name in enumerate(classes)}
    return IconPlan(labels, {v: collections[v] for v in VENDORS}, frozenset({LEFT_OUT}))
