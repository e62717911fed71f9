"""A data set that is only a manifest, a recipe for it, and profiles that find the tiny worker."""

from pathlib import Path

import pytest

from vitscale.config.cluster import ClusterProfile
from vitscale.config.dataset import Manifest, ShardRecord
from vitscale.config.load import load_recipe

HERE = str(Path(__file__).parent)
RECIPE = """
[run]
name = "tiny"
home = "{home}"
[model]
variant = "mu/16"
image_px = 32
[data]
train = "{data}"
[train]
duration = "4 epochs"
batch = 8
micro_batch = 2
[engine]
kind = "local"
device = "cpu"
"""


@pytest.fixture
def recipe_file(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shard = ShardRecord(name="train-0.tar", samples=40, bytes=1000, xxh3="0" * 32, labels="0" * 16)
    (data / "manifest.json").write_text(Manifest(("cat", "dog"), (shard,)).to_json())
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(home=tmp_path / "runs", data=data))
    return path


@pytest.fixture
def recipe(recipe_file):
    return load_recipe(recipe_file)


@pytest.fixture
def profile():
    """Makes a profile whose workers behave as asked."""

    def make(behaviour: str, **settings) -> ClusterProfile:
        environment = {"PYTHONPATH": HERE, "TINY_WORKER": behaviour}
        return ClusterProfile(environment=environment, **settings)

    return make
