"""Suites: what they may say, and that every one in configs/transfer loads."""

from __future__ import annotations

import json

import pytest

from tests.house.recipes import head_problems
from tests.house.tree import ROOT
from vitscale.config.suite import FinetuneTask, LoadedSuite, RidgeTask, load_suite
from vitscale.errors import ConfigError

SUITES = sorted((ROOT / "configs" / "transfer").glob("*.toml"))
TEXT = """
[data.a]
train = "sets/a"
test = "sets/a-test"
[data.b]
test = "sets/b[:100]"
[[task]]
method = "ridge"
data = ["a"]
[[task]]
method = "head"
"""


def load(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_suite(str(path))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_loads_and_says_what_it_is(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite(path.stem)
    assert suite.rows
    assert head_problems(path, f"--suite {path.stem}") == []
    for row in suite.rows:
        if isinstance(row.task, FinetuneTask):
            assert (ROOT / row.task.recipe).is_file()


def test_rows_are_tasks_on_their_data_with_paths_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = load(tmp_path, TEXT)
    assert suite.name == "mine"
    rows = [(row.name, row.task.method) for row in suite.rows]
    assert rows == [("a", "ridge"), ("a", "head"), ("b", "head")]
    assert suite.rows[0].data.test.shards == str(tmp_path / "sets/a-test")
    assert suite.rows[2].data.test.shards == str(tmp_path / "sets/b[:100]")
    assert isinstance(suite.rows[0].task, RidgeTask) and suite.rows[0].task.shots == (1, 5, 10, 25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('data = ["a"]', 'data = ["aa"]'), "task.0.data: no data set 'aa'; did you mean 'a'?"),
        (('data = ["a"]', 'data = "all"'), "data.b.train: is needed by the ridge task"),
        (('method = "head"', 'method = "head"\ndata = ["a"]'), "data.b: no task scores it"),
        (
            ('train = "sets/a"', 'train = "sets/a"\nmetric = "map"'),
            "ridge takes one label an image",
        ),
        (('data = ["a"]', 'data = ["a"]\nshots = [0]'), "greater than or equal to 1"),
        (
            ('data = ["a"]', 'data = ["a"]\nshot = [1]'),
            "task.0.shot: unknown key; did you mean 'shots'?",
        ),
        (('data = ["a"]', 'data = ["a"]\nshots = []'), "task.0.shots: is empty"),
        (
            ('method = "ridge"', 'method = "rigde"'),
            "task.0.method: no method 'rigde'; did you mean 'ridge'?",
        ),
        (('method = "ridge"', ""), "task.0.method: is required and was not given; known: finetune"),
        (('method = "ridge"', 'method = "finetune"'), "task.0.lrs: is required and was not given"),
        (
            ("[data.a]", '[data.a]\ndev = "d"\ndev_share = 0.5'),
            "dev_share: has no effect beside dev",
        ),
        (('"sets/a"', '"s3://bucket/a"'), "s3://bucket/a is a URL, and suites read local folders"),
        (('"head"', '"head"\nnames = "number"\nclasses = "c"'), 'no effect with names = "number"'),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(tmp_path, change, message):
    assert change[0] in TEXT
    with pytest.raises(ConfigError) as error:
        load(tmp_path, TEXT.replace(*change))
    assert message in str(error.value)


def test_a_wrong_item_is_one_problem_and_not_an_empty_list_too(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, TEXT.replace('data = ["a"]', 'data = ["a"]\nshots = [0]'))
    assert "has 1 problem:" in str(error.value)
    assert "at least 1 item" not in str(error.value)


def test_an_unknown_suite_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        load_suite("demos")


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_goes_through_json(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite(path.stem)
    again = LoadedSuite.from_json(json.loads(json.dumps(suite.as_json())))
    assert again == suite
