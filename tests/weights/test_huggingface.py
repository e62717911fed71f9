"""Models of transformers, built from configs with random weights, against ours on the same files; and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.weights.models import command, images_of, randomise, vit_of
from tests.weights.test_npz import our_file
from vitscale.checkpoint.weights import load_weights
from vitscale.config.model import Shape

BASE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 4}
MLP = {"intermediate_size": 80}
SIZED = BASE | {"image_size": 24, "num_labels": 7}
V2 = SIZED | {"mlp_ratio": 2}
V3 = BASE | MLP | {"image_size": 24, "num_register_tokens": 3}

CLASSIFIERS = {
    "vit": ("ViT", SIZED | MLP),
    "vit without qkv biases, tanh gelu": (
        "ViT",
        SIZED | MLP | {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "deit": ("DeiT", SIZED | MLP),
}
BACKBONES = {
    "vit with a pooler": ("ViT", SIZED | MLP),
    "dinov2": ("Dinov2", V2),
    "dinov2 swiglu": ("Dinov2", V2 | {"use_swiglu_ffn": True}),
    "dinov2 registers": ("Dinov2WithRegisters", V2 | {"num_register_tokens": 4}),
    "dinov2 registers swiglu": (
        "Dinov2WithRegisters",
        V2 | {"num_register_tokens": 2, "use_swiglu_ffn": True},
    ),
    "dinov3": ("DINOv3ViT", V3),
    "dinov3 gated without biases": (
        "DINOv3ViT",
        V3
        | {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
    ),
    "dinov3 with key biases": ("DINOv3ViT", V3 | {"key_bias": True, "rope_theta": 50.0}),
}


def saved(tmp_path, name, settings, kind):
    """A random model of transformers in a folder, with a preprocessor as the hub has it."""
    config = getattr(transformers, f"{name}Config")(**settings)
    model = randomise(getattr(transformers, f"{name}{kind}")(config))
    folder = tmp_path / "theirs"
    model.save_pretrained(folder)
    preprocessor = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 24},
        "size": {"shortest_edge": 32},
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model, folder


def imported(folder, tmp_path, *options, name="ours.safetensors"):
    assert command("import", folder, "--to", tmp_path / name, *options) == 0
    return vit_of(tmp_path / name)


def wide(image, **more):
    return {"interpolate_pos_encoding": True} if image.shape[-1] != 24 else {}


@torch.no_grad()
def logits_differ(theirs, ours):
    images = images_of(ours)
    more = wide(images) if not theirs.config.model_type.startswith("dino") else {}
    return (theirs(images, **more).logits - ours(images)).abs().max().item()


@torch.no_grad()
def tokens_differ(theirs, ours):
    images = images_of(ours)
    more = wide(images) if not theirs.config.model_type.startswith("dino") else {}
    return (
        (theirs(images, **more).last_hidden_state - ours.features(images)["encoded"])
        .abs()
        .max()
        .item()
    )


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_logits_are_those_of_transformers_at_both_sizes_and_after_the_way_back(tmp_path, case):
    name, settings = CLASSIFIERS[case]
    theirs, folder = saved(tmp_path, name, settings, "ForImageClassification")
    ours = imported(folder, tmp_path)
    assert logits_differ(theirs, ours) < 1e-5
    for size in ("40", "16x32"):
        larger = imported(folder, tmp_path, "--image-px", size, name=f"{size}.safetensors")
        assert logits_differ(theirs, larger) < 1e-5
    back = tmp_path / "back"
    assert command("export", tmp_path / "ours.safetensors", "--to", back, "--format", "hf") == 0
    again = getattr(transformers, f"{name}ForImageClassification").from_pretrained(back).eval()
    assert logits_differ(again, ours) < 1e-5
    with torch.no_grad():
        one, other = (model(images_of(ours)).logits for model in (theirs, again))
    assert torch.equal(one, other) or (case == "deit" and torch.allclose(one, other, atol=1e-6))


@pytest.mark.parametrize("case", BACKBONES)
def test_tokens_are_those_of_transformers_at_both_sizes_and_after_the_way_back(tmp_path, case):
    name, settings = BACKBONES[case]
    theirs, folder = saved(tmp_path, name, settings, "Model")
    ours = imported(folder, tmp_path)
    assert tokens_differ(theirs, ours) < 1e-5
    larger = imported(folder, tmp_path, "--image-px", "40", name="larger.safetensors")
    assert tokens_differ(theirs, larger) < 1e-5
    if case == "vit with a pooler":
        with torch.no_grad():
            pooled = theirs(images_of(ours)).pooler_output
            assert torch.allclose(pooled, ours.features(images_of(ours))["pre_logits"], atol=1e-5)
        return  # transformers has no classifier behind a pooler, so there is no way back
    back = tmp_path / "back"
    assert command("export", tmp_path / "ours.safetensors", "--to", back, "--format", "hf") == 0
    again = getattr(transformers, f"{name}Model").from_pretrained(back).eval()
    with torch.no_grad():
        one, other = (model(images_of(ours)).last_hidden_state for model in (theirs, again))
    assert torch.equal(one, other)


def test_a_classifier_on_dinov2_is_written_as_one_that_ignores_the_mean_patch(tmp_path):
    _, folder = saved(tmp_path, "Dinov2", V2, "Model")
    imported(folder, tmp_path, "--classes", "5")
    file = tmp_path / "ours.safetensors"
    tensors = load_file(file) | {"head.weight": torch.randn(5, 48), "head.bias": torch.randn(5)}
    weights = load_weights(file)
    record = {"shape": weights.shape.as_json(), "weights": "raw", "step": 1}
    headed = tmp_path / "headed.safetensors"
    save_file(tensors, headed, {"vitscale": json.dumps(record)})
    assert command("export", headed, "--to", tmp_path / "back", "--format", "hf") == 0
    theirs = transformers.Dinov2ForImageClassification.from_pretrained(tmp_path / "back").eval()
    assert logits_differ(theirs, vit_of(headed)) < 1e-5
    ours = imported(tmp_path / "back", tmp_path, name="again.safetensors")
    assert logits_differ(theirs, ours) < 1e-5


def test_a_model_of_ours_with_rope_goes_out_as_a_bare_dinov3(tmp_path):
    """Not square, without LayerScale and registers, which transformers always has."""
    shape = Shape(48, 2, 96, 4, 4, 4, (16, 24), classes=3, positions="rope", norm_eps=1e-5)
    file = our_file(tmp_path / "ours.safetensors", shape)
    words = ("--format", "hf", "--drop-head")
    assert command("export", file, "--to", tmp_path / "out", *words) == 0
    theirs, told = transformers.DINOv3ViTModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert tokens_differ(theirs.eval(), vit_of(file)) < 1e-5


def test_a_small_model_has_the_same_logits(tmp_path):
    """One that is in use, S/16, at 224 px and resampled to 256 px."""
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    config = transformers.ViTConfig(num_labels=1000, **small)
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    pixels = ("--pixels", "half")
    ours = imported(tmp_path / "theirs", tmp_path, *pixels)
    assert (ours.shape.width, ours.shape.depth, ours.shape.norm_eps) == (384, 12, 1e-12)
    larger = imported(
        tmp_path / "theirs", tmp_path, *pixels, "--image-px", 256, name="l.safetensors"
    )
    with torch.no_grad():
        for model in (ours, larger):
            images = images_of(model, count=1)
            logits = theirs(images, interpolate_pos_encoding=model is larger).logits
            assert (logits - model(images)).abs().max() < 1e-5


def test_preprocessing_travels_in_and_out(tmp_path):
    _, folder = saved(tmp_path, "ViT", SIZED | MLP, "ForImageClassification")
    imported(folder, tmp_path)
    weights = load_weights(tmp_path / "ours.safetensors")
    pixels = weights.preprocessing
    assert pixels.mean == (0.1, 0.2, 0.3) and pixels.std == (0.4, 0.5, 0.6)
    assert (pixels.crop_share, pixels.interpolation) == (0.75, "bicubic")
    back = tmp_path / "back"
    assert command("export", tmp_path / "ours.safetensors", "--to", back, "--format", "hf") == 0
    processor = transformers.AutoImageProcessor.from_pretrained(back)
    grey = np.full((64, 48, 3), 128, np.uint8)
    made = processor(grey, return_tensors="np")["pixel_values"]
    assert made.shape == (1, 3, 24, 24)
    wanted = (128 / 255 - np.array(pixels.mean)) / np.array(pixels.std)
    np.testing.assert_allclose(made[0, :, 3, 3], wanted, rtol=1e-5)


def test_a_folder_of_several_files_and_sixteen_bits_is_read(tmp_path):
    theirs, _ = saved(tmp_path, "ViT", SIZED | MLP, "ForImageClassification")
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    ours = imported(tmp_path / "parts", tmp_path, "--pixels", "half")
    assert logits_differ(theirs.float(), ours) < 1e-5
    assert next(ours.parameters()).dtype == torch.float32


def test_the_second_classifier_of_deit_is_refused_unless_allowed(tmp_path, capsys):
    theirs, folder = saved(tmp_path, "DeiT", SIZED | MLP, "ForImageClassificationWithTeacher")
    assert command("import", folder, "--to", tmp_path / "x.safetensors") == 5
    assert "distillation_classifier.bias" in capsys.readouterr().err
    ours = imported(folder, tmp_path, "--allow-unexpected")
    with torch.no_grad():
        images = images_of(ours)
        assert (theirs(images).cls_logits - ours(images)).abs().max() < 1e-5
    assert "unexpected  distillation_classifier.weight" in capsys.readouterr().out


def test_without_a_preprocessor_the_pixels_have_to_be_named(tmp_path, capsys):
    _, folder = saved(tmp_path, "ViT", SIZED | MLP, "ForImageClassification")
    (folder / "preprocessor_config.json").unlink()
    assert command("import", folder, "--to", tmp_path / "x.safetensors") == 2
    assert "--pixels" in capsys.readouterr().err
    imported(folder, tmp_path, "--pixels", "0.1,0.2,0.3,0.4,0.5,0.6")
    assert load_weights(tmp_path / "ours.safetensors").preprocessing.std == (0.4, 0.5, 0.6)


SHAPE = Shape(48, 2, 96, 4, 4, 4, (16, 16), classes=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": 2}, "stride 2 below patch 4"),
        ({"parallel": True}, "parallel True"),
        ({"norm": "rms"}, "norm 'rms'"),
        ({"representation": True}, "representation True"),
        ({"pooling": "gap", "cls_token": False}, "pooling 'gap'"),
        ({"registers": 4}, "registers 4"),
        ({"positions": "rope"}, "no classifier on DINOv3"),
        ({"qk_norm": True}, "qk_norm True"),
    ],
)
def test_what_transformers_cannot_express_is_refused_by_name(tmp_path, capsys, changes, words):
    shape = Shape.from_json({**SHAPE.as_json(), **changes})
    file = our_file(tmp_path / "ours.safetensors", shape)
    assert command("export", file, "--to", tmp_path / "out", "--format", "hf") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
