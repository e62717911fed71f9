"""From the words of a command line to the splits of a source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitscale.data.samples import Splits
from vitscale.errors import ConfigError, nearest

CACHE = Path("data/cache")


@dataclass(frozen=True)
class Choice:
    """What a user asked to pack. None means: as the source has it."""

    source: str
    path: Path | None = None
    held_out_share: float | None = None
    classes_subset: str | None = None
    seed: int = 0
    cache: Path = CACHE


def splits_of(choice: Choice) -> Splits:
    """The splits of the chosen source.

    Raises:
        ConfigError: an unknown source, or a setting that the source cannot follow.
        DataError, ResourceError: the source cannot be had or used.
    """
    share = choice.held_out_share
    if share is not None and not 0 <= share < 1:
        raise ConfigError("must be from 0 to below 1", where="--held-out-share", given=share)
    if choice.source not in _SOURCES:
        raise ConfigError(
            f"no such source; {nearest(choice.source, _SOURCES)}",
            where="--from",
            given=choice.source,
        )
    splits = _SOURCES[choice.source](choice)
    if choice.classes_subset is None:
        return splits
    labels = parse_labels(choice.classes_subset)
    return {name: split.keep(labels) for name, split in splits.items()}


def parse_labels(text: str) -> list[int]:
    """`"0-4"`, `"7"` or `"0,2,5-7"` as a list without repeats.

    Raises:
        ConfigError: anything else.
    """
    labels: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found:
            raise ConfigError(
                "labels are written like 0-4 or 0,2,5-7", where="--classes-subset", given=repr(text)
            )
        first, last = int(found[1]), int(found[2] or found[1])
        labels += range(first, last + 1)
    return list(dict.fromkeys(labels))


def _folder(choice: Choice) -> Splits:
    from vitscale.data.sources.folder import folder_splits

    if choice.path is None:
        raise ConfigError("--from folder needs the PATH of the image folder", where="command line")
    return folder_splits(choice.path, held_out_share=choice.held_out_share or 0.0, seed=choice.seed)


def _digits(choice: Choice) -> Splits:
    from vitscale.data.sources.digits import digits_splits

    if choice.path is not None:
        raise ConfigError("digits come with scikit-learn and take no PATH", given=choice.path)
    return (
        digits_splits()
        if choice.held_out_share is None
        else digits_splits(held_out_share=choice.held_out_share)
    )


def _fashion_mnist(choice: Choice) -> Splits:
    from vitscale.data.sources.fashion_mnist import fashion_mnist_splits

    _refuse_share(choice, "its official test split")
    return fashion_mnist_splits(choice.path, cache=choice.cache)


def _icons(choice: Choice) -> Splits:
    from vitscale.data.sources.icons import icons_splits

    _refuse_share(choice, "whole icon sets")
    return icons_splits(cache=choice.cache, tarball=choice.path, seed=choice.seed)


def _refuse_share(choice: Choice, instead: str) -> None:
    if choice.held_out_share is not None:
        raise ConfigError(
            f"{choice.source} holds out {instead}, not a share",
            where="--held-out-share",
            given=choice.held_out_share,
            do="Leave it out.",
        )


_SOURCES: dict[str, Callable[[Choice], Splits]] = {
    "folder": _folder,
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "icons": _icons,
}
