"""A process with a heartbeat that hangs in one way or another; run by tests/train/test_heartbeat.py."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from vitscale.checkpoint.lease import Lease
from vitscale.train.heartbeat import Heartbeat


def _hold_the_interpreter() -> None:
    """A regular expression that takes years holds the interpreter: no other thread runs."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def _main() -> None:
    folder, rank, hang_s, how = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    heart = Heartbeat(Lease(folder, 1), rank, hang_s)
    for step in range(3):
        heart.beat(step, "data")
        heart.beat(step, "step")
        time.sleep(0.3)
    if how == "sleeps":
        time.sleep(600)
    if how == "holds the interpreter":
        _hold_the_interpreter()
    if how == "saves slowly":
        heart.beat(3, "save")
        time.sleep(2.5 * hang_s)
    if how == "goes on after all":
        time.sleep(1.15 * hang_s)
        heart.beat(3, "step")
        time.sleep(0.45 * hang_s)
    heart.close()


if __name__ == "__main__":
    _main()
