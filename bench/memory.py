"""Whether the loader's memory grows: resident size and open files over many epochs of small images in many shards.

    python -m bench.memory [--images 2000000] [--shards 2000] [--remote]

The loader runs in a process of its own over a corpus of a few thousand shards, more than it keeps open; some images are
damaged. With `--remote` whole shards come from a web server on this machine, through a cache that holds half of them.
What counts is the last quarter against the first. Writes bench/results/memory.json, or memory-remote.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

SHARD_SAMPLES = 50
PICTURES = 500
CLASSES = 10
SIDE_PX = 24
BATCH, MICRO_BATCH = 1024, 256
LANES, WINDOW = 32, 256
DAMAGED = 7
MARKS = 80
"""How often memory is looked at."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Mark:
    """The process after so many images."""

    images: int
    rss_mb: float
    files: int


def now(images: int) -> Mark:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    rss_mb = pages * resource.getpagesize() / 1e6
    return Mark(images, rss_mb, len(os.listdir("/proc/self/fd")))


def make_data(folder: Path, shards: int) -> None:
    """Shards of JPEGs, of which `PICTURES` differ."""
    from vitscale.data.samples import Sample, Split
    from vitscale.data.synthetic import synthetic_split
    from vitscale.data.write import pack

    few = list(synthetic_split(PICTURES, CLASSES, side_px=SIDE_PX, format="JPEG").samples)
    samples = (
        Sample(f"{number:07d}", "jpg", few[number % PICTURES].data, number % CLASSES)
        for number in range(shards * SHARD_SAMPLES)
    )
    names = tuple(map(str, range(CLASSES)))
    pack(Split(names, samples), folder, shard_samples=SHARD_SAMPLES)


def damage(folder: Path) -> None:
    """Make a byte wrong in a few images."""
    from vitscale.data.shards import open_shards

    opened = open_shards(folder)
    for sample in np.linspace(0, opened.samples - 1, DAMAGED).astype(int).tolist():
        name, _, offset = opened.whereabouts(sample)
        with open(folder / name, "r+b") as file:
            file.seek(offset + 100)
            byte = file.read(1)[0]
            file.seek(offset + 100)
            file.write(bytes([byte ^ 0x55]))


class Quiet(SimpleHTTPRequestHandler):
    """The files of a folder, and no line a request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder as long as the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def marks(data: str, folder: Path, images: int, cache_gb: float) -> Iterator[Mark]:
    """Train the loader on nothing: take batches, and look at the process `MARKS` times."""
    from vitscale.config.data import DataConfig
    from vitscale.data.corpus import open_corpus
    from vitscale.data.loader import TrainLoader
    from vitscale.place import Place

    table = {"train": data, "lanes": LANES, "window": WINDOW, "bad_image_limit": 0.01}
    if cache_gb:
        table |= {"cache": str(folder / "cache"), "cache_gb": cache_gb}
    config = DataConfig.model_validate(table)
    loader = TrainLoader(
        open_corpus(config.train, config),
        config,
        image=(SIDE_PX, SIDE_PX),
        batch=BATCH,
        micro_batch=MICRO_BATCH,
        seed=0,
        place=Place(),
        quarantine=folder / "quarantine.jsonl",
    )
    seen, step = 0, images // MARKS
    for batch in loader.batches(0):
        seen += len(batch.ids)
        if seen // step > (seen - len(batch.ids)) // step:
            loader.take_seen()  # as a commit does
            yield now(seen)
        if seen >= images:
            break
    assert loader.bad_images <= DAMAGED, "only damaged images may be masked"
    loader.close()


def watch(data: str, folder: Path, images: int, cache_gb: float) -> list[Mark]:
    """The marks of a fresh process."""
    command = [sys.executable, "-m", "bench.memory", "--run", data, "--folder", str(folder)]
    command += ["--images", str(images), "--cache-gb", str(cache_gb)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return [Mark(**json.loads(line)) for line in done.stdout.splitlines()]


def results_of(found: list[Mark], corpus: int, seconds: float) -> dict[str, object]:
    """Means of the first and of the last quarter."""
    quarter = len(found) // 4
    first, last = (
        float(np.mean([mark.rss_mb for mark in part]))
        for part in (found[:quarter], found[-quarter:])
    )
    return {
        "images": found[-1].images,
        "epochs": round(found[-1].images / corpus, 2),
        "shards": corpus // SHARD_SAMPLES,
        "windows": found[-1].images // WINDOW,
        "images_per_s": round(found[-1].images / seconds),
        "first_quarter_mb": round(first, 1),
        "last_quarter_mb": round(last, 1),
        "growth_mb": round(last - first, 1),
        "most_mb": round(max(mark.rss_mb for mark in found), 1),
        "files": [min(mark.files for mark in found), max(mark.files for mark in found)],
        "marks": [[mark.images, round(mark.rss_mb, 1), mark.files] for mark in found],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000_000, help="to take in all")
    parser.add_argument("--shards", type=int, default=2_000, help="of 50 images each")
    parser.add_argument("--remote", action="store_true", help="through HTTP and a cache")
    for name, kind in (("--run", str), ("--folder", Path), ("--cache-gb", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    images, remote = arguments.images, arguments.remote
    if arguments.run:
        for mark in marks(arguments.run, arguments.folder, images, arguments.cache_gb):
            print(json.dumps(asdict(mark)), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), Path(name) / "data"
        make_data(data, arguments.shards)
        if not remote:  # from a store, a damaged shard is not taken at all
            damage(data)
        half_gb = sum(path.stat().st_size for path in data.iterdir()) / 2e9 if remote else 0.0
        begin = time.perf_counter()
        with served(data) if remote else nullcontext(str(data)) as source:
            found = watch(source, folder, images, half_gb)
        results = results_of(found, arguments.shards * SHARD_SAMPLES, time.perf_counter() - begin)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("memory-remote.json" if remote else "memory.json")
    path.write_text(json.dumps(results) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "marks"}, indent=2))


if __name__ == "__main__":
    main()
