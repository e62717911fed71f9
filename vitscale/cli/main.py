"""The front door: find the command, import it, run it, turn errors into messages and exit codes.

A command is a module `vitscale.cli.NAME` with `add_arguments(parser)` and `run(arguments) -> int`; with
`complete(words) -> words` where a shorter form stands for a longer one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence

from vitscale import __version__
from vitscale.errors import ConfigError, VitscaleError, nearest

COMMANDS = {
    "train": "train a recipe in this process (every rank of torchrun runs the same command)",
    "finetune": "train on from the weights of a checkpoint, with a new head",
    "branch": "cool down a child from a checkpoint of a trunk",
    "evaluate": "score a checkpoint: one protocol, or a suite of transfer tasks",
    "submit": "run a recipe as a job: on this machine, a Ray cluster, Kubernetes or Slurm",
    "jobs": "list, follow, stop and resubmit the jobs of a Ray cluster",
    "config": "show, compare and explain recipes",
    "plan": "what a recipe comes to: parameters, FLOPs, steps, epochs",
    "shards": "pack, index and verify data sets",
    "checkpoint": "list and verify the checkpoints of a run",
    "weights": "import, export and look at weights of other projects",
    "scaling": "train a ladder of sizes and budgets, and fit how the loss falls with compute",
    "report": "draw the curves of a run and write its summary",
    "ui": "open the MLflow page of the runs",
    "doctor": "what this machine has, what is wrong with it, and the remedy",
    "demo": "train, stop, resume and evaluate a small ViT on this machine",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code (listed in `vitscale.errors`).

    An exception that is no `VitscaleError` is a fault of ours and leaves with its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except VitscaleError as error:
        _tell(error, as_json="--json" in words)
        return error.exit_code
    except KeyboardInterrupt:
        print("vitscale: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are ConfigErrors, so that they look like all others."""

    def error(self, message: str):
        """Raise instead of printing the usage."""
        command = self.prog.removeprefix("vitscale").strip()
        raise ConfigError(message, where=command, do=f"See `{self.prog} --help`.")


def front_parser() -> Parser:
    """The parser of what stands before a command: --help and --version."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        prog="vitscale",
        usage="vitscale [--help] [--version] COMMAND ...",
        description="Train large Vision Transformers from scratch.\n\ncommands:\n"
        + "\n".join(lines),
        epilog="Help for one command: vitscale COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vitscale {__version__}")
    return parser


def command_parser(name: str) -> Parser:
    """The parser of one command, which imports its module.

    Raises:
        ConfigError: there is no such command; names the nearest.
    """
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        raise ConfigError(f"there is no command '{name}'", do=f"{hint[0].upper()}{hint[1:]}")
    parser = Parser(prog=f"vitscale {name}", description=COMMANDS[name].capitalize() + ".")
    _module(name).add_arguments(parser)
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse `words`; `key=value` overrides may stand anywhere after the recipe."""
    arguments, left = parser.parse_known_args(words)
    takes_overrides = hasattr(arguments, "overrides")
    strangers = [w for w in left if w.startswith("-") or "=" not in w or not takes_overrides]
    if strangers:
        parser.error(f"does not know {' '.join(strangers)}")
    if left:
        arguments.overrides = [*arguments.overrides, *left]
    return arguments


def _run(words: list[str]) -> int:
    if not words:
        front_parser().print_help()
        return ConfigError.exit_code
    try:
        if words[0].startswith("-"):
            parse(front_parser(), words)
        parser = command_parser(words[0])
        complete = getattr(_module(words[0]), "complete", list)
        arguments = parse(parser, complete(words[1:]))
    except SystemExit as stop:  # --help and --version have printed
        return int(stop.code or 0)
    code = _module(words[0]).run(arguments)
    sys.stdout.flush()
    return code


def _module(name: str):
    return importlib.import_module(f"vitscale.cli.{name}")


def _tell(error: VitscaleError, *, as_json: bool) -> None:
    if not as_json:
        print(f"vitscale: {error}", file=sys.stderr)
        return
    given = None if error.given is None else str(error.given)
    record = {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "message": str(error),
        "what": error.what,
        "where": error.where,
        "given": given,
        "do": error.do,
    }
    print(json.dumps(record), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
