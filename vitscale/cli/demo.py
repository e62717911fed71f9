"""`vitscale demo`: the whole story on real images; `DEMO=small` for the short one."""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--size."""
    parser.add_argument(
        "--size",
        choices=("full", "small"),
        default=os.environ.get("DEMO") or "full",
        help="full (15 minutes on two cores) or small (5); the variable DEMO says the same",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it in the working folder, which must be the top of a clone."""
    from vitscale.demo.story import tell

    tell(arguments.size)
    return 0
