"""`vitscale report`: a run's curves and its page, its state, what MLflow missed, a look into a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitscale.cli.arguments import add_json, print_json
from vitscale.errors import ConfigError

_HELP = {
    "draw": "write report/curves.png and report/summary.json",
    "page": "write report/report.html, one page with everything that needs no network, and the curves",
    "show": "last metrics, attempts and checkpoints",
    "sync": "send MLflow what it has not received",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`draw RUN`, `page RUN`, `show RUN`, `sync RUN`, `look CHECKPOINT`, each with --json."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        action.add_argument("run_folder", metavar="RUN", help="a run folder, such as runs/NAME")
        if name == "page":
            action.add_argument("--to", metavar="FILE", help="another file than report/report.html")
        if name == "sync":
            action.add_argument(
                "--uri", help="another MLflow than the run's own, such as http://HOST:5000"
            )
        add_json(action)
    _add_look(actions)


def _add_look(actions: Any) -> None:
    text = "pictures of a model: patches, positions, where it looks"
    action = actions.add_parser("look", help=text, description=f"{text.capitalize()}.")
    action.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run folder, a step folder, or exported weights"
    )
    action.add_argument("images", metavar="IMAGE", nargs="+", help="image files to look at")
    action.add_argument("--to", metavar="FOLDER", required=True, help="where the pictures go")
    action.add_argument("--weights", choices=("raw", "ema"), default="raw")
    add_json(action)


def complete(words: list[str]) -> list[str]:
    """A run folder alone asks for its page: `vitscale report runs/NAME`.

    A first word is a folder if it is no action and lies somewhere, has a separator in it, or stands alone; so a folder
    called as an action is written ./draw.
    """
    if not words or words[0].startswith("-") or words[0] in _ACTIONS:
        return words
    alone = len(words) == 1 or words[1].startswith("-")
    is_folder = "/" in words[0] or Path(words[0]).exists() or alone
    return ["page", *words] if is_folder else words


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


def _page(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.evaluate.page import write_page
    from vitscale.evaluate.report import write_report
    from vitscale.evaluate.tell_run import send_report

    folder = Path(arguments.run_folder)
    page = write_page(folder, to=Path(arguments.to) if arguments.to else None)
    write_report(folder)
    send_report(folder, [page, folder / "report" / "curves.png"])
    return f"the page is {page}", {"page": str(page)}


def _show(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.tracking.summary import lines_of, summarise

    summary = summarise(arguments.run_folder)
    return "\n".join(lines_of(summary)), summary


def _sync(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.tracking.sync import sync

    done = sync(arguments.run_folder, uri=arguments.uri)
    text = f"MLflow at {done.uri} is up to date: run {done.run_id}, {done.points} points read"
    return text, vars(done)


def _look(arguments: argparse.Namespace) -> tuple[str, object]:
    from vitscale.evaluate.from_checkpoint import model_of
    from vitscale.evaluate.pictures import look

    model, pixels = model_of(arguments.checkpoint, arguments.weights)
    try:
        made = look(model, [Path(image) for image in arguments.images], Path(arguments.to), pixels)
    except OSError as error:
        raise ConfigError(str(error), where="report look") from error
    pictures = [str(path) for path in made]
    return "\n".join(pictures), {"pictures": pictures}


_ACTIONS = {"draw": _draw, "page": _page, "show": _show, "sync": _sync, "look": _look}
