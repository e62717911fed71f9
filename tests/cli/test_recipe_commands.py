"""config, plan, train and finetune: what they print, and how they fail."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from tests.house.tree import ROOT
from vitscale.cli.main import main
from vitscale.config.load import Recipe, load_recipe


def out_of(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.fixture
def worker(monkeypatch):
    """Stands for the trainer: keeps requests, gives the reply it was told."""
    module = ModuleType("vitscale.train.worker")
    module.requests = []
    module.reply = {
        "status": "finished",
        "exit_code": 0,
        "message": "finished at step 7",
        "step": 7,
    }
    module.run = lambda request: module.requests.append(request) or module.reply
    monkeypatch.setitem(sys.modules, "vitscale.train.worker", module)
    monkeypatch.setattr("vitscale.train.worker", module, raising=False)
    return module


def test_plan_counts_steps_as_by_hand(recipe, capsys):
    found = json.loads(out_of(capsys, "plan", recipe, "--world", "2", "--json"))
    assert found["plan"]["accumulation"] == 4
    assert found["plan"]["total_steps"] == 47  # 3,000 images in batches of 64, rounded up
    assert found["plan"]["total_images"] == 47 * 64
    assert found["data"]["samples"] == 1000
    assert found["model"]["classes"] == 4
    # 17 tokens of width 32, MLP 128: patches, positions, CLS, block, norm, head
    block = 4 * 32 * 32 + 2 * 32 * 128 + 9 * 32 + 128
    assert found["model"]["parameters"] == (192 * 32 + 32) + 17 * 32 + 32 + block + 64 + 32 * 4 + 4


def test_plan_of_a_preset_needs_no_recipe(capsys):
    """ViT-B/16: 85.8 M parameters and 17.56 G multiply-adds without a classifier (timm's and open_clip's tables)."""
    found = json.loads(out_of(capsys, "plan", "--model", "B/16", "--image", "224", "--json"))
    assert found["parameters"] == 85_798_656
    assert found["forward_gflop"] == pytest.approx(35.13, rel=1e-3)
    held = found["activation_bytes_per_image"]
    assert [round(held[mode] / 1e6, 1) for mode in held] == [54.9, 34.5, 21.2, 3.6]
    assert "58" not in out_of(capsys, "plan", "--model", "Ti/16")


ABROAD = ("configs/pretrain/vit_l16_jft.toml", "--images", "300000000", "--classes", "18291")


def test_a_forecast_adds_up(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("plan", *ABROAD, "--world", "64", "--gpu", "H100")
    found = json.loads(out_of(capsys, *words, "--json"))
    plan, forecast = found["plan"], found["forecast"]
    assert forecast["images_per_s"] == pytest.approx(plan["batch"] / forecast["step_s"]["total"])
    assert forecast["gpu_hours"] == pytest.approx(64 * forecast["hours"])
    done = found["plan"]["train_flops"] / (forecast["hours"] * 3600 * 64 * 989e12)
    assert forecast["mfu"] == pytest.approx(done, rel=1e-3)
    assert "MFU" in out_of(capsys, *words)


def test_a_forecast_follows_what_was_measured(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ("plan", *ABROAD, "--world", "8", "--gpu", "A100-80G", "--measured", "2000", "--json")
    found = json.loads(out_of(capsys, *words))
    assert found["forecast"]["images_per_s"] == pytest.approx(2000)


def test_what_does_not_fit_is_refused_with_what_does(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    big = ("train.micro_batch=1024", "engine.recompute=none", "engine.zero_stage=0")
    words = ["plan", *ABROAD, "--gpu", "L4", "--json"]
    assert main([*words[:2], *big, *words[2:], "--world", "4"]) == 2
    error = json.loads(capsys.readouterr().err)
    advice = error["do"].removeprefix("Fits: ").removesuffix(".")
    assert main([*words[:2], *advice.split(), *words[2:], "--world", "4"]) == 0
    capsys.readouterr()
    huge = ["plan", "configs/pretrain/vit_22b14_jft4b.toml", *ABROAD[1:], "--gpu", "L4"]
    assert main([*huge, "--world", "8"]) == 2
    assert "32 ranks would do" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["plan", "--model", "Q/16"],
        ["plan", "--model", "B/16", "--image", "225"],
        ["plan", *ABROAD, "--gpu", "abacus"],
        ["plan", "--model", "B/16", "--world", "8"],
        ["plan", *ABROAD, "--image", "224"],
        ["plan", *ABROAD, "--per-node", "4"],
        ["plan", *ABROAD, "--gpu", "H100", "--per-node", "0"],
        ["plan", *ABROAD, "--measured", "100"],
        ["plan", *ABROAD, "--gpu", "H100", "--measured", "0"],
        ["plan", *ABROAD, "--gpu", "H100", "--measured", "1000000"],
    ],
)
def test_plans_that_cannot_be_made(words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(words) == 2
    assert capsys.readouterr().err


def test_plan_in_words(recipe, capsys):
    out = out_of(capsys, "plan", recipe, "train.batch=128")
    assert "128 = 8 a forward pass x 16 accumulated x 1 ranks" in out
    assert "1,000 images of 4 classes in 2 shards, 2.0 MiB" in out


def test_plan_of_data_that_are_elsewhere(recipe, capsys):
    out = out_of(capsys, "plan", recipe, "data.train=nowhere", "--images", "640", "--classes", "7")
    assert "640 images of 7 classes" in out
    assert "30 steps" in out


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["train.batc=64"], 2, "train.batc: unknown key; did you mean 'batch'? [override]"),
        (["trian.batch=64"], 2, "did you mean 'train'?"),
        (["--world", "7"], 2, "Choose a batch that is a multiple of 56"),
        (["data.train=absent"], 3, "absent: no such data folder"),
        (["--world", "0"], 2, "at least one rank"),
        (["--images", "5"], 2, "must be given together"),
        (["train.batch"], 2, "'train.batch' is not of the form section.key=value"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_message(recipe, capsys, words, code, complaint):
    assert main(["plan", recipe, *words]) == code
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("tiny", "Did you mean configs/debug/tiny.toml?"),
        ("pretrain/tiny.toml", "Did you mean configs/debug/tiny.toml?"),
        ("configs/debug/tini.toml", "Did you mean configs/debug/tiny.toml?"),
        ("absent.toml", "Give the path of a .toml file"),
    ],
)
def test_a_missing_recipe_gets_the_nearest_name(given, answer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "debug").mkdir(parents=True)
    for file in ("pyproject.toml", "configs/debug/tiny.toml"):
        (tmp_path / file).touch()
    assert main(["plan", given]) == 2
    assert f"{given}: no such recipe. {answer}" in capsys.readouterr().err


@pytest.mark.parametrize("variant", ["Q/16", "B16"])
def test_a_preset_that_cannot_be_is_said_in_a_sentence(variant, capsys):
    assert main(["plan", "--model", variant]) == 2
    said = capsys.readouterr().err
    assert f"'{variant}'" in said and "variant: " in said
    assert "validation error" not in said and "pydantic" not in said


def test_show_prints_toml_that_is_the_recipe_again(recipe, capsys, tmp_path):
    mixed = 'data.train=[{shards="/a", weight=2, classes=["x", "y"]}, "/b[:5%]"]'
    for overrides in (["optim.lr=0.5"], [mixed], ["data.crop=none"]):
        text = out_of(capsys, "config", "show", recipe, *overrides)
        (tmp_path / "again.toml").write_text(text)
        again = load_recipe(tmp_path / "again.toml").config
        assert again.model_dump() == load_recipe(recipe, overrides).config.model_dump()


def test_show_names_the_sources(recipe, capsys):
    lines = out_of(capsys, "config", "show", recipe, "optim.lr=0.5", "--sources").splitlines()
    found = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in lines if " = " in line}
    assert (found["lr"], found["micro_batch"], found["flip"]) == ("override", "r.toml", "default")


def test_show_as_json_can_be_read_back(recipe, capsys):
    text = out_of(capsys, "config", "show", recipe, "--json")
    assert Recipe.from_json(text).config == load_recipe(recipe).config


def test_show_hides_passwords(recipe, capsys):
    uri = "tracking.mlflow=https://eve:hunter22@host/"
    for more in ([], ["--json"]):
        assert "hunter22" not in out_of(capsys, "config", "show", recipe, uri, *more)


def test_diff_of_a_recipe_and_a_saved_config(recipe, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    saved = load_recipe(recipe, ["train.batch=128", "init.weights=/w"]).to_json()
    (tmp_path / "run" / "config.json").write_text(saved)
    lines = out_of(capsys, "config", "diff", recipe, "run").splitlines()
    assert lines == [
        "train.batch: 64 -> 128",
        'init.weights: null -> "/w"',
        'init.head: null -> "new"',
        'init.which: null -> "raw"',
        'init.resample: null -> "bv-linear"',
        'init.patches: null -> "same"',
    ]
    assert out_of(capsys, "config", "diff", recipe, recipe) == "no difference\n"
    found = json.loads(out_of(capsys, "config", "diff", recipe, "run/config.json", "--json"))
    assert found[0] == {"key": "train.batch", "left": 64, "right": 128}


def test_diff_with_a_folder_that_is_no_run(recipe, capsys):
    assert main(["config", "diff", recipe, "data"]) == 2
    assert "holds no config.json" in capsys.readouterr().err


def test_explain_gives_help_type_bounds_and_default(capsys):
    text = out_of(capsys, "config", "explain", "run.seed")
    assert "run.seed  (whole number, >= 0, < 4294967296; default 0)" in text
    assert "Decides initial weights" in text


def test_explain_an_unknown_key_names_the_nearest(capsys):
    assert main(["config", "explain", "optim.learning"]) == 2
    assert "optim.learning: there is no such key" in capsys.readouterr().err
    assert main(["config", "explain", "optin"]) == 2
    assert "Did you mean 'optim'?" in capsys.readouterr().err


def test_train_hands_the_resolved_recipe_to_the_worker(recipe, worker, capsys):
    assert main(["train", recipe, "--resume", "must", "train.batch=128"]) == 0
    (request,) = worker.requests
    assert request["resume"] == "must"
    assert Recipe.from_json(request["recipe"]).config.train.batch == 128
    assert capsys.readouterr().out == "finished at step 7\n"


def test_train_ends_with_the_exit_code_of_the_reply(recipe, worker, capsys):
    worker.reply = {"status": "failed", "exit_code": 3, "message": "bad shard", "step": None}
    assert main(["train", recipe]) == 3
    assert capsys.readouterr().err == "vitscale: bad shard\n"


def test_only_rank_0_speaks(recipe, worker, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", recipe]) == 0
    assert capsys.readouterr().out == ""


def test_finetune_sets_the_weights(recipe, worker):
    assert main(["finetune", recipe, "--from", "runs/a b"]) == 0
    config = Recipe.from_json(worker.requests[0]["recipe"]).config
    assert config.init is not None
    assert config.init.weights.endswith("/runs/a b")


def test_finetune_without_weights_is_a_usage_error(recipe, worker, capsys):
    assert main(["finetune", recipe]) == 2
    assert "Give --from CHECKPOINT" in capsys.readouterr().err
    assert worker.requests == []
