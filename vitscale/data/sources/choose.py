"""From the words of a command line to the splits of a source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitscale.data.class_names import read_class_map
from vitscale.data.samples import Splits
from vitscale.errors import ConfigError, nearest

if TYPE_CHECKING:
    from vitscale.data.sources.label_cells import Columns

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
    classes: Path | None = None
    """A list of names, or a map from old names to new."""
    image_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    label_key: str | None = None
    keys: Path | None = None
    without_keys: Path | None = None


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
    _refuse_without_effect(choice)
    splits = _SOURCES[choice.source](choice)
    if choice.classes is not None:
        renaming = read_class_map(choice.classes)
        splits = {name: renaming.apply(split) for name, split in splits.items()}
    if choice.classes_subset is None:
        return splits
    labels = parse_labels(choice.classes_subset)
    return {name: split.keep(labels) for name, split in splits.items()}


def _refuse_without_effect(choice: Choice) -> None:
    """Settings of other sources than the chosen one."""
    for setting, (option, sources) in _OF_SOURCES.items():
        if getattr(choice, setting) is not None and choice.source not in sources:
            raise ConfigError(
                f"has no effect on --from {choice.source}",
                where=option,
                given=getattr(choice, setting),
                do=f"It is for {' and '.join(sources)}: leave it out.",
            )


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


def _path_of(choice: Choice, what: str) -> Path:
    if choice.path is None:
        raise ConfigError(f"--from {choice.source} needs the PATH of {what}", where="command line")
    return choice.path


def _folder(choice: Choice) -> Splits:
    from vitscale.data.sources.folder import folder_splits

    folder = _path_of(choice, "the image folder")
    return folder_splits(folder, held_out_share=choice.held_out_share or 0.0, seed=choice.seed)


def _list(choice: Choice) -> Splits:
    from vitscale.data.sources.file_list import list_split
    from vitscale.data.sources.files import hold_out

    split = list_split(_path_of(choice, "the list"), _columns(choice))
    return hold_out(split, choice.held_out_share or 0.0, choice.seed)


def _parquet(choice: Choice) -> Splits:
    from vitscale.data.sources.parquet import parquet_splits

    _refuse_share(choice, "what its file names call so")
    return parquet_splits(_path_of(choice, "the files"), _columns(choice))


def _columns(choice: Choice) -> Columns:
    from vitscale.data.sources.label_cells import Columns

    return Columns(choice.image_column, choice.label_column, choice.label_separator or "|")


def _webdataset(choice: Choice) -> Splits:
    from vitscale.data.sources.files import hold_out
    from vitscale.data.sources.other_shards import KeyFilter, webdataset_split

    keys = KeyFilter(choice.keys, choice.without_keys)
    split = webdataset_split(_path_of(choice, "the folder of tars"), choice.label_key, keys)
    return hold_out(split, choice.held_out_share or 0.0, choice.seed)


def _idx(choice: Choice) -> Splits:
    from vitscale.data.sources.idx import idx_splits

    _refuse_share(choice, "its own test files")
    return idx_splits(_path_of(choice, "the folder of IDX files"))


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


def _emoji(choice: Choice) -> Splits:
    from vitscale.data.sources.emoji import emoji_splits

    _refuse_share(choice, "one vendor")
    return emoji_splits(cache=choice.cache, tarball=choice.path)


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
    "list": _list,
    "parquet": _parquet,
    "webdataset": _webdataset,
    "idx": _idx,
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "icons": _icons,
    "emoji": _emoji,
}

_OF_SOURCES = {
    "image_column": ("--image-column", ("list", "parquet")),
    "label_column": ("--label-column", ("list", "parquet")),
    "label_separator": ("--label-separator", ("list",)),
    "label_key": ("--label-key", ("webdataset",)),
    "keys": ("--keys", ("webdataset",)),
    "without_keys": ("--without-keys", ("webdataset",)),
}
