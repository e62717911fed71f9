"""Run vitscale commands as a user does, each in a process of its own with its output in a log; say what is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitscale.errors import VitscaleError


@dataclass
class Shell:
    """Prints each command before it runs; logs go to `logs/01-submit.log` and so on."""

    logs: Path
    count: int = 0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the first command."""
        return time.monotonic() - self.started_s

    def start(self, *words: str, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start `vitscale WORDS...` with more variables; the process and its log."""
        print(f"  $ vitscale {' '.join(words)}", flush=True)
        self.count += 1
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{self.count:02d}-{words[0]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "vitscale", *words],
                stdout=file,
                stderr=file,
                env=os.environ | environment,
            )
        return process, log

    def run(self, *words: str) -> None:
        """Run a command to its end.

        Raises:
            CommandFailed: it did not exit with 0.
        """
        process, log = self.start(*words)
        finish(process, log, words)

    def side_by_side(self, *commands: tuple[str, ...], **environment: str) -> None:
        """Run commands at the same time, with more variables.

        Raises:
            CommandFailed: one did not exit with 0.
        """
        for words, started in [(words, self.start(*words, **environment)) for words in commands]:
            finish(*started, words)

    def ask(self, *words: str) -> Any:
        """Run a command that has `--json`; what it answered.

        Raises:
            CommandFailed: it did not exit with 0.
        """
        print(f"  $ vitscale {' '.join(words)}", flush=True)
        command = [sys.executable, "-m", "vitscale", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandFailed(words, done.returncode, done.stderr or done.stdout)
        return json.loads(done.stdout)


class CommandFailed(VitscaleError):
    """A command of the demo ended with `exit_code`, which becomes the demo's own."""

    def __init__(self, words: tuple[str, ...], exit_code: int, output: str) -> None:
        self.exit_code = exit_code
        self.output = output.strip() or "no output"
        super().__init__(
            f"it ended with exit code {exit_code}:\n{self.output[-3000:]}\n",
            where=f"vitscale {' '.join(words)}",
        )


def finish(process: subprocess.Popen[bytes], log: Path, words: tuple[str, ...]) -> None:
    """Wait for a started command.

    Raises:
        CommandFailed: it did not exit with 0.
    """
    if process.wait():
        output = log.read_text(encoding="utf-8", errors="replace")
        raise CommandFailed(words, process.returncode, output)


def percent(*shares: float) -> str:
    """`12.3 % / 45.6 %`."""
    return " / ".join(f"{100 * share:.1f} %" for share in shares)


def title(text: str) -> None:
    """Begin a part of the demo."""
    print(f"\n{text}", flush=True)
