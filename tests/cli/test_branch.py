"""A branch goes on from its trunk's checkpoint and cools down; both know of each other."""

from __future__ import annotations

import json
import shutil

import pytest

import vitscale_launch.submit as submitting
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint import promised
from vitscale.checkpoint.layout import step_folders
from vitscale.checkpoint.promised import promise
from vitscale.checkpoint.retention import Retention, keep
from vitscale.cli.main import main
from vitscale.config.load import Recipe
from vitscale.errors import CheckpointError, ConfigError
from vitscale.tracking.journal import read_metrics
from vitscale.tracking.outbox import ShipState, read_outbox
from vitscale.train import worker

# MLflow warns of its own defaults while it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
TRUNK = (
    "engine.kind=local",
    "optim.schedule=constant",
    "optim.warmup=20%",
    "train.duration=10 steps",
    "checkpoint.keep=9",
    "data.held_out=null",
    "tracking.mlflow=auto",
)

SUBMITTED = {"status": "submitted", "exit_code": 0, "message": "queued"}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    home = tmp_path_factory.mktemp("trunk")
    recipe = make_recipe(home / "runs", make_data(home / "data"), *TRUNK)
    assert worker.run({"recipe": recipe.to_json(), "resume": "auto"})["status"] == "finished"
    return recipe.config.folder


def branch(trunk, *words):
    return main(["branch", str(trunk), "--json", *words])


def test_the_child_takes_the_trunks_steps_and_then_its_rate_falls_to_zero(trunk, capsys):
    assert branch(trunk, "--at", "6", "--cooldown", "4 steps", "--name", "cooled") == 0
    child = trunk.parent / "cooled"
    assert json.loads(capsys.readouterr().out)["step"] == 10
    series = read_metrics(child)
    assert [point.step for point in series["train/loss"]] == [7, 8, 9, 10]
    peak = Recipe.from_json((trunk / "config.json").read_text()).config.optim.lr
    rates = {point.step: point.value for point in series["train/lr"]}
    # The rate of step s follows s - 1 finished ones: whole at 6, three quarters at 7, ...
    assert [rates[s] / peak for s in (7, 8, 9, 10)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert exact_losses(child)[7] == exact_losses(trunk)[7]


def test_both_runs_name_each_other_in_mlflow(trunk):
    from mlflow import MlflowClient

    branch(trunk, "--at", "4", "--cooldown", "2 steps", "--name", "linked")
    child = trunk.parent / "linked"
    parents, children = ShipState.load(trunk), ShipState.load(child)
    assert parents is not None and children is not None and children.run_id
    client = MlflowClient(tracking_uri=parents.tracking_uri)
    tags = client.get_run(children.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parents.run_id
    assert (tags["vitscale.parent"], tags["vitscale.parent_step"]) == (str(trunk), "4")
    assert parents.run_id is not None
    assert client.get_run(parents.run_id).data.tags["vitscale.branch.linked"] == str(child)


def test_the_same_command_again_goes_on_with_the_branch_and_links_it_once(trunk):
    for _ in range(2):
        assert branch(trunk, "--at", "8", "--cooldown", "32 images") == 0
    child = trunk.parent / "run-step-8-cooldown-32-images"
    messages = [message for message, _ in read_outbox(child, 0)]
    assert [m["kind"] for m in messages if "vitscale.parent" in m.get("tags", {})] == ["tags"]
    assert [point.step for point in read_metrics(child)["train/loss"]] == [9, 10]


def test_the_trunks_commit_stays_until_the_branch_has_one_of_its_own(trunk, tmp_path, monkeypatch):
    """The job reads it long after the command that submitted it is over."""
    own = tmp_path / "runs" / "trunk"
    shutil.copytree(trunk, own)
    checkpoints, handed = own / "checkpoints", []
    monkeypatch.setattr(
        submitting, "submit", lambda recipe, *_, **__: handed.append(recipe) or SUBMITTED
    )
    words = ("--at", "4", "--cooldown", "4 steps", "--name", "later", f"run.home={own.parent}")
    assert branch(own, *words, "--on", "local") == 0
    keep(checkpoints, Retention(1))
    assert sorted(step for step, _ in step_folders(checkpoints)) == [4, 10]
    reply = worker.run({"recipe": handed[0].to_json(), "resume": "auto"})
    assert (reply["status"], reply["step"]) == ("finished", 8)
    keep(checkpoints, Retention(1))
    assert [step for step, _ in step_folders(checkpoints)] == [10]


def test_a_promise_is_void_after_two_weeks_and_binds_one_commit(trunk, tmp_path, monkeypatch):
    copy = tmp_path / "checkpoints"
    shutil.copytree(trunk / "checkpoints", copy)
    promise(copy / "step-00000004", "never")
    keep(copy, Retention(2))
    assert sorted(step for step, _ in step_folders(copy)) == [4, 8, 10]
    monkeypatch.setattr(promised, "PATIENCE_S", 0.0)
    keep(copy, Retention(2))
    assert sorted(step for step, _ in step_folders(copy)) == [8, 10]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--at", "5", "--cooldown", "2 steps"), CheckpointError.exit_code, "There are: 2, 4"),
        (("--at", "4", "--cooldown", "5%"), ConfigError.exit_code, "use epochs, images or steps"),
        (("--at", "4", "--cooldown", "long"), ConfigError.exit_code, "is not a duration"),
        (("--at", "4", "--cooldown", "0 steps"), ConfigError.exit_code, "no step at all"),
        (
            ("--at", "4", "--cooldown", "2 steps", "--name", "run"),
            ConfigError.exit_code,
            "has the trunk's name",
        ),
    ],
)
def test_what_is_no_branch_is_refused(trunk, capsys, words, code, message):
    assert branch(trunk, *words) == code
    assert message in json.loads(capsys.readouterr().err.splitlines()[-1])["message"]


@pytest.mark.parametrize(
    ("changes", "at", "message"),
    [
        ({"schedule": "cosine"}, 6, "made for its length"),
        ({"warmup": "8 steps"}, 6, "lies in the warmup"),
        ({"cooldown": "6 steps"}, 6, "cools down from step 4"),
    ],
)
def test_a_trunk_that_is_none_is_refused(trunk, tmp_path, capsys, changes, at, message):
    record = json.loads((trunk / "config.json").read_text())
    record["config"]["optim"] |= changes
    copy = tmp_path / "trunk"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(trunk / "checkpoints")
    (copy / "config.json").write_text(json.dumps(record))
    assert branch(copy, "--at", str(at), "--cooldown", "2 steps") == ConfigError.exit_code
    assert message in capsys.readouterr().err
