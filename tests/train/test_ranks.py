"""Ranks side by side: what is logged of them, who is named the slowest, and when one is a straggler."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest

from tests.ranks import run_ranks
from tests.train.recipes import make_data, make_recipe
from vitscale.tracking.journal import read_metrics
from vitscale.train.events import sentence_of
from vitscale.train.ranks import LINES, SLOW, STEPS, SideBySide

HOSTS = ["a", "a", "b", "b"]


class Watched:
    """A comparison, with the tags it set and the events it told."""

    def __init__(self, speaks=True, steps=10):
        self.tags, self.events = [], []
        tell = self.events.append if speaks else None
        self.ranks = SideBySide(HOSTS, lambda name, text: self.tags.append((name, text)), tell)
        self.step, self.steps = 0, steps

    def log(self, *own_s):
        self.step += self.steps
        numbers = [
            {"own_s": s, "step_s": 1.0, "wait_s": 0.1, "images_per_s": 8.0, "memory_bytes": 2**30}
            for s in own_s
        ]
        return self.ranks.compare(self.step, numbers)


def test_mean_least_and_most_of_the_ranks_are_logged_in_their_units():
    logged = Watched().log(0.1, 0.2, 0.4, 0.3)
    assert [logged[f"ranks/own_ms_{what}"] for what in ("mean", "min", "max")] == pytest.approx(
        [250, 100, 400]
    )
    assert logged["ranks/step_ms_mean"] == 1000
    assert logged["ranks/data_wait_ms_max"] == pytest.approx(100)
    assert logged["ranks/memory_gib_min"] == 1
    assert logged["ranks/slowest"] == 2


def test_the_slowest_rank_is_named_with_its_host_whenever_it_is_another():
    watched = Watched()
    for own in ((1, 1, 2, 1), (1, 1, 3, 1), (2, 1, 1, 1)):
        watched.log(*own)
    name = "vitscale.slowest_rank"
    assert watched.tags == [(name, "rank 2 on b"), (name, "rank 0 on a")]


def test_a_rank_that_is_slow_for_long_enough_is_told_of_once_until_it_is_fast_again():
    watched = Watched()
    slow, fine = SLOW * 1.01, SLOW * 0.99
    watched.log(1, 1, 1, fine)
    for _ in range(LINES - 1):
        watched.log(1, 1, 1, slow)
    assert watched.events == []
    for _ in range(LINES):
        watched.log(1, 1, 1, slow)
    (event,) = watched.events
    assert (event["rank"], event["host"], event["since"]) == (3, "b", 10)
    assert "rank 3 on b is a straggler since step 10" in sentence_of(event)
    watched.log(1, 1, 1, fine)
    for _ in range(LINES):
        watched.log(1, 1, 1, slow)
    assert len(watched.events) == 2


def test_lines_of_slowness_that_are_not_in_a_row_or_sum_up_few_steps_do_not_count():
    watched, brief = Watched(), Watched(steps=1)
    for _ in range(3 * LINES):
        watched.log(1, 1, 1, 2)
        watched.log(1, 1, 1, 1)
    for _ in range(STEPS):  # the first line begins the count
        brief.log(1, 1, 1, 2)
    assert watched.events == brief.events == []
    brief.log(1, 1, 1, 2)
    assert len(brief.events) == 1


def test_after_a_rewind_counting_begins_anew():
    watched = Watched()
    for _ in range(LINES):
        watched.log(1, 1, 1, 2)
    watched.step = 0
    for _ in range(LINES):
        watched.log(1, 1, 1, 2)
    assert watched.events == []


def test_of_two_ranks_the_slower_one_is_held_against_the_faster():
    told = []
    ranks = SideBySide(["a", "b"], lambda name, text: None, told.append)
    numbers = dict.fromkeys(("step_s", "wait_s", "images_per_s", "memory_bytes"), 1.0)
    for line in range(LINES + 1):
        ranks.compare(10 * line, [{**numbers, "own_s": 1.6}, {**numbers, "own_s": 1.0}])
    assert [event["rank"] for event in told] == [0]


def test_ranks_that_do_not_speak_for_all_tell_nothing():
    watched = Watched(speaks=False)
    for _ in range(2 * LINES):
        watched.log(1, 1, 1, 9)
    assert watched.events == []


def slow_run(home, data):
    """A run whose rank 1 takes its time in every forward pass of the training."""
    from vitscale.model.vit import ViT
    from vitscale.train import worker

    forward = ViT.forward

    def slow(self, images):
        time.sleep(0.05 if self.training and os.environ["RANK"] == "1" else 0.0)
        return forward(self, images)

    ViT.forward = slow
    told = []
    words = ("engine.kind=local", "train.duration=40 steps", "train.log_every=10 steps")
    recipe = make_recipe(home, data, *words, "checkpoint.every=40 steps")
    reply = worker.run({"recipe": recipe.to_json()}, export=told.append)
    assert reply["status"] == "finished", reply
    return told


@pytest.mark.slow
def test_a_rank_with_slow_forward_passes_is_the_straggler_of_a_real_run(tmp_path):
    data = make_data(tmp_path / "data")
    first, second = run_ranks(2, "tests.train.test_ranks:slow_run", tmp_path / "runs", data)
    folder = tmp_path / "runs" / "run"
    series = read_metrics(folder)
    assert {point.value for point in series["ranks/slowest"]} == {1}
    # 8 images a rank and step are two micro-batches of 4, each 50 ms late.
    gaps = zip(series["ranks/own_ms_max"], series["ranks/own_ms_min"], strict=True)
    assert all(most.value - least.value > 75 for most, least in gaps)
    lines = (folder / "ledger" / "0001.jsonl").read_text().splitlines()
    events = [event for line in lines if (event := json.loads(line)).get("event") == "straggler"]
    assert [(event["rank"], event["host"]) for event in events] == [(1, socket.gethostname())]
    assert [told["step"] for told in first] == [told["step"] for told in second]
    assert [told["step"] for told in first] == [10, 20, 30, 40]
    assert first[-1]["loss"] == second[-1]["loss"] == series["train/loss"][-1].value
