"""`vitscale doctor --data RECIPE`: how many cores and MB/s a recipe's loader needs, and what this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vitscale.cli.machine import Finding
from vitscale.config.run import RunConfig
from vitscale.errors import ConfigError

_MB = 1e6


def needs(config: RunConfig, images_per_s: float | None) -> Iterator[Finding]:
    """Findings about the loader of a recipe.

    Args:
        config: the recipe.
        images_per_s: what the models on this node take together; by default what the run logged last.

    Raises:
        ConfigError: neither is known.
        DataError: the shards cannot be read.
    """
    from vitscale.data.speed import measure

    wanted, why = (images_per_s, "as given") if images_per_s else _logged(config)
    image = config.model.shape(config.model.classes or 1).image
    speed = measure(config.data, image, seed=config.run.seed)
    yield Finding("decoder", "ok", speed.decoder)
    mb_s = speed.images_per_core_s * speed.bytes_an_image / _MB
    text = f"{speed.images_per_core_s:,.0f} images/s of {speed.bytes_an_image / 1e3:,.1f} kB, {mb_s:,.0f} MB/s"
    yield Finding("one core", "ok", text)
    cores = len(os.sched_getaffinity(0))
    needed = wanted / speed.images_per_core_s
    yield _against(
        "cores",
        needed,
        cores,
        f"{needed:.1f} for {wanted:,.0f} images/s ({why}); this node has {cores}",
        "Pack the shards with --max-short-side, raise data.threads, or use nodes with more cores a GPU.",
    )
    needed = wanted * speed.bytes_an_image / _MB
    if speed.disk_mb_s is None:
        yield Finding("reading", "note", f"{needed:,.0f} MB/s needed from the store, not measured")
        return
    yield _against(
        "reading",
        needed,
        speed.disk_mb_s,
        f"{needed:,.0f} MB/s needed; the disk gives {speed.disk_mb_s:,.0f} MB/s (caches may have helped)",
        "Keep the shards, or data.cache, on a faster disk.",
    )


def _against(name: str, needed: float, has: float, text: str, remedy: str) -> Finding:
    return Finding(name, "wrong", text, remedy) if needed > has else Finding(name, "ok", text)


def _logged(config: RunConfig) -> tuple[float, str]:
    from vitscale.tracking.journal import read_metrics

    speeds = (
        read_metrics(config.folder).get("speed/images_per_s", []) if config.folder.is_dir() else []
    )
    if not speeds:
        raise ConfigError(
            "how many images/s the models take is not known: the run has logged none yet",
            where="doctor --data",
            given=config.folder,
            do="Give it with --images-per-s N, for all GPUs of one node together.",
        )
    return speeds[-1].value, f"logged by {config.run.name}"
