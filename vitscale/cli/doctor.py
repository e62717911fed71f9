"""`vitscale doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vitscale.cli.arguments import add_json, print_json
from vitscale.cli.machine import Finding, examine
from vitscale.errors import ResourceError

_MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--folder and --json."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where runs are kept (default: here)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; exit code 2 if one of them is wrong."""
    folder = arguments.folder.absolute()
    if not folder.is_dir():
        raise ResourceError("no such folder", where=str(folder), do="Make it, or give another.")
    findings = examine(folder)
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print("\n".join(map(_line, findings)))
    wrong = any(finding.state == "wrong" for finding in findings)
    return ResourceError.exit_code if wrong else 0


def _line(finding: Finding) -> str:
    line = f"{_MARKS[finding.state]}  {finding.name:<11} {finding.text}"
    return f"{line}\n       {'':<11} {finding.remedy}" if finding.remedy else line
