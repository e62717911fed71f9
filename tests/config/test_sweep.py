"""Grids over a recipe: which points there are, what they are called, and what is refused."""

from __future__ import annotations

import re

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.config.sweep import sweep_points
from vitscale.errors import ConfigError

NAME_OF_A_RUN = re.compile(r"[a-z0-9][a-z0-9-]*")


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Makes the points of a sweep over the shortest recipe."""
    monkeypatch.chdir(tmp_path)
    path = write_recipe(tmp_path / "r.toml")
    return lambda *sweep, overrides=(): sweep_points(path, list(overrides), sweep)


@pytest.fixture
def complaint(points):
    def make(*sweep, overrides=()):
        with pytest.raises(ConfigError) as raised:
            points(*sweep, overrides=overrides)
        return str(raised.value)

    return make


def test_every_combination_is_a_run_of_its_own_with_the_last_key_varying_fastest(points):
    found = points("optim.lr=1e-3,3e-3", "seed=0,1,2")
    values = [(p.recipe.config.optim.lr, p.recipe.config.run.seed) for p in found]
    assert values == [(0.001, 0), (0.001, 1), (0.001, 2), (0.003, 0), (0.003, 1), (0.003, 2)]
    assert [point.name for point in found] == [
        f"r-lr-{lr}-seed-{seed}" for lr in ("1e-3", "3e-3") for seed in (0, 1, 2)
    ]
    assert {point.recipe.config.tracking.group for point in found} == {"r"}
    assert found[0].overrides == ("optim.lr=1e-3", "run.seed=0")
    assert found[0].recipe.sources["run.name"] == "sweep"


def test_a_name_follows_from_the_value_and_not_from_how_it_is_written(points):
    (first,), (second,) = points("optim.lr=1e-3"), points("optim.lr=0.0010")
    assert first.name == second.name == "r-lr-1e-3"


@pytest.mark.parametrize(
    ("sweep", "ends"),
    [
        ("optim.weight_decay=0.1,0.05,1,0.125", ["1e-1", "5e-2", "1", "125e-3"]),
        ("train.duration=10 epochs,300 steps", ["10-epochs", "300-steps"]),
        ("optim.warmup=5%,10%", ["5-percent", "10-percent"]),
        ("model.image_px=[224,224],[224,384],256", ["224-224", "224-384", "256"]),
        ("data.flip=true,false", ["true", "false"]),
        ("train.batch=64,1024", ["64", "1024"]),
        ("evaluate.resize_px=null,256", ["null", "256"]),
    ],
)
def test_names_are_words_that_folders_and_kubernetes_take(points, sweep, ends):
    found = points(sweep)
    key = sweep.partition("=")[0].partition(".")[2].replace("_", "-")
    assert [point.name for point in found] == [f"r-{key}-{end}" for end in ends]
    assert all(NAME_OF_A_RUN.fullmatch(point.name) for point in found)


def test_long_values_are_named_by_a_hash_that_stays_the_same(points):
    texts = ["data.train=/data/one/long/path/to/a/set,/data/one/long/path/to/another"]
    first, second = points(*texts)
    assert re.fullmatch(r"r-train-[0-9a-f]{8}", first.name)
    assert first.name != second.name
    assert [point.name for point in points(*texts)] == [first.name, second.name]


def test_keys_that_end_alike_are_named_whole(points):
    (point,) = points("checkpoint.every=100 steps", "evaluate.batch=8", "train.batch=16")
    assert point.name == "r-every-100-steps-evaluate-batch-8-train-batch-16"


def test_commas_in_brackets_and_quotes_part_nothing(points):
    found = points('data.train="a,b",[{shards = "c", weight = 1}, {shards = "d", weight = 3}]')
    shards = [[source.shards for source in p.recipe.config.data.train] for p in found]
    assert [[path.rpartition("/")[2] for path in each] for each in shards] == [["a,b"], ["c", "d"]]


def test_the_group_that_a_recipe_names_is_kept(points):
    (point,) = points("seed=1", overrides=["tracking.group=mine", "run.name=other"])
    assert (point.recipe.config.tracking.group, point.name) == ("mine", "other-seed-1")


@pytest.mark.parametrize(
    ("sweep", "overrides", "words"),
    [
        (["optim.lrr=1,2"], [], "optim.lrr: unknown key; did you mean 'lr'?"),
        (["sead=1,2"], [], "unknown key 'sead' (given: sead). Did you mean 'seed'?"),
        (["batch=1,2"], [], "Write one of: train.batch, evaluate.batch."),
        (["optim.lr="], [], "a value is missing, so the grid is empty"),
        (["optim.lr=1e-3,,2e-3"], [], "a value is missing"),
        (["optim.lr=1e-3,0.001"], [], "optim.lr=1e-3 and optim.lr=0.001"),
        (["seed=1", "run.seed=2"], [], "the key is given twice (given: run.seed)"),
        (["optim.lr=1,2"], ["optim.lr=3"], "also gives this key one value"),
        (["run.name=a,b"], [], "all points of a sweep share it"),
        (["tracking.mlflow=off,auto"], [], "all points of a sweep share it"),
        (["cluster.workers=1,2"], [], "all points of a sweep share it"),
        (["model.image_px=[224,224"], [], "a bracket is not closed"),
        (["data.train='a,b"], [], "' is not closed"),
        (["seed=1"], [f"run.name={'a' * 95}"], "has more than 100 characters"),
    ],
)
def test_what_is_no_sweep_is_refused_in_words(complaint, sweep, overrides, words):
    assert words in complaint(*sweep, overrides=overrides)


def test_points_that_cannot_be_run_are_all_named_and_one_reason_is_given_once(complaint):
    said = complaint("optim.lr=-1,1e-3", "train.micro_batch=8,7")
    assert "3 of 4 points cannot be run" in said
    assert "optim.lr=-1 train.micro_batch=8" in said
    assert "optim.lr=1e-3 train.micro_batch=7" in said
    assert said.count("no multiple of micro_batch 7") == 1


def test_two_values_whose_names_are_the_same_word_would_share_a_folder(complaint):
    assert "would share a folder" in complaint("data.train=/a/b,/a-b")
