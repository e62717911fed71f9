"""What the order and the tables of a data set cost as it grows: memory, start-up, seek, and time for each sample.

    python -m bench.growth [--only "14.2 M"] [--folder /tmp]

Every line is a process of its own; times are CPU times of one thread unless said otherwise. "order" has made-up shard
counts; "files" has a manifest and sidecars on disk beside sparse tars without images, all new to the process, though
perhaps not to the page cache. Writes bench/results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.config.data import DataConfig

BATCH = 4096
STEPS = 50
DEFAULTS = (DataConfig.model_fields["lanes"].default, DataConfig.model_fields["window"].default)
SETTINGS = (DEFAULTS, (256, 1024), (256, 4096), (1024, 4096))
_IMAGE_BYTES = 100_000
_CLASSES = 1000
RESULTS = Path(__file__).parent / "results" / "growth.json"


@dataclass(frozen=True)
class Size:
    """A corpus of `shards` shards of `each` samples."""

    name: str
    shards: int
    each: int
    on_disk: bool = False

    @property
    def samples(self) -> int:
        return self.shards * self.each


SIZES = {
    size.name: size
    for size in (
        Size("1 M", 500, 2_000, on_disk=True),
        Size("14.2 M", 7_100, 2_000, on_disk=True),
        Size("300 M", 60_000, 5_000),
        Size("4 B", 400_000, 10_000),
    )
}


def cpu_s(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the work returned."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def order_figures(size: Size, lanes: int, window: int) -> dict[str, float]:
    """Of the order alone. The seek goes to the middle of the second epoch, with nothing made before."""
    from vitscale.data.mixture import Mixture
    from vitscale.data.order import Order

    counts = np.full(size.shards, size.each)
    middle = size.samples * 3 // 2

    def made() -> Mixture:
        return Mixture([Order(counts, seed=0, lanes=lanes, window=window)])

    made().batch(0, BATCH)  # what only the first use of a library costs
    construct_s, mixture = cpu_s(made)
    seek_s, _ = cpu_s(lambda: mixture.batch(middle, BATCH))
    on_s, _ = cpu_s(lambda: [mixture.batch(middle + n * BATCH, BATCH) for n in range(1, STEPS)])
    seek_64_s, _ = cpu_s(lambda: made().batch(middle, BATCH, 5, 64))
    tracemalloc.start()
    kept = made()
    kept.batch(middle, BATCH)
    kept.batch(2 * middle, BATCH)  # the tables of two epochs are remembered
    memory, peak = tracemalloc.get_traced_memory()
    return {
        "construct_ms": construct_s * 1e3,
        "seek_ms": seek_s * 1e3,
        "seek_of_64_ms": seek_64_s * 1e3,
        "sample_us": on_s / ((STEPS - 1) * BATCH) * 1e6,
        "tables_mb": memory / 1e6,
        "peak_mb": peak / 1e6,
    }


def file_figures(folder: Path, lanes: int, window: int) -> dict[str, float]:
    """Of a data set on disk: opening it, where the images of batches lie, and all labels."""
    from vitscale.config.source import Source
    from vitscale.data.corpus import open_corpus
    from vitscale.data.mixture import Mixture
    from vitscale.data.order import Order

    before_mb = rss_mb()
    wall = time.perf_counter()
    open_s, corpus = cpu_s(lambda: open_corpus([Source(shards=str(folder))]))
    open_wall_s, opened_mb = time.perf_counter() - wall, rss_mb() - before_mb
    order = Order(corpus.selections[0].counts, seed=0, lanes=lanes, window=window)
    mixture, middle = Mixture([order]), corpus.samples * 3 // 2
    first_s, _ = cpu_s(lambda: corpus.rows(mixture.batch(middle, BATCH).ids).labels)
    ids = [mixture.batch(middle + n * BATCH, BATCH).ids for n in range(1, STEPS)]
    on_s, _ = cpu_s(lambda: [corpus.rows(batch).labels for batch in ids])
    rows_mb = rss_mb() - before_mb
    labels_s, _ = cpu_s(corpus.label_rows)
    return {
        "open_s": open_s,
        "open_wall_s": open_wall_s,
        "open_mb": opened_mb,
        "first_rows_ms": first_s * 1e3,
        "rows_us": on_s / ((STEPS - 1) * BATCH) * 1e6,
        "rows_mb": rows_mb,
        "all_labels_s": labels_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before_mb,
    }


def make_files(size: Size, folder: Path) -> None:
    """Manifest, sidecars and sparse tars; every sidecar holds the same samples."""
    from vitscale.config.dataset import MANIFEST, Manifest, ShardRecord
    from vitscale.data.index import ShardIndex, hash_of_labels, index_path, write_index

    n = size.each
    rng = np.random.default_rng(0)
    tar_bytes = (n * (_IMAGE_BYTES // 512 + 3) + 2) * 512
    records = []
    for number in range(size.shards):
        index = ShardIndex(
            offsets=np.arange(n, dtype=np.uint64) * (_IMAGE_BYTES // 512 + 3) * 512 + 512,
            key_hashes=rng.integers(0, 2**63, n, np.uint64),
            lengths=np.full(n, _IMAGE_BYTES, np.uint32),
            crcs=np.zeros(n, np.uint32),
            label_starts=np.arange(n + 1, dtype=np.uint32),
            labels=rng.integers(0, _CLASSES, n, np.uint32),
            widths=np.full(n, 500, np.uint16),
            heights=np.full(n, 375, np.uint16),
            kinds=np.ones(n, np.uint8),
            tar_bytes=tar_bytes,
            tar_xxh3=f"{number:032x}",
        )
        tar = folder / f"shard-{number:06d}.tar"
        with open(tar, "wb") as file:
            file.truncate(tar_bytes)
        write_index(index, index_path(tar))
        labels = hash_of_labels(index)
        records.append(ShardRecord(tar.name, n, tar_bytes, index.tar_xxh3, labels))
    manifest = Manifest(tuple(f"class {label}" for label in range(_CLASSES)), tuple(records))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def one(arguments: argparse.Namespace) -> dict[str, float]:
    """The line that a child process was asked for."""
    size = SIZES[arguments.one]
    if arguments.files:
        return file_figures(Path(arguments.files), arguments.lanes, arguments.window)
    return order_figures(size, arguments.lanes, arguments.window)


def in_a_process(size: Size, lanes: int, window: int, files: Path | None = None) -> dict[str, Any]:
    """Figures of one line, rounded."""
    command = [sys.executable, "-m", "bench.growth", "--one", size.name]
    command += ["--lanes", str(lanes), "--window", str(window)]
    command += ["--files", str(files)] if files else []
    root = Path(__file__).parents[1]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    head = {"corpus": size.name, "shards": size.shards, "lanes": lanes, "window": window}
    return head | {name: float(f"{value:.3g}") for name, value in figures.items()}


def print_table(lines: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(lines[0]) + " |\n" + "|---" * len(lines[0]) + "|")
    for line in lines:
        print("| " + " | ".join(f"{value}" for value in line.values()) + " |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(SIZES), action="append", help="these sizes")
    parser.add_argument("--folder", help="where the data sets of at most 600 MB are made")
    for name, kind in (("--one", str), ("--files", str), ("--lanes", int), ("--window", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments)))
        return
    sizes = [SIZES[name] for name in arguments.only or SIZES]
    order = [in_a_process(size, *setting) for size in sizes for setting in SETTINGS]
    print_table(order)
    files: list[dict[str, Any]] = []
    for size in (size for size in sizes if size.on_disk):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            make_files(size, Path(name))
            files += [in_a_process(size, *setting, Path(name)) for setting in SETTINGS]
    if files:
        print_table(files)
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"batch": BATCH, "order": order, "files": files}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
