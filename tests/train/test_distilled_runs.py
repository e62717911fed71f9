"""A run with a teacher, from recipe to checkpoint; and a run with everything on that changes images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.weights import load_weights
from vitscale.data.synthetic import synthetic_shards
from vitscale.errors import ConfigError
from vitscale.train.worker import run

LOCAL = ("engine.kind=local", "train.micro_batch=8", "train.duration=6 steps")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data) -> Path:
    """The folder of a finished run with an average, deeper than its students."""
    home = tmp_path_factory.mktemp("teacher")
    recipe = make_recipe(home, data, *LOCAL, "model.depth=3", "optim.ema=0.5")
    assert go(recipe)["status"] == "finished"
    return recipe.config.folder


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def test_a_student_is_stopped_and_goes_on_bit_for_bit_and_its_checkpoint_is_its_own(
    tmp_path, data, teacher
):
    taught = (
        *LOCAL,
        f"distill.weights={teacher}",
        "distill.which=ema",
        "distill.temperature=2.0",
        "distill.share=0.5",
        "data.mixup=0.5",
        "data.randaugment=[2, 10]",
        "train.duration=14 steps",
    )
    whole = make_recipe(tmp_path / "a", data, *taught)
    assert go(whole)["status"] == "finished"
    parts = make_recipe(tmp_path / "b", data, *taught)
    parts.config.folder.mkdir(parents=True)
    (parts.config.folder / "STOP").touch()
    assert go(parts)["step"] < 14
    (parts.config.folder / "STOP").unlink()
    assert go(parts)["status"] == "finished"
    assert exact_losses(parts.config.folder) == exact_losses(whole.config.folder)
    one, two = (load_weights(each.config.folder).tensors for each in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(name.startswith("blocks.2.") for name in one)  # the teacher's third block


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.image_px=16", "Set model.image_px = 12"),
        ("data.mean=[0.4, 0.4, 0.4]", "data.mean"),
    ],
)
def test_a_teacher_that_sees_other_images_is_refused(tmp_path, data, teacher, override, words):
    recipe = make_recipe(tmp_path, data, *LOCAL, f"distill.weights={teacher}", override)
    reply = go(recipe)
    assert reply["status"] == "failed"
    assert words in reply["message"]


def test_a_teacher_of_other_classes_is_refused(tmp_path, teacher):
    synthetic_shards(tmp_path / "train", 30, 4, side_px=14)
    synthetic_shards(tmp_path / "held-out", 8, 4, side_px=14, seed=1)
    reply = go(make_recipe(tmp_path, tmp_path, *LOCAL, f"distill.weights={teacher}"))
    assert reply["status"] == "failed"
    assert "knows 5 classes, the data have 4" in reply["message"]


def test_a_teacher_that_is_gone_is_no_run_without_one(tmp_path, data):
    reply = go(make_recipe(tmp_path, data, *LOCAL, f"distill.weights={tmp_path}/none"))
    assert reply["status"] == "failed"
    assert f"{tmp_path}/none" in reply["message"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.crop=random"], "data.resize_px: is needed"),
        (["data.resize_px=14"], "data.resize_px: has no effect"),
        (["data.crop=random", "data.resize_px=11"], "less than the 12 px of a view"),
        (["evaluate.resize_px=11"], "evaluate.resize_px: 11 px are less"),
        (["data.crop=random", "data.resize_px=14", "data.crop_area=[0.1, 1.0]"], "data.crop_area"),
        (["data.randaugment=[2, 30]"], "data.randaugment"),
        (["distill.weights=t", "distill.kind=hard", "distill.temperature=2.0"], "no effect"),
        (["distill.weights=t", "train.label_smoothing=0.1"], "no loss has labels"),
        (["distill.weights=t", "distill.share=0.0"], "distill.share"),
        (["distill.share=0.5"], "distill.weights: is required"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(tmp_path, data, overrides, words):
    with pytest.raises(ConfigError, match=words.replace("[", "[[]")):
        make_recipe(tmp_path, data, *overrides)


def test_relative_teachers_are_made_absolute(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_recipe(tmp_path / "a", data, "distill.weights=t").config
    assert config.distill is not None
    assert config.distill.weights == str(tmp_path / "t")


def test_views_of_a_resized_image_train_and_evaluate(tmp_path, data):
    recipe = make_recipe(
        tmp_path,
        data,
        *LOCAL,
        "data.crop=random",
        "data.resize_px=14",
        "evaluate.crop=none",
        "evaluate.resize_px=13",
    )
    assert go(recipe)["status"] == "finished"
