"""From TOML files and overrides to one checked config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.config.recipe_text import write_recipe
from vitscale.config.load import Recipe, load_recipe
from vitscale.config.source import Source
from vitscale.errors import ConfigError
from vitscale.units import Duration


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def complaint(path, *overrides):
    with pytest.raises(ConfigError) as raised:
        load_recipe(path, overrides)
    return str(raised.value)


def test_a_minimal_recipe_gets_the_defaults(tmp_path):
    config = load_recipe(write_recipe(tmp_path / "r.toml")).config
    assert config.model.variant == "B/16"
    assert config.train.duration == Duration(10, "epochs")
    assert config.optim.betas == (0.9, 0.999)
    assert config.init is None


def test_bases_lie_under_the_recipe_and_the_last_base_wins(tmp_path):
    (tmp_path / "below").mkdir()
    write_recipe(tmp_path / "below/ground.toml", optim__lr=0.5, train__batch=32)
    (tmp_path / "below/a.toml").write_text('base = ["ground.toml"]\n[optim]\nlr = 0.25\n')
    (tmp_path / "below/b.toml").write_text(
        "[train]\nmicro_batch = 4\n[optim]\nbetas = [0.1, 0.2]\n"
    )
    path = write_recipe(
        tmp_path / "r.toml", base=["below/a.toml", "below/b.toml"], model__variant="S/16"
    )
    config = load_recipe(path).config
    assert (config.optim.lr, config.train.batch, config.train.micro_batch) == (0.25, 32, 4)
    assert config.optim.betas == (0.1, 0.2)
    assert config.model.variant == "S/16"


def test_a_circle_of_bases_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('base = ["b.toml"]\n')
    (tmp_path / "b.toml").write_text('base = ["a.toml"]\n')
    assert "own base" in complaint("a.toml")


def test_every_key_knows_where_it_was_set(tmp_path):
    write_recipe(tmp_path / "base.toml")
    (tmp_path / "r.toml").write_text('base = ["base.toml"]\n[optim]\nlr = 0.5\n')
    sources = load_recipe("r.toml", ["train.batch=128"]).sources
    assert sources["optim.lr"] == "r.toml"
    assert sources["train.batch"] == "override"
    assert Path(sources["data.train"]).name == "base.toml"
    assert "model.variant" not in sources


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.batch=128", "train", "batch", 128),
        ("optim.lr=1e-3", "optim", "lr", 1e-3),
        ("data.flip=false", "data", "flip", False),
        ("optim.betas=[0.8, 0.95]", "optim", "betas", (0.8, 0.95)),
        ("optim.clip_norm=off", "optim", "clip_norm", "off"),
        ("model.variant=L/14", "model", "variant", "L/14"),
        ("model.image_px=[224, 448]", "model", "image_px", (224, 448)),
        ("optim.warmup=5%", "optim", "warmup", Duration(5, "%")),
        ('run.name="b=c"', "run", "name", None),
    ],
)
def test_overrides_are_values_of_the_right_type(tmp_path, override, section, key, value):
    path = write_recipe(tmp_path / "r.toml")
    if override.startswith("run.name"):
        assert "run.name" in complaint(path, override)
        return
    assert getattr(getattr(load_recipe(path, [override]).config, section), key) == value


@pytest.mark.parametrize("text", ["train.batch", "=4", " =4"])
def test_an_override_without_a_key_and_a_value_is_refused(tmp_path, text):
    assert "section.key=value" in complaint(write_recipe(tmp_path / "r.toml"), text)


def test_all_problems_are_listed_at_once_each_with_key_and_source(tmp_path):
    path = write_recipe(tmp_path / "r.toml", train__batch=None, optim__lrr=0.1, data__lanes=0)
    text = complaint(path, "run.seed=-1", "ops.norms=torch")
    assert "the recipe has 5 problems" in text
    assert "train.batch: is required and was not given" in text
    assert f"optim.lrr: unknown key; did you mean 'lr'? [{path}]" in text
    assert "ops.norms: unknown key; did you mean 'norm'? [override]" in text
    assert "data.lanes" in text and "given: 0" in text
    assert "run.seed" in text and "given: -1" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train__batch": "64"}, "train.batch"),
        ({"train__batch": 64.5}, "train.batch"),
        ({"train__batch": True}, "train.batch"),
        ({"data__flip": 1}, "data.flip"),
        ({"train__duration": "10"}, "is not a duration"),
        ({"train__duration": 10}, "text with a unit"),
        ({"model__variant": "X/16"}, "no preset 'X'"),
        ({"model__variant": "B16"}, "is not a variant"),
        ({"run__name": "a/b"}, "run.name"),
        ({"engine__zero_stage": 4}, "engine.zero_stage"),
        ({"guard__loss_spike": "on"}, "guard.loss_spike"),
        ({"guard__loss_spike": 0.0}, "guard.loss_spike"),
        ({"guard__skips": 0}, "guard.skips"),
        ({"data__mixup": -1.0}, "data.mixup"),
        ({"train__objective": "softmaxx"}, "train.objective"),
        ({"tracking__mlflow": "on"}, 'neither "auto", "off" nor a URI'),
    ],
)
def test_values_are_never_coerced(tmp_path, change, words):
    assert words in complaint(write_recipe(tmp_path / "r.toml", **change))


def test_an_unknown_table_gets_the_nearest_name(tmp_path):
    path = write_recipe(tmp_path / "r.toml", optm__lr=0.1)
    assert "did you mean 'optim'?" in complaint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine__kind": "local", "engine__zero_stage": 1}, "engine.zero_stage: has no effect"),
        ({"engine__zero_hpz": 8}, "engine.zero_hpz: has no effect unless the weights are cut"),
        (
            {"engine__loss_scale": 1024},
            'engine.loss_scale: has no effect with engine.precision = "bf16"',
        ),
        ({"engine__precision": "fp16", "engine__loss_scale": 0}, "engine.loss_scale"),
        (
            {"engine__recompute": "offload", "engine__device": "cpu"},
            "offload has no effect on a CPU",
        ),
        (
            {"engine__offload": "optimizer", "engine__device": "cpu"},
            "engine.offload: has no effect",
        ),
        (
            {"engine__offload": "optimizer", "engine__kind": "local"},
            "engine.offload: has no effect",
        ),
        (
            {"engine__offload": "optimizer", "engine__zero_stage": 0},
            "engine.offload: has no effect",
        ),
        ({"engine__offload": "optimizer+parameters"}, "engine.offload: parameters are whole"),
        ({"engine__offload": "optimizer", "optim__optimizer": "muon"}, "use adamw or sgd"),
        ({"engine__offload": "nvme"}, "engine.offload"),
        ({"engine__offload_folder": "/disk"}, "engine.offload_folder: has no effect unless"),
        (
            {"engine__offload": "optimizer", "engine__offload_folder": "/disk"},
            "engine.offload_folder: what lower stages keep cannot move",
        ),
        ({"optim__momentum": 0.8}, "optim.momentum: has no effect"),
        ({"optim__optimizer": "sgd", "optim__eps": 1e-6}, "optim.eps: has no effect"),
        ({"data__crop": "center", "data__crop_area": [0.1, 1.0]}, "data.crop_area: has no effect"),
        ({"data__crop_area": [0.9, 0.1]}, "data.crop_area"),
        ({"guard__window": 64}, "guard.window: has no effect"),
        ({"data__mixup": 0.4, "data__cutmix_share": 0.5}, "data.cutmix_share: has no effect"),
        ({"data__mixup": 0.4, "train__micro_batch": 1}, "data.mixup: has no effect"),
        ({"data__cutmix": 1.0, "train__micro_batch": 1}, "data.cutmix: has no effect"),
        ({"ops__norm": "apex", "engine__device": "cpu"}, "ops.norm: apex has CUDA kernels only"),
        ({"ops__optimizer": "apex", "engine__device": "cpu"}, "ops.optimizer: apex has CUDA"),
        (
            {"ops__optimizer": "apex", "engine__offload": "optimizer"},
            'ops.optimizer: apex has CUDA kernels only, and engine.offload = "optimizer"',
        ),
        ({"ops__optimizer": "apex", "optim__optimizer": "lamb"}, "ops.optimizer: has no effect"),
        (
            {"ops__optimizer": "apex", "optim__moment_dtype": "bf16"},
            "which neither torch's nor apex's AdamW knows: remove it",
        ),
        ({"ops__loss": "torch"}, "ops.loss: has no effect with train.objective"),
        ({"optim__optimizer": "muon", "ops__optimizer": "loop"}, "ops.optimizer: has no effect"),
        ({"optim__moment_dtype": "bf16", "ops__optimizer": "fused"}, "ops.optimizer: has no"),
        ({"ops__residual": "triton", "ops__norm": "torch"}, 'ops.norm cannot be "torch"'),
        ({"ops__block": "compile", "engine__zero_stage": 3}, "ops.block: ZeRO-3 gathers"),
        ({"ops__block": "compile", "engine__recompute": "mlp"}, "torch.compile has joined"),
        ({"ops__block": "compile", "ops__norm": "apex"}, "apex's norm silently becomes torch's"),
        ({"train__duration": "5%"}, "train.duration: 5% of what?"),
        ({"checkpoint__every": "30 min"}, "checkpoint.every: 30 min is a time"),
        ({"train__micro_batch": 7}, "train.micro_batch: batch 64 is no multiple of micro_batch 7"),
        ({"evaluate__every": "1 epoch"}, "evaluate.every: there is no data.held_out"),
        ({"model__image_px": 225}, "1 px of the image height belong to no patch"),
        ({"model__image_px": 8}, "smaller than a patch"),
        ({"model__variant": "B/16s17"}, "stride is larger than the patch"),
        ({"model__heads": 7}, "width must be a multiple of heads"),
    ],
)
def test_settings_that_contradict_or_cannot_take_effect_are_errors(tmp_path, change, words):
    assert words in complaint(write_recipe(tmp_path / "r.toml", **change))


def test_paths_become_absolute_from_the_working_folder(tmp_path):
    path = write_recipe(tmp_path / "r.toml", init__weights="w", data__held_out="/abs/h")
    config = load_recipe(path).config
    assert config.data.train == (Source(shards=str(tmp_path / "data")),)
    assert config.data.held_out == Source(shards="/abs/h")
    assert config.run.home == str(tmp_path / "runs")
    assert config.folder == tmp_path / "runs" / "r"
    assert config.init is not None
    assert config.init.weights == str(tmp_path / "w")


def test_a_saved_recipe_is_read_back_equal(tmp_path):
    path = write_recipe(tmp_path / "r.toml", init__weights="w", optim__warmup="5%")
    recipe = load_recipe(
        path, ["optim.clip_norm=off", "model.image_px=[32, 64]", "model.variant=mu/8"]
    )
    again = Recipe.from_json(recipe.to_json())
    assert again.config == recipe.config
    assert again.sources == recipe.sources
    assert again.to_json() == recipe.to_json()


def test_another_schema_version_is_refused(tmp_path):
    record = json.loads(load_recipe(write_recipe(tmp_path / "r.toml")).to_json())
    with pytest.raises(ConfigError, match="another schema version"):
        Recipe.from_json(json.dumps(record | {"schema": 0}))


def test_a_missing_file_gets_the_nearest_name(tmp_path):
    write_recipe(tmp_path / "tiny.toml")
    assert "Did you mean tiny.toml?" in complaint("tinny.toml")


@pytest.mark.parametrize("text", ["[run\n", "run = 1\nrun = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, text):
    (tmp_path / "r.toml").write_text(text)
    assert "r.toml: cannot be read as TOML" in complaint("r.toml")


def test_the_config_cannot_be_changed(tmp_path):
    config = load_recipe(write_recipe(tmp_path / "r.toml")).config
    with pytest.raises(ValueError, match="frozen"):
        config.train.batch = 1
