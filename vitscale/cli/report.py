"""`vitscale report`: draw the curves of a run, show its state, or send MLflow what it missed."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitscale.cli.arguments import add_json, print_json

_HELP = {
    "draw": "write report/curves.png and report/summary.json",
    "show": "last metrics, attempts and checkpoints",
    "sync": "send MLflow what it has not received",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`draw RUN`, `show RUN`, `sync RUN`, each with --json."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/NAME")
        if name == "sync":
            action.add_argument(
                "--uri", help="another MLflow than the run's own, such as http://HOST:5000"
            )
        add_json(action)


def run(arguments: argparse.Namespace) -> int:
    """Do the action and print its outcome."""
    text, record = _ACTIONS[arguments.action](arguments)
    if arguments.json:
        print_json(record)
    else:
        print(text)
    return 0


def _draw(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.evaluate.report import table, write_report

    folder = Path(arguments.run_folder)
    summary = write_report(folder)
    values = table(("metric", "last value"), list(summary["last"].items()))
    return (
        f"{values}\nstep {summary['step']}; curves in {folder / 'report' / 'curves.png'}",
        summary,
    )


def _show(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.tracking.summary import lines_of, summarise

    summary = summarise(arguments.run_folder)
    return "\n".join(lines_of(summary)), summary


def _sync(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.tracking.sync import sync

    done = sync(arguments.run_folder, uri=arguments.uri)
    text = f"MLflow at {done.uri} is up to date: run {done.run_id}, {done.points} points read"
    return text, vars(done)


_ACTIONS = {"draw": _draw, "show": _show, "sync": _sync}
