"""evaluate and report: what is passed on, printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitscale.cli.main import main
from vitscale.evaluate import from_checkpoint

SCORES = {"top1": 0.5, "top5": 1.0, "loss": 0.25, "images": 8, "bad": 0}


@pytest.fixture
def jobs(monkeypatch):
    seen = []

    def evaluate(job):
        seen.append(job)
        few = {"1-shot": {"mean": 0.5, "std": 0.1, "draws": [], "images": 8, "short_classes": 2}}
        scores = SCORES if job.on == "held-out" else few
        return {"checkpoint": "c", "step": 3, "on": job.on, "data": "d", "scores": scores}

    monkeypatch.setattr(from_checkpoint, "evaluate", evaluate)
    return seen


def test_scores_are_printed_as_a_table_and_written_as_json(jobs, capsys, tmp_path):
    out = tmp_path / "new" / "scores.json"
    assert main(["evaluate", "run", "--on", "held-out", "--out", str(out)]) == 0
    assert "top1    0.5000" in capsys.readouterr().out
    assert json.loads(out.read_text())["scores"] == SCORES
    assert jobs[0].checkpoint == Path("run")
    assert (jobs[0].data, jobs[0].train) == (None, None)


def test_few_shot_scores_name_short_classes(jobs, capsys):
    words = ["evaluate", "run", "--on", "fewshot", "--data", "a", "--train", "b"]
    assert main(words) == 0
    assert "short classes" in capsys.readouterr().out
    assert (jobs[0].data, jobs[0].train) == ("a", "b")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["1-shot"]["short_classes"] == 2


def test_a_protocol_must_be_named(jobs, capsys):
    assert main(["evaluate", "run"]) == 2
    assert "--on" in capsys.readouterr().err


def test_an_evaluation_of_nothing_is_a_checkpoint_error(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path), "--on", "held-out"]) == 5
    assert "no usable checkpoint" in capsys.readouterr().err


def test_one_rank_of_many_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "run", "--on", "held-out"]) == 2
    assert "runs in one process" in capsys.readouterr().err


def test_report_prints_the_last_values(capsys, tmp_path):
    line = {"step": 7, "time": 0.0, "attempt": 1, "values": {"train/loss": 1.25}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["report", "draw", str(tmp_path)]) == 0
    assert "train/loss      1.2500" in capsys.readouterr().out
    assert main(["report", "draw", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 7
    assert (tmp_path / "report/curves.png").is_file()


def test_report_of_nothing_is_a_data_error(capsys, tmp_path):
    assert main(["report", "draw", str(tmp_path)]) == 3


@pytest.mark.parametrize("words", [["nosuch"], ["runs/nosuch"], ["nosuch", "--json"]])
def test_a_run_that_is_not_there_is_said_to_be_missing(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 3
    told = capsys.readouterr().err
    assert "there is no such run" in told
    assert words[0] in told
    assert "invalid choice" not in told
    assert not list(tmp_path.iterdir())


def test_a_mistyped_action_is_no_run(capsys, tmp_path):
    assert main(["report", "pgae", str(tmp_path)]) == 2
    assert "'page'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["./draw"], ["page", "draw"], ["./draw", "--to", "p.html"]])
def test_a_run_may_be_called_as_an_action(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "draw").mkdir()
    line = {"step": 7, "time": 0.0, "attempt": 1, "values": {"train/loss": 1.25}}
    (tmp_path / "draw" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["report", *words]) == 0
    assert "the page is" in capsys.readouterr().out
