"""The order of a run from its first sample on, and what may change it: nothing, unless the recipe accepts it.

A run has one era for each order it was read in; an era begins at a run position. What makes an order is
hashed to its name, which the checkpoint keeps, the refusal of a changed one prints, and
`data.accept_change` repeats.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscale.config.data import DataConfig
from vitscale.data.mixture import Mixture, parts_of_block
from vitscale.data.order import Order
from vitscale.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vitscale.data.corpus import Corpus

STATE_VERSION = 2
_WHAT = {
    "fingerprints": "the data (fingerprints)",
    "samples": "the number of samples",
    "per_block": "the weights of the sources",
    "seed": "run.seed",
    "lanes": "data.lanes",
    "window": "data.window",
}


@dataclass(frozen=True)
class Era:
    """An order, the run position at which it begins, and the number of its first epoch."""

    fingerprints: tuple[str, ...]
    samples: tuple[int, ...]
    per_block: tuple[int, ...]
    seed: int
    lanes: int
    window: int
    begin: int = 0
    first_epoch: int = 0

    @property
    def name(self) -> str:
        """A hash of all that makes the order, 16 hexadecimal digits."""
        text = json.dumps({key: getattr(self, key) for key in _WHAT})
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def mixture(self, counts: Sequence[np.ndarray]) -> Mixture:
        """The batches of this era; `counts` are the samples of each shard, [S] int64 for each source."""
        orders = [
            Order(
                own,
                seed=self.seed + (source << 64),  # sources of one size are not permuted alike
                lanes=self.lanes,
                window=self.window,
                first_epoch=self.first_epoch,
            )
            for source, own in enumerate(counts)
        ]
        return Mixture(orders, self.per_block)

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Era:
        lists = {key: tuple(record[key]) for key in ("fingerprints", "samples", "per_block")}
        return cls(**{**record, **lists})

    def changes(self, other: Era) -> list[str]:
        """What `other` does differently, a phrase each."""
        return [
            f"{what} was {_shown(getattr(self, key))}, is {_shown(getattr(other, key))}"
            for key, what in _WHAT.items()
            if getattr(self, key) != getattr(other, key)
        ]


class Eras:
    """The eras of a run up to now; the last one is what `corpus`, `config` and `seed` give."""

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int) -> None:
        self._config = config
        self._counts = [selection.counts for selection in corpus.selections]
        own = Era(
            tuple(selection.fingerprint for selection in corpus.selections),
            tuple(selection.samples for selection in corpus.selections),
            tuple(parts_of_block([source.weight for source in config.train])),
            seed,
            config.lanes,
            config.window,
        )
        if config.accept_change not in (None, own.name):
            raise ConfigError(
                "names another order than that of the recipe and its data",
                where="data.accept_change",
                given=config.accept_change,
                do=f'Remove the key, or set it to "{own.name}" if that is the order you mean.',
            )
        self.all = [own]
        self.mixture = own.mixture(self._counts)

    @property
    def now(self) -> Era:
        return self.all[-1]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {"version": STATE_VERSION, "eras": [asdict(era) for era in self.all]}

    def counts(self) -> list[list[int]]:
        """Samples of each shard, for each source of the present era."""
        return [own.tolist() for own in self._counts]

    def resume(self, state: dict[str, Any]) -> None:
        """Go on in the last of the saved eras, or begin a new one at the saved position if that is accepted.

        Raises:
            DataError: data or order changed and the recipe does not accept it.
        """
        if state.get("version") != STATE_VERSION:
            raise DataError(
                "the loader's state in the checkpoint has another version",
                given=state.get("version"),
                do=f"This vitscale reads version {STATE_VERSION}.",
            )
        saved, own = [Era.of_json(record) for record in state["eras"]], self.now
        changes = saved[-1].changes(own)
        if changes and self._config.accept_change != own.name:
            raise DataError(
                "the order of samples is not that of the checkpoint: " + "; ".join(changes),
                where=", ".join(source.shards for source in self._config.train),
                do=f'Set it back, or add data.accept_change="{own.name}" to go on with a new order.',
            )
        self.all = saved if not changes else [*saved, _after(saved[-1], own, state["position"])]
        self.mixture = self.now.mixture(self._counts)


def _after(last: Era, own: Era, position: int) -> Era:
    """A new era at `position`; its epochs go on counting, so that it repeats no permutation."""
    behind = (position - last.begin) // min(last.samples) + 1
    return replace(own, begin=position, first_epoch=last.first_epoch + behind)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
