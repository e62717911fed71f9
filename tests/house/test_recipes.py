"""Every recipe in configs/ loads and is as short as it can be."""

from __future__ import annotations

import pytest

from tests.house.recipes import bases, head_problems, recipes, redundant_keys
from tests.house.tree import ROOT
from vitscale.config.load import load_recipe

CONFIGS = ROOT / "configs"
ALL = [str(path.relative_to(ROOT)) for path in recipes(CONFIGS)]
BASES = [str(path.relative_to(ROOT)) for path in bases(CONFIGS)]


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_loads_holds_only_differences_and_says_what_it_is(name):
    load_recipe(ROOT / name)
    assert redundant_keys(ROOT / name) == []
    assert head_problems(ROOT / name, name) == []


@pytest.mark.parametrize("name", BASES)
def test_a_base_holds_only_differences_and_is_used(name):
    assert redundant_keys(ROOT / name) == []
    file = (ROOT / name).name
    assert any(f"/{file}" in (ROOT / other).read_text() for other in ALL + BASES if other != name)


def test_there_are_recipes_to_check():
    assert {"configs/debug/tiny.toml", "configs/pretrain/vit_b16_i21k.toml"} <= set(ALL)
    assert len(BASES) >= 1


def test_repeated_keys_are_found(tmp_path):
    (tmp_path / "grand.toml").write_text('[optim]\nwarmup = "5 steps"\n[model]\ndropout = 0.1\n')
    (tmp_path / "base.toml").write_text('base = ["grand.toml"]\n[train]\nbatch = 64\n')
    recipe = tmp_path / "a.toml"
    recipe.write_text(
        'base = ["base.toml"]\n[train]\nbatch = 64\nmicro_batch = 8\n[model]\ndropout = 0.0\n'
        "[data]\ncrop_area = [0.05, 1.0]\nflip = false\n"
        '[optim]\nwarmup = "5 steps"\n[checkpoint]\nevery = "1k steps"\n'
    )
    assert [text.split(" ")[0] for text in redundant_keys(recipe)] == [
        "train.batch",
        "data.crop_area",
        "optim.warmup",
        "checkpoint.every",
    ]


def test_a_silent_head_is_found(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("# Command: vitscale train configs/a.toml\n\n# Expected: here is too late\n")
    assert head_problems(file, "configs/a.toml") == [
        "says nothing of 'expected'",
        "says nothing of 'hardware'",
    ]
    assert "gives no command with its own path" in head_problems(file, "configs/b.toml")
