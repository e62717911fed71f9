"""`vitscale report RUN`: draw the curves of a run and write its summary."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitscale.cli.arguments import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN and --json."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/NAME")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write `RUN/report/` and print the last value of every metric."""
    from vitscale.evaluate.report import table, write_report

    folder = Path(arguments.run_folder)
    summary = write_report(folder)
    if arguments.json:
        print_json(summary)
    else:
        print(table(("metric", "last value"), list(summary["last"].items())))
        print(f"step {summary['step']}; curves in {folder / 'report' / 'curves.png'}")
    return 0
