"""`vitscale doctor --data`: what a recipe's loader needs, held against what this machine has."""

from __future__ import annotations

import json

import pytest

from vitscale.cli import data_needs
from vitscale.cli.data_needs import needs
from vitscale.cli.main import main
from vitscale.config.load import load_recipe
from vitscale.data import speed
from vitscale.data.speed import Speed
from vitscale.data.synthetic import synthetic_shards
from vitscale.errors import ConfigError


@pytest.fixture
def recipe(tmp_path):
    synthetic_shards(tmp_path / "train", 40, 5, side_px=24)
    path = tmp_path / "r.toml"
    path.write_text(
        f'[run]\nname = "r"\nhome = "{tmp_path}/runs"\n[model]\nvariant = "mu/4"\nimage_px = 12\n'
        f'[data]\ntrain = "{tmp_path}/train"\n'
        '[train]\nduration = "1 epochs"\nbatch = 8\nmicro_batch = 8\n'
    )
    return path


def findings(monkeypatch, recipe, images_per_s, measured, cores=4):
    monkeypatch.setattr(speed, "measure", lambda *_, **__: measured)
    monkeypatch.setattr(data_needs.os, "sched_getaffinity", lambda _: set(range(cores)))
    return {f.name: f for f in needs(load_recipe(recipe).config, images_per_s)}


def test_needs_are_rates_over_what_a_core_and_the_disk_give(monkeypatch, recipe):
    measured = Speed(1000.0, 80_000.0, 500.0, "C")
    found = findings(monkeypatch, recipe, 3500.0, measured)
    assert "3.5 for 3,500 images/s" in found["cores"].text
    assert "280 MB/s needed; the disk gives 500 MB/s" in found["reading"].text
    assert (found["cores"].state, found["reading"].state) == ("ok", "ok")


def test_too_few_cores_and_a_slow_disk_are_wrong_and_have_a_remedy(monkeypatch, recipe):
    found = findings(monkeypatch, recipe, 5000.0, Speed(1000.0, 80_000.0, 100.0, "C"))
    for name in ("cores", "reading"):
        assert found[name].state == "wrong"
        assert found[name].remedy


def test_what_the_run_logged_last_is_taken_and_without_it_the_option_is_named(monkeypatch, recipe):
    measured = Speed(1000.0, 1000.0, None, "C")
    with pytest.raises(ConfigError, match="--images-per-s N"):
        findings(monkeypatch, recipe, None, measured)
    folder = load_recipe(recipe).config.folder
    folder.mkdir(parents=True)
    for step, value in ((1, 7.0), (2, 900.0)):
        line = {"step": step, "time": 0, "attempt": 1, "values": {"speed/images_per_s": value}}
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
    found = findings(monkeypatch, recipe, None, measured)
    assert "0.9 for 900 images/s (logged by r)" in found["cores"].text
    assert "not measured" in found["reading"].text  # the shards are in a store


def test_the_command_measures_the_real_loader(monkeypatch, recipe, capsys):
    monkeypatch.setattr(speed, "_MEASURE_S", 0.1)
    main(["doctor", "--data", str(recipe), "--images-per-s", "10", "--json"])
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["cores"]["state"] == found["reading"]["state"] == "ok"
    assert "images/s of" in found["one core"]["text"]


def test_a_rate_without_a_recipe_is_refused(capsys):
    assert main(["doctor", "--images-per-s", "10"]) == 2
    assert "no effect without --data" in capsys.readouterr().err
