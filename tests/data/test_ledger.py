"""The ledger shows any drop, repeat or exchange, whatever ranks wrote it; the audit replays it."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscale.data.audit import audit, keep_order
from vitscale.data.eras import Era
from vitscale.data.ledger import Ledger, LedgerFile, Seen, read, seen_of, total
from vitscale.errors import DataError

COUNTS = [[7, 5, 9], [4, 4]]
ERA = Era(("a", "b"), (21, 8), (7000, 3000), seed=3, lanes=2, window=4)
BATCH = 12


class FakeEras:
    def __init__(self, era: Era = ERA, counts=COUNTS) -> None:
        self.now, self._counts = era, counts

    def counts(self):
        return self._counts


def seen_by_rank(era: Era, counts, step: int, rank: int, world: int) -> Seen:
    mixture = era.mixture([np.array(c) for c in counts])
    slots = mixture.batch(step * BATCH - era.begin, BATCH, rank, world)
    ledger = Ledger()
    half = len(slots) // 2
    for part in (slice(0, half), slice(half, None)):
        ledger.saw(slots[part].epochs, slots[part].ids, 0)
    ledger.end_step()
    [seen] = ledger.take()
    return seen


def attempt(folder, number: int, steps: range, world: int, era: Era = ERA, counts=COUNTS) -> None:
    ranks = [[seen_by_rank(era, counts, s, r, world) for s in steps] for r in range(world)]
    LedgerFile(folder, number).steps((steps.stop, steps.stop * BATCH), ranks)


def state(steps: int, *eras: Era) -> dict:
    return {"position": steps * BATCH, "eras": [asdict(era) for era in eras or (ERA,)]}


def test_a_step_hashes_alike_for_every_cut_over_ranks():
    whole = seen_by_rank(ERA, COUNTS, 5, 0, 1)
    for world in (2, 3, 4, 6):
        assert total([seen_by_rank(ERA, COUNTS, 5, r, world) for r in range(world)]) == whole


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 2**32)), min_size=2, max_size=30, unique=True
    )
)
def test_drop_repeat_exchange_and_another_epoch_all_change_the_hash(seen):
    def sums(pairs):
        return seen_of(*(np.array(column, np.int64) for column in zip(*pairs, strict=True))).sums

    whole = sums(seen)
    shuffled = random.Random(0).sample(seen, len(seen))
    assert sums(shuffled) == whole
    (epoch, sample), *rest = seen
    assert sums(rest) != whole
    assert sums([*rest, rest[0]]) != whole
    assert sums([(epoch, sample + 1), *rest]) != whole
    assert sums([(epoch + 1, sample), *rest]) != whole


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_kills_with_changing_world_sizes_are_proven(tmp_path, seed):
    rng = random.Random(seed)
    keep_order(tmp_path, FakeEras())
    committed, number = 0, 0
    while number < 100 or committed < 20:
        number += 1
        stop = committed + rng.randint(1, 6)
        attempt(tmp_path, number, range(committed, stop), rng.choice([1, 2, 3, 4, 6]))
        # lines are written before their commit: a kill between leaves more than was committed
        committed = rng.randint(committed, stop) if rng.random() < 0.3 else committed
    found = audit(tmp_path, committed, state(committed))
    assert found.problems == []
    assert (found.steps, found.images) == (committed, committed * BATCH)
    sizes = {0: (21, committed * BATCH * 0.7), 1: (8, committed * BATCH * 0.3)}
    for source, (samples, shown) in sizes.items():
        complete = [p.epoch for p in found.epochs if p.complete and p.source == source]
        assert complete == list(range(len(complete)))
        assert abs(len(complete) - shown / samples) <= 1


@pytest.mark.parametrize("kind", ["dropped", "foreign", "shifted", "missing"])
def test_a_broken_loader_fails_the_audit(tmp_path, kind):
    keep_order(tmp_path, FakeEras())
    attempt(tmp_path, 1, range(0, 10), 2)
    path = tmp_path / "ledger" / "0001.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if kind == "dropped":
        lines[4]["images"] -= 1
    elif kind == "foreign":
        lines[4]["hash"] = f"{int(lines[4]['hash'], 16) ^ 1:032x}"
    elif kind == "shifted":
        lines[4]["hash"], lines[5]["hash"] = lines[5]["hash"], lines[4]["hash"]
    else:
        del lines[4]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = audit(tmp_path, 10, state(10)).problems
    assert any("step 5" in problem or "step 6" in problem for problem in problems)


def test_a_repeated_sample_in_the_order_itself_is_found(tmp_path):
    """An order file whose shards were exchanged gives other samples."""
    keep_order(tmp_path, FakeEras())
    attempt(tmp_path, 1, range(0, 10), 1)
    path = tmp_path / "ledger" / f"order-{ERA.name}.json"
    path.write_text(json.dumps([[5, 7, 9], [4, 4]]))
    assert audit(tmp_path, 10, state(10)).problems
    path.write_text(json.dumps([[5, 7, 8], [4, 4]]))
    with pytest.raises(DataError, match="do not add up"):
        audit(tmp_path, 10, state(10))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        audit(tmp_path, 10, state(10))


def test_a_commit_beyond_the_ledger_and_a_wrong_position_are_named(tmp_path):
    keep_order(tmp_path, FakeEras())
    attempt(tmp_path, 1, range(0, 4), 1)
    assert "step 5 was committed" in audit(tmp_path, 5, state(5)).problems[0]
    wrong = state(4) | {"position": 47}
    assert "position 47, the ledger at 48" in audit(tmp_path, 4, wrong).problems[0]


def test_an_accepted_change_of_data_begins_an_era_that_is_proven_too(tmp_path):
    grown = [[7, 5, 9, 6], [4, 4]]
    later = Era(("c", "b"), (27, 8), (7000, 3000), 3, 2, 4, begin=6 * BATCH, first_epoch=10)
    keep_order(tmp_path, FakeEras())
    attempt(tmp_path, 1, range(0, 6), 2)
    keep_order(tmp_path, FakeEras(later, grown))
    attempt(tmp_path, 2, range(6, 14), 3, later, grown)
    found = audit(tmp_path, 14, state(14, ERA, later))
    assert found.problems == []
    assert {p.epoch for p in found.epochs if p.samples == 27} == {10, 11, 12}


def test_a_cut_last_line_is_no_fault_and_a_cut_middle_is(tmp_path):
    attempt(tmp_path, 1, range(0, 4), 1)
    path = tmp_path / "ledger" / "0001.jsonl"
    text = path.read_text()
    path.write_text(text[:-20])
    assert list(read(tmp_path).lines) == [1, 2, 3]
    path.write_text(text.replace('"position": 12', '"position', 1))
    with pytest.raises(DataError, match="line 2 cannot be read"):
        read(tmp_path)
    with pytest.raises(DataError, match="no ledger"):
        read(tmp_path / "nothing")
