"""Small recipes for the tests of training."""

from __future__ import annotations

from pathlib import Path

from vitscale.config.load import Recipe, load_recipe
from vitscale.data.synthetic import synthetic_shards

RECIPE = """
[run]
name = "run"
home = "{home}"

[model]
variant = "mu/4"
image_px = 12
depth = 2
dropout = 0.1
drop_path = 0.1

[data]
train = "{data}/train"
held_out = "{data}/held-out"
lanes = 4
window = 64
threads = 1

[train]
duration = "10 steps"
batch = 16
micro_batch = 4
log_every = "1 steps"

[optim]
warmup = "2 steps"

[engine]
precision = "fp32"
device = "cpu"
timeout_s = 60

[checkpoint]
every = "2 steps"

[tracking]
mlflow = "off"
"""


def make_data(folder: Path) -> Path:
    synthetic_shards(folder / "train", 60, 5, side_px=14)
    synthetic_shards(folder / "held-out", 17, 5, side_px=14, seed=1)
    return folder


def make_recipe(home: Path, data: Path, *overrides: str) -> Recipe:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "recipe.toml"
    path.write_text(RECIPE.format(home=home, data=data), encoding="utf-8")
    return load_recipe(path, overrides)


def exact_losses(run: Path) -> dict[int, float]:
    """The loss of every step, as logged last."""
    from vitscale.tracking.journal import read_metrics

    return {point.step: point.value for point in read_metrics(run)["train/loss"]}
