"""Arguments that several commands share, and how they print."""

from __future__ import annotations

import argparse
import json


def add_recipe(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """RECIPE and any number of section.key=value overrides."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?" if optional else None,
        help="a TOML recipe, such as configs/debug/tiny.toml",
    )
    parser.add_argument(
        "overrides",
        metavar="section.key=value",
        nargs="*",
        type=override,
        help="replaces one value of the recipe, such as train.batch=512",
    )


def override(text: str) -> str:
    """A word of the command line that must be `section.key=value`, as it is."""
    if "=" not in text or text.startswith("="):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form section.key=value")
    return text


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: print one JSON value; errors become JSON as well, on stderr."""
    parser.add_argument("--json", action="store_true", help="print JSON (errors too, on stderr)")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """`--resume auto|must|never`."""
    parser.add_argument(
        "--resume",
        choices=("auto", "must", "never"),
        default="auto",
        help="auto: go on from the newest commit if there is one; must: fail without one; "
        "never: refuse a run folder that already has commits",
    )


def print_json(value: object) -> None:
    """Print one JSON value, indented."""
    print(json.dumps(value, indent=2))
