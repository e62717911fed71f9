"""Runs whose loss goes bad on one rank: skipped, rewound, ended; and the ledger proves what was seen."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale import faults
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.checkpoint.weights import load_weights
from vitscale.cli.main import main
from vitscale.data.ledger import read
from vitscale.tracking.journal import read_metrics, read_records
from vitscale.train.worker import run

pytestmark = pytest.mark.faults

LOCAL = ("engine.kind=local", "train.micro_batch=8", "data.mixup=0.4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def fault(monkeypatch):
    """Spoil the loss in these passes of this process, counted from now."""

    def ask(passes, action="nan"):
        monkeypatch.setattr(faults, "_passes", type(faults._passes)())
        monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", "1")
        monkeypatch.setenv("VITSCALE_FAULT", f"engine.loss@0:{passes}:{action}")

    return ask


def go(recipe, resume="auto"):
    return run({"recipe": recipe.to_json(), "resume": resume})


def events_of(folder, attempt=1):
    path = folder / "ledger" / f"{attempt:04d}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if "event" in record]


def manifests(folder):
    return {step: read_manifest(path) for step, path in step_folders(folder / "checkpoints")}


def audit_of(folder, capsys):
    capsys.readouterr()
    code = main(["shards", "audit", str(folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_one_bad_step_is_skipped_named_and_postpones_the_commit(tmp_path, data, fault, capsys):
    recipe = make_recipe(tmp_path, data, *LOCAL, "checkpoint.keep=9")
    fault("4")
    reply = go(recipe)
    folder = recipe.config.folder
    assert (reply["status"], reply["step"]) == ("finished", 10)
    [event] = events_of(folder)
    assert (event["step"], event["from"], event["to"], event["ranks"]) == (4, 48, 64, [0])
    assert (event["loss"], event["norm"], len(event["ids"])) == ("nan", None, 16)
    assert sorted(manifests(folder)) == [2, 5, 6, 8, 10]
    code, found = audit_of(folder, capsys)
    assert (code, found["problems"], found["skipped"], found["rewinds"]) == (0, [], [4], [])
    metrics = read_metrics(folder)
    assert [point.value for point in metrics["train/skipped_steps"]][2:5] == [0, 1, 1]
    assert 4 not in exact_losses(folder)


def test_a_row_of_bad_steps_rewinds_past_its_samples_and_the_audit_accepts_exactly_that(
    tmp_path, data, fault, capsys
):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    fault("6-8")  # steps 6, 7 and 8; the last commit is that of step 4
    reply = go(recipe)
    folder = recipe.config.folder
    assert (reply["status"], reply["step"]) == ("finished", 10)
    assert [event["event"] for event in events_of(folder)] == ["skip"] * 3 + ["rewind"]
    rewind = events_of(folder)[-1]
    assert (rewind["step"], rewind["from"], rewind["to"]) == (4, 64, 128)
    last = manifests(folder)[10]
    assert last.facts["images"] == (10 + 4) * 16
    assert last.facts["guard"]["rewinds"] == 1
    code, found = audit_of(folder, capsys)
    assert (code, found["problems"], found["skipped"]) == (0, [], [])
    assert found["rewinds"] == [{"step": 4, "begin": 64, "end": 128}]
    assert sum(epoch["passed_over"] for epoch in found["epochs"]) == 64
    assert sum(epoch["seen"] for epoch in found["epochs"]) == 160
    assert main(["shards", "audit", str(folder)]) == 0
    assert "rewind to step 4: samples 64 to 127" in capsys.readouterr().out
    path = folder / "ledger" / "0001.jsonl"
    path.write_text(path.read_text().replace('"to": 128, "at_step"', '"to": 112, "at_step"'))
    assert audit_of(folder, capsys)[0] == 3


def test_the_journal_keeps_both_passes_apart_and_readers_take_the_later(tmp_path, data, fault):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    fault("6-8")
    go(recipe)
    folder = recipe.config.folder
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [(row["step"], row.get("rewinds", 0)) for row in rows if "train/lr" in row["values"]]
    assert rows == [(n, 0) for n in range(1, 8)] + [(n, 1) for n in range(5, 11)]
    fifth = [r.values["train/loss"] for r, _ in read_records(path) if r.step == 5]
    assert len(fifth) == 2 and fifth[0] != fifth[1]
    assert exact_losses(folder)[5] == fifth[1]


def test_used_up_rewinds_end_with_exit_code_4_and_the_last_commit_stays(
    tmp_path, data, fault, capsys
):
    recipe = make_recipe(tmp_path, data, *LOCAL, "guard.rewinds=2")
    fault("6-100")
    reply = go(recipe)
    folder = recipe.config.folder
    assert (reply["status"], reply["exit_code"]) == ("failed", 4)
    assert "all 2 rewinds are used up" in reply["message"]
    kinds = [event["event"] for event in events_of(folder)]
    assert kinds == (["skip"] * 3 + ["rewind"]) * 1 + (["skip"] * 3 + ["rewind"]) + [
        "skip",
        "skip",
        "skip",
        "end",
    ]
    assert max(manifests(folder)) == 4
    assert json.loads((folder / "fatal-00000.json").read_text())["exit_code"] == 4
    assert audit_of(folder, capsys)[0] == 0


def test_without_a_commit_a_row_of_bad_steps_ends_the_run(tmp_path, data, fault):
    fault("1-3")
    reply = go(make_recipe(tmp_path, data, *LOCAL, "checkpoint.every=5 steps"))
    assert reply["exit_code"] == 4
    assert "no commit to go back to" in reply["message"]


def test_a_spike_is_skipped_where_the_recipe_asks_for_it(tmp_path, data, fault):
    spikes = ("guard.loss_spike=8.0", "guard.window=8")
    recipe = make_recipe(tmp_path, data, *LOCAL, *spikes)
    fault("7", "spike")
    assert go(recipe)["status"] == "finished"
    [event] = events_of(recipe.config.folder)
    assert (event["why"], event["step"]) == ("the loss is a spike", 7)
    assert event["loss"] > 100 > event["limit"]


@pytest.mark.parametrize("passes", ["9", "6-8", "10"], ids=["skip", "rewind", "skip at the stop"])
def test_a_run_stopped_after_trouble_equals_the_uninterrupted_one(
    tmp_path, data, fault, passes, capsys
):
    """The guard's counts and statistics come back; so do the positions, which no longer follow from the step."""
    long = (*LOCAL, "train.duration=24 steps", "guard.loss_spike=9.0", "guard.window=16")
    whole, parts = (make_recipe(tmp_path / name, data, *long) for name in "ab")
    fault(passes)
    assert go(whole)["status"] == "finished"
    fault(passes)
    parts.config.folder.mkdir(parents=True)
    stop = parts.config.folder / "STOP"
    stop.touch()
    reply = go(parts)
    assert (reply["status"], reply["step"]) == ("stopped", 11 if passes == "10" else 10)
    stop.unlink()
    assert go(parts)["status"] == "finished"
    one, two = (recipe.config.folder for recipe in (whole, parts))
    assert exact_losses(one) == exact_losses(two)
    weights = [load_weights(folder).tensors for folder in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for key in ("guard", "images", "data"):
        assert manifests(one)[24].facts[key] == manifests(two)[24].facts[key]
    assert manifests(two)[24].facts["guard"]["skipped"] == (3 if passes == "6-8" else 1)
    assert read(one).lines == read(two).lines and read(one).rewinds == read(two).rewinds
    assert audit_of(two, capsys)[0] == 0


@pytest.mark.dist
@pytest.mark.parametrize("stage", [1, 3])
def test_a_bad_loss_on_one_rank_of_two_rewinds_both(tmp_path, data, stage, capsys):
    recipe = make_recipe(tmp_path, data, f"engine.zero_stage={stage}", "data.cutmix=1.0")
    replies = run_ranks(
        2,
        "tests.train.test_kill:straight",
        recipe.to_json(),
        VITSCALE_ENABLE_FAULTS="1",
        VITSCALE_FAULT="engine.loss@1:6-8:nan",
    )
    assert [reply["status"] for reply in replies] == ["finished"] * 2
    folder = recipe.config.folder
    events = events_of(folder)
    assert [event["event"] for event in events] == ["skip"] * 3 + ["rewind"]
    assert [event["ranks"] for event in events[:3]] == [[1]] * 3
    assert all(math.isfinite(loss) for loss in exact_losses(folder).values())
    assert manifests(folder)[10].facts["images"] == 14 * 16
    assert audit_of(folder, capsys)[0] == 0
