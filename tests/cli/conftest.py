"""A recipe and a data set that exist only as far as a command looks."""

from __future__ import annotations

import pytest

from vitscale.config.dataset import Manifest, ShardRecord

RECIPE = """
[run]
name = "r"
[model]
variant = "mu/8"
image_px = 32
[data]
train = "data"
[train]
duration = "3 epochs"
batch = 64
micro_batch = 8
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The path of a recipe in the working folder, whose data set counts 1,000 images of 4 classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "data").mkdir()
    shards = (
        ShardRecord("a.tar", 600, 2**20, "0" * 32, "0" * 16),
        ShardRecord("b.tar", 400, 2**20, "1" * 32, "1" * 16),
    )
    (tmp_path / "data" / "manifest.json").write_text(
        Manifest(("a", "b", "c", "d"), shards).to_json()
    )
    return "r.toml"
