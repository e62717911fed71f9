"""Saves of a real run: in the background, on broken and full disks, of averages, and from a named commit."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.layout import MANIFEST, step_folders
from vitscale.checkpoint.weights import load_weights
from vitscale.cli.main import main
from vitscale.tracking.journal import read_metrics
from vitscale.train.saving import RunCheckpoints
from vitscale.train.worker import run

pytestmark = pytest.mark.faults
LOCAL = ("engine.kind=local", "train.micro_batch=16", "checkpoint.keep=9")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def fault(monkeypatch):
    """Switch a fault on for this process."""

    def switch_on(text):
        monkeypatch.setattr("vitscale.faults._passes", Counter())
        monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", "1")
        monkeypatch.setenv("VITSCALE_FAULT", text)

    return switch_on


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def steps(recipe):
    return [step for step, _ in step_folders(recipe.config.folder / "checkpoints")]


def test_training_goes_on_while_a_slow_disk_writes(tmp_path, data, fault):
    fault("checkpoint.before_sync@0:1:delay")  # five seconds in the first save
    recipe = make_recipe(tmp_path, data, *LOCAL)
    assert go(recipe)["status"] == "finished"
    assert steps(recipe) == [10, 8, 6, 4, 2]
    committed = (recipe.config.folder / "checkpoints/step-00000002" / MANIFEST).stat().st_mtime
    logged = {p.step: p.time for p in read_metrics(recipe.config.folder)["train/loss"]}
    assert logged[3] < committed < logged[5]  # the save of step 4 waited for that of step 2


def test_without_background_every_commit_is_waited_for(tmp_path, data, fault):
    fault("checkpoint.before_sync@0:1:delay")
    recipe = make_recipe(tmp_path, data, *LOCAL, "checkpoint.background=false")
    assert go(recipe)["status"] == "finished"
    committed = (recipe.config.folder / "checkpoints/step-00000002" / MANIFEST).stat().st_mtime
    logged = {p.step: p.time for p in read_metrics(recipe.config.folder)["train/loss"]}
    assert logged[2] < committed < logged[3]


@pytest.mark.parametrize("action", ["eio", "enospc"])
def test_a_write_that_fails_in_the_background_is_loud_and_the_next_save_works(
    tmp_path, data, fault, caplog, action
):
    fault(f"checkpoint.mid_file@0:1:{action}")
    recipe = make_recipe(tmp_path, data, *LOCAL)
    with caplog.at_level("ERROR"):
        assert go(recipe)["status"] == "finished"
    assert steps(recipe) == [10, 8, 6, 4]
    assert "the checkpoint was not committed: rank 0: state/rank-00000.pt" in caplog.text


def test_a_last_save_that_fails_is_tried_again_before_the_run_ends(tmp_path, data, fault):
    fault("checkpoint.before_rename@0:5:eio")
    recipe = make_recipe(tmp_path, data, *LOCAL)
    assert go(recipe)["status"] == "finished"
    assert steps(recipe) == [10, 8, 6, 4, 2]


@contextmanager
def small_disk(folder, size):
    """A tmpfs of `size`; only root may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Janitor(logging.Handler):
    """Frees the disk at the first error that a run logs, as whoever reads it would."""

    def __init__(self, ballast):
        super().__init__(logging.ERROR)
        self.ballast, self.errors = ballast, []

    def emit(self, record):
        self.errors.append(record.getMessage())
        self.ballast.unlink(missing_ok=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_a_full_disk_keeps_the_last_commit_and_the_run(tmp_path, data, monkeypatch, foreseen):
    if not foreseen:  # the write itself runs into the end of the disk
        monkeypatch.setattr(RunCheckpoints, "_expected_bytes", lambda self: 0)
    with small_disk(tmp_path / "disk", "24m") as disk:
        recipe = make_recipe(
            disk, data, *LOCAL, "train.duration=4 steps", "optim.schedule=constant"
        )
        assert go(recipe)["status"] == "finished"
        ballast = disk / "ballast"
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(free - 150_000))
        janitor = Janitor(ballast)
        logging.getLogger("vitscale").addHandler(janitor)
        try:
            longer = make_recipe(disk, data, *LOCAL, "optim.schedule=constant")
            assert go(longer)["status"] == "finished"
        finally:
            logging.getLogger("vitscale").removeHandler(janitor)
        word = "no space for a checkpoint" if foreseen else "No space left on device"
        assert any(word in error for error in janitor.errors)
        assert 6 not in steps(longer) and {10, 8, 4} <= set(steps(longer))
        assert main(["checkpoint", "verify", str(longer.config.folder)]) == 0


def test_the_average_is_scored_while_training_and_the_same_from_the_commit(tmp_path, data, capsys):
    recipe = make_recipe(tmp_path, data, *LOCAL, "optim.ema=0.8", "optim.lr=0.05")
    go(recipe)
    logged = {k: v[-1].value for k, v in read_metrics(recipe.config.folder).items()}
    assert logged["held_out_ema/loss"] != logged["held_out/loss"]
    for which, prefix in (("raw", "held_out"), ("ema", "held_out_ema")):
        capsys.readouterr()
        command = ["evaluate", str(recipe.config.folder), "--on", "held-out", "--weights", which]
        assert main([*command, "--device", "cpu", "--json"]) == 0
        scores = json.loads(capsys.readouterr().out)["scores"]
        assert scores["loss"] == pytest.approx(logged[f"{prefix}/loss"], rel=1e-6)


def test_the_average_follows_its_definition(tmp_path, data):
    often = ("checkpoint.keep=20", "checkpoint.every=1 steps")
    recipe = make_recipe(tmp_path, data, *LOCAL[:2], *often, "optim.ema=0.8")
    go(recipe)
    folders = [folder for _, folder in reversed(step_folders(recipe.config.folder / "checkpoints"))]
    average = load_weights(folders[0], "ema").tensors
    for folder in folders[1:]:
        weights, saved = load_weights(folder).tensors, load_weights(folder, "ema").tensors
        for name in average:
            average[name] = 0.8 * average[name] + 0.2 * weights[name]
            torch.testing.assert_close(saved[name], average[name], rtol=1e-6, atol=1e-7)


def test_a_run_goes_on_from_a_named_commit_of_another_with_all_of_its_state(tmp_path, data):
    first = make_recipe(tmp_path / "a", data, *LOCAL)
    go(first)
    named = first.config.folder / "checkpoints" / "step-00000004"
    second = make_recipe(tmp_path / "b", data, *LOCAL, f"init.checkpoint={named}")
    assert go(second)["step"] == 10
    whole, rest = exact_losses(first.config.folder), exact_losses(second.config.folder)
    assert rest == {step: whole[step] for step in range(5, 11)}
    shutil.rmtree(first.config.folder)
    assert go(second)["status"] == "finished"  # its own commits come first


def test_a_commit_of_another_kind_of_run_is_refused_by_what_differs(tmp_path, data):
    assert go(make_recipe(tmp_path, data, *LOCAL))["step"] == 10
    differences = {
        "optim.optimizer=lamb": "optimizer: adamw in the checkpoint, lamb now",
        "engine.precision=bf16": "precision: fp32 in the checkpoint, bf16 now",
        "model.registers=1": "shape: ",
        "data.mean=[0.4, 0.5, 0.5]": "[0.5, 0.5, 0.5], [0.5, 0.5, 0.5] in the checkpoint, [0.4, ",
    }
    for override, words in differences.items():
        reply = go(make_recipe(tmp_path, data, *LOCAL, "train.duration=12 steps", override))
        assert (reply["status"], reply["exit_code"]) == ("failed", 5)
        assert "another kind of run" in reply["message"] and words in reply["message"], override


def test_an_average_that_is_wanted_late_begins_at_the_weights_and_says_so(tmp_path, data, caplog):
    go(make_recipe(tmp_path, data, *LOCAL, "train.duration=4 steps", "optim.schedule=constant"))
    with caplog.at_level("WARNING"):
        late = make_recipe(tmp_path, data, *LOCAL, "optim.schedule=constant", "optim.ema=0.9")
        assert go(late)["status"] == "finished"
    assert "has no moving average: it begins at the weights" in caplog.text
    assert load_weights(late.config.folder, "ema").tensors


def test_multiples_of_keep_every_stay(tmp_path, data):
    recipe = make_recipe(
        tmp_path, data, *LOCAL[:2], "checkpoint.keep=1", "checkpoint.keep_every=4 steps"
    )
    go(recipe)
    assert steps(recipe) == [10, 8, 4]


def test_inspect_says_what_a_commit_holds_and_who_wrote_it(tmp_path, data, capsys):
    recipe = make_recipe(tmp_path, data, *LOCAL, "optim.ema=0.8")
    go(recipe)
    capsys.readouterr()
    assert main(["checkpoint", "inspect", str(recipe.config.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    numbers = found["parameters"]
    assert found["tensors"] == ", ".join(
        f"{kind} {numbers}" for kind in ("weight", "exp_avg", "exp_avg_sq", "ema")
    )
    assert (found["step"], found["updates"], found["images"]) == (10, 10, 160)
    assert (found["ranks"], found["engine"], found["optimizer"]) == (1, "plain torch", "adamw")
    assert 16 < found["bytes a parameter"] < 18
    (recipe.config.folder / "checkpoints/step-00000010/state.json").write_text("[]")
    assert (
        main(["checkpoint", "inspect", str(recipe.config.folder / "checkpoints/step-00000010")])
        == 5
    )
    assert "state.json has 2 bytes" in capsys.readouterr().err
