"""The worker in this process, with the local engine: resume rules, stops, damage, errors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.layout import step_folders
from vitscale.checkpoint.weights import load_weights
from vitscale.train.worker import run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


LOCAL = ("engine.kind=local", "train.micro_batch=16")


def go(recipe, resume="auto"):
    return run({"recipe": recipe.to_json(), "resume": resume})


def steps(recipe):
    return [step for step, _ in step_folders(recipe.config.folder / "checkpoints")]


def test_a_run_leaves_what_the_docs_say(tmp_path, data):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    reply = go(recipe)
    assert (reply["status"], reply["exit_code"], reply["step"]) == ("finished", 0, 10)
    folder = recipe.config.folder
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "attempts",
        "checkpoints",
        "manifests",
        "report",
        "committed.json",
    }
    assert steps(recipe) == [10, 8]
    assert len(list((folder / "manifests").iterdir())) == 5
    assert (folder / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_stop_is_committed_and_the_rest_is_bit_for_bit_the_same(tmp_path, data):
    whole = make_recipe(tmp_path / "a", data, *LOCAL, "train.duration=30 steps")
    go(whole)
    parts = make_recipe(tmp_path / "b", data, *LOCAL, "train.duration=30 steps")
    parts.config.folder.mkdir(parents=True)
    (parts.config.folder / "STOP").touch()
    reply = go(parts)
    assert (reply["status"], reply["exit_code"], reply["step"]) == ("stopped", 75, 10)
    (parts.config.folder / "STOP").unlink()
    assert go(parts)["status"] == "finished"
    assert exact_losses(parts.config.folder) == exact_losses(whole.config.folder)
    one, two = (load_weights(r.config.folder).tensors for r in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_damage_to_the_newest_commit_costs_only_the_steps_since_the_one_before(
    tmp_path, data, caplog
):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    go(recipe)
    before = exact_losses(recipe.config.folder)
    newest = recipe.config.folder / "checkpoints" / "step-00000010" / "state" / "rank-00000.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    with caplog.at_level("WARNING"):
        assert go(recipe)["status"] == "finished"
    assert "step-00000010: state/rank-00000.pt has" in caplog.text
    assert exact_losses(recipe.config.folder) == before
    assert steps(recipe) == [10, 8]


@pytest.mark.parametrize("loss", ["damaged", "gone"])
def test_never_silently_from_scratch(tmp_path, data, loss):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    go(recipe)
    checkpoints = recipe.config.folder / "checkpoints"
    if loss == "gone":
        shutil.rmtree(checkpoints)
    for file in checkpoints.glob("*/state/*.pt"):
        file.unlink()
    reply = go(recipe)
    assert (reply["status"], reply["exit_code"]) == ("failed", 5)
    assert "no usable checkpoint, though the run had committed step 10" in reply["message"]


def test_resume_must_needs_a_checkpoint_and_never_needs_none(tmp_path, data):
    recipe = make_recipe(tmp_path, data, *LOCAL)
    assert go(recipe, "must")["exit_code"] == 5
    assert go(recipe, "never")["status"] == "finished"
    reply = go(recipe, "never")
    assert reply["exit_code"] == 5 and "has checkpoints already" in reply["message"]


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("model.width=64", "shape"),
        ("optim.optimizer=sgd", "optimizer"),
        ("engine.precision=bf16", "precision"),
        ("run.seed=7", "seed"),
    ],
)
def test_a_run_does_not_go_on_as_another_kind_of_run(tmp_path, data, override, word):
    go(make_recipe(tmp_path, data, *LOCAL))
    reply = go(make_recipe(tmp_path, data, *LOCAL, override))
    assert reply["exit_code"] in (3, 5) and word in reply["message"]


def test_changed_data_are_noticed_at_resume(tmp_path, data):
    own = shutil.copytree(data, tmp_path / "data")
    recipe = make_recipe(tmp_path, own, *LOCAL)
    go(recipe)
    shutil.rmtree(own / "train")
    from vitscale.data.synthetic import synthetic_shards

    synthetic_shards(own / "train", 61, 5, side_px=14)
    reply = go(recipe)
    assert reply["exit_code"] == 3 and "fingerprint" in reply["message"]


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("data.train=nowhere", 3, "vitscale shards pack"),
        ("model.classes=9", 2, "the training set has 5 classes"),
        ("engine.device=cuda", 2, "a GPU was asked for and is absent"),
        ("ops.norm=apex", 2, "apex has no cpu kernels"),
        ("ops.optimizer=apex", 2, "apex has no cpu kernels"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_written(tmp_path, data, override, code, words):
    base = [o for o in LOCAL if not o.startswith(override.split("=")[0])]
    if override.startswith("ops"):
        base.append("engine.device=auto")
    recipe = make_recipe(tmp_path, data, *base, override)
    reply = go(recipe)
    assert (reply["status"], reply["exit_code"]) == ("failed", code)
    assert words in reply["message"]
    assert not recipe.config.folder.exists()


def test_weights_that_are_not_finite_end_the_run_and_the_last_commit_stays(tmp_path, data):
    recipe = make_recipe(
        tmp_path, data, *LOCAL, "optim.lr=1e30", "optim.warmup=3 steps", "optim.optimizer=sgd"
    )
    reply = go(recipe)
    assert (reply["status"], reply["exit_code"]) == ("failed", 4)
    assert all(
        torch.isfinite(tensor).all()
        for _, folder in step_folders(recipe.config.folder / "checkpoints")
        for tensor in load_weights(folder).tensors.values()
    )


def test_fine_tuning_starts_from_the_weights_and_lists_the_rest(tmp_path, data, caplog):
    first = make_recipe(tmp_path / "a", data, *LOCAL, "model.representation=true")
    go(first)
    with caplog.at_level("INFO"):
        second = make_recipe(
            tmp_path / "b",
            data,
            *LOCAL,
            "model.image_px=16",
            f"init.weights={first.config.folder}",
            "optim.lr=1e-12",
        )
        assert go(second)["status"] == "finished"
    assert "positions from grid (3, 3) to (4, 4)" in caplog.text
    assert "not loaded  representation.weight" in caplog.text
    assert "new         head.weight" in caplog.text
    old, new = (load_weights(r.config.folder).tensors for r in (first, second))
    torch.testing.assert_close(new["blocks.1.fc1.weight"], old["blocks.1.fc1.weight"])
    shutil.rmtree(first.config.folder)
    resumed = go(second)  # its own commit comes before the weights it started from
    assert resumed["status"] == "finished"
    config = json.loads((second.config.folder / "config.json").read_text())["config"]
    assert config["init"]["weights"] == str(first.config.folder)
