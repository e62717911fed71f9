"""Weights in one file, from shards of any stage, as other tools read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.ranks import ROOT, run_ranks
from vitscale.checkpoint.weights import export_weights, load_weights
from vitscale.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.dist


VARIANTS = {
    "": {},
    "frozen.": {"optim": {"optimizer": "adafactor", "freeze": ("cls", r"blocks\.0\..*")}},
}


@pytest.fixture(scope="module")
def commits(tmp_path_factory):
    """Commits of two ranks under each stage and plain torch, with the truth beside them."""
    folder = tmp_path_factory.mktemp("commits")
    stages = [None, 0, 1, 2, 3]
    run_ranks(2, "tests.engine.elastic:write", stages, "fp32", str(folder), VARIANTS)
    return folder


CASES = ["plain-2-fp32", "0-2-fp32", "1-2-fp32", "2-2-fp32", "3-2-fp32"]


def commit_of(folder: Path, case: str) -> tuple[Path, dict[str, torch.Tensor]]:
    record = json.loads((folder / case / "losses.json").read_text())
    return Path(record["path"]), torch.load(folder / case / "truth.pt", weights_only=True)


@pytest.mark.parametrize("which", ["raw", "ema"])
@pytest.mark.parametrize("case", CASES)
def test_safetensors_itself_reads_the_weights_the_engine_held(commits, tmp_path, case, which):
    path, truth = commit_of(commits, case)
    told = export_weights(path, tmp_path / "out.safetensors", which, "fp32")
    kind = {"raw": "weight", "ema": "ema"}[which]
    read = load_file(tmp_path / "out.safetensors")
    assert {f"{kind}/{n}" for n in read} == {key for key in truth if key.startswith(f"{kind}/")}
    assert all(torch.equal(t.flatten(), truth[f"{kind}/{n}"]) for n, t in read.items())
    assert told["parameters"] == sum(t.numel() for t in read.values())
    back = load_weights(tmp_path / "out.safetensors", which)
    assert all(torch.equal(back.tensors[n], t) for n, t in read.items())
    assert back.shape.as_json() == load_weights(path).shape.as_json()


def test_the_average_of_the_same_steps_differs_from_the_weights(commits):
    _, truth = commit_of(commits, "1-2-fp32")
    assert not torch.equal(truth["ema/head.weight"], truth["weight/head.weight"])


def test_bf16_is_the_rounded_weights(commits, tmp_path):
    path, truth = commit_of(commits, "3-2-fp32")
    export_weights(path, tmp_path / "out.safetensors", "raw", "bf16")
    for name, tensor in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(tensor.flatten(), truth[f"weight/{name}"].bfloat16())


def test_the_file_says_what_it_is(commits, tmp_path):
    path, _ = commit_of(commits, "2-2-fp32")
    export_weights(path, tmp_path / "out.safetensors", "raw", "fp32")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["vitscale"])
    assert record["step"] == 2 and record["weights"] == "raw" and record["shape"]["width"] == 32


def test_what_was_averaged_is_not_taken_for_the_weights_and_a_foreign_file_is_refused(
    commits, tmp_path
):
    path, truth = commit_of(commits, "2-2-fp32")
    export_weights(path, tmp_path / "ema.safetensors", "ema", "fp32")
    with pytest.raises(CheckpointError, match="holds the ema weights, not raw"):
        load_weights(tmp_path / "ema.safetensors")
    from safetensors.torch import save_file

    save_file({"w": truth["steps"]}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by vitscale"):
        load_weights(tmp_path / "foreign.safetensors")
    torch.save(truth, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="a pickle could run code"):
        load_weights(tmp_path / "foreign.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_weights(tmp_path / "junk.safetensors")


def test_an_existing_file_is_never_replaced_and_another_ending_is_refused(commits, tmp_path):
    path, _ = commit_of(commits, "2-2-fp32")
    (tmp_path / "out.safetensors").write_text("mine")
    for name, words in (("out.safetensors", "exists"), ("out.pt", "safetensors")):
        with pytest.raises(ConfigError, match=words):
            export_weights(path, tmp_path / name, "raw", "fp32")
    assert (tmp_path / "out.safetensors").read_text() == "mine"


def test_export_loads_no_deepspeed(commits, tmp_path):
    path, _ = commit_of(commits, "3-2-fp32")
    code = (
        "import sys\n"
        "from vitscale.cli.main import main\n"
        f"assert main(['checkpoint', 'export', {str(path)!r}, '--to', 'out.safetensors']) == 0\n"
        "sys.exit('deepspeed' in sys.modules)"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert len(load_file(tmp_path / "out.safetensors")) > 20


@pytest.mark.parametrize(
    "case", ["1-2-fp32", "2-2-fp32", "3-2-fp32", "frozen.2-2-fp32", "frozen.3-2-fp32"]
)
def test_deepspeeds_own_tool_reads_our_commits(commits, tmp_path, case):
    path, truth = commit_of(commits, case)
    code = (
        "import torch\n"
        "from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint as read\n"
        f"state = read({str(path)!r}, tag='deepspeed')\n"
        "torch.save({n: t.clone() for n, t in state.items()}, 'theirs.pt')"
    )
    env = {"DS_ACCELERATOR": "cpu", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    theirs = torch.load(tmp_path / "theirs.pt", weights_only=True)
    weights = {key[7:]: t for key, t in truth.items() if key.startswith(("weight/", "frozen/"))}
    assert theirs.keys() == weights.keys()
    assert all(torch.equal(t.flatten(), weights[n].flatten()) for n, t in theirs.items())
