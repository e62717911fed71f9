"""Where the tools of `vitscale shards` run: in processes of this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitscale.data.pieces import Pieces
    from vitscale.data.progress import Progress


def add_pieces(parser: argparse.ArgumentParser) -> None:
    """--workers, --on."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of this machine, a shard each at a time (default: one a core)",
    )
    where.add_argument(
        "--on",
        metavar="ADDRESS",
        help="run a shard a task on the Ray cluster at this address, or `local` for one that is started here; "
        "all its machines must see the same paths",
    )


def pieces_of(arguments: argparse.Namespace) -> Pieces:
    """What was asked for."""
    if arguments.on is not None:
        from vitscale_launch.pieces import ray_pieces

        return ray_pieces(arguments.on)
    from vitscale.data.pieces import local_pieces

    workers = arguments.workers
    return local_pieces(len(os.sched_getaffinity(0)) if workers is None else workers)


def progress_of(verb: str) -> Progress:
    """Progress on stderr: a line on a terminal, otherwise one every ten seconds."""
    from vitscale.data.progress import Progress

    return Progress(verb)
