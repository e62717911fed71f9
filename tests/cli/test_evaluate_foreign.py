"""evaluate on weights of others: imported on the way, or refused with a remedy that exists."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.evaluate.made_runs import make_downstream
from vitscale.cli.main import main

WIDTH, PATCH, SIDE = 64, 8, 16
KNN = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "knn"\nk = [3]\n'


def timm_tensors(width=WIDTH):
    """A ViT of one block in timm's names, made by hand."""
    draws = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=draws) * 0.2

    tokens = (SIDE // PATCH) ** 2 + 1
    sizes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc1.bias": (4 * width,),
        "blocks.0.mlp.fc2.weight": (width, 4 * width),
        "blocks.0.mlp.fc2.bias": (width,),
        "head.weight": (5, width),
        "head.bias": (5,),
    }
    norms = {f"{place}.weight": (width,) for place in ("blocks.0.norm1", "blocks.0.norm2", "norm")}
    norms |= {name.replace("weight", "bias"): size for name, size in norms.items()}
    return {name: noise(*size) for name, size in (sizes | norms).items()}


@pytest.fixture
def suite(tmp_path):
    make_downstream(tmp_path / "down")
    (tmp_path / "s.toml").write_text(KNN.format(tmp_path / "down"))
    return ["--suite", str(tmp_path / "s.toml"), "--device", "cpu", "--workers", "1"]


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "odd name (é).safetensors"])
def test_a_bare_state_dict_of_timm_is_scored_once_its_pixels_are_told(
    name, suite, tmp_path, capsys
):
    file = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(timm_tensors(), file)
    assert main(["evaluate", str(file), *suite]) == 2
    assert "--pixels half" in capsys.readouterr().err
    assert not file.with_name(f"{name}.transfer").exists()
    assert main(["evaluate", str(file), *suite, "--pixels", "half", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["weights"] == name
    assert record["rows"][0]["images"] > 0


def test_other_pixels_are_other_weights(suite, tmp_path, capsys):
    torch.save(timm_tensors(), tmp_path / "w.pth")
    found = []
    for pixels in ("half", "imagenet", "0.5,0.5,0.5,0.5,0.5,0.5"):
        words = ["evaluate", str(tmp_path / "w.pth"), *suite, "--pixels", pixels, "--json"]
        assert main(words) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert len({one["identity"] for one in found}) >= 2
    assert found[0]["identity"] != found[1]["identity"]
    assert np.isclose(found[0]["rows"][0]["value"], found[2]["rows"][0]["value"])


def test_what_else_must_be_told_is_said_to_the_import(suite, tmp_path, capsys):
    torch.save(timm_tensors(width=96), tmp_path / "w.pth")
    words = ["evaluate", str(tmp_path / "w.pth"), *suite, "--pixels", "half"]
    assert main(words) in (2, 5)
    told = capsys.readouterr().err
    assert "--heads" in told
    assert "vitscale weights import" in told


def test_pixels_of_weights_of_ours_are_known(suite, tmp_path, capsys):
    source, ours = tmp_path / "w.pth", tmp_path / "ours.safetensors"
    torch.save(timm_tensors(), source)
    assert main(["weights", "import", str(source), "--to", str(ours), "--pixels", "half"]) == 0
    assert main(["evaluate", str(ours), *suite, "--pixels", "half"]) == 2
    assert "--pixels has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "said"), [("nosuch", "no such file"), ("w.txt", ".npz")])
def test_what_cannot_be_evaluated_is_told_apart(name, said, suite, tmp_path, capsys):
    (tmp_path / "w.txt").write_text("words")
    assert main(["evaluate", str(tmp_path / name), *suite]) == 5
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["0", "-5", "many"])
def test_a_batch_is_a_number_of_images(batch, suite, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), *suite, "--batch", batch]) == 2
    assert f"--batch: '{batch}' is not a whole number" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_a_matter_of_the_folder(suite, tmp_path, capsys):
    source, ours = tmp_path / "w.pth", tmp_path / "ours.safetensors"
    torch.save(timm_tensors(), source)
    assert main(["weights", "import", str(source), "--to", str(ours), "--pixels", "half"]) == 0
    assert main(["evaluate", str(ours), *suite, "--folder", str(source / "below")]) == 2
    assert "results cannot be written there: Not a directory" in capsys.readouterr().err
