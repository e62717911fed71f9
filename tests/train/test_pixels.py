"""Weights are trained on, and scored, with the mean and spread they know."""

from __future__ import annotations

import pytest
import torch

from tests.train.recipes import make_data, make_recipe
from tests.weights.models import command, vit_of
from vitscale.checkpoint.export import write_tensors
from vitscale.checkpoint.weights import load_weights
from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.data.device import normalise
from vitscale.evaluate.from_checkpoint import Job, evaluate
from vitscale.model.build import build_model
from vitscale.train.worker import run

PIXELS = Preprocessing((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
GIVEN = ("data.mean=[0.3, 0.4, 0.5]", "data.std=[0.2, 0.25, 0.3]")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


def weights_file(path):
    shape = Shape(32, 2, 128, 2, 4, 4, (12, 12), classes=5)
    tensors = {n: p.detach() for n, p in build_model(shape, seed=4).named_parameters()}
    record = {"shape": shape.as_json(), "preprocessing": PIXELS.as_json()}
    write_tensors(tensors, record | {"weights": "raw", "step": 0}, path)
    return path


def start(tmp_path, data, *overrides):
    file = weights_file(tmp_path / "w.safetensors")
    more = (
        f'init.weights="{file}"',
        'engine.kind="local"',
        'train.duration="2 steps"',
        'optim.warmup="1 steps"',
    )
    return run(
        {"recipe": make_recipe(tmp_path, data, *more, *overrides).to_json(), "resume": "auto"}
    )


def test_other_pixels_than_the_weights_know_are_refused_with_the_keys_to_set(tmp_path, data):
    reply = start(tmp_path, data)
    assert (reply["status"], reply["exit_code"]) == ("failed", 2)
    assert "data.mean = [0.3, 0.4, 0.5] and data.std = [0.2, 0.25, 0.3]" in reply["message"]


def test_a_run_keeps_its_pixels_in_its_commits_and_exports_and_is_scored_with_them(tmp_path, data):
    assert start(tmp_path, data, *GIVEN)["status"] == "finished"
    folder = tmp_path / "run"
    assert load_weights(folder).preprocessing.fits(PIXELS.mean, PIXELS.std)
    for name in ("npz", "safetensors"):
        out = tmp_path / f"out.{name}"
        assert command("export", folder, "--to", out, "--format", name) == 0
    exported = load_weights(tmp_path / "out.safetensors")
    assert exported.preprocessing.fits(PIXELS.mean, PIXELS.std)
    one, other = (
        evaluate(Job(path, "held-out", data=str(data / "held-out"), device="cpu"))["scores"]
        for path in (folder, tmp_path / "out.safetensors")
    )
    assert one == other
    seen = by_hand(vit_of(tmp_path / "out.safetensors"), data, PIXELS)
    assert one["loss"] == pytest.approx(seen, abs=1e-5)


def by_hand(model, data, pixels):
    """The mean loss over the held-out images with explicit pixels."""
    from vitscale.config.source import Source
    from vitscale.data.corpus import open_corpus
    from vitscale.data.loader import scan
    from vitscale.place import Place

    corpus = open_corpus([Source(shards=str(data / "held-out"))])
    losses = []
    with torch.no_grad():
        for batch in scan(corpus, image=(12, 12), batch=8, place=Place()):
            images = normalise(batch.images, "cpu", torch.float32, pixels.mean, pixels.std)
            logits = model(images)
            losses.append(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none"))
    return torch.cat(losses).mean().item()
