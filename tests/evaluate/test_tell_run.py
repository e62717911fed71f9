"""Scores reach the run they belong to, once; weights of others are imported and scored like ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluate.made_runs import make_downstream, make_run, train
from vitscale.cli.main import main
from vitscale.tracking.journal import read_metrics
from vitscale.tracking.outbox import ShipState, read_outbox

# mlflow uses what sqlalchemy is about to remove, and warns of its own defaults.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)
KNN = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "knn"\nk = [5]\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that MLflow knows, and a suite of one task."""
    home = tmp_path_factory.mktemp("told")
    make_downstream(home / "down")
    suite = home / "k.toml"
    suite.write_text(KNN.format(home / "down"))
    return train(make_run(home, "tracking.mlflow=auto")), suite


def evaluate(path: Path, suite: Path, *words: str) -> dict:
    out = suite.with_suffix(".out.json")
    how = ("--device", "cpu", "--workers", "1", "--out", str(out))
    assert main(["evaluate", str(path), "--suite", str(suite), *how, *words]) == 0
    return json.loads(out.read_text())


def test_scores_are_in_the_journal_and_in_mlflow_once(made):
    run, suite = made
    for _ in range(2):
        [row] = evaluate(run, suite)["rows"]
    name = "transfer/one/knn/5-nn"
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if name in line]
    assert len(lines) == 1
    assert [(p.step, p.value) for p in read_metrics(run)[name]] == [(4, row["value"])]
    from mlflow import MlflowClient

    state = ShipState.load(run)
    assert state is not None and state.run_id is not None
    client = MlflowClient(tracking_uri=state.tracking_uri)
    history = client.get_metric_history(state.run_id, name)
    assert [(point.step, point.value) for point in history] == [(4, row["value"])]
    names = {Path(file.path).suffix for file in client.list_artifacts(state.run_id, "transfer")}
    assert names == {".json", ".csv", ".md", ".png"}
    sent = [m for m, _ in read_outbox(run, 0) if m.get("folder") == "transfer"]
    assert len(sent) == 4


def test_weights_without_a_classifier_have_no_head_to_score(made, tmp_path, capsys):
    run, suite = made
    bare, named = tmp_path / "bare.npz", tmp_path / "bare.safetensors"
    words = ["--to", str(bare), "--format", "npz", "--drop-head"]
    assert main(["weights", "export", str(run), *words]) == 0
    assert main(["weights", "import", str(bare), "--to", str(named), "--pixels", "half"]) == 0
    head = tmp_path / "h.toml"
    data = suite.parent / "down"
    head.write_text(f'[data.one]\ntest = "{data}/one-test"\n[[task]]\nmethod = "head"\n')
    how = ["--device", "cpu", "--workers", "1"]
    assert main(["evaluate", str(named), "--suite", str(head), *how]) == 3
    assert "no classifier of their own" in capsys.readouterr().out
    table = evaluate(run, head)  # the run itself has one, of these very classes
    assert table["rows"][0]["images"] == 61


def test_an_export_and_weights_of_others_score_as_the_checkpoint_does(made, tmp_path):
    run, suite = made
    expected = evaluate(run, suite)["rows"]
    ours = tmp_path / "ours.safetensors"
    assert main(["checkpoint", "export", str(run), "--to", str(ours)]) == 0
    assert evaluate(ours, suite)["rows"] == expected
    theirs = tmp_path / "theirs.npz"
    assert main(["weights", "export", str(run), "--to", str(theirs), "--format", "npz"]) == 0
    found = evaluate(theirs, suite)
    assert found["rows"][0]["value"] == pytest.approx(expected[0]["value"], abs=0.02)
    assert (tmp_path / "theirs.npz.transfer" / "tables").is_dir()
