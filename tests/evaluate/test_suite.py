"""A suite from checkpoint to table: every method, nothing twice, nothing lost, failures alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.corpora import damage_image
from tests.evaluate.made_runs import make_downstream, make_run, train
from tests.ranks import ROOT
from vitscale.config.source import Source
from vitscale.config.suite import load_suite
from vitscale.data.corpus import open_corpus
from vitscale.data.pieces import in_this_process, local_pieces
from vitscale.data.shards import open_shards
from vitscale.errors import CheckpointError, ConfigError, DataError
from vitscale.evaluate import features, jobs
from vitscale.evaluate.features import extract, load_features
from vitscale.evaluate.results import Results
from vitscale.evaluate.subject import Machine, alone_with, model_at, retain, subject_of
from vitscale.evaluate.suite import Setting, score_suite
from vitscale.evaluate.tables import contrast, publish, text_of
from vitscale.place import Place
from vitscale.train import worker

ONE = ROOT / "configs" / "transfer" / "demo.toml"
CPU = Machine(batch=32, device="cpu", threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with commits at 2 and 4, and a suite of four methods on three data sets."""
    home = tmp_path_factory.mktemp("made")
    return train(make_run(home)), make_downstream(home / "down")


def setting(folder: Path, pieces=in_this_process) -> Setting:
    return Setting(CPU, pieces, worker.run, folder)


def rows_of(run: Path, suite: Path, folder: Path, pieces=in_this_process):
    scored = score_suite(
        subject_of(run, "raw", folder), load_suite(str(suite)), setting(folder, pieces)
    )
    return scored, publish(scored, Results(folder))[0]["rows"]


@pytest.fixture(scope="module")
def scored(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, *rows_of(*made, folder)


def test_every_task_has_its_scores_with_intervals_on_exactly_the_test_images(scored):
    _, found, rows = scored
    assert not found.failed
    images = {"one": 61, "two": 61, "several": 47}
    single = [row for row in rows if row["metric"] != "mean"]
    assert {(row["dataset"], row["images"]) for row in single} == set(images.items())
    assert len(single) == 2 * (2 + 2) + 3 * 2
    assert all(row["low"] <= row["value"] <= row["high"] for row in single)
    by = {(row["dataset"], row["setting"]): row for row in rows}
    assert by["one", "best C"]["value"] > 0.5  # five hues and directions; chance is 0.2
    assert by["several", "best C"]["value"] > 0.5


def test_means_are_of_all_data_sets_and_of_groups_of_two_and_more(scored):
    _, _, rows = scored
    by = {(row["dataset"], row["method"], row["setting"]): row for row in rows}
    pair = [by[name, "knn", "3-nn"]["value"] for name in ("one", "two")]
    assert by["mean of 2", "knn", "3-nn"]["value"] == pytest.approx(np.mean(pair))
    assert by["mean of 3", "logreg", "best C"]["group"] == ""


def test_the_table_is_written_as_json_csv_markdown_and_picture(scored):
    folder, found, rows = scored
    stem = folder / "tables" / f"made-{found.subject.identity}"
    with stem.with_suffix(".csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["value"]) for row in read] == [row["value"] for row in rows]
    assert json.loads(stem.with_suffix(".json").read_text())["rows"] == rows
    assert stem.with_suffix(".md").read_text().count("\n") == len(rows) + 4
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_done_is_not_done_again_and_what_only_served_is_gone(scored, made, monkeypatch):
    folder, _, rows = scored
    assert not any((folder / "weights").iterdir()) and not any((folder / "features").iterdir())
    monkeypatch.setattr("vitscale.evaluate.suite.run_piece", None)
    assert rows_of(*made, folder)[1] == rows


def test_processes_side_by_side_give_the_same_table(scored, made, tmp_path):
    assert rows_of(*made, tmp_path, local_pieces(2))[1] == scored[2]


def test_more_tasks_in_the_suite_are_all_that_is_run(scored, made, tmp_path):
    folder, found, rows = scored
    more = tmp_path / "made.toml"
    more.write_text(made[1].read_text() + '[[task]]\nmethod = "knn"\nk = [1]\ndata = ["one"]\n')
    ran = []

    def counting(work, pieces):
        ran.extend(type(piece).__name__ for piece in pieces)
        yield from in_this_process(work, pieces)

    _, again = rows_of(made[0], more, folder, counting)
    assert ran.count("Fit") == 1
    assert [row for row in again if row in rows][: len(found.jobs)]
    assert len(again) == len(rows) + 1


@pytest.mark.parametrize("change", ["weights", "data", "task", "precision"])
def test_another_task_or_other_weights_have_another_name(made, tmp_path, change):
    run, suite = made
    steps = sorted((run / "checkpoints").glob("step-*"))
    text = suite.read_text().replace('data = ["one", "two"]', 'data = ["one"]')
    other = text.replace("two[80:]", "two[90:]" if change == "data" else "two[80:]")
    other = other.replace(
        "c = [0.01, 1.0]", "c = [0.02]" if change == "task" else "c = [0.01, 1.0]"
    )
    paths = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for path, content in zip(paths, (text, other), strict=True):
        path.write_text(content)
    subjects = [subject_of(steps[-1 if change == "weights" else 0], "raw", None)]
    subjects.insert(0, subject_of(steps[0], "raw", None))
    names = []
    for path, subject, precision in zip(
        paths, subjects, ("fp32", "bf16" if change == "precision" else "fp32"), strict=True
    ):
        row = next(r for r in load_suite(str(path)).rows if r.name == "two")
        corpora = {
            "test": open_corpus([row.data.test]),
            "train": open_corpus(row.data.train),
            "dev": open_corpus([row.data.dev]),
        }
        names.append(jobs.job_of(row, corpora, subject, precision).key)
    assert names[0] != names[1]


def test_parts_are_the_whole_set_each_image_once_for_any_number_of_them(made, tmp_path):
    subject = subject_of(made[0], "raw", tmp_path)
    retain(subject)
    model, prepare = model_at(subject, None, CPU)
    corpus = open_corpus([Source(shards=str(made[1].parent / "one-test"))])
    how = {"image": model.shape.image, "batch": 7, "prepare": prepare}
    whole = extract(model, corpus, None, **how)
    assert whole.ids.tolist() == list(range(61))
    for count in (1, 2, 5, 61):
        parts = []
        for part in range(count):
            found = extract(model, corpus, None, **how, part=Place(part, count))
            features.save_features(found, tmp_path / f"{count}-{part}")
            parts.append(tmp_path / f"{count}-{part}")
        joined = load_features(parts)
        assert joined.ids.tolist() == whole.ids.tolist()
        torch.testing.assert_close(joined.values, whole.values, atol=1e-6, rtol=1e-5)


def test_another_size_resamples_positions_and_keeps_the_head(made, tmp_path):
    subject = subject_of(made[0], "raw", tmp_path)
    retain(subject)
    own, _ = model_at(subject, None, CPU)
    larger, _ = model_at(subject, 20, CPU)
    assert larger.shape.image == (20, 20) and larger.shape.grid == (5, 5)
    assert torch.equal(own.head.weight, larger.head.weight)


def test_a_task_that_fails_does_not_end_the_others_and_is_tried_again(made, tmp_path):
    suite = tmp_path / "made.toml"
    text = made[1].read_text()
    suite.write_text(text + _HEAD)
    found, rows = rows_of(made[0], suite, tmp_path)
    [error] = found.failed.values()
    assert isinstance(error, DataError) and "no number of an image" in str(error)
    assert {row["method"] for row in rows} == {"ridge", "knn", "logreg", "linear"}
    assert rows_of(made[0], suite, tmp_path)[0].failed.keys() == found.failed.keys()


_HEAD = """
[[task]]
method = "head"
data = ["one"]
real = "{}"
""".format(Path(__file__).parent / "one_label.json")


def test_data_that_does_not_fit_is_refused_before_anything_runs(made, tmp_path):
    suite = tmp_path / "bad.toml"
    suite.write_text(made[1].read_text().replace("one-test", "several-test", 1))
    with pytest.raises(DataError, match="same classes"):
        rows_of(made[0], suite, tmp_path)
    assert not (tmp_path / "results").exists()


def test_weights_are_those_of_the_commit_and_a_deleted_commit_still_has_its_name(made, tmp_path):
    run, _ = made
    steps = sorted((run / "checkpoints").glob("step-*"))
    names = {subject_of(step, "raw", None).identity for step in steps}
    assert len(names) == len(steps)
    assert subject_of(run, "raw", None).identity == subject_of(steps[-1], "raw", None).identity
    gone = run / "checkpoints" / "step-00000999"
    (run / "manifests" / "step-00000999.json").write_text((steps[0] / "MANIFEST.json").read_text())
    assert subject_of(gone, "raw", None).identity == subject_of(steps[0], "raw", None).identity
    (run / "manifests" / "step-00000999.json").unlink()
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        subject_of(gone, "raw", None)


def test_two_checkpoints_are_compared_image_by_image(made, tmp_path):
    run, suite = made
    steps = sorted((run / "checkpoints").glob("step-*"))
    first, second = (rows_of(step, suite, tmp_path)[0] for step in steps[-2:])
    results = Results(tmp_path)
    pairs = contrast(first, second, results, results)
    assert len(pairs) == 14
    for row in pairs:
        assert row["value"] == pytest.approx(row["a"] - row["b"], abs=1e-6)
        assert row["low"] <= row["value"] <= row["high"]
    same = contrast(first, first, results, results)
    assert all(row["low"] == row["high"] == 0 and not row["clear"] for row in same)


def test_all_sets_that_cannot_be_used_are_named_at_once(made, tmp_path):
    suite = tmp_path / "gone.toml"
    text = made[1].read_text()
    for name in ("one-test", "two"):
        text = text.replace(f"/{name}", f"/{name}-gone")
    suite.write_text(text)
    with pytest.raises(DataError) as error:
        rows_of(made[0], suite, tmp_path)
    assert "one-test-gone" in str(error.value)
    assert "several" not in str(error.value)
    assert not (tmp_path / "results").exists()


def test_images_that_cannot_be_read_are_counted_where_they_are_missed(made, tmp_path):
    make_downstream(tmp_path / "down")
    for name in ("one", "one-test"):
        damage_image(open_shards(tmp_path / "down" / name), 3)
    suite = tmp_path / "hurt.toml"
    head = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n'.format(tmp_path / "down")
    suite.write_text(head + '[[task]]\nmethod = "ridge"\nshots = [25]\n')
    found, rows = rows_of(made[0], suite, tmp_path)
    assert rows[0]["images"] == 60
    facts = Results(tmp_path).read(found.jobs[0].key)["facts"]
    assert (facts["unreadable_images"], facts["unreadable_fitted_on"]) == (1, 1)


def test_a_suite_that_waits_for_another_says_so(made, tmp_path):
    subject, said = subject_of(made[0], "raw", tmp_path), []
    inside = threading.Event()

    def second():
        with alone_with(subject, tmp_path, said.append):
            inside.set()

    waiting = threading.Thread(target=second)
    with alone_with(subject, tmp_path, said.append):
        waiting.start()
        while not said:
            time.sleep(0.01)
        assert not inside.is_set()
    waiting.join()
    assert inside.is_set()
    assert len(said) == 1
    assert str(tmp_path) in said[0]


def test_one_error_of_several_tasks_is_told_once():
    row = {"dataset": "d", "error": "the same for all"}
    failed = [
        row | {"method": "ridge"},
        row | {"method": "knn"},
        row | {"method": "x", "error": "y"},
    ]
    text = text_of({"weights": "w", "suite": "s", "rows": [], "failed": failed})
    assert text.endswith("d ridge, d knn: the same for all\nd x: y")


@pytest.mark.slow
def test_fine_tuning_tries_its_rates_and_ends_on_every_test_image(made, tmp_path):
    suite = make_downstream(tmp_path / "down", tuned=True)
    found, rows = rows_of(made[0], suite, tmp_path)
    assert not found.failed
    tuned = {row["dataset"]: row for row in rows if row["method"] == "finetune"}
    assert tuned["one"]["images"] == 61 and tuned["several"]["images"] == 47
    for job in found.jobs:
        if job.row.task.method == "finetune":
            facts = Results(tmp_path).read(job.key)["facts"]
            assert facts["lr"] in (1e-3, 3e-3)
            assert facts["dev"][str(facts["lr"])] == max(facts["dev"].values())
    assert not any((tmp_path / "finetunes").iterdir())


@pytest.mark.slow
@pytest.mark.faults
def test_a_suite_on_two_checkpoints_killed_on_the_way_gives_the_same_table(made, tmp_path):
    """The command is killed again and again, a little later each time, until it comes to its end."""
    run, suite = made
    steps = sorted((run / "checkpoints").glob("step-*"))[-2:]
    words = [
        sys.executable,
        "-m",
        "vitscale",
        "evaluate",
        str(steps[0]),
        "--against",
        str(steps[1]),
    ]
    words += ["--suite", str(suite), "--device", "cpu", "--workers", "2", "--json", "--folder"]
    whole = _answer(words, tmp_path / "whole")
    kills, patience_s = 0, 3.0
    while (answer := _killed(words, tmp_path / "parts", patience_s)) is None:
        kills, patience_s = kills + 1, patience_s + 3.0
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("results/*.json")}
    assert kills >= 2
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert answer == whole


def _answer(words: list[str], folder: Path) -> dict:
    return json.loads(subprocess.run([*words, str(folder)], capture_output=True, check=True).stdout)


def _killed(words: list[str], folder: Path, after_s: float) -> dict | None:
    """The answer, or None where the command and its processes were killed before."""
    process = subprocess.Popen(
        [*words, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return json.loads(process.communicate(timeout=after_s)[0])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)
        return None


def test_one_rank_of_many_is_refused(monkeypatch, capsys):
    from vitscale.cli.main import main

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "run", "--suite", str(ONE)]) == ConfigError.exit_code
    assert "runs in one process" in capsys.readouterr().err


def test_a_run_that_has_committed_nothing_is_said_to_be_so(tmp_path, capsys):
    from vitscale.cli.main import main

    (tmp_path / "config.json").write_text("{}")
    assert main(["evaluate", str(tmp_path), "--suite", str(ONE)]) == CheckpointError.exit_code
    assert "never committed" in capsys.readouterr().err


def test_options_that_do_nothing_are_refused():
    from vitscale.cli.main import main

    assert main(["evaluate", "run", "--on", "held-out", "--workers", "2"]) == ConfigError.exit_code
    assert main(["evaluate", "run", "--suite", "demo", "--data", "d"]) == ConfigError.exit_code
    assert main(["evaluate", "run", "--suite", "demo", "--task-gpus", "1"]) == ConfigError.exit_code
    assert main(["evaluate", "run", "--suite", "demo", "--patience", "1"]) == ConfigError.exit_code
    assert main(["evaluate", "run", "--suite", "demo", "--follow", "r"]) == ConfigError.exit_code
