"""`vitscale doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vitscale.cli.arguments import add_json, print_json
from vitscale.cli.data_needs import needs
from vitscale.cli.machine import Finding, examine
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError, ResourceError

_MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--folder, --data and --json."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where runs are kept (default: here)",
    )
    parser.add_argument(
        "--data",
        metavar="RECIPE",
        help="also measure this recipe's loader: how many cores and MB/s it needs and has",
    )
    parser.add_argument(
        "--images-per-s",
        type=float,
        metavar="N",
        help="what the models of one node take (default: what the recipe's run logged last)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; exit code 2 if one of them is wrong."""
    folder = arguments.folder.absolute()
    if not folder.is_dir():
        raise ResourceError("no such folder", where=str(folder), do="Make it, or give another.")
    findings = examine(folder)
    if arguments.data:
        config = load_recipe(arguments.data).config
        findings += needs(config, arguments.images_per_s)
    elif arguments.images_per_s:
        raise ConfigError("has no effect without --data RECIPE", where="--images-per-s")
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print("\n".join(map(_line, findings)))
    wrong = any(finding.state == "wrong" for finding in findings)
    return ResourceError.exit_code if wrong else 0


def _line(finding: Finding) -> str:
    line = f"{_MARKS[finding.state]}  {finding.name:<11} {finding.text}"
    return f"{line}\n       {'':<11} {finding.remedy}" if finding.remedy else line
