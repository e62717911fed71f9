"""A scaling study trains every rung once, goes on after a stop, and writes what it found."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.train.recipes import make_data, make_recipe
from vitscale.attempts import note_end
from vitscale.checkpoint.lease import claim
from vitscale.cli.main import main
from vitscale.config.ladder import load_ladder
from vitscale.config.load import Recipe, load_recipe
from vitscale.data.facts import facts_of
from vitscale.durable import write_text_atomically
from vitscale.evaluate.finetune import RunFailed
from vitscale.evaluate.scaling_fit import Law
from vitscale.evaluate.scaling_study import climb, rungs_of
from vitscale.planner.size import train_flops
from vitscale.tracking.journal import Journal
from vitscale.train import worker

LADDER = """
budgets = ["48 images", "96 images", "192 images", "320 images"]
[size.narrow]
width = 12
heads = 2
[size.wide]
width = 36
depth = 3
heads = 3
lr = 5e-4
"""
LAW = Law(a=300.0, b=0.3, c=0.4, d=1e7)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def asked(tmp_path, data):
    """Recipe, ladder and overrides as words of the command."""
    make_recipe(tmp_path, data)
    (tmp_path / "mine.toml").write_text(LADDER)
    own = ["engine.kind=local", "train.micro_batch=16", "checkpoint.every=100 steps"]
    return [str(tmp_path / "recipe.toml"), "--ladder", str(tmp_path / "mine.toml"), *own]


def study(asked, *words) -> int:
    return main(["scaling", *asked, *words])


def made_run(request: dict) -> dict:
    """What a run leaves that ends on the law, its noise drawn by its name."""
    recipe = Recipe.from_json(request["recipe"])
    config, folder = recipe.config, recipe.config.folder
    folder.mkdir(parents=True)
    batch, images = config.train.batch, int(config.train.duration.value)
    step = -(-images // batch)
    compute = train_flops(config.model.shape(5)) * step * batch
    noise = np.random.default_rng(list(config.run.name.encode())).standard_normal()
    lease = claim(folder, "made", lambda number: {"start.json": "{}"})
    journal = Journal(folder, lease.number)
    loss = float(LAW(np.array([compute]))[0]) * (1 + 1e-3 * noise)
    journal.append({"held_out/loss": loss, "held_out/top1": 0.5}, step)
    journal.close()
    write_text_atomically(folder / "config.json", recipe.to_json())
    write_text_atomically(folder / "committed.json", json.dumps({"step": step}))
    note_end(folder, lease.number, "finished")
    return {"exit_code": 0}


def test_a_study_ends_with_points_frontier_law_and_picture_and_runs_nothing_twice(
    tmp_path, asked, monkeypatch, capsys
):
    begun = []
    monkeypatch.setattr(worker, "run", lambda request: begun.append(1) or made_run(request))
    assert study(asked, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    folder = tmp_path / "run-scaling"
    assert len(begun) == len(record["points"]) == 8
    assert json.loads((folder / "study.json").read_text()) == record
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "points.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [p["loss"] for p in record["points"]]
    on = [p for p in record["points"] if p["frontier"]]
    assert [p["loss"] for p in on] == sorted((p["loss"] for p in on), reverse=True)
    law = record["law"]
    assert law["points"] == len(on) >= 6
    assert all(law[n]["low"] <= getattr(LAW, n) <= law[n]["high"] for n in "bcd")
    assert [one["times"] for one in law["further"]] == [2, 10]
    assert study(asked) == 0
    assert len(begun) == 8
    assert "loss = a (C + d)^-b + c" in capsys.readouterr().out


def test_a_frontier_of_few_points_is_written_down_and_no_law_is_drawn_through_it(
    tmp_path, asked, monkeypatch, capsys
):
    def dearer_is_worse(request):
        reply = made_run(request)
        journal = Journal(Recipe.from_json(request["recipe"]).config.folder, 2)
        name = Recipe.from_json(request["recipe"]).config.run.name
        if name.startswith("wide"):
            step = {"48": 3, "96": 6, "192": 12, "320": 20}[name.split("-")[1]]
            journal.append({"held_out/loss": 9.0, "held_out/top1": 0.0}, step)
        journal.close()
        return reply

    monkeypatch.setattr(worker, "run", dearer_is_worse)
    assert study(asked, "--name", "few") == 3
    assert "4 on the frontier" in capsys.readouterr().err
    record = json.loads((tmp_path / "few" / "study.json").read_text())
    assert record["law"] is None and "at least 6" in record["no_law"]
    assert (tmp_path / "few" / "scaling.png").exists()


def test_a_rung_that_fails_is_named_and_the_others_go_on(tmp_path, asked, monkeypatch, capsys):
    def fails_once(request):
        if Recipe.from_json(request["recipe"]).config.run.name == "narrow-96-images":
            return {"exit_code": 4, "message": "the loss is not finite"}
        return made_run(request)

    monkeypatch.setattr(worker, "run", fails_once)
    assert study(asked, "--json") == 4
    record = json.loads(capsys.readouterr().out)
    assert list(record["failed"]) == ["narrow-96-images"] and len(record["points"]) == 7
    monkeypatch.setattr(worker, "run", made_run)
    assert study(asked) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.width=24",), "the ladder sets this key"),
        (("data.held_out=null",), "compares losses on held-out images"),
        (("optim.warmup=5 steps",), "rung narrow-48-images: the warmup takes 5 of 3 steps"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_trained(
    asked, monkeypatch, capsys, words, message
):
    monkeypatch.setattr(worker, "run", made_run)
    assert study(asked, *words) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_shows_the_rungs_and_starts_nothing(tmp_path, asked, capsys):
    assert study(asked, "--dry-run", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 8 and not (tmp_path / "run-scaling").exists()
    assert [row["operations"] for row in rows] == sorted(row["operations"] for row in rows)


def test_a_study_with_other_settings_does_not_mix_with_the_first(asked, monkeypatch, capsys):
    monkeypatch.setattr(worker, "run", made_run)
    assert study(asked) == 0
    assert study(asked, "run.seed=1") == 2
    assert "run.seed 0, now 1" in capsys.readouterr().err


def test_a_study_that_was_stopped_goes_on_where_it_was(tmp_path, asked):
    """Real runs: the third rung is stopped at its first commit; the whole equals a study that was never stopped."""
    recipe, _, ladder, *overrides = asked

    def rungs(name):
        facts = facts_of(load_recipe(recipe).config.data)
        found = rungs_of(Path(recipe), overrides, load_ladder(ladder), facts, name)
        return [rung for rung in found if rung.size == "narrow"]

    begun = []

    def stops_in_the_third(request):
        begun.append(Recipe.from_json(request["recipe"]).config.folder)
        if len(begun) == 3:
            (begun[-1]).mkdir(parents=True)
            (begun[-1] / "STOP").touch()
        return worker.run(request)

    with pytest.raises(RunFailed, match="stopped at step"):
        climb(rungs("broken"), stops_in_the_third, lambda line: None)
    again = climb(rungs("broken"), lambda r: begun.append(r) or worker.run(r), lambda line: None)
    assert len(begun) == 5  # two whole, one stopped, that one again, the fourth
    whole = climb(rungs("whole"), worker.run, lambda line: None)
    assert again.points == whole.points and len(whole.points) == 4
