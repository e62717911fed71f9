"""Configs that runs of an earlier version left behind."""

from __future__ import annotations

import json
import logging

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.cli.main import main
from vitscale.config.load import Recipe, load_recipe
from vitscale.config.saved import saved_recipe
from vitscale.errors import ConfigError


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Writes the config of a run folder, with these values in `[engine]`."""
    monkeypatch.chdir(tmp_path)

    def save(overrides=(), **engine):
        record = json.loads(load_recipe(write_recipe(tmp_path / "r.toml"), overrides).to_json())
        record["config"]["engine"] |= engine
        (tmp_path / "run").mkdir(exist_ok=True)
        file = tmp_path / "run" / "config.json"
        file.write_text(json.dumps(record))
        return file

    return save


def test_a_stage_of_null_is_read_as_what_it_meant_and_told(saved, caplog):
    with caplog.at_level(logging.WARNING):
        config = saved_recipe(saved(zero_stage=None)).config
    assert (config.engine.zero_stage, config.engine.stage) == (1, 1)
    assert "engine.zero_stage = null of an earlier version is read as 1" in caplog.text


def test_plain_torch_had_no_stage_and_has_none(saved):
    config = saved_recipe(saved(["engine.kind=local"], zero_stage=None)).config
    assert config.engine.stage is None


def test_what_this_version_saved_is_read_as_it_is_and_nothing_is_told(saved, caplog):
    for stage in ("auto", 0, 1, 2, 3):
        file = saved(zero_stage=stage)
        assert saved_recipe(file).config.engine.zero_stage == stage
        assert saved_recipe(file) == Recipe.from_json(file.read_text())
    assert caplog.text == ""


def test_the_difference_to_the_recipe_of_today_is_shown(saved, capsys):
    file = saved(zero_stage=None)
    assert main(["config", "diff", str(file.parent), "r.toml"]) == 0
    assert capsys.readouterr().out == 'engine.zero_stage: 1 -> "auto"\n'


def test_null_is_no_stage_in_a_recipe_or_a_request(saved, tmp_path):
    file = saved(zero_stage=None)
    with pytest.raises(ConfigError, match=r"engine\.zero_stage"):
        Recipe.from_json(file.read_text())
    with pytest.raises(ConfigError, match=r"engine\.zero_stage"):
        load_recipe(tmp_path / "r.toml", ["engine.zero_stage=null"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', '{"schema": 1, "config": []}'])
def test_what_is_no_saved_config_is_named(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: is no saved config"):
        saved_recipe(file)
