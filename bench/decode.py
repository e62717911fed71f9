"""The decoders against the yardstick: libjpeg-turbo decodes every pixel of the same JPEGs and nothing else happens.

    python -m bench.decode [--images 200] [--rounds 6]

Training views of 224 px (inception crops of 8 to 100 % of the area), read from a file and checked, on one thread.
CPU time; the contestants take turns on every chunk and the best round of each counts, so only ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import crc32c
import numpy as np

from bench.photos import photos
from vitscale.data.augment import DRAWS, inception_boxes
from vitscale.data.native import plain_decode
from vitscale.data.pixels import CDecoder, Decoder, Files, PillowDecoder

VIEW = 224
CHUNK = 25
SIDES_PX = (500, 1600)


class Chunk:
    """Some JPEGs in memory and in a file, with a box for each."""

    def __init__(self, data: list[bytes], path: Path, rng: np.random.Generator) -> None:
        path.write_bytes(b"".join(data))
        self._file = open(path, "rb")  # noqa: SIM115  open as long as the bench runs
        lengths = np.array([len(each) for each in data], np.uint32)
        sizes = np.array([plain_decode(each)[1:] for each in data], np.int32)
        handles = np.full(len(data), self._file.fileno(), np.int32)
        crcs = np.array([crc32c.crc32c(each) for each in data], np.uint32)
        self.data = data
        self.files = Files(handles, np.cumsum(lengths) - lengths, lengths, crcs, sizes)
        self.boxes = inception_boxes(sizes, rng.random((len(data), DRAWS - 1)), (0.08, 1.0))
        self.mirrored = np.zeros(len(data), bool)
        self.out = np.empty((len(data), VIEW, VIEW, 3), np.uint8)


def plain(chunk: Chunk) -> None:
    for data in chunk.data:
        plain_decode(data)


def filling(decoder: Decoder, *, shrink: bool = True) -> Callable[[Chunk], None]:
    def fill(chunk: Chunk) -> None:
        filled = decoder.fill(chunk.out, chunk.files, chunk.boxes, chunk.mirrored, shrink=shrink)
        if filled.bad:
            raise SystemExit(f"bad images: {filled.bad}")

    return fill


def best_seconds(
    contestants: dict[str, Callable[[Chunk], None]], chunks: list[Chunk], rounds: int
) -> dict[str, float]:
    """CPU seconds of each contestant for all chunks, the best round of each chunk."""
    best = {name: [float("inf")] * len(chunks) for name in contestants}
    for _ in range(rounds):
        for number, chunk in enumerate(chunks):
            for name, contestant in contestants.items():
                before = time.process_time()
                contestant(chunk)
                best[name][number] = min(best[name][number], time.process_time() - before)
    return {name: sum(seconds) for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    contestants = {
        "plain decode": plain,
        "C": filling(CDecoder()),
        "C, full size": filling(CDecoder(), shrink=False),
        "C without SIMD": filling(CDecoder(simd=False)),
        "Pillow": filling(PillowDecoder()),
    }
    results = {}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES_PX:
            count = max(CHUNK, arguments.images * SIDES_PX[0] // side)
            data = list(photos(count, side_px=side))
            chunks = [
                Chunk(data[begin : begin + CHUNK], Path(folder, f"{side}-{begin}"), rng)
                for begin in range(0, count, CHUNK)
            ]
            seconds = best_seconds(contestants, chunks, arguments.rounds)
            results[f"{side} px, mean {sum(map(len, data)) / count / 1e3:.0f} kB"] = {
                name: {
                    "images_per_cpu_s": round(count / spent),
                    "vs_plain_decode": round(seconds["plain decode"] / spent, 3),
                }
                for name, spent in seconds.items()
            }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
