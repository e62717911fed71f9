"""Arguments that several commands share, and how they print."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vitscale.errors import ConfigError


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


def positive(text: str) -> int:
    """A word of the command line that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


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


def add_pixels(parser: Any) -> None:
    """`--pixels`, for weights that do not say what pixels they take."""
    parser.add_argument(
        "--pixels",
        type=_pixels,
        metavar="half|imagenet|6 numbers",
        help="mean and spread of red, green, blue that weights of others were trained with: half is [-1, 1]",
    )


def _pixels(text: str) -> str | tuple[float, ...]:
    if text in ("half", "imagenet"):
        return text
    try:
        numbers = tuple(float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 6:
        raise argparse.ArgumentTypeError(f"'{text}' is not half, imagenet or six numbers a,b,c,...")
    return numbers


def pixels_of(pixels: str | tuple[float, ...] | None) -> Any:
    """The `Preprocessing` that was asked for by `--pixels`; None without."""
    from vitscale.config.preprocessing import Preprocessing
    from vitscale.weights.format import IMAGENET

    if pixels is None:
        return None
    if isinstance(pixels, str):
        return {"half": Preprocessing(), "imagenet": IMAGENET}[pixels]
    a, b, c, x, y, z = pixels
    if min(x, y, z) <= 0:
        raise ConfigError("a spread is above zero", where="--pixels", given=pixels)
    return Preprocessing((a, b, c), (x, y, z))


def print_json(value: object) -> None:
    """Print one JSON value, indented."""
    print(json.dumps(value, indent=2))
