"""`vitscale evaluate CHECKPOINT`: score a checkpoint on one protocol, or on a whole suite of transfer tasks."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitscale.cli import evaluate_suite
from vitscale.cli.arguments import add_json, positive, print_json
from vitscale.errors import ConfigError

_PROTOCOLS = ("held-out", "fewshot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CHECKPOINT, the protocol or suite, where the images are, and what to do with the scores."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a step folder, a run folder or an exported file; with --suite also weights of others",
    )
    what = parser.add_argument_group("one protocol")
    what.add_argument(
        "--on",
        metavar="held-out|fewshot|PROFILE",
        help="the protocol; with --suite a cluster profile, whose Ray runs the tasks",
    )
    what.add_argument(
        "--data", metavar="DIR", help="shards to score on (default: the run's data.held_out)"
    )
    what.add_argument(
        "--train",
        metavar="DIR",
        help="fewshot: shards to draw from (default: the run's data.train)",
    )
    evaluate_suite.add_arguments(parser)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--weights", choices=("raw", "ema"), default="raw", help="as trained, or their average"
    )
    how.add_argument("--batch", type=positive, default=256, help="images per forward pass")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    how.add_argument("--out", metavar="FILE", help="write the scores there as JSON as well")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, print a table or JSON, and write the file asked for."""
    if arguments.follow is not None:
        return evaluate_suite.follow_runs(arguments)
    if arguments.suite is not None:
        return evaluate_suite.run(arguments)
    _insist_on_one_protocol(arguments)
    from vitscale.evaluate.from_checkpoint import Job, evaluate
    from vitscale.evaluate.report import score_table, write_summary

    result = evaluate(
        Job(
            checkpoint=Path(arguments.checkpoint),
            on=arguments.on,
            data=arguments.data,
            train=arguments.train,
            batch=arguments.batch,
            device=arguments.device,
            precision=arguments.precision,
            which=arguments.weights,
        )
    )
    if arguments.out:
        write_summary(Path(arguments.out), result)
    if arguments.json:
        print_json(result)
    else:
        print(score_table(result))
    return 0


def _insist_on_one_protocol(arguments: argparse.Namespace) -> None:
    given = evaluate_suite.given(arguments)
    if given:
        raise ConfigError(
            f"{', '.join(given)} has no effect without --suite",
            where="evaluate",
            do="Name a suite, such as --suite demo.",
        )
    if arguments.checkpoint is None:
        raise evaluate_suite.no_checkpoint()
    if arguments.on not in _PROTOCOLS:
        raise ConfigError(
            "names neither a protocol nor a suite",
            where="evaluate",
            given=f"--on {arguments.on}" if arguments.on else None,
            do="It needs --on held-out, --on fewshot, or --suite NAME.",
        )
