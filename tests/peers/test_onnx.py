"""Graphs of ONNX, run by onnxruntime, against the models they were made of, at two sizes of images."""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import torch

from tests.weights.models import command, images_of, vit_of
from tests.weights.test_npz import our_file
from vitscale.config.model import Shape

BASE = Shape(48, 2, 96, 4, 8, 8, (32, 32), classes=10)
CASES = {
    "plain": {},
    "stride below the patch": {"stride": 4},
    "rope, registers, swiglu, layer scale": {
        "positions": "rope",
        "registers": 2,
        "activation": "swiglu",
        "layer_scale": 0.1,
    },
    "attention pooling, tanh gelu, representation": {
        "pooling": "map",
        "cls_token": False,
        "activation": "gelu-tanh",
        "representation": True,
    },
    "mean of patches, fixed positions": {
        "pooling": "gap",
        "cls_token": False,
        "positions": "sincos2d",
    },
    "parallel, qk norm, RMSNorm, no biases": {
        "parallel": True,
        "qk_norm": True,
        "norm": "rms",
        "biases": "none",
    },
    "relative positions": {"positions": "relative"},
    "rows and columns": {"positions": "learned-2d"},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_answers_as_the_model_does(tmp_path, differ, case):
    file = our_file(
        tmp_path / "ours.safetensors", Shape.from_json({**BASE.as_json(), **CASES[case]})
    )
    for size in (32, 48):
        graph, resized = tmp_path / f"{size}.onnx", tmp_path / f"{size}.safetensors"
        words = ("--image-px", size)
        assert command("export", file, "--to", graph, "--format", "onnx", *words) == 0
        assert command("export", file, "--to", resized, "--format", "safetensors", *words) == 0
        ours = vit_of(resized)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            images = images_of(ours, count)
            with torch.no_grad():
                wanted = ours(images)
            found = session.run(["logits"], {"images": images.numpy()})[0]
            differ("onnxruntime", f"{case}, {size} px, {count} images", torch.tensor(found), wanted)
        record = json.loads({p.key: p.value for p in onnx.load(graph).metadata_props}["vitscale"])
        assert record["shape"]["image"] == [size, size]
        assert record["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
