"""`vitscale shards audit RUN`: proof that a run saw each sample exactly once an epoch, whatever befell it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitscale.cli.arguments import print_json
from vitscale.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN and --json."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder: runs/NAME")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Print what was proven; exit code 3 if the run saw anything else than its order."""
    from vitscale.checkpoint.inspection import last_commit
    from vitscale.data.audit import audit

    step, data = last_commit(arguments.run_folder)
    found = audit(arguments.run_folder, step, data)
    masked = _quarantined(arguments.run_folder)
    if arguments.json:
        print_json(asdict(found) | {"quarantined": masked})
    else:
        print(text_of(found, masked))
    return DataError.exit_code if found.problems else 0


def _quarantined(folder: Path) -> int:
    """Distinct samples in the quarantine lists of all ranks."""
    from vitscale.data.bad_images import listed_samples

    return len(set().union(*map(listed_samples, (folder / "quarantine").glob("*.jsonl"))))


def text_of(found: Any, quarantined: int) -> str:
    """A few lines for people."""
    lines = [f"{found.steps:,} committed steps replayed, {found.images:,} images"]
    for source in sorted({proof.source for proof in found.epochs}):
        epochs = [proof for proof in found.epochs if proof.source == source]
        whole = [proof for proof in epochs if proof.complete]
        lines.append(
            f"source {source}: {len(whole)} complete epochs, each of its {epochs[0].samples:,} samples "
            "exactly once"
        )
        lines += [
            f"  epoch {proof.epoch}: {proof.seen:,} of {proof.samples:,} samples"
            + ("" if proof.complete else " so far")
            + ", none twice"
            + (f", {proof.passed_over:,} passed over" if proof.passed_over else "")
            for proof in epochs
            if (proof.passed_over or not proof.complete) and not proof.repeated
        ]
    lines += [
        f"rewind to step {rewind.step}: samples {rewind.begin:,} to {rewind.end - 1:,} of the order were "
        "passed over, as the ledger says"
        for rewind in found.rewinds
    ]
    if found.skipped:
        lines.append(f"steps that were skipped: {', '.join(map(str, found.skipped))}")
    lines.append(f"masked slots: {found.masked:,}, of {quarantined:,} samples in quarantine/")
    if found.problems:
        return "\n".join([*lines, "PROBLEMS:", *(f"  {text}" for text in found.problems)])
    return "\n".join([*lines, "every step saw exactly the samples of its order"])
