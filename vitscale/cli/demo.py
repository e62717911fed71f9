"""`vitscale demo`: the whole story on real images, or the ablation of position encodings."""

from __future__ import annotations

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--size, --ablation."""
    parser.add_argument(
        "--size",
        choices=("full", "small"),
        default=os.environ.get("DEMO") or "full",
        help="full (15 minutes on two cores) or small (5); the variable DEMO says the same",
    )
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="instead compare position encodings, as table 8 of the paper does (10 minutes)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it in the working folder, which must be the top of a clone."""
    if arguments.ablation:
        from vitscale.demo.ablation import compare

        compare()
    else:
        from vitscale.demo.story import tell

        tell(arguments.size)
    return 0
