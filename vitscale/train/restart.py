"""What earlier attempts say to the next one: whether another try can help, and who was to blame."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitscale.attempts import (
    BEATS,
    AttemptRecord,
    attempts_of,
    committed_step,
    this_process,
)
from vitscale.checkpoint.lease import Lease, claim
from vitscale.errors import HopelessError

_DEATHS_WITHOUT_COMMIT = 3
WELL_ENDED = ("finished", "stopped", "preempted", "resized")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_PEER_WORDS = re.compile(r"closed by peer|reset by peer|NCCL|gloo|timed out waiting", re.IGNORECASE)


def begin_attempt(
    folder: Path, submission: str, *, world: int, job: str, files: dict[str, str]
) -> Lease:
    """Claim the next attempt for a submission, unless its earlier ones say that there is no hope.

    Raises:
        LeaseError: another launch writes this run.
        HopelessError: three attempts died without a new commit, or two of the same error at the same step.
    """
    step = committed_step(folder)
    insist_on_hope(attempts_of(folder, submission), step)
    start = {"submission": submission, "job": job, "world": world, "step": step, **this_process()}
    beat = {"rank": 0, "step": step, "phase": "start", "count": 0}
    texts = {"start.json": json.dumps(start), f"{BEATS}/rank-00000": json.dumps(beat), **files}
    return claim(folder, submission, lambda number: texts)


def insist_on_hope(records: Sequence[AttemptRecord], step: int) -> None:
    """Look at the attempts of one submission, oldest first, before another follows.

    Raises:
        HopelessError: the last two failed alike, or the last three died and none of them committed anything.
    """
    if records and (twin := twin_failure(records[:-1], records[-1].failures, records[-1].number)):
        raise twin
    last = records[-_DEATHS_WITHOUT_COMMIT:]
    if len(last) == _DEATHS_WITHOUT_COMMIT and all(
        record.end.get("status") not in WELL_ENDED and record.start.get("step") == step
        for record in last
    ):
        raise HopelessError(
            f"{len(last)} attempts in a row died without a new commit since step {step}:"
            + "".join(f"\n  {how_it_ended(record)}" for record in last)
            + "\n",
            where=str(last[-1].folder.parent),
            do="Look into these folders, mend the cause, and run the same command again.",
        )


def twin_failure(
    before: Sequence[AttemptRecord], failures: Sequence[dict[str, Any]], number: int
) -> HopelessError | None:
    """The error to raise if one of these failures of attempt `number` was seen by the one before, at the same step.

    What a rank raises because a peer is gone says nothing of why, so it is no reason to stop.
    """
    if not before:
        return None
    seen = {_kind(failure) for failure in before[-1].failures if not failure["peer_lost"]}
    for failure in failures:
        if not failure["peer_lost"] and _kind(failure) in seen:
            return HopelessError(
                f"attempts {before[-1].number} and {number} both failed at step {failure['step']} with "
                f"{failure['type']}: {failure['message']}",
                where=str(before[-1].folder.parent),
                do="It would fail again. Mend the cause, and run the same command again.",
            )
    return None


def failure_of(error: BaseException, *, rank: int, step: int, phase: str) -> dict[str, Any]:
    """A record of what a rank raised."""
    return {
        "rank": rank,
        "step": step,
        "phase": phase,
        "type": type(error).__name__,
        "message": str(error)[:4000],
        "peer_lost": _is_peer_lost(error),
    }


def _is_peer_lost(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    inside = any("torch/distributed" in frame.filename for frame in frames[-2:])
    return type(error).__name__.startswith("Dist") or (
        isinstance(error, RuntimeError) and (inside or bool(_PEER_WORDS.search(str(error))))
    )


def _kind(failure: dict[str, Any]) -> tuple[int, str, str]:
    return failure["step"], failure["type"], _ADDRESS.sub("0x", failure["message"])


def how_it_ended(record: AttemptRecord) -> str:
    """One line about an attempt that is over."""
    name = f"attempt {record.number} (from step {record.start.get('step', 0)})"
    if record.stacks:
        return (
            f"{name} hung: {who_hung(record)}; stacks in {record.stacks[min(record.stacks)].parent}"
        )
    for failure in sorted(record.failures, key=lambda one: one["peer_lost"]):
        first_line = failure["message"].partition("\n")[0]
        said = f"{failure['type']}: {first_line[:200]}"
        if failure["peer_lost"]:
            return f"{name} lost a rank at step {failure['step']} (rank {failure['rank']}: {said})"
        return f"{name} failed at step {failure['step']} on rank {failure['rank']}: {said}"
    if status := record.end.get("status"):
        return f"{name} {'died' if status == 'failed' else status}"
    return f"{name} was killed at step {max((beat['step'] for beat in record.beats), default=0)}"


def who_hung(record: AttemptRecord) -> str:
    """The rank furthest behind; among equals those that did not wait in a collective for another."""
    beats = record.beats
    if not beats:
        return "no rank left a beat"
    furthest = min((beat["step"], beat["count"]) for beat in beats)
    behind = [beat for beat in beats if (beat["step"], beat["count"]) == furthest]
    stacks = record.stacks
    culprits = [beat for beat in behind if not _waits(stacks.get(beat["rank"]))] or behind
    ranks = ", ".join(str(beat["rank"]) for beat in culprits)
    return f"rank {ranks} was furthest behind, in step {furthest[0]}, phase {culprits[0]['phase']}"


def _waits(stack: Path | None) -> bool:
    """Whether a rank was in a collective; one without stacks could not even write them."""
    return stack is not None and "distributed_c10d" in stack.read_text(errors="replace")
