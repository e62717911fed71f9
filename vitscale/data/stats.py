"""What a data set is made of, from its sidecars alone: classes, sizes, kinds and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitscale.config.dataset import Manifest, read_manifest
from vitscale.data.image_headers import KINDS
from vitscale.data.shard_files import index_of
from vitscale.errors import ResourceError
from vitscale.units import human_bytes

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
_SHOWN_CLASSES = 3


@dataclass(frozen=True)
class Stats:
    """Figures of one data set of n samples and k classes."""

    manifest: Manifest
    class_counts: np.ndarray
    """[k] int64: samples that carry the label; one with several labels counts for each."""
    label_counts: np.ndarray
    """[j] int64: samples with 0, 1, ... labels."""
    kinds: np.ndarray
    """[4] int64: samples by kind."""
    widths: np.ndarray
    """[s] u16, px: of the samples whose header says it."""
    heights: np.ndarray
    """[s] u16, px."""
    lengths: np.ndarray
    """[n] u32: bytes of each image."""

    @property
    def bad_headers(self) -> int:
        """Images whose size cannot be read from their header."""
        return len(self.lengths) - len(self.widths)

    @property
    def imbalance(self) -> float | None:
        """Samples of the largest class over those of the smallest that has any."""
        filled = self.class_counts[self.class_counts > 0]
        return float(filled.max() / filled.min()) if len(filled) else None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-like values; quantiles are at `QUANTILES`."""
        counts = dict(zip(self.manifest.classes, self.class_counts.tolist(), strict=True))
        columns = {
            "width": self.widths,
            "height": self.heights,
            "short_side": np.minimum(self.widths, self.heights),
            "bytes": self.lengths,
        }
        return {
            "samples": self.manifest.samples,
            "shards": len(self.manifest.shards),
            "bytes": self.manifest.facts.bytes,
            "classes": len(self.manifest.classes),
            "empty_classes": [name for name, count in counts.items() if not count],
            "imbalance": self.imbalance,
            "class_counts": self.class_counts.tolist(),
            "samples_by_number_of_labels": self.label_counts.tolist(),
            "kinds": dict(zip(KINDS, self.kinds.tolist(), strict=True)),
            "bad_headers": self.bad_headers,
            "quantiles": list(QUANTILES),
            **{name: quantiles(column) for name, column in columns.items()},
        }


def quantiles(values: np.ndarray) -> list[int]:
    """The values at `QUANTILES`, each one that occurs; empty for no values."""
    if not len(values):
        return []
    return np.quantile(values, QUANTILES, method="nearest").astype(int).tolist()


def stats_of(folder: str | Path) -> Stats:
    """Read every sidecar of the data set in `folder`.

    Raises:
        DataError: no usable manifest, or a sidecar that does not fit it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    indexes = [index_of(folder, record) for record in manifest.shards]
    widths = _joined([index.widths for index in indexes], np.uint16)
    heights = _joined([index.heights for index in indexes], np.uint16)
    labels = [
        np.bincount(i.labels.astype(np.int64), minlength=len(manifest.classes)) for i in indexes
    ]
    return Stats(
        manifest,
        class_counts=np.sum(labels, axis=0) if labels else np.zeros(0, np.int64),
        label_counts=np.bincount(_joined([index.label_counts for index in indexes], np.int64)),
        kinds=np.bincount(_joined([i.kinds for i in indexes], np.uint8), minlength=len(KINDS)),
        widths=widths[widths > 0],
        heights=heights[heights > 0],
        lengths=_joined([index.lengths for index in indexes], np.uint32),
    )


def _joined(columns: list[np.ndarray], kind: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *columns]).astype(kind)


def in_words(stats: Stats) -> str:
    """A table for people."""
    facts = stats.manifest.facts
    lines = [
        f"samples        {facts.samples:,} in {facts.shards:,} shards, {human_bytes(facts.bytes)}",
        f"classes        {len(facts.classes):,}{_about_classes(stats)}",
        f"labels         {_about_labels(stats.label_counts)}",
        f"kinds          {_about_kinds(stats.kinds)}",
        f"bad headers    {stats.bad_headers:,}",
        "               " + "".join(f"{_percent(q):>10}" for q in QUANTILES),
    ]
    short = np.minimum(stats.widths, stats.heights)
    rows = {"width, px": stats.widths, "height, px": stats.heights, "short side, px": short}
    for name, values in {**rows, "bytes": stats.lengths}.items():
        lines.append(f"{name:<15}" + "".join(f"{value:>10,}" for value in quantiles(values)))
    return "\n".join(lines)


def _percent(quantile: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(quantile, f"{quantile:.0%}")


def _about_classes(stats: Stats) -> str:
    counts, names = stats.class_counts, stats.manifest.classes
    order = np.argsort(-counts, kind="stable")
    largest = [f"{names[label]} {counts[label]:,}" for label in order[:_SHOWN_CLASSES]]
    filled = [label for label in order if counts[label]]
    smallest = [f"{names[label]} {counts[label]:,}" for label in filled[-_SHOWN_CLASSES:]]
    empty = int((counts == 0).sum())
    imbalance = f", {stats.imbalance:.3g} times apart" if stats.imbalance else ""
    return (
        f", {empty:,} of them empty{imbalance}"
        f"\n  largest      {', '.join(largest)}\n  smallest     {', '.join(smallest)}"
    )


def _about_labels(counts: np.ndarray) -> str:
    parts = [
        f"{count:,} with {number}" if number else f"{count:,} without"
        for number, count in enumerate(counts.tolist())
        if count
    ]
    return ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")


def _about_kinds(kinds: np.ndarray) -> str:
    return ", ".join(
        f"{name} {count:,}" for name, count in zip(KINDS, kinds.tolist(), strict=True) if count
    )


def plot(stats: Stats, path: Path) -> None:
    """Four panels: samples by class, short sides, file sizes, kinds.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResourceError("matplotlib is not installed", do="pip install matplotlib") from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    classes, sides, sizes, kinds = figure.subplots(2, 2).flat
    classes.plot(
        np.arange(1, len(stats.class_counts) + 1),
        -np.sort(-stats.class_counts),
        drawstyle="steps-mid",
    )
    classes.set(title="samples by class, largest first", xlabel="rank of the class", ylim=(0, None))
    if len(stats.widths):
        sides.hist(np.minimum(stats.widths, stats.heights), bins=60)
    sides.set(title="short side", xlabel="px", ylabel="images")
    sizes.hist(stats.lengths / 1024, bins=60)
    sizes.set(title="file size", xlabel="KiB", ylabel="images")
    kinds.bar(KINDS, stats.kinds)
    kinds.set(title="kind", ylabel="images")
    figure.suptitle(f"{stats.manifest.samples:,} images, {len(stats.manifest.classes):,} classes")
    figure.savefig(path, dpi=120)
