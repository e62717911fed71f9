"""Runs with products in fp8, by torch on a CPU: near bf16, exact at resume, and their commits are anybody's."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_fp8 import SCALINGS, TORCHAO
from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.checkpoint.weights import load_weights
from vitscale.config import ops as ops_config
from vitscale.ops import choice
from vitscale.train.worker import run

pytestmark = TORCHAO
STEPS = 16
BF16 = (
    "engine.kind=local",
    "engine.precision=bf16",
    "engine.device=auto",
    "train.micro_batch=16",
    f"train.duration={STEPS} steps",
    "checkpoint.every=8 steps",
)
SETTINGS = {
    "bf16": BF16,
    **{name: (*BF16, "ops.block=compile", f"ops.linear=fp8-{name}") for name in SCALINGS},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", autouse=True)
def allowed():
    """A run takes fp8 here, for models of any width, without compiling them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops_config, "LEAST_FP8_WIDTH", 32)
        patch.setattr(choice, "fp8_obstacle", lambda linear, device: "")
        patch.setattr(torch, "compile", lambda function: function)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data):
    """The recipe of a finished run for each of `SETTINGS`."""
    home, found = tmp_path_factory.mktemp("unbroken"), {}
    for name, overrides in SETTINGS.items():
        found[name] = make_recipe(home / name, data, *overrides)
        assert go(found[name])["status"] == "finished"
    return found


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def losses(recipe):
    """Of every step, [STEPS]."""
    found = exact_losses(recipe.config.folder)
    return torch.tensor([found[step] for step in sorted(found)])


def apart(recipe, other):
    """How far the losses are from those of another run, relative to those, [STEPS]."""
    return (losses(recipe) - losses(other)).abs() / losses(other)


def stopped(recipe):
    """The same run, stopped at its first chance; the step."""
    recipe.config.folder.mkdir(parents=True)
    (recipe.config.folder / "STOP").touch()
    step = go(recipe)["step"]
    (recipe.config.folder / "STOP").unlink()
    assert 0 < step < STEPS
    return step


@pytest.mark.parametrize("scaling", SCALINGS)
def test_losses_of_fp8_follow_those_of_bf16(unbroken, scaling):
    off = apart(unbroken[scaling], unbroken["bf16"])
    assert 0 < off.mean() < 0.01
    assert off.max() < 0.03


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_stopped_run_in_fp8_goes_on_bit_for_bit(tmp_path, data, unbroken, caplog, scaling):
    parts = make_recipe(tmp_path, data, *SETTINGS[scaling])
    stopped(parts)
    with caplog.at_level("INFO"):
        assert go(parts)["status"] == "finished"
    assert f"fp8-{scaling} asked for; it has not run on a GPU yet" in caplog.text
    whole = unbroken[scaling]
    assert torch.equal(losses(parts), losses(whole))
    one, two = (load_weights(each.config.folder).tensors for each in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("first", "second"), [("rowwise", "bf16"), ("bf16", "rowwise")])
def test_a_commit_of_one_goes_on_in_the_other(tmp_path, data, unbroken, first, second):
    step = stopped(make_recipe(tmp_path, data, *SETTINGS[first]))
    changed = make_recipe(tmp_path, data, *SETTINGS[second])
    assert go(changed)["status"] == "finished"
    off = apart(changed, unbroken[first])
    assert off[:step].max() == 0
    assert off[step] > 0
    assert off.max() < 0.03


def test_a_commit_has_nothing_of_fp8_but_its_recipe(unbroken):
    """Names, shapes and precision are those of a run in bf16, so whoever reads one reads the other."""
    found = []
    for recipe in unbroken.values():
        [(_, folder)] = step_folders(recipe.config.folder / "checkpoints")[-1:]
        facts = read_manifest(folder).facts
        assert facts["config"]["ops"]["linear"] == recipe.config.ops.linear
        weights = load_weights(recipe.config.folder).tensors
        types = {name: (tensor.dtype, tensor.shape) for name, tensor in weights.items()}
        found.append((facts["shapes"], facts["precision"], facts["shape"], types))
    assert found[0] == found[1] == found[2]
