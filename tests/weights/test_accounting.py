"""Every tensor is accounted for, and no file is trusted."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from tests.weights.models import command, images_of, vit_of
from tests.weights.test_npz import our_file
from vitscale.checkpoint.weights import load_weights
from vitscale.config.model import Shape
from vitscale.model.build import build_model, load_pretrained

SHAPE = Shape(64, 2, 128, 4, 4, 4, (16, 16), classes=3)


def timm_tensors(shape=SHAPE, seed=0):
    """A state dict by timm's names, written out here by hand."""
    generator = torch.Generator().manual_seed(seed)
    d, f, p = shape.width, shape.mlp, shape.patch
    sizes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, shape.patches + 1, d),
        "patch_embed.proj.weight": (d, 3, p, p),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "head.weight": (shape.classes, d),
        "head.bias": (shape.classes,),
    }
    for n in range(shape.depth):
        layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (f, d), "mlp.fc2": (d, f)}
        for name, size in layers.items():
            sizes[f"blocks.{n}.{name}.weight"] = size
            sizes[f"blocks.{n}.{name}.bias"] = size[:1]
        for name in ("norm1", "norm2"):
            sizes[f"blocks.{n}.{name}.weight"] = sizes[f"blocks.{n}.{name}.bias"] = (d,)
    return {n: torch.randn(size, generator=generator) * 0.1 for n, size in sizes.items()}


def attempt(tmp_path, tensors, *words, pixels="half"):
    """The exit code of an import, and the file it made."""
    source, to = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file({n: t.contiguous() for n, t in tensors.items()}, source)
    given = ("--pixels", pixels) if pixels else ()
    return command("import", source, "--to", to, "--heads", 4, *given, *words), to


def test_a_missing_tensor_is_named_and_nothing_is_written(tmp_path, capsys):
    tensors = timm_tensors()
    del tensors["blocks.1.mlp.fc2.bias"]
    code, file = attempt(tmp_path, tensors, "--allow-unexpected")
    assert code == 5 and not file.exists()
    assert "lacks blocks.1.mlp.fc2.bias" in capsys.readouterr().err


def test_an_unexpected_tensor_is_an_error_unless_allowed_and_then_it_is_listed(tmp_path, capsys):
    tensors = timm_tensors() | {"fc_norm.weight": torch.ones(64), "blocks.0.extra": torch.ones(1)}
    code, file = attempt(tmp_path, tensors)
    told = capsys.readouterr().err
    assert code == 5 and not file.exists()
    assert "blocks.0.extra, fc_norm.weight" in told
    assert "a norm after pooling; ours is before it" in told
    code, file = attempt(tmp_path, tensors, "--allow-unexpected", "--json")
    assert code == 0
    told = json.loads(capsys.readouterr().out)["told"]
    assert told["unexpected"] == ["blocks.0.extra", "fc_norm.weight"]


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("blocks.0.attn.proj.weight", (64, 32), "[64, 32] for [64, 64]"),
        ("blocks.1.mlp.fc1.bias", (127,), "blocks.1.mlp.fc1.bias makes"),
        ("pos_embed", (1, 18, 64), "18 positions are no grid"),
        ("patch_embed.proj.weight", (64, 1, 4, 4), "three channels"),
        ("head.bias", (4,), "[4] for [3]"),
    ],
)
def test_another_size_is_refused_with_both(tmp_path, capsys, name, size, words):
    code, _ = attempt(tmp_path, timm_tensors() | {name: torch.zeros(size)})
    assert code == 5
    assert words in capsys.readouterr().err


def test_what_was_resampled_is_listed(tmp_path, capsys):
    code, file = attempt(tmp_path, timm_tensors(), "--image-px", "24x16", "--stride", "2")
    assert code == 0
    line = "resampled   positions from grid (4, 4) to (11, 7), timm-bicubic"
    assert line in capsys.readouterr().out
    assert load_weights(file).shape.stride == 2
    code, _ = attempt(tmp_path, timm_tensors())
    assert code == 2 and "the file exists" in capsys.readouterr().err
    file.unlink()
    code, _ = attempt(tmp_path, timm_tensors(), "--resample", "bv-linear")
    assert code == 2 and "nothing is resampled" in capsys.readouterr().err


def test_another_patch_is_the_flexible_resize(tmp_path, capsys):
    code, file = attempt(tmp_path, timm_tensors(), "--patch", "8", "--image-px", "32")
    assert code == 0
    shape = load_weights(file).shape
    assert (shape.patch, shape.stride, shape.grid) == (8, 8, (4, 4))
    assert "patch_embed.projection.weight from 4 to 8 px" in capsys.readouterr().out


def test_the_source_may_be_other_than_square(tmp_path, capsys):
    tensors = timm_tensors() | {"pos_embed": torch.randn(1, 1 + 2 * 6, 64)}
    assert attempt(tmp_path, tensors)[0] == 5
    assert "--source-px" in capsys.readouterr().err
    code, file = attempt(tmp_path, tensors, "--source-px", "8x24")
    assert code == 0
    assert load_weights(file).shape.grid == (2, 6)


def test_the_head_is_dropped_on_request_and_a_zero_one_stands_in(tmp_path, capsys):
    code, file = attempt(tmp_path, timm_tensors(), "--drop-head", "--classes", "9")
    assert code == 0
    weights = load_weights(file)
    assert weights.headless and weights.shape.classes == 9
    assert not weights.tensors["head.weight"].any()
    assert "not loaded  head.weight" in capsys.readouterr().out
    (tmp_path / "ours.safetensors").unlink()
    assert attempt(tmp_path, timm_tensors(), "--classes", "9")[0] == 2
    assert command("export", our_file(tmp_path / "a.safetensors", SHAPE), "--to", tmp_path / "t",
                   "--format", "timm", "--drop-head") == 0  # fmt: skip
    assert json.loads((tmp_path / "t" / "config.json").read_text())["num_classes"] == 0


def test_heads_come_from_presets_or_are_sixty_four_wide_or_are_asked_for(tmp_path, capsys):
    source, to = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    save_file(timm_tensors(), source)
    assert command("import", source, "--to", to, "--pixels", "half") == 0
    assert load_weights(to).shape.heads == 1
    save_file(timm_tensors(Shape(48, 1, 96, 4, 4, 4, (16, 16), classes=3)), source)
    assert command("import", source, "--to", tmp_path / "b.safetensors", "--pixels", "half") == 5
    assert "--heads" in capsys.readouterr().err
    save_file(timm_tensors(Shape(32, 1, 128, 2, 4, 4, (16, 16), classes=3)), source)  # preset mu
    assert command("import", source, "--to", tmp_path / "b.safetensors", "--pixels", "half") == 0
    assert load_weights(tmp_path / "b.safetensors").shape.heads == 2


@pytest.mark.parametrize("nest", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("wrapper", ["", "module.", "backbone."])
def test_a_pickle_of_tensors_is_read_from_its_nest(tmp_path, nest, wrapper):
    tensors = timm_tensors()
    named = {wrapper + name: tensor.half() for name, tensor in tensors.items()}
    torch.save({nest: named, "epoch": 3}, tmp_path / "theirs.pth")
    to = tmp_path / "ours.safetensors"
    words = ("--heads", 4, "--pixels", "half")
    assert command("import", tmp_path / "theirs.pth", "--to", to, *words) == 0
    found = load_weights(to).tensors["head.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, tensors["head.weight"].half().float())


class Malice:
    """Unpickled freely it writes a file."""

    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": timm_tensors(), "more": Malice()}, "theirs.pth")
    assert command("import", "theirs.pth", "--to", "ours.safetensors") == 5
    assert "would run code" in capsys.readouterr().err
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malice()))
    assert command("import", "bare.pt", "--to", "ours.safetensors") == 5
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, capsys, ending, share):
    import numpy as np

    file = tmp_path / f"theirs.{ending}"
    tensors = timm_tensors()
    if ending == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif ending == "pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert command("import", file, "--to", tmp_path / "ours.safetensors") == 5
    assert f"theirs.{ending}" in capsys.readouterr().err


def dino3_tensors():
    """The names of facebookresearch/dinov3, its stored periods and masked key biases."""
    made = {n: t for n, t in timm_tensors().items() if not n.startswith(("head.", "pos_embed"))}
    made |= {
        "storage_tokens": torch.randn(1, 4, 64),
        "mask_token": torch.zeros(1, 64),
        "rope_embed.periods": 100.0 ** (torch.arange(4) / 4).bfloat16(),
    }
    for n in range(2):
        made[f"blocks.{n}.ls1.gamma"] = torch.randn(64)
        made[f"blocks.{n}.ls2.gamma"] = torch.randn(64)
        mask = torch.ones(192)
        mask[64:128] = 0
        made[f"blocks.{n}.attn.qkv.bias_mask"] = mask
    return made


def test_the_files_of_dinov3_itself_are_read_with_their_key_bias_masked(tmp_path, capsys):
    code, file = attempt(tmp_path, dino3_tensors(), pixels=None)
    assert code == 0
    weights = load_weights(file)
    shape = weights.shape
    assert (shape.positions, shape.registers, shape.norm_eps) == ("rope", 4, 1e-5)
    assert (shape.layer_scale is not None) and shape.image == (224, 224)
    assert weights.preprocessing.mean[0] == 0.485
    bias = weights.tensors["blocks.1.qkv.bias"]
    assert not bias[64:128].any() and bias[:64].all() and bias[128:].all()
    told = capsys.readouterr().out
    assert "ignored     rope_embed.periods" in told and "ignored     mask_token" in told


def test_periods_of_another_base_are_refused(tmp_path, capsys):
    tensors = dino3_tensors() | {"rope_embed.periods": 50.0 ** (torch.arange(4) / 4)}
    assert attempt(tmp_path, tensors)[0] == 5
    assert "rope_embed.periods" in capsys.readouterr().err
    assert attempt(tmp_path, tensors, "--rope-base", "50")[0] == 0


def test_the_files_of_dinov2_itself_are_read_in_chunks_and_gated(tmp_path):
    """Blocks numbered in chunks, one matrix for gate and value, registers without positions."""
    made = {}
    for name, tensor in timm_tensors().items():
        name = name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1.")
        if ".fc1." in name:
            tensor = torch.cat([tensor, tensor + 1])
        made[name.replace("fc1", "w12").replace("fc2", "w3")] = tensor
    made |= {"register_tokens": torch.randn(1, 2, 64), "mask_token": torch.zeros(1, 64)}
    del made["head.weight"], made["head.bias"]
    code, file = attempt(tmp_path, made, pixels=None)
    assert code == 0
    weights = load_weights(file)
    assert (weights.shape.activation, weights.shape.mlp) == ("swiglu", 128)
    assert weights.shape.registers == 2 and weights.headless
    plain = timm_tensors()
    assert torch.equal(
        weights.tensors["blocks.1.fc1.weight"][:128], plain["blocks.1.mlp.fc1.weight"]
    )
    assert torch.equal(weights.tensors["positions"], plain["pos_embed"])


def test_inspect_tells_format_shape_and_pixels_of_anything(tmp_path, capsys):
    source = tmp_path / "theirs.safetensors"
    save_file({n: t.bfloat16() for n, t in timm_tensors().items()}, source)
    assert command("inspect", source, "--heads", 4, "--json", "--tensors") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["preprocessing"], told["dtypes"]) == ("timm", None, ["bfloat16"])
    assert told["shape"]["depth"] == 2 and told["tensors"]["cls_token"] == [1, 1, 64]
    ours = our_file(tmp_path / "ours.safetensors", SHAPE)
    assert command("inspect", ours) == 0
    text = capsys.readouterr().out
    assert "format         vitscale" in text and "mean [0.5, 0.5, 0.5]" in text.replace(
        "(", "["
    ).replace(")", "]")
    assert command("inspect", tmp_path / "none.npz") == 5


def test_a_smaller_stride_goes_through_import_and_pretraining(tmp_path):
    """Positions of a plain ViT resampled to the grid of overlapping patches: by import, and by a run's own loading."""
    code, file = attempt(tmp_path, timm_tensors(), "--stride", "2", "--resample", "bv-linear")
    assert code == 0
    overlapping = vit_of(file)
    file.unlink()
    assert attempt(tmp_path, timm_tensors())[0] == 0
    plain = load_weights(file)
    model = build_model(overlapping.shape, seed=0)
    load_pretrained(model, plain.tensors, plain.shape)
    assert torch.equal(model.positions, overlapping.positions)
    assert images_of(overlapping).shape[-1] == 16


def test_the_room_is_entered_only_when_a_command_runs():
    code = (
        "import sys; import vitscale.cli.weights as w; import argparse\n"
        "w.add_arguments(argparse.ArgumentParser()); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
