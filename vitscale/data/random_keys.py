"""Random streams that follow from what they are for, never from who asked before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(purpose: str, *key: int) -> np.random.Generator:
    """A Philox stream of its own for this purpose and key, the same on every machine and rank."""
    return np.random.Generator(np.random.Philox(key=_words(purpose, *key)))


def _words(purpose: str, *key: int) -> np.ndarray:
    """[2] u64."""
    text = repr((purpose, *map(int, key)))
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), "<u8")


class SampleStreams:
    """The stream of each (epoch, sample) under one seed: Philox at a counter made of the two.

    Moving an existing generator takes 1.2 us where a new one takes 11. One per thread: `at` returns
    the same generator, moved.
    """

    def __init__(self, purpose: str, seed: int) -> None:
        self._philox = np.random.Philox(key=_words(purpose, seed))
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def at(self, epoch: int, sample: int) -> np.random.Generator:
        """The stream of this sample in this epoch, at its beginning."""
        self._state["state"]["counter"][:] = (0, 0, epoch, sample)
        self._philox.state = self._state  # taken before any draw: the buffers in it are empty
        return self._generator
