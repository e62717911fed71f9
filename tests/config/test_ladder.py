"""Ladders of a scaling study: what they may say, and that every one in configs/scaling loads."""

from __future__ import annotations

import pytest

from tests.house.recipes import head_problems
from tests.house.tree import ROOT
from vitscale.config.ladder import load_ladder
from vitscale.errors import ConfigError

LADDERS = sorted((ROOT / "configs/scaling").glob("*.toml"))
TEXT = """
budgets = ["100 images", "2 epochs", "30 steps"]
[size.small]
width = 16
heads = 2
[size.large]
variant = "S/16"
lr = 1e-4
"""


def load(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_ladder(str(path))


@pytest.mark.parametrize("path", LADDERS, ids=lambda path: path.stem)
def test_a_ladder_loads_and_says_what_it_is(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_ladder(path.stem).steps
    assert head_problems(path, f"--ladder {path.stem}") == []


def test_every_size_stands_with_every_budget(tmp_path):
    ladder = load(tmp_path, TEXT)
    assert ladder.name == "mine"
    assert [step.name for step in ladder.steps] == [
        *("small-100-images", "small-2-epochs", "small-30-steps"),
        *("large-100-images", "large-2-epochs", "large-30-steps"),
    ]
    assert ladder.steps[1].keys == {
        "model.width": 16,
        "model.heads": 2,
        "train.duration": "2 epochs",
    }
    assert ladder.steps[3].keys == {
        "model.variant": "S/16",
        "optim.lr": 1e-4,
        "train.duration": "100 images",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("width = 16", "widht = 16"), "size.small.widht: unknown key; did you mean 'width'?"),
        (("width = 16", "width = 0"), "greater than or equal to 1"),
        (('"30 steps"', '"30%"'), "count a budget in images, epochs or steps"),
        (('"30 steps"', '"30 min"'), "count a budget in images, epochs or steps"),
        (('"30 steps"', '"100 images"'), "the same length stands there twice"),
        ((', "30 steps"', ""), "4 rungs cannot bear a law of four parameters"),
        (('variant = "S/16"\nlr = 1e-4', "width = 16\nheads = 2"), "is size.small once more"),
        (("[size.small]", '[size."a b"]'), "named by letters, digits"),
        (("budgets", "budget"), "budgets: is required"),
    ],
)
def test_what_is_no_ladder_is_refused_with_its_key(tmp_path, change, message):
    assert change[0] in TEXT
    with pytest.raises(ConfigError) as error:
        load(tmp_path, TEXT.replace(*change))
    assert message in str(error.value)


def test_an_unknown_ladder_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"no ladder 'demos'.*Did you mean 'demo'"):
        load_ladder("demos")
