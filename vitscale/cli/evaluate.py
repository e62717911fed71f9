"""`vitscale evaluate CHECKPOINT --on held-out|fewshot`: score a committed checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitscale.cli.arguments import add_json, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CHECKPOINT, --on, where the images are, and what to do with the scores."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a step folder, a run folder or an exported file"
    )
    parser.add_argument("--on", required=True, choices=("held-out", "fewshot"), help="the protocol")
    parser.add_argument(
        "--data", metavar="DIR", help="shards to score on (default: the run's data.held_out)"
    )
    parser.add_argument(
        "--train",
        metavar="DIR",
        help="fewshot: shards to draw from (default: the run's data.train)",
    )
    parser.add_argument(
        "--weights", choices=("raw", "ema"), default="raw", help="as trained, or their average"
    )
    parser.add_argument("--batch", type=int, default=256, help="images per forward pass")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", metavar="FILE", help="write the scores there as JSON as well")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score, print a table or JSON, and write the file asked for."""
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
