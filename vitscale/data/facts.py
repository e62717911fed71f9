"""What a recipe's sources come to, without torch and, where no filter needs more, from their manifests alone."""

from __future__ import annotations

from vitscale.config.data import DataConfig
from vitscale.config.dataset import DatasetFacts
from vitscale.config.source import Source
from vitscale.data.corpus import open_corpus
from vitscale.data.stores.manifest import facts_at
from vitscale.errors import DataError


def facts_of(config: DataConfig) -> DatasetFacts:
    """Samples and classes that training reads; of parts and mixtures the fingerprints are those of the whole sets.

    Raises:
        DataError: a set is missing, damaged or unreadable, or nothing is left of it.
        ConfigError: a filter names what a set does not have.
    """
    sources = config.train
    if any(source.is_filtered for source in sources):
        return open_corpus(
            sources, config
        ).facts  # filters need the labels and keys of every sample
    facts = [facts_at(source.place, allow_pipe=config.allow_pipe) for source in sources]
    samples = [_taken(source, own.samples) for source, own in zip(sources, facts, strict=True)]
    return DatasetFacts(
        sum(samples),
        tuple(dict.fromkeys(name for own in facts for name in own.classes)),
        " ".join(own.fingerprint for own in facts),
        sum(own.shards for own in facts),
        sum(own.bytes * n // own.samples for own, n in zip(facts, samples, strict=True)),
    )


def _taken(source: Source, samples: int) -> int:
    begin, end = source.part.of(samples) if source.part else (0, samples)
    if begin == end:
        raise DataError(
            "no sample is left by the part",
            where=source.shards,
            given=f"a set of {samples:,} samples",
            do="Widen the part.",
        )
    return end - begin
