"""From a checkpoint to scores: the model, the shards and what the saved recipe adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.recipe_text import write_recipe
from tests.evaluate.stand_ins import colour_set, scan
from vitscale.checkpoint.weights import Weights
from vitscale.config.load import load_recipe
from vitscale.config.model import ModelConfig
from vitscale.data.augment import View
from vitscale.errors import ConfigError, DataError
from vitscale.evaluate import features, from_checkpoint, held_out
from vitscale.evaluate.from_checkpoint import Job, evaluate
from vitscale.model.build import build_model

SHAPE = ModelConfig(variant="mu/8", image_px=16).shape(4)


@pytest.fixture
def step_folder(tmp_path, monkeypatch):
    """A commit of an untrained model; every folder is a set of eight colours in four classes."""
    folder = tmp_path / "run" / "checkpoints" / "step-00000007"
    folder.mkdir(parents=True)
    tensors = build_model(SHAPE, seed=1).state_dict()
    monkeypatch.setattr(
        from_checkpoint, "load_weights", lambda path, which: Weights(SHAPE, tensors, 7, folder)
    )
    shards = colour_set([0, 1, 2, 3, 0, 1, 2, 3], 4)
    monkeypatch.setattr(from_checkpoint, "open_corpus", lambda sources, config: shards)
    for room in (held_out, features):
        monkeypatch.setattr(room, "scan", scan)
    return folder


def save_recipe(run: Path, **changes):
    path = write_recipe(run / "r.toml", **changes)
    (run / "config.json").write_text(load_recipe(path).to_json())


def test_an_untrained_head_scores_chance(step_folder):
    found = evaluate(Job(step_folder, "held-out", data="d", batch=3, device="cpu"))
    assert (found["step"], found["data"], found["on"]) == (7, "d", "held-out")
    assert found["checkpoint"] == str(step_folder)
    assert found["scores"]["loss"] == pytest.approx(1.3862944, rel=1e-5)  # ln 4
    assert found["scores"]["images"] == 8


def test_data_and_loss_come_from_the_saved_recipe(step_folder):
    save_recipe(step_folder.parents[1], data__held_out="/held", train__objective="sigmoid")
    found = evaluate(Job(step_folder, "held-out", device="cpu"))
    assert found["data"] == "/held"
    assert found["scores"]["loss"] == pytest.approx(4 * 0.6931472, rel=1e-5)  # 4 classes, ln 2 each


def test_views_are_those_of_the_saved_recipe(step_folder, monkeypatch):
    seen = []

    def seeing(shards, *, view, **more):
        seen.append(view)
        return scan(shards, **more)

    for room in (held_out, features):
        monkeypatch.setattr(room, "scan", seeing)
    save_recipe(step_folder.parents[1], evaluate__crop="none", evaluate__resize_px=256)
    evaluate(Job(step_folder, "held-out", data="d", device="cpu"))
    evaluate(Job(step_folder, "fewshot", data="d", train="t", device="cpu"))
    assert seen == [View("none", 256)] * 3


def test_features_of_an_untrained_model_still_tell_colours_apart(step_folder):
    job = Job(step_folder, "fewshot", data="d", train="t", batch=3, device="cpu")
    scores = evaluate(job)["scores"]
    assert set(scores) == {"1-shot", "5-shot", "10-shot", "25-shot"}
    assert scores["1-shot"]["mean"] > 0.25  # chance
    assert scores["5-shot"]["short_classes"] == 4


def test_without_a_folder_of_shards_the_option_is_named(step_folder):
    with pytest.raises(ConfigError, match="Give --data DIR"):
        evaluate(Job(step_folder, "held-out", device="cpu"))
    with pytest.raises(ConfigError, match="Give --train DIR"):
        evaluate(Job(step_folder, "fewshot", data="d", device="cpu"))


def test_shards_with_more_classes_than_the_head_are_refused(step_folder, monkeypatch):
    monkeypatch.setattr(from_checkpoint, "open_corpus", lambda *_: colour_set([0, 5], 6))
    with pytest.raises(DataError, match="6 classes, the model 4"):
        evaluate(Job(step_folder, "held-out", data="d", device="cpu"))
