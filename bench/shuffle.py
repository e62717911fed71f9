"""How well lanes and windows mix a corpus that is sorted by class, which is the worst case.

    python -m bench.shuffle [--stretches 24]

Pairs of one class, and of one shard, in a batch, over what a uniform permutation of the corpus has on average (closed
form); and pairs of one class in 64 neighbouring batches, whose classes can be few although each batch is well mixed.
Below 1 a batch is more even than chance makes it. Writes bench/results/shuffle.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vitscale.data.mixture import Mixture
from vitscale.data.order import Order

SETTINGS = (
    (64, 4096),
    (64, 16384),
    (128, 2048),
    (256, 1024),
    (256, 4096),
    (1024, 256),
    (1024, 1024),
    (1024, 4096),
    (2048, 512),
)
BATCH = 1024
RUN = 64
"""Neighbouring batches of a stretch."""
IMAGE_BYTES = 100_000
RESULTS = Path(__file__).parent / "results" / "shuffle.json"


@dataclass(frozen=True)
class Sorted:
    """A corpus whose sample ids rise with the label; classes are of one size, as nearly as can be."""

    name: str
    shards: int
    shard_samples: int
    classes: int

    @property
    def samples(self) -> int:
        return self.shards * self.shard_samples

    def labels(self, ids: np.ndarray) -> np.ndarray:
        return ids * self.classes // self.samples

    def shard_numbers(self, ids: np.ndarray) -> np.ndarray:
        return ids // self.shard_samples


CORPORA = (
    Sorted("320 k, 400 classes", 640, 500, 400),
    Sorted("14.2 M, 21,843 classes", 7_100, 2_000, 21_843),
)


@dataclass(frozen=True)
class Ratios:
    """To a uniform permutation: mean and worst batch."""

    batches: int
    same_class: float
    same_class_worst: float
    same_shard: float
    same_shard_worst: float
    same_class_in_run: float
    """In `RUN` batches together."""


@dataclass(frozen=True)
class Mixing:
    """How one setting mixes one corpus, and what it costs."""

    corpus: str
    lanes: int | None
    """As the order uses them; None for a uniform permutation, drawn for comparison."""
    window: int | None
    ratios: Ratios
    shards_in_use: float = 0.0
    """By one batch over all ranks: those that its windows lie in."""
    cache_gb: float = 0.0
    """Of those shards, at `IMAGE_BYTES` an image."""
    order_mb: float = 0.0
    """Of remembered windows, on a rank that reads every lane."""


def pairs(groups: np.ndarray) -> int:
    """Pairs of equal numbers."""
    _, counts = np.unique(groups, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())


def expected_pairs(samples: int, groups: int, batch: int) -> float:
    """Mean pairs of one group in a batch without repeats, for groups of N // K and N // K + 1 samples."""
    small, larger = divmod(samples, groups)
    within = larger * (small + 1) * small + (groups - larger) * small * (small - 1)
    return batch * (batch - 1) / 2 * within / (samples * (samples - 1))


def ratios(corpus: Sorted, stretches: Iterable[np.ndarray]) -> Ratios:
    """Of pairs; a stretch holds the ids of `RUN` batches."""
    by_class, by_shard, in_run = [], [], []
    for ids in stretches:
        batches = ids.reshape(RUN, BATCH)
        by_class += [pairs(corpus.labels(batch)) for batch in batches]
        by_shard += [pairs(corpus.shard_numbers(batch)) for batch in batches]
        in_run.append(pairs(corpus.labels(ids)))
    classes = np.array(by_class) / expected_pairs(corpus.samples, corpus.classes, BATCH)
    shards = np.array(by_shard) / expected_pairs(corpus.samples, corpus.shards, BATCH)
    runs = np.array(in_run) / expected_pairs(corpus.samples, corpus.classes, RUN * BATCH)
    return Ratios(
        len(classes),
        float(classes.mean()),
        float(classes.max()),
        float(shards.mean()),
        float(shards.max()),
        float(runs.mean()),
    )


def uniform(corpus: Sorted, stretches: int) -> Mixing:
    """Stretches drawn without repeats from the whole corpus: what chance alone does."""
    rng = np.random.default_rng(0)
    drawn = (rng.choice(corpus.samples, RUN * BATCH, replace=False) for _ in range(stretches))
    return Mixing(corpus.name, None, None, ratios(corpus, drawn))


def measured(corpus: Sorted, lanes: int, window: int, stretches: int) -> Mixing:
    """The order itself, on stretches that begin evenly over an epoch and end within it."""
    counts = np.full(corpus.shards, corpus.shard_samples)
    order = Order(counts, seed=0, lanes=lanes, window=window)
    last = corpus.samples - RUN * BATCH
    begins = np.linspace(0, last, stretches).astype(np.int64).tolist()
    ids = (np.concatenate(list(batches_from(order, begin))) for begin in begins)
    in_use = np.mean([shards_in_use(order, begin) for begin in begins])
    return Mixing(
        corpus.name,
        order.lanes,
        window,
        ratios(corpus, ids),
        shards_in_use=float(in_use),
        cache_gb=float(in_use * corpus.shard_samples * IMAGE_BYTES / 1e9),
        order_mb=2 * order.lanes * window * 8 / 1e6,
    )


def batches_from(order: Order, begin: int) -> Iterator[np.ndarray]:
    """The ids of `RUN` batches."""
    mixture = Mixture([order])
    for number in range(RUN):
        yield mixture.batch(begin + number * BATCH, BATCH).ids


def shards_in_use(order: Order, position: int) -> int:
    """Different shards of all windows that a batch takes from."""
    at = order.places(position, BATCH)
    return len({int(shard) for window, _ in order.windows(at) for shard in order.shards(window)})


def row_of(mixing: Mixing) -> str:
    cells = [
        mixing.corpus,
        f"{mixing.lanes:,}" if mixing.lanes else "uniform",
        f"{mixing.window:,}" if mixing.window else "",
        f"{mixing.ratios.same_class:.2f}",
        f"{mixing.ratios.same_class_worst:.2f}",
        f"{mixing.ratios.same_shard:.2f}",
        f"{mixing.ratios.same_shard_worst:.2f}",
        f"{mixing.ratios.same_class_in_run:.2f}",
        f"{mixing.shards_in_use:,.0f}",
        f"{mixing.cache_gb:,.0f}",
        f"{mixing.order_mb:,.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = """\
| corpus | lanes | window | same class | worst | same shard | worst | in 64 batches | shards in use | GB | order MB |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stretches", type=int, default=24, help="of 64 batches for every setting")
    stretches = parser.parse_args().stretches
    print(HEAD)
    found: list[Mixing] = []
    for corpus in CORPORA:
        found.append(uniform(corpus, stretches))
        print(row_of(found[-1]), flush=True)
        for lanes, window in SETTINGS:
            found.append(measured(corpus, lanes, window, stretches))
            print(row_of(found[-1]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    record = {"batch": BATCH, "settings": [asdict(mixing) for mixing in found]}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
