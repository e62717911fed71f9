"""Rewinds in the ledger: what they pass over is accepted, and nothing else."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import pytest

from tests.data.test_ledger import BATCH, COUNTS, ERA, FakeEras
from vitscale.data.audit import audit, keep_order
from vitscale.data.eras import Era
from vitscale.data.ledger import Ledger, LedgerFile, read
from vitscale.errors import DataError


def seen_at(position: int, era: Era = ERA, counts=COUNTS):
    import numpy as np

    slots = era.mixture([np.array(c) for c in counts]).batch(position - era.begin, BATCH)
    ledger = Ledger()
    ledger.saw(slots.epochs, slots.ids, 0)
    ledger.end_step()
    return ledger.take()[0]


class Run:
    """A run in miniature: steps, skips, rewinds, commits and kills, written as a run writes them."""

    def __init__(self, folder, era: Era = ERA, counts=COUNTS):
        self.folder, self.attempts, self.era, self.counts = folder, 0, era, counts
        self.commit = {"step": 0, "position": 0}
        keep_order(folder, FakeEras(era, counts))
        self.start()

    def start(self):
        self.attempts += 1
        self.file = LedgerFile(self.folder, self.attempts)
        self.step, self.position = self.commit["step"], self.commit["position"]
        self.pending = []

    def take_step(self, skipped=False):
        if skipped:
            span = {"from": self.position, "to": self.position + BATCH}
            self.file.event({"event": "skip", "step": self.step + 1, **span, "why": "bad"})
        self.pending.append(seen_at(self.position, self.era, self.counts))
        self.step += 1
        self.position += BATCH

    def write(self):
        self.file.steps((self.step, self.position), [self.pending])
        self.pending = []

    def save(self):
        self.write()
        self.commit = {"step": self.step, "position": self.position}

    def rewind(self):
        self.write()
        back = self.commit
        self.file.event(
            {
                "event": "rewind",
                "step": back["step"],
                "from": back["position"],
                "to": self.position,
            }
        )
        self.step = back["step"]

    def audit(self, *eras: Era):
        data = {
            "position": self.commit["position"],
            "eras": [asdict(era) for era in eras or (self.era,)],
        }
        return audit(self.folder, self.commit["step"], data)


def steps(run, number):
    for _ in range(number):
        run.take_step()


def test_the_samples_of_a_rewind_are_passed_over_and_the_rest_is_proven(tmp_path):
    run = Run(tmp_path)
    steps(run, 3)
    run.save()
    steps(run, 1)
    run.take_step(skipped=True)
    run.take_step(skipped=True)
    run.rewind()
    steps(run, 4)
    run.take_step(skipped=True)
    run.save()
    found = run.audit()
    assert found.problems == []
    assert (found.steps, found.images, found.skipped) == (8, 8 * BATCH, [8])
    assert [asdict(rewind) for rewind in found.rewinds] == [
        {"step": 3, "begin": 3 * BATCH, "end": 6 * BATCH}
    ]
    assert sum(epoch.passed_over for epoch in found.epochs) == 3 * BATCH
    assert sum(epoch.seen for epoch in found.epochs) == 8 * BATCH


def test_two_rewinds_to_one_commit_pass_over_the_samples_of_both(tmp_path):
    run = Run(tmp_path)
    steps(run, 2)
    run.save()
    for _ in range(2):
        run.take_step(skipped=True)
        run.rewind()
    steps(run, 2)
    run.save()
    found = run.audit()
    assert found.problems == []
    assert [(r.begin, r.end) for r in found.rewinds] == [(2 * BATCH, 4 * BATCH)]


def test_a_kill_after_a_rewind_forgets_it_with_the_steps_it_led_to(tmp_path):
    run = Run(tmp_path)
    steps(run, 2)
    run.save()
    run.take_step(skipped=True)
    run.rewind()
    steps(run, 2)
    run.write()
    run.start()  # from the commit, without a word of the rewind
    steps(run, 2)
    run.save()
    found = run.audit()
    assert (found.problems, found.rewinds, found.skipped) == ([], [], [])
    assert run.commit["position"] == 4 * BATCH


@pytest.mark.parametrize("seed", range(6))
def test_kills_rewinds_and_skips_in_any_order_are_proven(tmp_path, seed):
    rng = random.Random(seed)
    run = Run(tmp_path)
    while run.attempts < 50 or run.commit["step"] < 30:
        steps(run, rng.randint(1, 2))  # a commit needs a step of its own
        action = rng.choice(["save", "save", "kill", "written, then killed", "skip", "rewind"])
        if action == "save":
            run.save()
        elif action == "skip":
            run.take_step(skipped=True)
        elif action == "rewind":
            run.take_step(skipped=True)
            run.rewind()
        else:
            if action != "kill":
                run.write()
            run.start()
    found = run.audit()
    assert found.problems == []
    assert found.images == run.commit["step"] * BATCH
    passed = sum(rewind.end - rewind.begin for rewind in found.rewinds)
    assert found.images + passed == run.commit["position"]
    complete = [proof for proof in found.epochs if proof.complete]
    assert len(complete) >= len(found.epochs) - 4
    assert passed == sum(proof.passed_over for proof in found.epochs)


def test_a_rewind_over_a_change_of_data_passes_over_both_orders(tmp_path):
    run = Run(tmp_path)
    steps(run, 3)
    run.save()
    grown = [[7, 5, 9, 6], [4, 4]]
    run.era = Era(("c", "b"), (27, 8), (7000, 3000), 3, 2, 4, begin=5 * BATCH, first_epoch=9)
    steps_before, run.era, later = 2, ERA, run.era
    steps(run, steps_before)
    run.era, run.counts = later, grown
    keep_order(tmp_path, FakeEras(later, grown))
    run.take_step(skipped=True)
    run.rewind()
    steps(run, 3)
    run.save()
    found = run.audit(ERA, later)
    assert found.problems == []
    passed = {proof.epoch: proof.passed_over for proof in found.epochs if proof.passed_over}
    assert 9 in passed and sum(proof.passed_over for proof in found.epochs) == 3 * BATCH


def edited(path, change):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r) + "\n" for r in map(change, records) if r is not None))


@pytest.mark.parametrize(
    ("field", "value"), [("to", 7 * BATCH), ("from", 1 * BATCH), ("event", "holiday"), ("step", 1)]
)
def test_samples_left_out_without_an_event_of_exactly_them_are_a_problem(tmp_path, field, value):
    run = Run(tmp_path)
    steps(run, 2)
    run.save()
    run.take_step(skipped=True)
    run.rewind()
    steps(run, 3)
    run.save()
    assert run.audit().problems == []
    edited(run.file.path, lambda r: r | {field: value} if r.get("event") == "rewind" else r)
    assert "position" in run.audit().problems[0] or "not in the ledger" in run.audit().problems[0]


def test_a_skip_that_names_other_samples_than_its_step_is_a_problem(tmp_path):
    run = Run(tmp_path)
    run.take_step(skipped=True)
    run.save()
    edited(run.file.path, lambda r: r | {"to": 3} if r.get("event") == "skip" else r)
    assert "step 1 was skipped with positions 0 to 2" in run.audit().problems[0]


def test_what_a_full_disk_refused_is_written_with_the_next(tmp_path, caplog):
    run = Run(tmp_path)
    path = run.file.path
    path.symlink_to("/dev/full")
    run.take_step(skipped=True)
    run.save()
    assert "No space left" in caplog.text
    path.unlink()
    steps(run, 2)
    run.save()
    assert run.audit().problems == []
    assert list(read(tmp_path).lines) == [1, 2, 3] and list(read(tmp_path).skips) == [1]


def test_an_event_that_cannot_be_read_is_named(tmp_path):
    run = Run(tmp_path)
    run.take_step(skipped=True)
    run.save()
    run.file.path.write_text('{"event": "skip"}\n' + run.file.path.read_text())
    with pytest.raises(DataError, match="line 1 cannot be read"):
        read(tmp_path)
