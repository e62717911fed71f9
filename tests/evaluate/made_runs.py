"""A small trained model and downstream sets, and the suite that joins them; also run as a process that tests kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.train.recipes import make_data, make_recipe
from vitscale.config.load import Recipe
from vitscale.data.samples import Sample, Split
from vitscale.data.synthetic import synthetic_shards, synthetic_split
from vitscale.data.write import pack

SUITE = """
[data.one]
train = "{data}/one"
test = "{data}/one-test"
group = "seen"
[data.two]
train = "{data}/two[:80]"
dev = "{data}/two[80:]"
test = "{data}/one-test"
metric = "mean-per-class"
[data.several]
train = "{data}/several"
test = "{data}/several-test"
metric = "map"
[[task]]
method = "ridge"
shots = [1, 5]
data = ["one", "two"]
[[task]]
method = "knn"
k = [3, 10]
data = ["one", "two"]
[[task]]
method = "logreg"
c = [0.01, 1.0]
[[task]]
method = "linear"
lrs = [0.1, 1.0]
batch = 32
steps = 40
"""
FINETUNE = """
[[task]]
method = "finetune"
recipe = "{data}/tune.toml"
lrs = [1e-3, 3e-3]
data = ["one", "several"]
"""
TUNE = """
[run]
name = "tune"
[model]
image_px = 16
[data]
train = "filled/in"
flip = false
threads = 1
[train]
duration = "12 steps"
batch = 16
micro_batch = 16
[optim]
weight_decay = 0.0
warmup = "2 steps"
[engine]
precision = "fp32"
[checkpoint]
every = "4 steps"
"""


def several_labels(count: int, seed: int) -> Split:
    """Gratings of five classes that are also called by the two halves of the classes; every ninth by that alone."""
    split = synthetic_split(count, 5, side_px=14, seed=seed)
    names = (*split.classes, "low", "high")

    def relabelled(number: int, sample: Sample) -> Sample:
        label = number % 5
        half = 5 + (label > 1)
        labels = (half,) if number % 9 == 0 else (label, half)
        return Sample(sample.key, sample.extension, sample.data, labels)

    return Split(names, [relabelled(n, sample) for n, sample in enumerate(split.samples)])


def make_downstream(data: Path, *, tuned: bool = False) -> Path:
    """Sets below `data`; the path of the suite."""
    synthetic_shards(data / "one", 100, 5, side_px=14, seed=2)
    synthetic_shards(data / "two", 110, 5, side_px=14, seed=3)
    synthetic_shards(data / "one-test", 61, 5, side_px=14, seed=4)
    for name, count, seed in (("several", 90, 5), ("several-test", 47, 6)):
        pack(several_labels(count, seed), data / name, seed=0, shard_samples=20)
    (data / "tune.toml").write_text(TUNE)
    path = data / "made.toml"
    path.write_text((SUITE + (FINETUNE if tuned else "")).format(data=data))
    return path


def make_run(home: Path, *overrides: str) -> Recipe:
    """A recipe that trains the tiny model; `train` it."""
    data = make_data(home / "data") if not (home / "data").exists() else home / "data"
    return make_recipe(home, data, "engine.kind=local", "train.duration=4 steps", *overrides)


def train(recipe: Recipe) -> Path:
    """Train to the end in this process; the run folder."""
    from vitscale.train import worker

    reply = worker.run({"recipe": recipe.to_json(), "resume": "auto"})
    assert reply["status"] == "finished", reply
    return recipe.config.folder


if __name__ == "__main__":
    train(Recipe.from_json(json.loads(sys.stdin.read())))
