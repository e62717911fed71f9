"""`vitscale shards pack`: its many options, and what they come to."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from vitscale.cli.shard_pieces import add_pieces, pieces_of

if TYPE_CHECKING:
    from vitscale.data.packing_plan import Packing
    from vitscale.data.reencode import Reencoding
    from vitscale.data.write import Packed

_SOURCES = (
    "folder",
    "list",
    "parquet",
    "webdataset",
    "idx",
    "digits",
    "fashion-mnist",
    "icons",
    "emoji",
)


def add_pack(pack: argparse.ArgumentParser) -> None:
    """All options of `pack`."""
    pack.add_argument(
        "--from", dest="source", required=True, choices=_SOURCES, help="where the images come from"
    )
    pack.add_argument(
        "path",
        type=Path,
        nargs="?",
        metavar="PATH",
        help="a folder of class folders, of tars, of IDX or of Parquet files; a .csv, .tsv or .jsonl list; "
        "optional for digits, fashion-mnist, icons and emoji",
    )
    pack.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets a folder for each split, such as DIR/train and DIR/held-out",
    )
    _add_choice(pack.add_argument_group("which samples and classes"))
    _add_columns(pack.add_argument_group("where labels stand"))
    _add_writing(pack.add_argument_group("how they are written"))
    add_pieces(pack)
    pack.add_argument("--json", action="store_true", help="machine-readable output")


def _add_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--held-out-share", type=float, metavar="F", help="share of each class to hold out"
    )
    group.add_argument(
        "--seed", type=int, default=0, help="of the shuffle and the split (default 0)"
    )
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class names in the order of the labels, or lines `old<TAB>new` that rename and merge",
    )
    group.add_argument(
        "--classes-subset", metavar="LABELS", help="only these classes, such as 0-4, relabelled"
    )
    group.add_argument(
        "--keys", type=Path, metavar="FILE", help="webdataset: only the keys of this list"
    )
    group.add_argument(
        "--without-keys", type=Path, metavar="FILE", help="webdataset: not the keys of this list"
    )
    group.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="keeps what is fetched (default data/cache)",
    )


def _add_columns(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="list, parquet: column of paths or images (default: image, path, file, ...)",
    )
    group.add_argument(
        "--label-column",
        metavar="NAME",
        help="list, parquet: column of labels (default: label, labels, class, ...)",
    )
    group.add_argument(
        "--label-separator", metavar="C", help="list: stands between several labels (default |)"
    )
    group.add_argument(
        "--label-key", metavar="K", help="webdataset: field of KEY.json that holds the labels"
    )


def _add_writing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--shard-size",
        type=float,
        default=128,
        metavar="MIB",
        help="size of a shard, of images as they are in the source (default 128)",
    )
    group.add_argument(
        "--shard-samples",
        type=int,
        default=10_000,
        metavar="N",
        help="samples of a shard at most (default 10000)",
    )
    group.add_argument(
        "--max-short-side",
        type=int,
        metavar="PX",
        help="shrink images whose short side is longer; never enlarges",
    )
    group.add_argument(
        "--quality", type=int, metavar="Q", help="of JPEGs that are made (default 90)"
    )
    group.add_argument(
        "--format", choices=("jpg",), help="make every image a JPEG, also PNG and WebP"
    )
    group.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images that cannot be decoded when re-encoding, and list them in skipped.csv",
    )


def pack(arguments: argparse.Namespace) -> dict[str, Packed]:
    """Pack as asked; what was packed by split."""
    from vitscale.data.sources.choose import Choice, splits_of
    from vitscale.data.write import pack_splits

    packing, pieces = _packing(arguments), pieces_of(arguments)
    choice = Choice(
        source=arguments.source,
        path=arguments.path,
        held_out_share=arguments.held_out_share,
        classes_subset=arguments.classes_subset,
        seed=arguments.seed,
        cache=arguments.cache,
        classes=arguments.classes,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        label_separator=arguments.label_separator,
        label_key=arguments.label_key,
        keys=arguments.keys,
        without_keys=arguments.without_keys,
    )
    return pack_splits(splits_of(choice), arguments.to, packing, pieces=pieces, shown=True)


def _packing(arguments: argparse.Namespace) -> Packing:
    from vitscale.data.packing_plan import Packing
    from vitscale.errors import ConfigError

    if not 0 < arguments.shard_size < math.inf:
        raise ConfigError("must be above 0", where="--shard-size", given=arguments.shard_size)
    return Packing(
        seed=arguments.seed,
        shard_bytes=math.ceil(arguments.shard_size * 2**20),
        shard_samples=arguments.shard_samples,
        reencoding=_reencoding(arguments),
        skip_bad=arguments.skip_bad,
    )


def _reencoding(arguments: argparse.Namespace) -> Reencoding | None:
    from vitscale.data.reencode import QUALITY, Reencoding
    from vitscale.errors import ConfigError

    if arguments.max_short_side is None and arguments.format is None:
        if arguments.quality is not None:
            raise ConfigError(
                "has no effect where images keep their bytes",
                where="--quality",
                given=arguments.quality,
                do="Leave it out, or re-encode with --max-short-side or --format.",
            )
        return None
    quality = QUALITY if arguments.quality is None else arguments.quality
    return Reencoding(arguments.max_short_side, quality, jpeg_only=arguments.format == "jpg")
