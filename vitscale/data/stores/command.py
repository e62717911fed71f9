"""Shards from the standard output of a command, such as `pipe:hadoop fs -cat hdfs://nn/i21k/{name}`.

The command is split into words as a shell would, and run without one.
"""

from __future__ import annotations

import select
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

from vitscale.data.stores.backend import Permanent, Transient, without_secrets
from vitscale.errors import ConfigError

SCHEME = "pipe:"
_CHUNK = 256 << 10
_NAME = "{name}"


class Command:
    """Objects that a command prints. Parts in the middle cost everything before them.

    Raises:
        ConfigError: the command has no `{name}` or cannot be split into words.
    """

    ranged = False

    def __init__(self, template: str, *, silent_s: float = 60.0) -> None:
        self.place = without_secrets(template)
        self._silent_s = silent_s
        try:
            self._words = shlex.split(template.removeprefix(SCHEME))
        except ValueError as error:
            raise ConfigError(
                f"the command cannot be split into words: {error}", where=self.place
            ) from error
        if not any(_NAME in word for word in self._words[1:]):
            raise ConfigError(
                "the command does not say where the name of the file goes",
                where=self.place,
                do="Write {name} in it, such as pipe:ssh host cat /data/{name}.",
            )

    def size(self, name: str) -> int | None:
        return None

    def chunks(self, name: str, begin: int, end: int | None) -> Iterator[bytes]:
        """As `Backend.chunks`."""
        if name.startswith("-"):
            raise Permanent(f"the name {name!r} would be read as an option of the command")
        words = [word.replace(_NAME, name) for word in self._words]
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    words, 0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
                )
            except (OSError, ValueError) as error:
                raise Permanent(f"the command cannot be started: {error}") from error
            try:
                yield from self._output(process, begin, end)
                if end is None:
                    self._check_exit(process, said)
                return
            except _Ended as ended:
                self._check_exit(process, said)
                raise Transient(ended) from None
            finally:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()

    def names(self) -> list[str]:
        raise Permanent("a command cannot list its files")

    def _output(
        self, process: subprocess.Popen[bytes], begin: int, end: int | None
    ) -> Iterator[bytes]:
        assert process.stdout is not None
        at = 0
        while end is None or at < end:
            if not select.select([process.stdout], [], [], self._silent_s)[0]:
                raise Transient(f"the command printed nothing for {self._silent_s:g} s")
            chunk = process.stdout.read(_CHUNK)
            if not chunk:
                break
            piece = chunk[max(0, begin - at) : None if end is None else end - at]
            at += len(chunk)
            if piece:
                yield piece
        if end is not None and at < end:
            raise _Ended(f"the command printed {at} bytes, byte {end - 1} was asked for")

    def _check_exit(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        try:
            status = process.wait(self._silent_s)
        except subprocess.TimeoutExpired as error:
            raise Transient("the command closed its output and does not end") from error
        if status:
            said.seek(0)
            text = said.read(2000).decode(errors="replace").strip()
            raise Transient(f"the command ended with status {status}: {text}")


class _Ended(Exception):
    """The output was shorter than what was asked for."""
