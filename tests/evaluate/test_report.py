"""Pictures, summaries and tables."""

from __future__ import annotations

import json

import pytest

from vitscale.errors import DataError
from vitscale.evaluate.report import draw_curves, restarts_of, table, write_report, write_summary


def write_journal(folder, rows):
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"step": step, "time": 0.0, "attempt": attempt, "values": values})
        for step, attempt, values in rows
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_report_holds_the_last_values_and_the_restarts(tmp_path):
    rows = [(10, 1, {"train/loss": 2.0}), (20, 1, {"train/loss": 1.5})]
    rows += [(20, 2, {"train/loss": 1.6}), (30, 2, {"train/loss": 1.0, "held_out/top1": 0.5})]
    write_journal(tmp_path / "run", rows)
    summary = write_report(tmp_path / "run")
    assert summary["last"] == {"held_out/top1": 0.5, "train/loss": 1.0}
    assert summary["step"] == 30
    assert summary["restarts_at_step"] == restarts_of(tmp_path / "run") == [20]
    assert json.loads((tmp_path / "run/report/summary.json").read_text()) == summary
    assert (tmp_path / "run/report/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_commit_that_is_scored_during_a_later_attempt_is_no_restart(tmp_path):
    rows = [(10, 1, {"train/loss": 2.0}), (20, 1, {"train/loss": 1.5})]
    rows += [(10, 2, {"transfer/d/ridge/1-shot": 0.5}), (10, 2, {"transfer_ema/d/knn/1-nn": 0.5})]
    rows += [(30, 2, {"train/loss": 1.0})]
    write_journal(tmp_path / "run", rows)
    assert restarts_of(tmp_path / "run") == [30]


def test_a_run_without_metrics_says_so(tmp_path):
    with pytest.raises(DataError, match="logged nothing"):
        write_report(tmp_path)


def test_curves_of_nothing_are_still_a_picture(tmp_path):
    assert draw_curves({}, tmp_path / "new" / "curves.png").is_file()


def test_a_summary_replaces_the_old_one_and_leaves_nothing_aside(tmp_path):
    write_summary(tmp_path / "s.json", {"a": 1})
    write_summary(tmp_path / "s.json", {"a": 2})
    assert json.loads((tmp_path / "s.json").read_text()) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_a_table_puts_text_left_and_numbers_right():
    assert table(("name", "value"), [("a", 1.0), ("long", 12)]).splitlines() == [
        "name   value",
        "----  ------",
        "a     1.0000",
        "long      12",
    ]
